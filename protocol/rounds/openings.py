"""Who opens an attempt, and with which pre-keys (docs/protocol.md §5.3, §5.4).

The chair of OPEN decisions.  It offers everyone who is ready as soon as that is all, or enough
for long enough; it admits an opening that starts from here, of members of this epoch, with
pre-keys that are known and unused.
"""

from collections.abc import Mapping, Sequence
from itertools import compress
from operator import lt

from protocol.certificate import NOTHING, Proposal, Slot, Step, Vote
from protocol.decide import About
from protocol.errors import MalformedMessageError
from protocol.rounds.desk import SILENT, Desk
from protocol.rounds.history import History
from protocol.rounds.messages import Opening
from protocol.rounds.quarrels import left_out
from protocol.rounds.stock import Known, Stock
from protocol.rounds.talk import Talk
from protocol.types import Millis
from protocol.wire import decode, encode

ATTEMPTS_IN_A_ROW = 3
"""After so many that led nowhere, a pause: the cause is not going away by haste."""
NUMBERS_SKIPPED = 64
"""Pre-key numbers left out after a loss of the disk, beyond those that others have seen."""


class Openings:
    """What this member knows about the next opening."""

    def __init__(self, desk: Desk, history: History, talk: Talk, stock: Stock) -> None:
        self._desk = desk
        self._history = history
        self._talk = talk
        self.stock = stock
        self.accused: set[bytes] = set()
        """Members shown to contradict themselves in this epoch."""
        self.ready = False
        """Is this node's own update on disk, and may it take part?"""
        self.now = Millis(0)
        self.number = 0
        """The attempt to be opened."""
        self._since = Millis(0)
        self._ready_since: Millis | None = None
        self._version = 0
        self._offer: tuple[int, bytes | None] = (-1, None)
        self._found: tuple[object, dict[bytes, Known]] = (None, {})
        """Who can upload, with which pre-keys, and what that followed from."""

    def enter(self, number: int, now: Millis) -> None:
        """The next opening is that of attempt `number` of the present round."""
        self.number = number
        self._since = now
        self._ready_since = None
        self.changed()

    def changed(self) -> None:
        """Something an offer depends on is different now."""
        self._version += 1

    # Chair -------------------------------------------------------------------------------

    def offer(self, slot: Slot) -> bytes | None:
        """An opening of all who are ready: at once if that is everyone, else after a wait."""
        if self._offer[0] != self._version:
            self._offer = (self._version, self._make_offer(slot))
        return self._offer[1]

    def judge(self, slot: Slot, value: bytes) -> bool | None:
        """Does this open the present attempt, with pre-keys that are known and unused?"""
        try:
            opening = decode(value, Opening)
        except MalformedMessageError:
            return False
        cohort, members = self._history.cohort, opening.members
        if opening != self._opening(members, opening.prekeys):
            return False
        if list(members) != sorted(set(members)) or not all(
            member in cohort for member in members
        ):
            return False
        if len(members) < cohort.thresholds.survivors or len(opening.prekeys) != len(
            members
        ):
            return False
        self.stock.want(name for _, name in opening.prekeys)
        unknown, name_of_slot = False, slot.name()
        for member, (number, name) in zip(members, opening.prekeys, strict=True):
            if not self.stock.is_free(member, number, name_of_slot):
                return False
            known = self.stock.named(name)
            if known is None:
                unknown = True
            elif known.dealer != member or known.prekey.number != number:
                return False
        return None if unknown else True

    def cast(self, body: Vote | Proposal, about: About) -> bytes:
        """Record and send; a precommitted opening uses its pre-keys up."""
        if (
            isinstance(body, Vote)
            and body.step == Step.PRECOMMIT
            and body.value != NOTHING
        ):
            self.use_up(body.slot, about.value)
        return self._desk.cast(body, about)

    def proven(self, vote: Vote, votes: Sequence[tuple[int, bytes]]) -> bool:
        return self._desk.proves(self._history.cohort, vote, votes)

    def use_up(self, slot: Slot, value: bytes) -> None:
        """An opening was precommitted, or certified: its pre-keys are for no other."""
        opening = decode(value, Opening)
        pairs = zip(opening.members, opening.prekeys, strict=True)
        self.stock.use(slot.name(), {member: number for member, (number, _) in pairs})

    def first_number(self) -> int:
        """After a loss of the disk, numbers start beyond all that others have seen."""
        if SILENT not in self._desk.records:
            return 0
        place = self._history.cohort.place(self._desk.me)
        seen = [beat.body.held[place] for beat in self._talk.beats.values()]
        return max(seen, default=0) + NUMBERS_SKIPPED

    # Offers ------------------------------------------------------------------------------

    def _make_offer(self, slot: Slot) -> bytes | None:
        cohort = self._history.cohort
        ready = self._ready(slot)
        enough = len(ready) >= cohort.thresholds.survivors
        allowed = self._admissible(frozenset(ready)) if enough else None
        if allowed is None:
            self._ready_since = None
            return None
        if self._ready_since is None:
            self._ready_since = self.now
        pause = (
            cohort.policy.idle_ms
            if self.number and self.number % ATTEMPTS_IN_A_ROW == 0
            else 0
        )
        if self.now < self._since + pause:
            return None
        waited = self.now - self._ready_since >= cohort.policy.patience_ms
        if len(ready) < len(cohort.members) and not waited:
            return None
        members = tuple(m for m in cohort.members if m in allowed)
        prekeys = tuple((ready[m].prekey.number, ready[m].name) for m in members)
        return encode(self._opening(members, prekeys))

    def _admissible(self, ready: frozenset[bytes]) -> frozenset[bytes] | None:
        """Whom to open with: without members shown to lie, or to be exposed, if that can be.

        It cannot where too few are left, or where a sum without them would, with one opened
        before, single them out.
        """
        unwanted = self.accused | self._desk.shunned | self._history.exposed
        for candidates in (ready - unwanted, ready):
            allowed = self._history.allowed(candidates)
            enough = self._history.cohort.thresholds.survivors
            if allowed is not None and len(allowed) >= enough:
                return allowed
        return None

    def _opening(
        self, members: tuple[bytes, ...], prekeys: tuple[tuple[int, bytes], ...]
    ) -> Opening:
        history = self._history
        return Opening(
            self._desk.run,
            history.cohort.name,
            history.round,
            self.number,
            history.base,
            history.scales,
            history.head,
            members,
            prekeys,
        )

    def _ready(self, slot: Slot) -> dict[bytes, Known]:
        """Members that can upload, each with the pre-key it would use; none if too few."""
        cohort = self._history.cohort
        held: dict[bytes, tuple[int, ...]] = {}
        if self.ready:
            held[self._desk.me] = self.stock.held()
        head, oldest = self._history.head, self.now - cohort.policy.fresh_ms
        for member, beat in self._talk.beats.items():
            body = beat.body
            here = body.head == head and beat.at >= oldest and member in cohort
            if here and body.ready:
                held[member] = body.held
        if len(held) < cohort.thresholds.survivors:
            return {}
        name = slot.name()
        rests_on = (name, self.stock.version, held)
        if self._found[0] != rests_on:
            self._found = rests_on, self._agreeing(name, held)
        return self._found[1]

    def _agreeing(
        self, slot: bytes, held: Mapping[bytes, tuple[int, ...]]
    ) -> dict[bytes, Known]:
        found: dict[bytes, Known] = {}
        for member in held:
            known = self.stock.next_of(member, slot)
            if known is not None:
                found[member] = known
        for member in self._quarrelsome(found, held):
            del found[member]
        return found

    def _quarrelsome(
        self, found: Mapping[bytes, Known], held: Mapping[bytes, tuple[int, ...]]
    ) -> list[bytes]:
        """Members to leave out so that each holds its share of every other's pre-key.

        Of two members of whom one holds no share of the other's, the one with more such
        quarrels goes: it deals badly, or says so of others.
        """
        cohort = self._history.cohort
        dealers = [member for member in cohort.members if member in found]
        numbers = [found[dealer].prekey.number for dealer in dealers]
        among = [member in found for member in cohort.members]
        partners: dict[bytes, list[bytes]] = {dealer: [] for dealer in dealers}
        for holder in found:
            newest = compress(held[holder], among)
            # A large federation that starts comes by here with each pre-key that is heard.
            for dealer in compress(dealers, map(lt, newest, numbers)):
                partners[dealer].append(holder)
                partners[holder].append(dealer)
        return left_out(partners)
