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
    Certificate,
    Kind,
    Proposal,
    Slot,
    Verify,
    Vote,
)
from protocol.decide import Decide
from protocol.envelope import verified
from protocol.errors import (
    LocalProtocolError,
    ProtocolError,
    VerificationError,
)
from protocol.rounds import recall
from protocol.rounds.attempt import Attempt
from protocol.rounds.deadlines import UploadTimes
from protocol.rounds.desk import (
    SILENT,
    Desk,
    Keyring,
    slot_prefix,
)
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
    Verdict,
    exclude_each_other,
    hear,
)
from protocol.rounds.openings import Openings
from protocol.rounds.policy import Epoch
from protocol.rounds.stock import PREKEYS, Known, Stock, prekey_prefix
from protocol.rounds.talk import Talk
from protocol.types import DIGEST_BYTES, Digest, Millis, PublicKey
from protocol.wire import decode

SYNCING = "syncing"
"""Record of a state that is certified and not yet on disk."""
PASSES = 6
"""Attempts ended by one event: one, or two where a certificate was on record."""


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
        if me not in self._history.cohort and self._history.certificate is None:
            raise LocalProtocolError("this node has no seat in any epoch it was given")
        self._over = False
        self._hold = False
        self._lost = lost
        self._ears = Ears()
        self._talk = Talk(self._desk)
        self._now = Millis(0)
        self._stage = (0, 0, "")
        self._update: Digest | None = None
        self._attempt: Attempt | None = None
        self._left_blobs: list[Digest] = []
        self._given_up: list[Certificate] = []
        self._state_here = True
        cohort = self._history.cohort
        self._stock = Stock(cohort, self._desk, self._history.floors)
        self._times = UploadTimes(cohort.policy)
        self._openings = Openings(self._desk, self._history, self._talk, self._stock)
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
        if self._attempt.sketching is not None:
            return "sketching"
        return "uploading" if self._attempt.settling is None else "settling"

    def newest(self) -> Finished | None:
        """The last verdict on record: a driver killed right after it has told nobody of it."""
        certificate = self._history.certificate
        return None if certificate is None else self._finished(certificate)

    def absent(self) -> tuple[bytes, ...]:
        """Members not heard from lately."""
        return self._talk.away(self._history.cohort, self._now)

    def lacking(self) -> tuple[bytes, ...]:
        """Members that no sum may be opened without, and that are away (§5.7); mostly nobody."""
        if self._attempt is not None or self.over:
            return ()
        present = frozenset(self._history.cohort.members).difference(self.absent())
        return tuple(sorted(self._history.lacking(present)))

    def size(self) -> int:
        """Statements and records held, for bounds."""
        return self._ears.size() + len(self._desk.records)

    def handle(self, event: Event, now: Millis) -> list[Effect]:
        """One event; the effects are to be carried out in order."""
        if self._over:
            return []
        self._now = self._openings.now = now
        if self._take(event, now):
            self._advance(now)
        return self._desk.drain()

    # Host of an attempt ------------------------------------------------------------------

    def isolates(self, members: frozenset[bytes]) -> bool:
        return self._history.isolates(members)

    def fresh_base(self) -> bool:
        return self._history.fresh_base

    def opened_with(self, survivors: frozenset[bytes]) -> tuple[int, ...]:
        return self._history.opened_with(survivors)

    def next_epoch(self, *, moves: bool) -> bytes:
        """The epoch to follow: the offered one, once a quorum has been offered it too."""
        cohort, offered = self._history.cohort, self._history.next
        if offered is None or not self._history.may_change(moves=moves):
            return cohort.name
        name = offered.name()
        beats = self._talk.beats.values()
        told = sum(1 for beat in beats if beat.body.next_epoch == name)
        return name if told + 1 >= cohort.thresholds.quorum else cohort.name

    def may_follow(self, epoch: bytes, *, moves: bool) -> bool:
        history = self._history
        return epoch == history.cohort.name or (
            history.may_change(moves=moves) and history.was_offered(epoch)
        )

    def expected(self, now: Millis) -> frozenset[bytes]:
        """Members heard from lately, this node included."""
        return self._talk.expected(self._history.cohort, now)

    # Events ------------------------------------------------------------------------------

    def _take(self, event: Event, now: Millis) -> bool:
        """False: nothing that this member could go on from.  What only time brings, ticks do."""
        match event:
            case Received():
                return self._hear(event.heard, now)
            case Started():
                self._resume(now)
            case Tick():
                self._openings.changed()
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
                self._offer(event, now)
                if event.certificate is not None:
                    self._hear_proof(event.certificate, now)
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
        return True

    def _offer(self, event: EpochOffered, now: Millis) -> None:
        before = self._history.exposed
        self._history.offer(event.epoch, event.exposed)
        if self._attempt is not None and self._history.exposed != before:
            self._attempt.reconsider(now)

    def _news(self, now: Millis) -> None:
        self._openings.changed()
        self._talk.hurry()
        self._talk.progress(self._history.cohort, now)

    # Hearing -----------------------------------------------------------------------------

    def _hear(self, heard: Heard, now: Millis) -> bool:
        """True if it may be news."""
        cohort = self._history.cohort
        if heard.run != self._desk.run or heard.sender == self._desk.me:
            return False
        if heard.sender not in cohort.everyone:
            if isinstance(heard.body, Heartbeat):
                self._tell_former(heard, now)
            # Of an epoch to come there may be nobody left whom this member sits with.
            proves = isinstance(heard.body, Proof) and self._history.seats(heard.sender)
            if not proves:
                return False
        match heard.body:
            case Heartbeat():
                return self._hear_beat(heard, heard.body, now)
            case Proof():
                self._hear_proof(heard.body.certificate, now)
            case Evidence():
                self._hear_evidence(heard.body)
            case _ if self.silent:
                return False
            case PreKey():
                if self._stock.has(heard):
                    return False
                self._contradicts(heard)
                if not self._stock.take(heard, heard.body):
                    return False
                self._openings.changed()
                self._talk.progress(cohort, now)
            case _:
                return self._hear_statement(heard, now)
        return True

    def _hear_statement(self, heard: Heard, now: Millis) -> bool:
        where, here = (heard.round, heard.attempt), (self.round, self._number)
        if where < here or self._ears.has_taken(heard):
            return False
        body, attempt = heard.body, self._attempt
        opens = isinstance(body, Vote | Proposal) and body.slot == self._open.slot
        if where > here or (attempt is None and not opens):
            self._ears.keep_early(heard)
            return False
        self._contradicts(heard)
        if isinstance(body, Vote | Proposal) and opens:
            taken = self._open.hear(heard.sender, body, heard.signature, now)
        else:
            taken = attempt is not None and attempt.hear(heard, now)
        if taken:
            self._ears.took(heard)
            self._talk.progress(self._history.cohort, now)
        return True

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
        if liar in self._openings.accused or liar not in self._history.cohort:
            return
        self._openings.accused.add(liar)
        self._openings.changed()
        self._desk.accuse(
            liar, "said two different things in one place", one.envelope, other.envelope
        )
        evidence = Evidence(one.envelope, other.envelope)
        self._desk.do(Publish(self._sealed(evidence)))
        if self._attempt is not None:
            self._attempt.bar(liar)

    def _hear_beat(self, heard: Heard, body: Heartbeat, now: Millis) -> bool:
        cohort = self._history.cohort
        news = self._talk.hear(heard, body, cohort, now)
        if news:
            self._openings.changed()
        if self._lost and len(self._talk.beats) > cohort.thresholds.liars:
            self._found(now)
            news = True
        may_answer = self._talk.may_answer(heard.sender, cohort, now)
        # Whoever asks wants a heartbeat as well, also of a member whose time stands still.
        news = news or body.asks > 0
        if self.silent and not self._history.certificate:
            return news
        behind = heard.round < self.round
        if may_answer and (behind or (body.asks and heard.round == self.round)):
            self._talk.answered(heard.sender, now)
            answer = self._answer(heard.sender, body, behind=behind)
            self._desk.send(heard.sender, answer)
        return news

    def _tell_former(self, heard: Heard, now: Millis) -> None:
        """A member of an epoch that is over may have missed the verdict that ended it.

        Nobody else would tell it: it would wait in its last round for good, with the secrets
        and updates that go with a verdict.
        """
        certificate = self._history.certificate
        then = self._history.cohort_of(heard.context)
        if certificate is None or then is None or heard.sender not in then:
            return
        if heard.round < self.round and self._talk.may_answer(
            heard.sender, self._history.cohort, now
        ):
            self._talk.answered(heard.sender, now)
            self._desk.send(heard.sender, [self._sealed(Proof(certificate))])

    def _found(self, now: Millis) -> None:
        """After a loss of the disk: more members than can lie have told where they are."""
        rounds = [beat.round for beat in self._talk.beats.values()]
        # This node may have been the first to finish the round they are in.
        until = max([*rounds, self.round]) + 2
        self._desk.persist(SILENT, str(until).encode())
        self._lost = False
        self._enter_attempt(self._number, now)

    def _answer(self, asker: bytes, beat: Heartbeat, *, behind: bool) -> list[bytes]:
        """What somebody who is behind, or has heard nothing for a while, may have missed."""
        certificate = self._history.certificate
        if behind:
            return [] if certificate is None else [self._sealed(Proof(certificate))]
        if self.silent:
            return []
        others = self._relayed_for(asker, beat.asks)
        # Pre-keys are the largest messages of a round.  Whoever holds the newest of a member
        # has most likely its older ones: those are told only to one that asks again.
        first = beat.asks == 1 and len(beat.held) == len(self._history.cohort.members)
        held = beat.held if first else ()
        out = self._stock.envelopes(others | {self._desk.me}, held)
        if self._attempt is None:
            # What ended the attempt before, for somebody who is still in it.
            out += [self._sealed(Proof(each)) for each in self._given_up]
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

    def _relayed_for(self, asker: bytes, asked: int) -> frozenset[bytes]:
        """Whose statements this node repeats to `asker` besides its own.

        A member may be gone, or silent, with its statements heard by some.  Each time it
        asks, another of those present repeats them all, in the order of seats.
        """
        cohort = self._history.cohort
        expected = self.expected(self._now)
        place = cohort.place(asker)
        around = cohort.members[place + 1 :] + cohort.members[:place]
        near = [m for m in around if m in expected]
        if not near or near[asked % len(near)] != self._desk.me:
            return frozenset()
        return frozenset(around) - {self._desk.me}

    def _hear_proof(self, certificate: Certificate, now: Millis) -> None:
        slot = certificate.slot
        if slot.run != self._desk.run or slot.round < self.round:
            return
        if self._has_certificate(slot):
            return  # before a quorum of signatures is checked once more
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

    def _has_certificate(self, slot: Slot) -> bool:
        """Is this question of the present attempt answered here?"""
        if slot == self._open.slot:
            return self._open.certificate is not None
        attempt = self._attempt
        return attempt is not None and attempt.has_certificate(slot)

    def _hear_verdict(self, certificate: Certificate, now: Millis) -> None:
        verdict = decode(certificate.value, Verdict)
        cohort = self._history.cohort_of(verdict.epoch)
        if cohort is None:
            return  # the registry will tell, and the others again; until then they go on
        if self._history.joining and self._desk.me not in cohort:
            return
        attempt = self._attempt
        if attempt is None or attempt.context != verdict.context or verdict.accept:
            self._finish(certificate, now)
        else:
            attempt.adopt(certificate, now)  # something may be left to do

    def _advance(self, now: Millis) -> None:
        if not self._over and not self.silent:
            self._drive(now)
        if self._over:
            return
        stage = (self._history.round, self._number, self.phase)
        if stage != self._stage:
            self._stage = stage
            self._talk.step(self._history.cohort, now)
        if self._talk.due(self._history.cohort, now):
            self._beat(now)

    # Going on ----------------------------------------------------------------------------

    def _drive(self, now: Millis) -> None:
        """Open, work, step on, until nothing moves; bounded, since each pass ends an attempt."""
        self._openings.ready = self._is_ready()
        for _ in range(PASSES):
            if self._attempt is None:
                self._stock.replenish(first=self._openings.first_number())
                self._decide_opening(now)
            if self._over or self._attempt is None or not self._step_on(now):
                return

    def _decide_opening(self, now: Millis) -> None:
        if not self._open.running and self._openings.offer(self._open.slot) is not None:
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
        self._openings.use_up(certificate.slot, certificate.value)
        own = used.get(self._desk.me)
        mine = None if own is None else self._stock.mine(own.name)
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
        self._stock.replenish(first=self._openings.first_number())
        self._hear_early(now)

    def _names_mine(self, opening: Opening) -> bool:
        names = [name for _, name in opening.prekeys]
        return any(self._stock.mine(name) is not None for name in names)

    def _step_on(self, now: Millis) -> bool:
        """Go on if the attempt has ended; True if there is something new to work on."""
        attempt = self._attempt
        assert attempt is not None
        if attempt.verdict.certificate is not None:
            liars = self._history.cohort.thresholds.liars
            alone = self._talk.ahead(self.round) > liars
            if not attempt.close(now, sketch=self._history.unsketched, alone=alone):
                return False
            verdict = decode(attempt.verdict.certificate.value, Verdict)
            if not self._history.knows(verdict.epoch):
                return False  # the registry will tell
            self._finish(attempt.verdict.certificate, now)
            return not self._over
        if attempt.given_up:
            self._given_up = attempt.certificates()
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

    def _saw_openings(self, verdict: Verdict) -> bool:
        """Does this member know every opening up to the one that the verdict is about?

        It may have missed one and joined the attempt after it, which need not name it.
        """
        attempt = self._attempt
        if attempt is None or attempt.context != verdict.context:
            return False
        return len(recall.opened(self._desk, self.round)) > self._number

    def _finish(self, certificate: Certificate, now: Millis) -> None:
        """A verdict on this round or a later one: write it down, forget the round, go on."""
        verdict = decode(certificate.value, Verdict)
        attempt, before = self._attempt, self._history.cohort
        here = self._state_here and verdict.state == self._history.base
        disliked = None
        if attempt is not None and attempt.context == verdict.context:
            here = here or attempt.has_state(verdict.state)
            disliked = None if verdict.accept else attempt.disliked()
        if not self._saw_openings(verdict):
            self._stock.retire()
        self._leave_attempt(now)
        stale = recall.stale(self._desk, verdict.round)
        blobs = self._left_blobs + recall.blobs_named(self._desk, stale)
        stale += self._stock.settle()
        if not here:
            self._desk.persist(SYNCING, verdict.state)
        changes = self._history.finish(certificate, self._stock.floors)
        self._desk.do(self._finished(certificate, disliked))
        if changes:
            stale += self._former_prekeys()
        self._desk.forget(stale, blobs)
        self._talk.forget(self.round)
        if self._desk.me not in self._history.cohort:
            self._leave()
            return
        if before is not self._history.cohort:
            self._desk.do(EpochEntered(self.epoch))
            self._enter_epoch()
        self._enter_round(now)
        self._begin_round()
        self._hear_early(now)

    def _finished(
        self, certificate: Certificate, disliked: tuple[bytes, ...] | None = None
    ) -> Finished:
        verdict = decode(certificate.value, Verdict)
        decided = self._history.cohort_of(certificate.slot.epoch)
        assert decided is not None, "its signatures were checked against these members"
        survivors = decided.named(verdict.survivors)
        return Finished(verdict, certificate, survivors, disliked)

    def _former_prekeys(self) -> list[str]:
        """Records of pre-keys that were dealt to the members of another epoch."""
        present = prekey_prefix(self._history.cohort)
        return [
            key
            for key in self._desk.records
            if key.startswith(PREKEYS) and not key.startswith(present)
        ]

    def _leave(self) -> None:
        self._desk.do(Left(self.epoch))
        self._over = True

    def _enter_epoch(self) -> None:
        cohort = self._history.cohort
        self._stock = Stock(cohort, self._desk, self._history.floors)
        self._openings.stock = self._stock
        self._times = UploadTimes(cohort.policy)
        self._openings.accused &= set(cohort.members)

    def _enter_round(self, now: Millis) -> None:
        self._ears.forget(self._history.cohort.members)
        self._update = None
        self._attempt = None
        self._left_blobs = []
        self._given_up = []
        self._state_here = (
            not self._history.joining and SYNCING not in self._desk.records
        )
        self._enter_attempt(0, now)

    def _enter_attempt(self, number: int, now: Millis) -> None:
        self._number = number
        self._openings.enter(number, now)
        self._open = self._new_decision()
        self._openings.changed()
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
            self._openings,
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
        # A crash between a verdict and the deletion that follows it: delete now.
        old = recall.stale(self._desk, self.round - 1)
        blobs = recall.blobs_named(self._desk, old)
        old += self._former_prekeys()
        if self._desk.me not in self._history.cohort:
            self._desk.forget(old, blobs)
            self._leave()
            return
        self._desk.forget(old + self._stock.settle(), blobs)
        record = self._desk.records.get(self._trained_key())
        self._update = None if record is None else Digest(record)
        self._begin_round()
        for envelope in self._stock.envelopes(frozenset({self._desk.me})):
            self._desk.do(Publish(envelope))
        recall.recall_uses(self._desk, self._openings, self.round)
        opened = recall.opened(self._desk, self.round)
        if opened and not self.silent:
            last = opened[-1]
            for envelope in last.prekeys:
                heard = self._desk.own(envelope)
                if isinstance(heard.body, PreKey):
                    self._stock.take(heard, heard.body)
            self._enter_attempt(last.certificate.slot.attempt, now)
            self._open.adopt(last.certificate)
        self._talk.hurry()

    def _hear_early(self, now: Millis) -> None:
        for heard in self._ears.early():
            self._hear(heard, now)

    # Speaking ----------------------------------------------------------------------------

    def _beat(self, now: Millis) -> None:
        cohort = self._history.cohort
        waits = self._attempt is not None or self._update is not None or self.abstains
        body = Heartbeat(
            self.head,
            self._is_ready(),
            self._talk.asks(cohort, now) if waits or self.silent else 0,
            self._stock.held(),
            b"" if self._history.next is None else self._history.next.name(),
        )
        self._talk.beat(cohort, self.round, self._number, body, now)

    def _is_ready(self) -> bool:
        return self._update is not None and not self._hold and not self.silent

    def _sealed(self, body: Proof | Evidence) -> bytes:
        name = self._history.cohort.name
        return self._desk.sealed(name, self.round, self._number, body)

    def _trained_key(self) -> str:
        return f"{self.round}/trained"
