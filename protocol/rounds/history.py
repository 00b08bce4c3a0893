"""How far a run has come: the chain of verdicts, the membership it led to (§5.8, §7.4).

Equal heads mean equal histories, so equal states.  The last verdict is one record, written
over when the next is certain: it names the state, the epoch, the sums that have been opened
on the present base, and the pre-keys that are used up.
"""

from collections.abc import Sequence

from protocol.certificate import Certificate
from protocol.errors import LocalProtocolError, VerificationError
from protocol.rounds.desk import RECORD_LIMIT_BYTES, Desk
from protocol.rounds.differencing import isolates
from protocol.rounds.messages import Verdict
from protocol.rounds.policy import MEMBERS_AT_LEAST, Cohort, Epoch
from protocol.types import Digest, digest
from protocol.wire import Message, decode, encode

HEAD = "head"
_EPOCH = "epoch/"


class Genesis(Message, frozen=True, tag="genesis"):
    """Where a run starts; its digest is the first head."""

    epoch: bytes
    state: bytes
    scales: bytes

    def name(self) -> Digest:
        return digest(b"rexis-genesis-1" + encode(self))


class HeadRecord(Message, frozen=True, tag="head"):
    """The last verdict, and below which numbers this member's pre-keys are used up."""

    certificate: Certificate
    floors: tuple[int, ...]


