"""One attempt at one sum, from its certified opening to a verdict (§5.4).

    opened -> uploads and sums -> SURVIVORS -> release, unmask, apply -> VERDICT -> sketches

An attempt ends in one of three ways, each certified, so that all members agree which:
SURVIVORS names nobody (nothing was released, the next attempt has fresh masks), or VERDICT
accepts a state, or VERDICT rejects it.
"""

from collections.abc import Mapping

from protocol.aggregate.masks import self_key
from protocol.aggregate.shards import slices
from protocol.certificate import (
    Certificate,
    Kind,
    Proposal,
    Slot,
    Vote,
)
from protocol.decide import Decide
from protocol.rounds import pairs
from protocol.rounds.chair import Chair, Host
from protocol.rounds.desk import RECORD_LIMIT_BYTES, Desk, slot_prefix
from protocol.rounds.early import Early
from protocol.rounds.events import (
    Applied,
    Astray,
    Checked,
    Drawn,
    Event,
    Fetched,
    Mask,
    Masked,
    Publish,
    Quantise,
    Quantised,
    Summed,
    Tagged,
    Tick,
    Weighed,
)
from protocol.rounds.gather import Gathering
from protocol.rounds.messages import (
    GIVEN_UP,
    Claim,
    Heard,
    Opening,
    Release,
    Report,
    Reveal,
    Sketch,
    Survivors,
    Tags,
    Upload,
    Verdict,
)
from protocol.rounds.policy import Cohort
from protocol.rounds.prekeys import Dealt
from protocol.rounds.recall import OpenRecord
from protocol.rounds.setting import Setting
from protocol.rounds.settle import Released, Settling
from protocol.rounds.sketching import Sketching, applies
from protocol.rounds.stock import Known
from protocol.types import Digest, Millis
from protocol.wire import decode, encode


