"""Pre-keys in stock: mine, the others', and which are used up (§5.3).

A pre-key serves one opening.  The rule that keeps it so is kept by voters: whoever
precommits an opening refuses, in every other slot, an opening that names a pre-key with the
same or a lower number of the same member.  Two quorums share an honest member, so no two
certified openings share a pre-key, and no mask is used twice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocol.rounds import prekeys
from protocol.rounds.desk import Desk
from protocol.rounds.events import Publish
from protocol.rounds.messages import Heard, PreKey
from protocol.rounds.policy import Cohort
from protocol.rounds.prekeys import Dealt, Shares
from protocol.types import Digest
from protocol.wire import Message, decode, encode

AHEAD = 2
"""Own pre-keys kept ready: one for the attempt to come and one for the attempt after it."""
KEPT = 8
"""Pre-keys kept per member: four times what an honest one has unused, since one that lost its
disk deals anew; and all that a flooder can fill."""
PREKEYS = "prekey/"
"""Records of pre-keys of any epoch begin so."""
_RECORD_LIMIT_BYTES = 1 << 17


def prekey_prefix(cohort: Cohort) -> str:
    """Records of pre-keys of one epoch begin so."""
    return f"{PREKEYS}{cohort.name.hex()}/"


class DealtRecord(Message, frozen=True, tag="dealt"):
    """A pre-key of this node with its secrets."""

    secret: bytes
    seed: bytes
    envelope: bytes


@dataclass(frozen=True)
class Known:
    """Another's pre-key, and my shares of it if they are good."""

    dealer: bytes
    prekey: PreKey
    name: Digest
    envelope: bytes
    shares: Shares | None