class History:
    """The verdicts up to now, as far as the next round depends on them."""

    def __init__(
        self,
        desk: Desk,
        first: Epoch,
        others: Sequence[Epoch],
        state: Digest,
        scales: Digest,
    ) -> None:
        self._desk = desk
        self._cohorts: dict[bytes, Cohort] = {
            each.name(): Cohort(each) for each in (first, *others)
        }
        for key, stored in desk.records.items():
            if key.startswith(_EPOCH):
                known = decode(stored, Epoch, limit_bytes=RECORD_LIMIT_BYTES)
                self._cohorts[known.name()] = Cohort(known)
        # A member that comes later is in none of the first epochs; until it knows the last
        # verdict it takes the first epoch it has a seat in for the present one.
        given = [self._cohorts[each.name()] for each in (first, *others)]
        self.cohort = next((each for each in given if desk.me in each), given[0])
        self.joining = desk.me not in given[0]
        self.round = 0
        self.base, self.scales = state, scales
        self.head = Genesis(first.name(), state, scales).name()
        self.certificate: Certificate | None = None
        self.opened: list[frozenset[bytes]] = []
        self.floors: tuple[int, ...] = ()
        self.next: Epoch | None = None
        self.exposed: frozenset[bytes] = frozenset()
        """Members that go, and whose updates a quorum of operators agreed not to hide (§5.7)."""
        record = desk.records.get(HEAD)
        if record is not None:
            self._load(decode(record, HeadRecord, limit_bytes=RECORD_LIMIT_BYTES))

    def cohort_of(self, epoch: bytes) -> Cohort | None:
        """The members of an epoch this node has been told of."""
        return self._cohorts.get(epoch)

    def knows(self, epoch: bytes) -> bool:
        """Was this node told who sits in the epoch of this name?"""
        return epoch in self._cohorts

    def seats(self, member: bytes) -> bool:
        """Has it a seat in any epoch that this node was told of?"""
        return any(member in cohort for cohort in self._cohorts.values())

    def was_offered(self, epoch: bytes) -> bool:
        """May a verdict lead from the present epoch to this one?

        Also to one in whose place another was offered since: members may be locked on a verdict
        that names it, and would wait for good for those that had changed their minds.
        """
        known = self._cohorts.get(epoch)
        return known is not None and known.epoch.number > self.cohort.epoch.number

    def may_change(self, *, moves: bool) -> bool:
        """May the members change with a verdict that moves the state, or does not?

        While the base stays, so does what the sums opened on it could tell (§5.7): without a
        member that was in one of them nothing could be opened any more, and a verdict names
        them by seats, which must stay the same.  Where updates carry noise, no sum is compared.
        """
        return moves or self.cohort.policy.noised

    def offer(self, epoch: Epoch, exposed: frozenset[bytes] = frozenset()) -> None:
        """The registry says `epoch` is next; if it is the present one, nothing is any more.

        The newest offer stands, also in what it says of members that may be exposed.
        """
        if epoch.run != self.cohort.epoch.run:
            raise LocalProtocolError("the offered epoch belongs to another run")
        name = epoch.name()
        if name not in self._cohorts:
            self._cohorts[name] = Cohort(epoch)
            self._desk.persist(f"{_EPOCH}{epoch.number}/{name.hex()}", encode(epoch))
        self.exposed = exposed.difference(epoch.members)
        if epoch.number > self.cohort.epoch.number:
            self.next = epoch
        elif name == self.cohort.name:
            self.next = None

    def isolates(self, members: frozenset[bytes]) -> bool:
        """Would this sum, with those opened on the same base, single out too few?"""
        if self.cohort.policy.noised:
            return False
        floor = max(MEMBERS_AT_LEAST, self.cohort.thresholds.liars + 2)
        return isolates(self.opened, members, floor, self.exposed)

    def opened_with(self, survivors: frozenset[bytes]) -> tuple[int, ...]:
        """What a verdict that leaves the base says of it: the sums opened there, with this one.

        In the verdict, so that whoever was away refuses the same sums as those that were here.
        Where updates carry noise none is compared, and an older one may be of other seats.
        """
        before = [] if self.cohort.policy.noised else self.opened
        sets = [*before, *([] if survivors in before else [survivors])]
        return tuple(self.cohort.bitmap(each) for each in sets)

    @property
    def fresh_base(self) -> bool:
        """Was no sum rejected on the present base?  All with this head know the same."""
        return (
            self.certificate is None or decode(self.certificate.value, Verdict).accept
        )

    @property
    def unsketched(self) -> bool:
        """Was no update relative to the present base sketched yet (§5.10)?

        Updates are taken to stay while the base does: each sketch would tell more of the same
        ones.  So it is the first rejection on a base that is looked into, and no other.
        """
        return self.fresh_base and not self.opened

    def allowed(self, ready: frozenset[bytes]) -> frozenset[bytes] | None:
        """The largest set of `ready` members whose sum may be opened; None: wait for others."""
        if not self.isolates(ready):
            return ready
        repeats = [each for each in self._repeatable() if each <= ready]
        return max(repeats, key=len, default=None)

    def lacking(self, present: frozenset[bytes]) -> frozenset[bytes]:
        """Who must come back before a sum may be opened on this base; nobody, mostly."""
        if self.allowed(present) is not None:
            return frozenset()
        lacking = (each - present for each in self._repeatable())
        return min(lacking, key=len, default=frozenset())

    def _repeatable(self) -> list[frozenset[bytes]]:
        """Sets opened on this base, and what is left of them without members to be exposed."""
        fewest = self.cohort.thresholds.survivors
        left = [each - self.exposed for each in self.opened]
        return [*(each for each in left if len(each) >= fewest), *self.opened]

    def check(self, certificate: Certificate, desk: Desk) -> Cohort:
        """The cohort whose certificate this is; raises `VerificationError` if it is not one."""
        cohort = self._cohorts.get(certificate.slot.epoch)
        if cohort is None:
            raise VerificationError("epoch of a certificate")
        certificate.check(cohort.members, cohort.thresholds.quorum, desk.verify)
        return cohort

    def finish(self, certificate: Certificate, floors: tuple[int, ...]) -> bool:
        """Step to the round after a checked verdict.  True: the members change with it.

        On disk before anything of the finished round is deleted.  Raises `LocalProtocolError`,
        with nothing written, if this node was not told of the epoch that the verdict leads to.
        """
        verdict = decode(certificate.value, Verdict)
        self._led_to(verdict)
        changes = verdict.epoch != self.cohort.name
        record = HeadRecord(certificate, () if changes else floors)
        self._desk.persist(HEAD, encode(record))
        self._load(record)
        return changes

    def _load(self, record: HeadRecord) -> None:
        verdict = decode(record.certificate.value, Verdict)
        self.cohort = cohort = self._led_to(verdict)
        self.certificate = record.certificate
        self.round = verdict.round + 1
        self.base, self.scales = Digest(verdict.state), Digest(verdict.scales)
        self.head = verdict.name()
        decided = self._cohorts[record.certificate.slot.epoch]
        self.opened = [frozenset(decided.named(each)) for each in verdict.opened]
        self.floors = record.floors
        self.joining = False
        self.exposed = self.exposed.intersection(cohort.members)
        if self.next is not None and self.next.number <= cohort.epoch.number:
            self.next = None

    def _led_to(self, verdict: Verdict) -> Cohort:
        cohort = self._cohorts.get(verdict.epoch)
        if cohort is None:
            raise LocalProtocolError(
                f"verdict {verdict.round} leads to an epoch this node was not told of"
            )
        return cohort