class Attempt:
    """One member's view of one attempt."""

    def __init__(
        self,
        host: Host,
        desk: Desk,
        cohort: Cohort,
        certificate: Certificate,
        opening: Opening,
        used: Mapping[bytes, Known],
        mine: Dealt | None,
        update: Digest | None,
        allowed_ms: int,
        now: Millis,
    ) -> None:
        """`mine`: the secrets behind this node's pre-key, if it is named in the opening."""
        self._desk = desk
        self._cohort = cohort
        self.certificate = certificate
        self.opening = opening
        self.context = opening.context()
        self.used = used
        self._mine = mine
        self._update = update
        ring = cohort.ring
        self._setting = Setting(
            self.context,
            opening.round,
            opening.attempt,
            opening.members,
            slices(
                cohort.policy.length, ring.bytes_each, opening.members, self.context
            ),
            now,
            allowed_ms,
            cohort.policy.backup_ms,
            applies(cohort.policy) and host.fresh_base(),
        )
        self.gathering = Gathering(self._setting, cohort, desk, host.isolates)
        self.settling: Settling | None = None
        self.sketching: Sketching | None = None
        self.given_up = False
        self._ledger = Released()
        self._early = Early()
        self._own: tuple[Digest, ...] = ()
        self._quantised: Digest | None = None
        self._shared: dict[bytes, bytes] | None = None
        self._chair = Chair(host, desk, cohort, opening, self._setting, self.gathering)
        self.survivors = self._decide(Kind.SURVIVORS)
        self.verdict = self._decide(Kind.VERDICT)

    @property
    def takes_part(self) -> bool:
        """Does this node upload?"""
        return self._mine is not None and self._update is not None

    # Beginning ---------------------------------------------------------------------------

    def begin(self, now: Millis) -> None:
        """Record the opening, then make the update ready to be uploaded.

        After a restart: say again what was said, and go on from what is on record.
        """
        self._chair.now = now
        key = f"{self.opening.round}/opened/{self.context.hex()}"
        if key not in self._desk.records:
            envelopes = tuple(self.used[m].envelope for m in self.opening.members)
            record = OpenRecord(self.certificate, envelopes, self._update or b"")
            self._desk.persist(key, encode(record))
        self._resume(now)
        if self.takes_part:
            if self._quantised is not None:
                # Though it was announced before a restart: the same bytes once more, should
                # the machine have lost its memory with the process (docs/adr/0021).
                self._ask_mask(self._quantised)
            elif not self._own:
                self._ask_quantise()
        self.advance(now)

    def _resume(self, now: Millis) -> None:
        prefix = self._setting.key("")
        for key in sorted(k for k in self._desk.records if k.startswith(prefix)):
            envelope = self._desk.records[key]
            if key.endswith("/quantised"):
                self._quantised = Digest(envelope)
                continue
            heard = self._desk.own(envelope)
            self._desk.do(Publish(envelope))
            match heard.body:
                case Upload():
                    self._own = tuple(Digest(s) for s in heard.body.shards)
                    self.gathering.have(*self._own)
                    self.gathering.upload(heard.sender, heard.body, envelope)
                case Report():
                    self.gathering.report(heard.sender, heard.body)
                    self.gathering.resume(heard.body)
                case _:
                    # Said after the certificate; heard again once that is in place.
                    self._early.keep(heard)
        for decision in (self.survivors, self.verdict):
            decision.resume(
                (ballot.body, ballot.signature, ballot.about)
                for ballot in self._desk.ballots(slot_prefix(decision.slot))
            )
            record = self._desk.records.get(self._certificate_key(decision))
            if record is not None:
                decision.adopt(
                    decode(record, Certificate, limit_bytes=RECORD_LIMIT_BYTES)
                )
        if self.survivors.certificate is not None:
            self._certified(now)

    def _ask_quantise(self) -> None:
        assert self._update is not None
        self._desk.do(Quantise(self.context, self.opening, self._update))

    def _ask_mask(self, quantised: Digest) -> None:
        assert self._mine is not None
        self._quantised = quantised
        me, context = self._desk.me, self.context
        plus = [self_key(self._mine.seed, context, me)]
        minus: list[bytes] = []
        for other, key in self._pair_keys().items():
            (plus if me < other else minus).append(key)
        self._desk.do(
            Mask(context, quantised, self._setting.slices, tuple(plus), tuple(minus))
        )

    def _pair_keys(self) -> dict[bytes, bytes]:
        """The key of each mask this node shares; none if it does not take part."""
        if self._mine is None:
            return {}
        if self._shared is None:
            me, members = self._desk.me, self.opening.members
            others = [member for member in members if member != me]
            secret = self._mine.secret
            self._shared = pairs.pair_keys(secret, me, others, self.used, self.context)
        return self._shared

    # Events ------------------------------------------------------------------------------

    def handle(self, event: Event, now: Millis) -> None:
        """An answer to one of this attempt's effects, or the time."""
        self._chair.now = now
        match event:
            case Tick():
                self.gathering.dirty = True
            case Quantised() if not self._own:
                self._desk.persist(self._setting.key("quantised"), event.blob)
                self._ask_mask(event.blob)
            case Masked() if not self._own:
                self._own = event.shards
                self.gathering.have(*event.shards)
                me, members = self._desk.me, self.opening.members
                digests = pairs.digests(members, me, self._pair_keys())
                upload = Upload(tuple(event.shards), digests)
                heard = self._say("upload", upload)
                self.gathering.upload(me, upload, heard.envelope)
            case Fetched():
                self.gathering.fetched(event.blob, now)
            case Summed():
                report = self.gathering.summed(event)
                if report is not None and isinstance(report.body, Report):
                    self.gathering.report(report.sender, report.body)
            case Astray() if self.settling is not None:
                self.settling.astray(event)
            case Applied() if self.settling is not None:
                self.settling.applied(event)
            case Tagged() if self.settling is not None:
                self.settling.tagged(event)
            case Checked() if self.settling is not None:
                self.settling.checked(event)
            case Drawn() if self.sketching is not None:
                self.sketching.drawn(event)
            case Weighed() if self.sketching is not None:
                self.sketching.weighed(event)
            case _:
                self.gathering.dirty = True
        if self.settling is not None:
            self.settling.dirty = True
        self.advance(now)

    def hear(self, heard: Heard, now: Millis) -> bool:
        """A member's message of this context; False if it does not belong here, or not yet."""
        self._chair.now = now
        taken = self._take(heard, now)
        if taken:
            self.advance(now)
        return taken

    def adopt(self, certificate: Certificate, now: Millis) -> None:
        """A checked certificate of one of this attempt's two decisions."""
        self._chair.now = now
        decision = (
            self.survivors if certificate.slot.kind == Kind.SURVIVORS else self.verdict
        )
        if decision.certificate is None:
            decision.adopt(certificate)
            self.advance(now)

    def bar(self, member: bytes) -> None:
        """A member was shown to say two different things."""
        self.gathering.bar(member)

    def reconsider(self, now: Millis) -> None:
        """Other sets of members may be summed than before."""
        self._chair.reconsider()
        self.gathering.reconsider()
        self.advance(now)

    def advance(self, now: Millis) -> None:
        """Go as far as what is here, and the time, allow."""
        self._chair.now = now
        if self.given_up:
            return
        if self.settling is None:
            self._fix(now)
        if self.settling is not None and self.verdict.certificate is None:
            self._settle(now)

    def close(self, now: Millis, *, sketch: bool, alone: bool) -> bool:
        """After the verdict: is nothing left to do here?  A rejected sum may be sketched first.

        `alone`: others are known to have gone on to the next round.
        """
        certificate = self.verdict.certificate
        assert certificate is not None
        if self.sketching is None:
            accepted = decode(certificate.value, Verdict).accept
            if accepted or not sketch or self.settling is None:
                return True
            if not applies(self._cohort.policy):
                return True
            self._begin_sketch(certificate, self.settling, now)
        assert self.sketching is not None
        self.sketching.advance(now, alone=alone)
        return self.sketching.over

    def _begin_sketch(
        self, certificate: Certificate, settling: Settling, now: Millis
    ) -> None:
        # On record before anything is said of the updates: whoever restarts here goes on here.
        key = self._certificate_key(self.verdict)
        if key not in self._desk.records:
            self._desk.persist(key, encode(certificate))
        self.sketching = Sketching(
            self._setting,
            settling,
            self.gathering,
            self._cohort,
            self._desk,
            self._own,
            self._pair_keys() if self._own else {},
            now,
        )
        for heard in self._early.take(Sketch, Reveal):
            self.sketching.hear(heard)

    def end(self, now: Millis) -> None:
        """The attempt is over: stop pulling."""
        self.gathering.close(now)

    def statements(self) -> list[bytes]:
        """Everything this node said in this attempt; of its votes those of two views."""
        prefix = self._setting.key("")
        said = [
            record
            for key, record in self._desk.records.items()
            if key.startswith(prefix) and not key.endswith("/quantised")
        ]
        for decision in (self.survivors, self.verdict):
            said += self._desk.newest_ballots(decision.slot)
        return said

    def certificates(self) -> list[Certificate]:
        """What has been decided so far, in order."""
        decided = (self.survivors.certificate, self.verdict.certificate)
        found = (self.certificate, *decided)
        return [each for each in found if each is not None]

    def has_certificate(self, slot: Slot) -> bool:
        """Is this one of the two questions, and answered?"""
        return any(
            slot == each.slot and each.certificate is not None
            for each in (self.survivors, self.verdict)
        )

    def contexts(self) -> tuple[bytes, ...]:
        """Contexts of what is said in this attempt."""
        return (self.context, self.survivors.name, self.verdict.name)

    def has_state(self, state: bytes) -> bool:
        """Did this member compute this state itself?"""
        settling = self.settling
        outcome = None if settling is None else settling.outcome
        return outcome is not None and outcome.state == state

    def disliked(self) -> tuple[bytes, ...] | None:
        """Whose hold-outs reject the sum; None if this member knows of no sum."""
        return self._chair.disliked()

    def blobs(self) -> list[Digest]:
        """Blobs that must not outlive the round: parts, sums, the rounded update."""
        out = self.gathering.blobs()
        if self.sketching is not None:
            out += self.sketching.blobs()
        return out if self._quantised is None else [*out, self._quantised]

    # Inside ------------------------------------------------------------------------------

    def _decide(self, kind: Kind) -> Decide:
        slot = Slot(
            self.opening.run,
            self.opening.epoch,
            self.opening.round,
            self.opening.attempt,
            kind,
            self.context,
        )
        return Decide(
            slot,
            self._cohort.members,
            self._desk.me,
            self._chair,
            quorum=self._cohort.thresholds.quorum,
            view_ms=self._cohort.policy.view_ms,
        )

    def _take(self, heard: Heard, now: Millis) -> bool:
        body, sender = heard.body, heard.sender
        match body:
            case Vote() | Proposal():
                for decision in (self.survivors, self.verdict):
                    if body.slot == decision.slot:
                        return decision.hear(sender, body, heard.signature, now)
                return False
            case _ if heard.context != self.context:
                # Its place would be another one (§7.3): two things could be said of one attempt
                # that do not exclude each other.
                return False
            case Upload():
                return self.gathering.upload(sender, body, heard.envelope)
            case Report():
                taken = self.gathering.report(sender, body)
                if taken and self.settling is not None:
                    self.settling.dirty = True
                    self.settling.doubt(body)
                return taken
            case Release() | Tags() | Claim():
                if self.settling is None:
                    self._early.keep(heard)
                    return False
                return self._take_settled(self.settling, heard)
            case Sketch() | Reveal():
                if self.sketching is None:
                    self._early.keep(heard)
                    return False
                return self.sketching.hear(heard)
            case _:
                return False

    def _take_settled(self, settling: Settling, heard: Heard) -> bool:
        settling.dirty = True
        match heard.body:
            case Release():
                return settling.hear_release(heard, heard.body)
            case Tags():
                return settling.hear_tags(heard.sender, heard.body)
            case Claim():
                return settling.hear_claim(heard.sender, heard.body)
            case _:
                return False

    def _fix(self, now: Millis) -> None:
        if self.gathering.dirty:
            self.gathering.advance(now)
            if not self.survivors.running and (
                self._chair.hopeless()
                or self._chair.offer(self.survivors.slot) is not None
            ):
                self.survivors.start(now)
        self.survivors.advance(now)
        if self.survivors.certificate is not None:
            self._certified(now)

    def _certified(self, now: Millis) -> None:
        certificate = self.survivors.certificate
        assert certificate is not None
        if self.settling is not None or self.given_up:
            return
        key = self._certificate_key(self.survivors)
        if key not in self._desk.records:
            self._desk.persist(key, encode(certificate))
        value = decode(certificate.value, Survivors)
        if value == GIVEN_UP:
            self.given_up = True
            self.gathering.close(now)
            return
        self.settling = self._chair.settling = Settling(
            self._setting,
            self.opening,
            value,
            self.used,
            self.gathering,
            self._cohort,
            self._desk,
            self._ledger,
            self._own,
            now,
        )
        self.settling.release()
        for heard in self._early.take(Release, Tags, Claim):
            self._take_settled(self.settling, heard)
        for shard, reports in enumerate(self.gathering.said.by_slice):
            for report in reports.values():
                assert report.shard == shard
                self.settling.doubt(report)

    def _settle(self, now: Millis) -> None:
        settling = self.settling
        assert settling is not None
        if settling.dirty:
            settling.advance(now)
            if not self.verdict.running and self._chair.verdict() is not None:
                self.verdict.start(now)
        self.verdict.advance(now)

    def _certificate_key(self, decision: Decide) -> str:
        return f"{self.opening.round}/certificate/{decision.name.hex()}"

    def _say(self, what: str, body: Upload) -> Heard:
        setting = self._setting
        return self._desk.say(
            setting.key(what), self.context, setting.round, setting.attempt, body
        )
