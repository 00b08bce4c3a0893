"""One member's part in a run: round after round, through restarts and changes of membership.

`Rounds.handle(event, now)` takes what happened and returns what is to be done, in order (§5,
§7).  Chance, time and secrets come in from outside.  The machine holds the present round
only: an opening being decided, and the attempt that follows it.  What it has promised is in
the records; what others said and was lost comes again, because a member that hears nothing
new asks.  Laws over a whole run, held by the simulator (tests/sim):

- members that finish a round finish it with the same verdict, so with the same bytes;
- no pre-key is used twice, and of none both kinds of share leave this member;
- a record that holds a secret of a finished round goes with the verdict.
"""

from collections.abc import Sequence

from protocol.certificate import (
    NOTHING,
    Certificate,
    Kind,
    Proposal,
    Slot,
    Step,
    Verify,
    Vote,
)
from protocol.decide import About, Decide
from protocol.envelope import verified
from protocol.errors import (
    LocalProtocolError,
    MalformedMessageError,
    ProtocolError,
    VerificationError,
)
from protocol.rounds.attempt import Attempt, OpenRecord, is_proven
from protocol.rounds.deadlines import UploadTimes
from protocol.rounds.desk import RECORD_LIMIT_BYTES, Desk, Keyring, slot_prefix
from protocol.rounds.ears import Ears
from protocol.rounds.events import (
    Effect,
    EpochEntered,
    EpochOffered,
    Event,
    Fetched,
    Finished,
    Held,
    Left,
    Publish,
    Received,
    Records,
    Started,
    Synced,
    SyncState,
    Tick,
    Train,
    Trained,
)
from protocol.rounds.history import History
from protocol.rounds.messages import (
    Evidence,
    Heard,
    Heartbeat,
    Opening,
    PreKey,
    Proof,
    Upload,
    Verdict,
    exclude_each_other,
    hear,
)
from protocol.rounds.policy import Epoch
from protocol.rounds.stock import Known, Stock
from protocol.rounds.talk import Talk
from protocol.types import DIGEST_BYTES, Digest, Millis, PublicKey
from protocol.wire import decode, encode

ATTEMPTS_IN_A_ROW = 3
"""After so many that led nowhere, a pause: the cause is not going away by haste."""
NUMBERS_SKIPPED = 64
"""Pre-key numbers left out after a loss of the disk, beyond those that others have seen."""

SILENT, SYNCING = "silent", "syncing"


