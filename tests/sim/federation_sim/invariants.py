"""What must hold in every run, whatever the network, the crashes and the liars do.

A watcher sees every effect of every honest node before it is carried out, across restarts;
`Laws.final` looks at the end.  Each law raises `BrokenError` with its name, so that a mutation
campaign can tell which law caught which mutant.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from federation_sim import work
from federation_sim.world import Node, World

from protocol import certificate
from protocol.aggregate.shards import Slice
from protocol.certificate import Certificate, Kind
from protocol.errors import VerificationError
from protocol.rounds import events as ev
from protocol.rounds import prekeys
from protocol.rounds.desk import RECORD_LIMIT_BYTES, Cast
from protocol.rounds.history import HEAD, HeadRecord
from protocol.rounds.messages import (
    GIVEN_UP,
    Claim,
    Heard,
    Opening,
    PreKey,
    Release,
    Reveal,
    Sketch,
    Survivors,
    Verdict,
)
from protocol.rounds.policy import Cohort
from protocol.rounds.prekeys import KEY, SEED
from protocol.rounds.recall import OpenRecord
from protocol.rounds.stock import PREKEYS, DealtRecord, prekey_prefix
from protocol.types import Digest
from protocol.wire import decode, encode

NO_SUM = encode(GIVEN_UP)

SETS_REMEMBERED = 64
"""Every node of a world records the same sums: they are looked at once."""

STATEMENTS_AT_MOST = 20_000
"""Per node: far above what an honest round needs, far below what a flood could fill."""


class BrokenError(AssertionError):
    """A law does not hold."""

    def __init__(self, law: str, detail: str) -> None:
        super().__init__(f"{law}: {detail}")
        self.law = law


def require(law: str, holds: object, detail: str = "") -> None:
    if not holds:
        raise BrokenError(law, detail)


class Laws:
    """Watches one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._cohorts: dict[bytes, Cohort] = {}
        self._recorded: dict[bytes, set[bytes]] = defaultdict(set)
        self._passed: set[tuple[bytes, bytes]] = set()
        self._said: dict[tuple[bytes, object], bytes] = {}
        self._prekeys: dict[bytes, tuple[bytes, PreKey]] = {}
        self._kinds: dict[bytes, int] = {}
        self._released: dict[tuple[bytes, bytes], bytes] = {}
        self._decided: dict[bytes, bytes] = {}
        self._convincing: set[Certificate] = set()
        """Certificates of which every law was seen to hold."""
        self._added_up: set[tuple[object, ...]] = set()
        """Verdicts, over whom, from which bytes, whose sum was worked out here as well."""
        self._openings: dict[bytes, Opening] = {}
        self._survivors: dict[bytes, Survivors] = {}
        self._used: dict[bytes, bytes] = {}
        self._masked: dict[tuple[bytes, bytes], bytes] = {}
        self._words: dict[tuple[bytes, bytes], np.ndarray] = {}
        self._right: dict[tuple[bytes, int, int], tuple[Slice, np.ndarray]] = {}
        """By context, slice and set: the sums that liars were asked for."""
        self._trusted: dict[bytes, set[int]] = defaultdict(set)
        """By context, slices that somebody took on their author's word."""
        self._private: dict[bytes, set[tuple[int, bytes]]] = defaultdict(set)
        self._verdicts: dict[int, bytes] = {}
        self._rejections: set[bytes] = set()
        self._sketched: dict[tuple[bytes, bytes], bytes] = {}
        self.demands: list[Callable[[], None]] = []
        """What a scene asks for at the end, besides the laws."""
        self.told_of: Callable[[bytes], Collection[bytes]] | None = None
        """Where members change: who was told of the epoch of a name."""
        self._changed: set[tuple[bytes, bytes]] = set()
        self.exposed: set[bytes] = set()
        """Members whose updates a quorum of operators agreed not to hide any more."""
        self.sketched = 0
        self.rejected = 0
        self.given_up = 0
        world.watchers.append(self.watch)

    def decided_openings(self) -> list[Opening]:
        """Of attempts that came to a sum."""
        return [
            self._openings[context]
            for context, survivors in self._survivors.items()
            if survivors != GIVEN_UP
        ]

    # Every effect ------------------------------------------------------------------------

    def watch(self, node: Node, effect: Any) -> None:
        if isinstance(effect, ev.Mask):
            self._masks(node, effect)
        if not node.honest:
            if isinstance(effect, ev.Sum):
                self._adds_up(node, effect)
            return
        match effect:
            case ev.Persist():
                self._records(node, effect)
            case ev.Publish() | ev.Send():
                self._says(node, effect.envelope)
            case ev.Finished():
                self._finishes(node, effect)
            case ev.Measured():
                self._measures(node, effect)
            case ev.Accuse():
                liar = self._world.nodes[effect.member]
                require(
                    "no honest member is accused",
                    not liar.honest,
                    f"{liar.number} by {node.number}: {effect.reason}",
                )
            case _:
                pass

    def final(self) -> None:
        """After the last event."""
        world = self._world
        heads: dict[bytes, tuple[bytes, bytes, frozenset[frozenset[bytes]]]] = {}
        for node in world.nodes.values():
            if not node.honest or node.down_ms < 0:
                continue
            machine = node.machine
            require("everyone finishes", machine is not None, f"{node.number} is down")
            assert machine is not None
            require(
                "everyone finishes",
                world.arrived(node),
                f"{node.number} is {machine.phase} in round {machine.round},"
                f" attempt {machine._number}, epoch {machine.epoch.number}",
            )
            if not machine.over:
                opened = frozenset(machine._history.opened)
                where = (machine.state, machine.epoch.name(), opened)
                first = heads.setdefault(machine.head, where)
                require(
                    "equal heads, equal histories", first == where, f"{node.number}"
                )
            require("bounded memory", machine.size() < STATEMENTS_AT_MOST)
            self._forgot(node)
        for demand in self.demands:
            demand()

    # Inside --------------------------------------------------------------------------------

    def _records(self, node: Node, effect: ev.Persist) -> None:
        key, value = effect.key, effect.value
        self._recorded[node.name].add(_envelope_in(key, value))
        if "/opened/" in key:
            record = decode(value, OpenRecord, limit_bytes=RECORD_LIMIT_BYTES)
            self._decides(record.certificate)
        elif "/certificate/" in key:
            self._decides(decode(value, Certificate, limit_bytes=RECORD_LIMIT_BYTES))
        elif "/claim/" in key:
            heard = self._world.parsed(value)
            assert isinstance(heard.body, Claim)
            self._vouches(node, heard, heard.body)
        elif key == HEAD:
            head = decode(value, HeadRecord, limit_bytes=RECORD_LIMIT_BYTES)
            self._decides(head.certificate)

    def _decides(self, each: Certificate) -> None:
        if each in self._convincing:
            # Another holds the very same signatures.  What was lawful of them then is so still:
            # what a slot, a context or a pre-key is used for stands from the first certificate
            # on, and each other sum of a base was compared with this one when it was decided.
            self.given_up += each.value == NO_SUM
            return
        name = each.slot.name()
        value = self._decided.setdefault(name, each.value)
        require("one value per slot", value == each.value, str(each.slot))
        self._convinces(each)
        if each.slot.kind == Kind.OPEN:
            opening = decode(each.value, Opening)
            self._openings[opening.context()] = opening
            cohort = self._cohort(opening.epoch)
            require(
                "no sum of fewer than three",
                len(opening.members) >= max(3, cohort.thresholds.survivors),
            )
            require(
                "a fixed cohort per epoch",
                set(opening.members) <= set(cohort.members),
            )
            for _, prekey in opening.prekeys:
                used = self._used.setdefault(prekey, opening.context())
                require("a pre-key opens one attempt", used == opening.context())
        elif each.slot.kind == Kind.SURVIVORS:
            self._decides_survivors(each)
        else:
            verdict = decode(each.value, Verdict)
            if verdict.epoch != each.slot.epoch:
                self._changes(each.slot.epoch, verdict.epoch)
            if not verdict.accept:
                self._rejections.add(each.slot.context)
        self._convincing.add(each)

    def _changes(self, old: bytes, new: bytes) -> None:
        """The members change as a quorum of those before was told."""
        if self.told_of is None or (old, new) in self._changed:
            return
        self._changed.add((old, new))
        before, after = self._cohort(old), self._cohort(new)
        told = sum(1 for name in self.told_of(new) if name in before)
        require(
            "members change as a quorum was told",
            told >= before.thresholds.quorum
            and after.epoch.number > before.epoch.number,
            f"{told} were told of epoch {after.epoch.number}",
        )

    def _convinces(self, each: Certificate) -> None:
        """Whoever knows the members can check what this node holds for decided."""
        cohort = self._cohort(each.slot.epoch)
        try:
            each.check(cohort.members, cohort.thresholds.quorum, self._world.verify)
        except VerificationError as error:
            raise BrokenError("a certificate convinces everyone", str(error)) from error

    def _decides_survivors(self, each: Certificate) -> None:
        survivors = decode(each.value, Survivors)
        context = each.slot.context
        first = self._survivors.setdefault(context, survivors)
        require("one certificate per context", first == survivors)
        if survivors == GIVEN_UP:
            self.given_up += 1
            return
        opening = self._openings[context]
        cohort = self._cohort(opening.epoch)
        count = survivors.members.bit_count()
        require(
            "no sum of fewer than three", count >= max(3, cohort.thresholds.survivors)
        )
        if cohort.policy.noised:
            return
        sets = {
            frozenset(_named(before, their.members))
            for other, their in self._survivors.items()
            if their != GIVEN_UP
            and (before := self._openings.get(other)) is not None
            and before.base == opening.base
        }
        fewest = fewest_told_of(sets)
        if self.exposed:
            # Unless they tell such a member's update, it is as unknown as any; if they do, what is
            # left must be told of enough others.
            left = fewest_told_of({each - self.exposed for each in sets})
            fewest = max(fewest, left)
        require(
            "sums of one base single nobody out",
            fewest >= max(3, cohort.thresholds.liars + 2),
            f"{fewest} members, from {len(sets)} sums",
        )

    def _says(self, node: Node, envelope: bytes) -> None:
        if (node.name, envelope) in self._passed:
            return
        heard = self._world.parsed(envelope)
        if heard.sender != node.name:
            return  # relayed for somebody who is away
        where = heard.place
        if where is None:
            return
        require(
            "recorded before said",
            envelope in self._recorded[node.name],
            type(heard.body).__name__,
        )
        first = self._said.setdefault((node.name, where), envelope)
        require("the same bytes again", first == envelope, f"{node.number} {where}")
        if isinstance(heard.body, PreKey):
            self._prekeys[heard.body.name()] = (node.name, heard.body)
        if isinstance(heard.body, Release):
            self._releases(node, heard, heard.body)
        if isinstance(heard.body, Sketch | Reveal):
            self._sketches(node, heard)
        # What was lawful once stays so: a record made is made, the first bytes are the first.
        self._passed.add((node.name, envelope))

    def _releases(self, node: Node, heard: Heard, body: Release) -> None:
        opening = self._openings.get(heard.context)
        survivors = self._survivors.get(heard.context)
        require(
            "released only what is certified",
            opening is not None
            and survivors is not None
            and survivors != GIVEN_UP
            and certificate.value_name(encode(survivors)) == body.survivors,
            str(node.number),
        )
        assert opening is not None
        assert survivors is not None
        first = self._released.setdefault((node.name, heard.context), body.survivors)
        require("one certificate per context", first == body.survivors)
        cohort = self._cohort(opening.epoch)
        for (_, prekey), share in zip(opening.prekeys, body.shares, strict=True):
            known = self._prekeys.get(prekey)
            if not share or known is None:
                continue
            seat = cohort.place(node.name)
            wanted = SEED if known[0] in _named(opening, survivors.members) else KEY
            for kind in (SEED, KEY):
                if prekeys.is_share(cohort, known[0], known[1], seat, kind, share):
                    require(
                        "released only what is certified",
                        kind == wanted,
                        f"{node.number} in round {heard.round}",
                    )
                    first_kind = self._kinds.setdefault(prekey, kind)
                    require(
                        "one kind of share per member",
                        first_kind == kind,
                        f"{node.number} in round {heard.round}",
                    )

    def _adds_up(self, node: Node, effect: ev.Sum) -> None:
        """What a liar should have reported."""
        ring = self._world.policy.ring()
        if all(part in node.blobs for part in effect.inputs):
            parts = [work.words(node.blobs, part, ring) for part in effect.inputs]
            right = np.sum(parts, axis=0, dtype=ring.dtype)
            where = (effect.context, effect.slice.index, effect.members)
            self._right[where] = (effect.slice, right)

    def _vouches(self, node: Node, heard: Heard, body: Claim) -> None:
        """A member may call a slice checked whose author, a survivor, alone could show it wrong."""
        survivors = self._survivors[heard.context]
        members = self._openings[heard.context].members
        attempt = node.machine and node.machine._attempt
        if attempt is None or attempt.settling is None:
            return
        for shard, place in enumerate(survivors.reporters):
            carry = Digest(survivors.reports[shard].carry)
            silent = (
                members[place] not in attempt.settling._tags or carry not in node.blobs
            )
            if body.checked >> shard & 1 and silent and survivors.members >> place & 1:
                self._trusted[heard.context].add(shard)

    def _sketches(self, node: Node, heard: Heard) -> None:
        """What is told of single updates, and of the masks that hide them."""
        opening = self._openings[heard.context]
        require(
            "only what is rejected is sketched",
            heard.context in self._rejections,
            f"{node.number} in round {heard.round}",
        )
        policy = self._cohort(opening.epoch).policy
        require("nothing noised is sketched", policy.sketched and not policy.noised)
        first = self._sketched.setdefault((node.name, opening.base), heard.context)
        require(
            "one base is sketched once",
            first == heard.context,
            f"{node.number} in round {heard.round}",
        )
        if isinstance(heard.body, Reveal):
            for place, _ in heard.body.keys:
                other = self._world.nodes[opening.members[place]]
                require(
                    "no mask between honest members is opened",
                    not other.honest,
                    f"{node.number} opens what it shares with {other.number}",
                )

    def _measures(self, node: Node, effect: ev.Measured) -> None:
        self.sketched += bool(effect.times)
        for name in {*effect.outliers, *effect.false}:
            named = self._world.nodes[name]
            require(
                "no honest member stands out",
                not named.honest,
                f"{named.number} to {node.number}: {effect.times} {effect.worst}",
            )

    def _masks(self, node: Node, effect: ev.Mask) -> None:
        slot = (node.name, effect.context)
        first = self._masked.setdefault(slot, effect.quantised)
        if node.honest:
            require("one mask, one text", first == effect.quantised, str(node.number))
            opening = self._openings[effect.context]
            self._private[node.name].add((opening.round, effect.quantised))
        ring = self._world.policy.ring()
        self._words[slot] = work.words(node.blobs, effect.quantised, ring)
        if not node.honest:
            self._added_up.clear()  # it may have been another update in this sum before

    def _finishes(self, node: Node, effect: ev.Finished) -> None:
        verdict = effect.verdict
        first = self._verdicts.setdefault(verdict.round, verdict.name())
        require("one history", first == verdict.name(), f"round {verdict.round}")
        if not verdict.accept:
            self.rejected += 1
            opening = self._openings.get(verdict.context)
            if opening is not None:
                noised = self._cohort(opening.epoch).policy.noised
                same = noised or verdict.epoch == opening.epoch
                kept = same and verdict.state == opening.base
                require("a rejection changes nothing", kept, f"round {verdict.round}")
        elif effect.survivors:
            self._sums(node, verdict, effect.survivors)

    def _sums(self, node: Node, verdict: Verdict, survivors: tuple[bytes, ...]) -> None:
        """The accepted state is the base, stepped by each survivor's update once."""
        opening = self._openings[verdict.context]
        if opening.base not in node.blobs or opening.scales not in node.blobs:
            return  # verified by those that hold the base
        liars = any(not each.honest for each in self._world.nodes.values())
        if liars and not self._world.policy.checked:
            return  # a wrong sum within range is what the check is for
        epoch = self._cohort(opening.epoch).epoch
        ring = epoch.policy.ring()
        base, scales = node.blobs[opening.base], node.blobs[opening.scales]
        from_what = (verdict.state, verdict.context, survivors, base, scales)
        if from_what in self._added_up:
            return  # another finished with the same, from the same
        total = np.zeros(epoch.policy.length, ring.dtype)
        for member in survivors:
            total += self._words[member, verdict.context]
        # A wrong sum of a slice that nobody but its author could show wrong is as good as another
        # update of that author's, which it could have uploaded.
        own_word = self._taken_on_trust(node, verdict.context, total)
        states = {
            work.put({}, state.tobytes())
            for each in (total, own_word)
            for state, _ in [
                work.stepped(
                    np.frombuffer(base, "<f4"),
                    each,
                    np.frombuffer(scales, np.int8),
                    epoch,
                    list(survivors),
                )
            ]
        }
        require(
            "every survivor's update counts once",
            verdict.state in states,
            f"round {verdict.round}",
        )
        self._added_up.add(from_what)

    def _taken_on_trust(
        self, node: Node, context: bytes, total: np.ndarray
    ) -> np.ndarray:
        """`total` with the errors of those whose word was taken."""
        out, ring = total.copy(), self._world.policy.ring()
        for shard in self._trusted[context]:
            report = self._survivors[context].reports[shard]
            known = self._right.get((context, shard, report.members))
            if known is not None and report.sum in node.blobs:
                where, right = known
                said = work.words(node.blobs, Digest(report.sum), ring)
                out[where.start : where.stop] += said - right
        return out

    def _forgot(self, node: Node) -> None:
        """Nothing of a finished round that hides or holds an update is left."""
        machine = node.machine
        assert machine is not None
        present = prekey_prefix(Cohort(machine.epoch))
        for key in node.records:
            require(
                "pre-keys go with their epoch",
                not key.startswith(PREKEYS)
                or (key.startswith(present) and not machine.over),
                f"{node.number} in epoch {machine.epoch.number}",
            )
            number = key.split("/")[0]
            if number.isdecimal():
                require(
                    "secrets go with the verdict",
                    int(number) >= machine.round,
                    f"record {key} in round {machine.round}",
                )
        for number, blob in self._private[node.name]:
            require(
                "secrets go with the verdict",
                number >= machine.round or blob not in node.blobs,
                f"rounded update of round {number}",
            )
        used = {
            prekey
            for context, opening in self._openings.items()
            if opening.round < machine.round
            for _, prekey in opening.prekeys
        }
        mine = machine._stock._mine.values()
        require(
            "secrets go with the verdict",
            not any(dealt.prekey.name() in used for dealt in mine),
            "used pre-key",
        )

    def _cohort(self, epoch: bytes) -> Cohort:
        if epoch not in self._cohorts:
            for each in self._world.epochs:
                self._cohorts[each.name()] = Cohort(each)
        return self._cohorts[epoch]