class Stock:
    """Pre-keys of one epoch."""

    def __init__(
        self, cohort: Cohort, desk: Desk, floors: tuple[int, ...] = ()
    ) -> None:
        self._cohort = cohort
        self._desk = desk
        self._floors = list(floors) or [0] * len(cohort.members)
        self._pending: dict[bytes, dict[bytes, int]] = {}
        self._known: dict[bytes, dict[int, Known]] = {m: {} for m in cohort.members}
        self._by_name: dict[bytes, Known] = {}
        self._mine: dict[int, Dealt] = {}
        self._withdrawn = dict.fromkeys(cohort.members, 0)
        self._wanted: set[bytes] = set()
        self._next = 0
        self.version = 0
        """Counts what changes which pre-keys may be used: what follows from that alone is kept."""
        self._unspent: int | None = None
        """Own pre-keys that no opening named; None: to be counted."""
        self._held: tuple[int, ...] | None = None
        self._load()

    @property
    def floors(self) -> tuple[int, ...]:
        """Per member, the lowest number that was never opened with."""
        return tuple(self._floors)

    def replenish(self, *, first: int = 0) -> list[Heard]:
        """Deal until enough are unused; `first` is the lowest number this node may use."""
        out = []
        if not self._mine:
            self._next = max(self._next, first, self._floor(self._desk.me))
        if self._unspent is None:
            self._unspent = sum(1 for number in self._mine if not self._spent(number))
        while self._unspent < AHEAD:
            out.append(self._deal(self._next))
            self._next += 1
            self._unspent += 1
        return out

    def take(self, heard: Heard, prekey: PreKey) -> bool:
        """Keep another's pre-key; False if it is stale or malformed."""
        mine = self._known[heard.sender]
        floor = self._floors[self._cohort.place(heard.sender)]
        if prekey.epoch != self._cohort.name or prekey.number in mine:
            return False
        if prekey.number < floor:
            return False
        if len(prekey.shares) != len(self._cohort.members):
            return False
        if not prekeys.is_usable(prekey.public):
            return False
        shares = prekeys.take(
            self._cohort, heard.sender, prekey, self._desk.me, self._desk.keys.agree
        )
        known = Known(heard.sender, prekey, prekey.name(), heard.envelope, shares)
        # What a dealer withdraws is not proposed any more.  It does not make an opening
        # unacceptable: that would let a dealer block one that others are locked on.
        self._withdrawn[heard.sender] = max(self._withdrawn[heard.sender], prekey.floor)
        mine[prekey.number] = known
        self._by_name[known.name] = known
        spare = [n for n, k in mine.items() if k.name not in self._wanted]
        if len(spare) > KEPT:
            # The oldest goes: if it were still to be used, this member would have heard of
            # fewer after it.
            dropped = mine.pop(min(spare))
            self._by_name.pop(dropped.name, None)
        self._changed(heard.sender)
        return prekey.number in mine

    def has(self, heard: Heard) -> bool:
        """Is this very announcement kept?"""
        assert isinstance(heard.body, PreKey)
        known = self._known[heard.sender].get(heard.body.number)
        return known is not None and known.envelope == heard.envelope

    def want(self, names: Iterable[bytes]) -> None:
        """These are named in an opening of this round: keep them, however many come after.

        Otherwise members that are locked on an opening could lose what others need to join.
        """
        self._wanted.update(names)

    def named(self, name: bytes) -> Known | None:
        """The pre-key called `name`."""
        return self._by_name.get(name)

    def next_of(self, member: bytes, slot: bytes) -> Known | None:
        """The pre-key an opening in `slot` would use of `member`."""
        withdrawn = self._withdrawn[member]
        for number in sorted(self._known[member]):
            if number >= withdrawn and self.is_free(member, number, slot):
                return self._known[member][number]
        return None

    def is_free(self, member: bytes, number: int, slot: bytes) -> bool:
        """Was no opening precommitted, outside of `slot`, that uses it or a later one?"""
        if number < self._floors[self._cohort.place(member)]:
            return False
        for other, uses in self._pending.items():
            if other != slot and number <= uses.get(member, -1):
                return False
        return True

    def held(self) -> tuple[int, ...]:
        """Per member, the newest number of which I hold good shares."""
        if self._held is None:
            self._held = tuple(self._newest(member) for member in self._cohort.members)
        return self._held

    def use(self, slot: bytes, numbers: Mapping[bytes, int]) -> None:
        """An opening was precommitted in `slot` that uses these pre-keys, by member."""
        self._unspent = None
        self.version += 1
        uses = self._pending.setdefault(slot, {})
        for member, number in numbers.items():
            if member in self._known:
                uses[member] = max(uses.get(member, -1), number)

    def mine(self, name: bytes) -> Dealt | None:
        """The secrets of a pre-key of this node."""
        known = self._by_name.get(name)
        return None if known is None else self._mine.get(known.prekey.number)

    def settle(self) -> list[str]:
        """The round is over: what was used is gone.  Returns the records to delete."""
        for uses in self._pending.values():
            for member, number in uses.items():
                place = self._cohort.place(member)
                self._floors[place] = max(self._floors[place], number + 1)
        self._pending.clear()
        self._wanted.clear()
        self._unspent = None
        for member, mine in self._known.items():
            floor = self._floors[self._cohort.place(member)]
            for number in [number for number in mine if number < floor]:
                known = mine.pop(number)
                self._by_name.pop(known.name, None)
        self._changed()
        floor = self._floor(self._desk.me)
        gone = [number for number in self._mine if number < floor]
        for number in gone:
            del self._mine[number]
        return [self._key(number) for number in gone]

    def retire(self) -> None:
        """An opening this member never saw may have used its pre-keys: withdraw them all."""
        place = self._cohort.place(self._desk.me)
        self._floors[place] = max(self._floors[place], self._next)
        self._changed()

    def envelopes(
        self, members: frozenset[bytes], held: tuple[int, ...] = ()
    ) -> list[bytes]:
        """Unused pre-keys of these members, as they were announced.

        `held`: per member of the epoch, the newest number that need not be told.
        """
        newest = held or (-1,) * len(self._cohort.members)
        return [
            known.envelope
            for place, member in enumerate(self._cohort.members)
            if member in members
            for number, known in sorted(self._known[member].items())
            if number > newest[place]
        ]

    def records(self) -> list[str]:
        """Keys of every record of this stock."""
        prefix = self._prefix()
        return [key for key in self._desk.records if key.startswith(prefix)]

    def _deal(self, number: int) -> Heard:
        coins = self._desk.keys.fresh(prekeys.coins_bytes(self._cohort))
        unused = [n for n in self._mine if not self._spent(n)]
        dealt = prekeys.deal(
            self._cohort,
            self._desk.me,
            number,
            min([*unused, number]),
            self._desk.keys.agree,
            coins,
        )
        envelope = self._desk.sealed(self._cohort.name, 0, 0, dealt.prekey)
        record = DealtRecord(dealt.secret, dealt.seed, envelope)
        self._desk.persist(self._key(number), encode(record))
        self._desk.do(Publish(envelope))
        return self._keep(record)

    def _keep(self, record: DealtRecord) -> Heard:
        heard = self._desk.own(record.envelope)
        prekey = heard.body
        if isinstance(prekey, PreKey):
            self._mine[prekey.number] = Dealt(prekey, record.secret, record.seed)
            known = Known(
                heard.sender,
                prekey,
                prekey.name(),
                heard.envelope,
                prekeys.take(
                    self._cohort,
                    heard.sender,
                    prekey,
                    self._desk.me,
                    self._desk.keys.agree,
                ),
            )
            self._known[heard.sender][prekey.number] = known
            self._by_name[known.name] = known
            self._changed(heard.sender)
        return heard

    def _load(self) -> None:
        for key in self.records():
            record = decode(
                self._desk.records[key], DealtRecord, limit_bytes=_RECORD_LIMIT_BYTES
            )
            self._keep(record)
        self._next = max(self._mine, default=-1) + 1

    def _newest(self, member: bytes) -> int:
        known = self._known[member]
        return max((n for n, k in known.items() if k.shares), default=-1)

    def _changed(self, member: bytes | None = None) -> None:
        """Of one member, or of any."""
        self.version += 1
        if member is None or self._held is None:
            self._held = None
            return
        place = self._cohort.place(member)
        before, after = self._held[:place], self._held[place + 1 :]
        self._held = (*before, self._newest(member), *after)

    def _floor(self, member: bytes) -> int:
        return self._floors[self._cohort.place(member)]

    def _spent(self, number: int) -> bool:
        return any(
            number <= uses.get(self._desk.me, -1) for uses in self._pending.values()
        )

    def _prefix(self) -> str:
        return prekey_prefix(self._cohort)

    def _key(self, number: int) -> str:
        return f"{self._prefix()}{number}"