class Rounds:
    """The machine.  Given `records`, it goes on where an earlier one stopped."""

    def __init__(
        self,
        epoch: Epoch,
        me: PublicKey,
        keys: Keyring,
        *,
        state: Digest,
        scales: Digest,
        records: Records | None = None,
        known_epochs: Sequence[Epoch] = (),
        lost: bool = False,
        verify: Verify = verified,
    ) -> None:
        """`epoch`, `state`, `scales`: where the run began, the same for all its members.

        `known_epochs`: later ones, in order, for a member that joins in one of them.  `lost`:
        this node had records of this run and has them no more.  It may have voted on the
        opening now being decided, so it votes on none before the round after the next; and it
        may have spoken in the present attempt, so it takes part in none that does not use a
        pre-key it dealt since.
        """
        self._desk = Desk(me, epoch.run, keys, verify, dict(records or {}))
        self._history = History(self._desk, epoch, known_epochs, state, scales)
        if me not in self._history.cohort:
            raise LocalProtocolError("this node has no seat in any epoch it was given")
        self._over = False
        self._hold = False
        self._lost = lost
        self._ears = Ears()
        self._talk = Talk(self._desk)
        self._accused: set[bytes] = set()
        self._now = Millis(0)
        self._version = 0
        self._offer: tuple[int, bytes | None] = (-1, None)
        self._update: Digest | None = None
        self._attempt: Attempt | None = None
        self._left_blobs: list[Digest] = []
        self._state_here = True
        self._ready_since: Millis | None = None
        self._enter_epoch()
        self._enter_round(Millis(0))

    # Public ------------------------------------------------------------------------------

    @property
    def epoch(self) -> Epoch:
        """The present members and numbers."""
        return self._history.cohort.epoch

    @property
    def round(self) -> int:
        """The round being worked on; all before it have verdicts."""
        return self._history.round

    @property
    def state(self) -> Digest:
        """Root of the state the present round starts from."""
        return self._history.base

    @property
    def head(self) -> Digest:
        """Digest of the last verdict: equal heads are equal histories."""
        return self._history.head

    @property
    def over(self) -> bool:
        """Has this node left the run?"""
        return self._over

    @property
    def silent(self) -> bool:
        """Does this member say nothing yet, not knowing where the run is?"""
        return self._history.joining or self._lost

    @property
    def abstains(self) -> bool:
        """Could this member have voted on the present opening before it lost its disk?"""
        record = self._desk.records.get(SILENT)
        return record is not None and self.round < int(record)

    @property
    def phase(self) -> str:
        """One word for an operator."""
        if self._over:
            return "left"
        if self._history.joining or not self._state_here:
            return "syncing"
        if self._attempt is None:
            return "ready" if self._update is not None else "training"
        return "uploading" if self._attempt.settling is None else "settling"

    def absent(self) -> tuple[bytes, ...]:
        """Members not heard from lately."""
        expected = self.expected(self._now)
        return tuple(m for m in self._history.cohort.members if m not in expected)

    def size(self) -> int:
        """Statements and records held, for bounds."""
        return self._ears.size() + len(self._desk.records)

    def handle(self, event: Event, now: Millis) -> list[Effect]:
        """One event; the effects are to be carried out in order."""
        if self.over:
            return []
        self._now = now
        self._take(event, now)
        self._advance(now)
        return self._desk.drain()

    # Host of an attempt ------------------------------------------------------------------

    def isolates(self, members: frozenset[bytes]) -> bool:
        return self._history.isolates(members)

    def next_epoch(self) -> bytes:
        """The epoch to follow: the offered one, once a quorum has been offered it too."""
        cohort, offered = self._history.cohort, self._history.next
        if offered is None:
            return cohort.name
        name = offered.name()
        beats = self._talk.beats.values()
        told = sum(1 for beat in beats if beat.body.next_epoch == name)
        return name if told + 1 >= cohort.thresholds.quorum else cohort.name

    def knows_epoch(self, name: bytes) -> bool:
        offered = self._history.next
        return name == self._history.cohort.name or (
            offered is not None and offered.name() == name
        )

    def expected(self, now: Millis) -> frozenset[bytes]:
        """Members heard from lately, this node included."""
        return self._talk.expected(self._history.cohort, now)

    # Chair of the opening ----------------------------------------------------------------

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
        unknown = False
        for member, (number, name) in zip(members, opening.prekeys, strict=True):
            if not self._stock.is_free(member, number, slot.name()):
                return False
            known = self._stock.named(name)
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
            self._use_up(body.slot, about.value)
        return self._desk.cast(body, about)

    def proven(self, vote: Vote, votes: Sequence[tuple[int, bytes]]) -> bool:
        return is_proven(self._history.cohort, self._desk, vote, votes)

    # Events ------------------------------------------------------------------------------

    def _take(self, event: Event, now: Millis) -> None:
        match event:
            case Received():
                self._hear(event.heard, now)
            case Started():
                self._resume(now)
            case Tick():
                self._version += 1
                if self._attempt is not None:
                    self._attempt.handle(event, now)
            case Trained():
                if event.round == self.round and self._update is None:
                    self._desk.persist(self._trained_key(), event.update)
                    self._update = event.update
                    self._news(now)
            case Synced():
                if event.state == self._history.base and not self._state_here:
                    self._state_here = True
                    self._desk.forget([SYNCING])
                    self._desk.do(Train(self.round, self._history.base))
            case EpochOffered():
                self._history.offer(event.epoch)
                self._news(now)
            case Held():
                self._hold = event.hold
                self._news(now)
            case _:
                attempt = self._attempt
                if attempt is not None and (
                    isinstance(event, Fetched) or event.context == attempt.context
                ):
                    self._talk.progress(self._history.cohort, now)
                    attempt.handle(event, now)

    def _news(self, now: Millis) -> None:
        self._version += 1
        self._talk.hurry()
        self._talk.progress(self._history.cohort, now)

    # Hearing -----------------------------------------------------------------------------

    def _hear(self, heard: Heard, now: Millis) -> None:
        cohort = self._history.cohort
        if heard.run != self._desk.run or heard.sender == self._desk.me:
            return
        if heard.sender not in cohort:
            return
        match heard.body:
            case Heartbeat():
                self._hear_beat(heard, heard.body, now)
            case Proof():
                self._hear_proof(heard.body.certificate, now)
            case Evidence():
                self._hear_evidence(heard.body)
            case _ if self.silent:
                return
            case PreKey():
                self._contradicts(heard)
                if self._stock.take(heard, heard.body):
                    self._version += 1
                    self._talk.progress(cohort, now)
            case _:
                self._hear_statement(heard, now)

    def _hear_statement(self, heard: Heard, now: Millis) -> None:
        where, here = (heard.round, heard.attempt), (self.round, self._number)
        if where > here:
            self._ears.keep_early(heard)
            return
        if where < here:
            return
        known = self._ears.knows(heard)
        self._contradicts(heard)
        body = heard.body
        if isinstance(body, Vote | Proposal) and body.slot == self._open.slot:
            self._open.hear(heard.sender, body, heard.signature, now)
        elif self._attempt is None:
            self._ears.keep_early(heard)
            return
        elif not self._attempt.hear(heard, now):
            return
        if not known:
            self._talk.progress(self._history.cohort, now)

    def _contradicts(self, heard: Heard) -> None:
        other = self._ears.note(heard)
        if other is not None:
            self._expose(other, heard)

    def _hear_evidence(self, body: Evidence) -> None:
        try:
            one = hear(body.first, self._desk.verify)
            other = hear(body.second, self._desk.verify)
        except ProtocolError:
            return
        if exclude_each_other(one, other) and one.run == self._desk.run:
            self._expose(one, other)

    def _expose(self, one: Heard, other: Heard) -> None:
        """Two statements of one member exclude each other: say so once, do without it."""
        liar = one.sender
        if liar in self._accused or liar not in self._history.cohort:
            return
        self._accused.add(liar)
        self._version += 1
        self._desk.accuse(
            liar, "said two different things in one place", one.envelope, other.envelope
        )
        evidence = Evidence(one.envelope, other.envelope)
        self._desk.do(Publish(self._sealed(evidence)))
        if self._attempt is not None:
            self._attempt.bar(liar)

    def _hear_beat(self, heard: Heard, body: Heartbeat, now: Millis) -> None:
        cohort = self._history.cohort
        self._version += 1
        if self._lost and len(self._talk.beats) > cohort.thresholds.liars:
            self._found(now)
        may_answer = self._talk.hear(heard, body, cohort, now)
        if self.silent and not self._history.certificate:
            return
        behind = heard.round < self.round
        if may_answer and (behind or (body.asks and heard.round == self.round)):
            self._talk.answered(heard.sender, now)
            self._desk.send(heard.sender, self._answer(heard.sender, behind=behind))

    def _found(self, now: Millis) -> None:
        """After a loss of the disk: more members than can lie have told where they are."""
        rounds = [beat.round for beat in self._talk.beats.values()]
        # This node may have been the first to finish the round they are in.
        until = max([*rounds, self.round]) + 2
        self._desk.persist(SILENT, str(until).encode())
        self._lost = False
        self._enter_attempt(self._number, now)

    def _answer(self, asker: bytes, *, behind: bool) -> list[bytes]:
        """What somebody who is behind, or has heard nothing for a while, may have missed."""
        certificate = self._history.certificate
        if behind:
            return [] if certificate is None else [self._sealed(Proof(certificate))]
        if self.silent:
            return []
        others = self._relayed_for(asker)
        out = self._stock.envelopes(others | {self._desk.me})
        if self._attempt is None:
            out += self._desk.newest_ballots(self._open.slot)
            return out + self._ears.of(others, self._open.name)
        for each in self._attempt.certificates():
            out.append(self._sealed(Proof(each)))
        if others:
            out += [known.envelope for known in self._attempt.used.values()]
        out += self._attempt.statements()
        for context in self._attempt.contexts():
            out += self._ears.of(others, context)
        return out

    def _relayed_for(self, asker: bytes) -> frozenset[bytes]:
        """Whose statements this node repeats to `asker` besides its own.

        A member may be gone, or silent, with its statements heard by some.  More of those
        present than can lie, the ones next to the asker in the order of seats, repeat all.
        """
        cohort = self._history.cohort
        expected = self.expected(self._now)
        place = cohort.place(asker)
        around = cohort.members[place + 1 :] + cohort.members[:place]
        near = [m for m in around if m in expected][: cohort.thresholds.liars + 1]
        if self._desk.me not in near:
            return frozenset()
        return frozenset(around) - {self._desk.me}

    def _hear_proof(self, certificate: Certificate, now: Millis) -> None:
        slot = certificate.slot
        if slot.run != self._desk.run or slot.round < self.round:
            return
        try:
            cohort = self._history.check(certificate, self._desk)
        except VerificationError:
            return
        if slot.kind == Kind.VERDICT:
            self._hear_verdict(certificate, now)
        elif slot.round == self.round and cohort is self._history.cohort:
            if self.silent or slot.attempt < self._number:
                return
            if slot.kind == Kind.OPEN:
                if slot.attempt > self._number:
                    self._leave_attempt(now)
                    self._enter_attempt(slot.attempt, now)
                if self._open.certificate is None:
                    self._open.adopt(certificate)
                    self._talk.progress(cohort, now)
            elif self._attempt is not None and slot.context == self._attempt.context:
                self._attempt.adopt(certificate, now)
                self._talk.progress(cohort, now)

    def _hear_verdict(self, certificate: Certificate, now: Millis) -> None:
        verdict = decode(certificate.value, Verdict)
        cohort = self._history.cohort_of(verdict.epoch)
        if cohort is None:
            return  # the registry will tell; until then the others go on
        if self._history.joining and self._desk.me not in cohort:
            return
        self._finish(certificate, now)

    def _advance(self, now: Millis) -> None:
        if not self.over and not self.silent:
            self._drive(now)
        if not self.over:
            self._beat(now)

    # Going on ----------------------------------------------------------------------------

    def _drive(self, now: Millis) -> None:
        """Open, work, step on, until nothing moves; bounded, since each pass ends an attempt."""
        for _ in range(2 * ATTEMPTS_IN_A_ROW):
            if self._attempt is None:
                self._stock.replenish(first=self._first_number())
                self._decide_opening(now)
            if self._over or self._attempt is None or not self._step_on(now):
                return

    def _decide_opening(self, now: Millis) -> None:
        if not self._open.running and self.offer(self._open.slot) is not None:
            self._open.start(now)
        self._open.advance(now)
        if self._open.certificate is not None:
            self._begin_attempt(self._open.certificate, now)

    def _begin_attempt(self, certificate: Certificate, now: Millis) -> None:
        opening = decode(certificate.value, Opening)
        pairs = list(zip(opening.members, opening.prekeys, strict=True))
        self._stock.want(name for _, name in opening.prekeys)
        used: dict[bytes, Known] = {}
        for member, (_, name) in pairs:
            known = self._stock.named(name)
            if known is None:
                return  # asked for until it comes; the others go on
            used[member] = known
        if self.abstains and not self._names_mine(opening):
            return  # it may have spoken in this attempt before
        self._use_up(certificate.slot, certificate.value)
        own = used.get(self._desk.me)
        mine = None if own is None else self._stock.mine(own.prekey.name())
        cohort = self._history.cohort
        length = cohort.policy.length * cohort.ring.bytes_each
        self._attempt = Attempt(
            self,
            self._desk,
            cohort,
            certificate,
            opening,
            used,
            mine,
            self._update,
            self._times.allowed(length),
            now,
        )
        self._talk.progress(cohort, now)
        self._attempt.begin(now)
        self._stock.replenish(first=self._first_number())
        self._hear_early(now)

    def _names_mine(self, opening: Opening) -> bool:
        names = [name for _, name in opening.prekeys]
        return any(self._stock.mine(name) is not None for name in names)

    def _step_on(self, now: Millis) -> bool:
        """Go on if the attempt has ended; True if there is something new to work on."""
        attempt = self._attempt
        assert attempt is not None
        if attempt.verdict.certificate is not None:
            self._finish(attempt.verdict.certificate, now)
            return not self._over
        if attempt.given_up:
            self._leave_attempt(now)
            self._enter_attempt(self._number + 1, now)
            self._hear_early(now)
            return True
        return False

    def _leave_attempt(self, now: Millis) -> None:
        if self._attempt is not None:
            self._attempt.end(now)
            if self._attempt.takes_part:
                self._times.add(list(self._attempt.gathering.offsets.values()))
            self._left_blobs += self._attempt.blobs()
            self._attempt = None

    def _finish(self, certificate: Certificate, now: Millis) -> None:
        """A verdict on this round or a later one: write it down, forget the round, go on."""
        verdict = decode(certificate.value, Verdict)
        attempt, before = self._attempt, self._history.cohort
        survivors: tuple[bytes, ...] = ()
        here = self._state_here and verdict.state == self._history.base
        if attempt is not None and attempt.context == verdict.context:
            survivors = attempt.survivor_members
            here = here or attempt.has_state(verdict.state)
        if attempt is None or attempt.context != verdict.context:
            self._stock.retire()
        self._leave_attempt(now)
        stale = self._stale(verdict.round)
        blobs = self._left_blobs + self._blobs_named(stale)
        stale += self._stock.settle()
        if not here:
            self._desk.persist(SYNCING, verdict.state)
        changes = self._history.finish(
            certificate, frozenset(survivors), self._stock.floors
        )
        self._desk.do(Finished(verdict, certificate, survivors))
        if changes:
            stale += [key for key in self._desk.records if key.startswith("prekey/")]
        self._desk.forget(stale, blobs)
        self._talk.forget(self.round)
        if self._desk.me not in self._history.cohort:
            self._desk.do(Left(self.epoch))
            self._over = True
            return
        if before is not self._history.cohort:
            self._desk.do(EpochEntered(self.epoch))
            self._enter_epoch()
        self._enter_round(now)
        self._begin_round()
        self._hear_early(now)

    def _enter_epoch(self) -> None:
        cohort = self._history.cohort
        self._stock = Stock(cohort, self._desk, self._history.floors)
        self._times = UploadTimes(cohort.policy)
        self._accused &= set(cohort.members)

    def _enter_round(self, now: Millis) -> None:
        self._ears.forget(self._history.cohort.members)
        self._update = None
        self._attempt = None
        self._left_blobs = []
        self._state_here = (
            not self._history.joining and SYNCING not in self._desk.records
        )
        self._enter_attempt(0, now)

    def _enter_attempt(self, number: int, now: Millis) -> None:
        self._number = number
        self._attempt_since = now
        self._ready_since = None
        self._open = self._new_decision()
        self._version += 1
        self._talk.hurry()

    def _new_decision(self) -> Decide:
        cohort = self._history.cohort
        slot = Slot(
            self._desk.run,
            cohort.name,
            self.round,
            self._number,
            Kind.OPEN,
            bytes(DIGEST_BYTES),
        )
        decision = Decide(
            slot,
            cohort.members,
            self._desk.me,
            self,
            quorum=cohort.thresholds.quorum,
            view_ms=cohort.policy.view_ms,
            votes=not self.abstains,
        )
        decision.resume(
            (ballot.body, ballot.signature, ballot.about)
            for ballot in self._desk.ballots(slot_prefix(slot))
        )
        return decision

    def _begin_round(self) -> None:
        """Ask for what the round needs first: the state, or an update."""
        history = self._history
        if history.joining or self._update is not None:
            return
        if self._state_here:
            self._desk.do(Train(self.round, history.base))
        else:
            others = tuple(m for m in history.cohort.members if m != self._desk.me)
            self._desk.do(SyncState(history.base, history.scales, others))

    def _resume(self, now: Millis) -> None:
        """First event: take up what the records say, and say again what was said."""
        if self._lost:
            self._desk.persist(SILENT, str(1 << 62).encode())
        elif self._desk.records.get(SILENT) == str(1 << 62).encode():
            self._lost = True
        self._clear_away()
        record = self._desk.records.get(self._trained_key())
        self._update = None if record is None else Digest(record)
        self._begin_round()
        for envelope in self._stock.envelopes(frozenset({self._desk.me})):
            self._desk.do(Publish(envelope))
        self._recall_uses()
        opened = self._opened_records()
        if opened and not self.silent:
            last = max(opened, key=lambda each: each.certificate.slot.attempt)
            for envelope in last.prekeys:
                heard = self._desk.own(envelope)
                if isinstance(heard.body, PreKey):
                    self._stock.take(heard, heard.body)
            self._enter_attempt(last.certificate.slot.attempt, now)
            self._open.adopt(last.certificate)
        self._talk.hurry()

    def _clear_away(self) -> None:
        """A crash between a verdict and the deletion that follows it: delete now."""
        keys = self._stale(self.round - 1)
        blobs = self._blobs_named(keys)
        self._desk.forget(keys + self._stock.settle(), blobs)

    def _blobs_named(self, keys: list[str]) -> list[Digest]:
        """Updates, plain, rounded and masked, that these records name."""
        blobs: list[Digest] = []
        for key in keys:
            record = self._desk.records[key]
            if key.endswith(("/trained", "/quantised")):
                blobs.append(Digest(record))
            elif key.endswith("/upload"):
                body = self._desk.own(record).body
                if isinstance(body, Upload):
                    blobs += [Digest(shard) for shard in body.shards]
        return blobs

    def _recall_uses(self) -> None:
        """Openings this member precommitted in this round have used their pre-keys up."""
        for ballot in self._desk.ballots(f"{self.round}/ballot/"):
            body = ballot.body
            if (
                isinstance(body, Vote)
                and body.slot.kind == Kind.OPEN
                and body.step == Step.PRECOMMIT
                and body.value != NOTHING
            ):
                self._use_up(body.slot, ballot.about.value)
        for each in self._opened_records():
            self._use_up(each.certificate.slot, each.certificate.value)

    def _opened_records(self) -> list[OpenRecord]:
        prefix = f"{self.round}/opened/"
        return [
            decode(record, OpenRecord, limit_bytes=RECORD_LIMIT_BYTES)
            for key, record in sorted(self._desk.records.items())
            if key.startswith(prefix)
        ]

    def _use_up(self, slot: Slot, value: bytes) -> None:
        opening = decode(value, Opening)
        numbers = {
            member: number
            for member, (number, _) in zip(
                opening.members, opening.prekeys, strict=True
            )
        }
        self._stock.use(slot.name(), numbers)

    def _hear_early(self, now: Millis) -> None:
        for heard in self._ears.early():
            self._hear(heard, now)

    # Speaking ----------------------------------------------------------------------------

    def _beat(self, now: Millis) -> None:
        cohort = self._history.cohort
        if not self._talk.due(cohort, now):
            return
        waits = self._attempt is not None or self._update is not None or self.abstains
        body = Heartbeat(
            self.head,
            self._is_ready(),
            (waits or self.silent) and self._talk.asks(cohort, now),
            self._stock.held(),
            b"" if self._history.next is None else self._history.next.name(),
        )
        self._talk.beat(cohort, self.round, self._number, body, now)

    def _is_ready(self) -> bool:
        return self._update is not None and not self._hold and not self.silent

    def _sealed(self, body: Proof | Evidence) -> bytes:
        name = self._history.cohort.name
        return self._desk.sealed(name, self.round, self._number, body)

    # Offers ------------------------------------------------------------------------------

    def _make_offer(self, slot: Slot) -> bytes | None:
        cohort = self._history.cohort
        ready = self._ready(slot.name())
        # A member that was shown to lie is done without, unless a sum without it would,
        # with one opened before, single it out.
        clean = frozenset(ready) - self._accused
        allowed = self._history.allowed(clean) or self._history.allowed(
            frozenset(ready)
        )
        if allowed is None or len(allowed) < cohort.thresholds.survivors:
            self._ready_since = None
            return None
        if self._ready_since is None:
            self._ready_since = self._now
        pause = (
            cohort.policy.idle_ms
            if self._number and self._number % ATTEMPTS_IN_A_ROW == 0
            else 0
        )
        if self._now < self._attempt_since + pause:
            return None
        waited = self._now - self._ready_since >= cohort.policy.patience_ms
        if len(ready) < len(cohort.members) and not waited:
            return None
        members = tuple(m for m in cohort.members if m in allowed)
        prekeys = tuple(
            (ready[m].prekey.number, ready[m].prekey.name()) for m in members
        )
        return encode(self._opening(members, prekeys))

    def _opening(
        self, members: tuple[bytes, ...], prekeys: tuple[tuple[int, bytes], ...]
    ) -> Opening:
        history = self._history
        return Opening(
            self._desk.run,
            history.cohort.name,
            history.round,
            self._number,
            history.base,
            history.scales,
            history.head,
            members,
            prekeys,
        )

    def _ready(self, slot: bytes) -> dict[bytes, Known]:
        """Members that can upload, each with the pre-key it would use.

        Of two members of whom one holds no share of the other's pre-key, the one with more
        such quarrels is left out: it deals badly, or says so of others.
        """
        cohort = self._history.cohort
        held: dict[bytes, tuple[int, ...]] = {}
        if self._is_ready():
            held[self._desk.me] = self._stock.held()
        alive = self.expected(self._now)
        for member, beat in self._talk.beats.items():
            body = beat.body
            if member in alive and body.ready and body.head == self.head:
                held[member] = body.held
        found: dict[bytes, Known] = {}
        if len(held) < cohort.thresholds.survivors:
            return found
        for member in held:
            known = self._stock.next_of(member, slot)
            if known is not None:
                found[member] = known
        while True:
            wanted = [(m, cohort.place(m), k.prekey.number) for m, k in found.items()]
            quarrels = [
                (dealer, holder)
                for dealer, place, number in wanted
                for holder in found
                if held[holder][place] < number
            ]
            if not quarrels:
                return found
            counts = {m: sum(m in pair for pair in quarrels) for m in found}
            del found[max(sorted(found), key=lambda m: counts[m])]

    def _first_number(self) -> int:
        """After a loss of the disk, numbers start beyond all that others have seen."""
        if SILENT not in self._desk.records:
            return 0
        place = self._history.cohort.place(self._desk.me)
        seen = [beat.body.held[place] for beat in self._talk.beats.values()]
        return max(seen, default=0) + NUMBERS_SKIPPED

    def _trained_key(self) -> str:
        return f"{self.round}/trained"

    def _stale(self, last: int) -> list[str]:
        """Records of rounds up to `last`: they start with the round's number."""
        out = []
        for key in self._desk.records:
            number = key.split("/")[0]
            if number.isdecimal() and int(number) <= last:
                out.append(key)
        return out