def fewest_told_of(sets: Collection[frozenset[bytes]]) -> int:
    """The fewest members that some combination of sums over these sets is about.

    By another way than the machine's: combinations vanish outside a group of members exactly if
    the sets, seen from outside the group alone, have a lower rank.  Members of the same sets
    cannot be told apart, so groups are made of such kinds.
    """
    return _fewest_told_of(frozenset(sets))


@lru_cache(SETS_REMEMBERED)
def _fewest_told_of(sets: frozenset[frozenset[bytes]]) -> int:
    rows = sorted(sets, key=sorted)
    kinds = Counter(
        tuple(member in row for row in rows) for member in frozenset().union(*rows)
    )
    columns = sorted(kinds)
    whole = _rank(columns)
    fewest = sum(kinds.values())
    for size in range(1, len(columns)):
        for group in combinations(columns, size):
            count = sum(kinds[each] for each in group)
            if count < fewest and _rank([c for c in columns if c not in group]) < whole:
                fewest = count
    return fewest


def _rank(columns: Sequence[tuple[bool, ...]]) -> int:
    return int(np.linalg.matrix_rank(np.array(columns, float))) if columns else 0


def _named(opening: Opening, members: int) -> set[bytes]:
    return {m for i, m in enumerate(opening.members) if members >> i & 1}


def _envelope_in(key: str, value: bytes) -> bytes:
    if "/ballot/" in key:
        return decode(value, Cast, limit_bytes=RECORD_LIMIT_BYTES).envelope
    if key.startswith("prekey/"):
        return decode(value, DealtRecord, limit_bytes=RECORD_LIMIT_BYTES).envelope
    return value
