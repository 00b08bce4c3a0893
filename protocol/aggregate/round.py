"""One attempt at one sum, as a state machine (docs/protocol.md §5).

`handle(event, now)` takes what happened and returns what is to be done, in order: what must
be on disk comes before what may then be said.  The machine does no arithmetic on vectors;
it asks for that by effect and is told the digest of the result.

First version: every member stays to the end.  One that goes missing costs the attempt, and
the next attempt has fresh masks; no secret of this attempt is ever released after a failure.
What holds throughout, and is tested over random schedules:

- one upload, one vote, one seed per context, and the same bytes whenever they are said again;
- a seed leaves only on a certificate of all members' votes for one set of uploads;
- a pairwise mask never leaves at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeVar

from protocol.aggregate.masks import seed_commitment
from protocol.aggregate.messages import (
    Attempt,
    Body,
    Claim,
    Heard,
    Report,
    Result,
    Said,
    Seed,
    Upload,
    Vote,
    results_digest,
    say,
    uploads_digest,
)
from protocol.aggregate.shards import Shard, shards
from protocol.errors import LocalProtocolError
from protocol.types import Digest, Millis, PublicKey


class Phase(IntEnum):
    """Where an attempt stands; only ever upwards."""

    MASKING = 0
    UPLOADING = 1
    VOTING = 2
    UNMASKING = 3
    GATHERING = 4
    CLAIMING = 5
    DONE = 6


# Events -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Started:
    """The update is on disk; masking may begin."""


@dataclass(frozen=True)
class Masked:
    """The masked shards are blobs of this node, in the order of the vector."""

    shards: tuple[Digest, ...]


@dataclass(frozen=True)
class Received:
    """A verified message of this context."""

    heard: Heard


@dataclass(frozen=True)
class Fetched:
    """A blob asked for is on this node."""

    blob: Digest


@dataclass(frozen=True)
class Unmasked:
    """The sum of the own shard is a blob of this node."""

    blob: Digest


@dataclass(frozen=True)
class Applied:
    """The new state is on disk."""

    state: Digest


@dataclass(frozen=True)
class Tick:
    """Time passed."""


Event = Started | Masked | Received | Fetched | Unmasked | Applied | Tick


# Effects ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Persist:
    """On disk before the next effect: what was said under this name in this context."""

    name: str
    envelope: bytes


@dataclass(frozen=True)
class Publish:
    """Tell every member."""

    envelope: bytes


@dataclass(frozen=True)
class Fetch:
    """Pull a blob of at most `limit_bytes` from a member; answer with `Fetched`."""

    member: bytes
    blob: Digest
    limit_bytes: int


@dataclass(frozen=True)
class MaskUpdate:
    """Round, mask and cut the update into `shards`; answer with `Masked`."""

    attempt: Attempt
    shards: tuple[Shard, ...]
    seed: bytes = field(repr=False)


@dataclass(frozen=True)
class SumShard:
    """Add `inputs`, take the self masks off; answer with `Unmasked`."""

    shard: Shard
    inputs: tuple[Digest, ...]
    seeds: Mapping[bytes, bytes] = field(repr=False)


@dataclass(frozen=True)
class ApplySum:
    """Join the shards' sums in the order of the vector and step; answer with `Applied`."""

    results: tuple[Digest, ...]


@dataclass(frozen=True)
class Finished:
    """All members claim the same state."""

    state: Digest
    claims: tuple[bytes, ...]


@dataclass(frozen=True)
class Failed:
    """The attempt is over; `evidence` holds two signed messages that exclude each other."""

    reason: str
    members: tuple[bytes, ...]
    evidence: tuple[bytes, ...] = ()


Effect = (
    Persist | Publish | Fetch | MaskUpdate | SumShard | ApplySum | Finished | Failed
)

B = TypeVar("B", bound=Body)

WORD_BYTES = 4


class Round:
    """One member's view of one attempt."""

    def __init__(
        self,
        attempt: Attempt,
        me: PublicKey,
        sign: Callable[[bytes], bytes],
        seed: bytes,
        *,
        deadline: Millis,
        upload_deadline: Millis,
    ) -> None:
        """`seed`: 32 fresh secret bytes; `deadline`: longest wait in one phase.

        `upload_deadline` is the same for the uploads, which wait for the slowest member's
        training besides.
        """
        if me not in attempt.members:
            raise LocalProtocolError("this node is not a member of the attempt")
        if len(attempt.members) < 3:
            raise LocalProtocolError(
                f"{len(attempt.members)} members: the sum would show one to another"
            )
        self.attempt = attempt
        self.context = attempt.context()
        self.phase = Phase.MASKING
        self.shards = shards(attempt.length, attempt.members, self.context)
        self._me = me
        self._sign = sign
        self._seed = seed
        self._deadline = deadline
        self._upload_deadline = upload_deadline
        self._since: Millis | None = None
        self._said: dict[tuple[bytes, type[Body]], Heard] = {}
        self._own: dict[type[Body], bytes] = {}
        self._wanted: set[Digest] = set()
        self._here: set[Digest] = set()
        self._asked_sum = False

    @property
    def over(self) -> bool:
        return self.phase is Phase.DONE

    def waiting_for(self) -> tuple[bytes, ...]:
        """Members whose word the present phase lacks."""
        kind = _AWAITED.get(self.phase)
        if kind is None:
            return ()
        return tuple(m for m in self.attempt.members if (m, kind) not in self._said)

    def handle(self, event: Event, now: Millis) -> list[Effect]:
        """One event; the effects are to be carried out in order."""
        if self.over:
            return []
        if self._since is None:
            self._since = now
        before = self.phase
        effects = self._take(event, now)
        if not self.over:
            effects += self._advance()
        if self.phase is not before:
            self._since = now
        return effects

    def _take(self, event: Event, now: Millis) -> list[Effect]:
        match event:
            case Started():
                return [MaskUpdate(self.attempt, self.shards, self._seed)]
            case Masked():
                if len(event.shards) != len(self.shards):
                    raise LocalProtocolError(
                        f"{len(event.shards)} masked shards, need {len(self.shards)}"
                    )
                self._here.update(event.shards)
                self.phase = max(self.phase, Phase.UPLOADING)
                commitment = seed_commitment(self._seed, self.context)
                return self._say(Upload(tuple(event.shards), commitment))
            case Received():
                return self._hear(event.heard)
            case Fetched():
                self._here.add(event.blob)
                return []
            case Unmasked():
                self._here.add(event.blob)
                return self._say(Result(event.blob))
            case Applied():
                self.phase = Phase.CLAIMING
                results = results_digest(self._bodies(Result))
                return self._say(Claim(event.state, results))
            case Tick():
                return self._late(now)

    def _hear(self, heard: Heard) -> list[Effect]:
        if heard.context != self.context or heard.sender not in self.attempt.members:
            return []
        body = heard.said.body
        slot = (heard.sender, type(body))
        known = self._said.get(slot)
        if known is not None:
            if known.said.body == body:
                return []
            return self._fail(
                f"two different {type(body).__name__.lower()}s",
                (heard.sender,),
                (known.envelope, heard.envelope),
            )
        problem = self._problem(heard.sender, body)
        if problem:
            return self._fail(problem, (heard.sender,), (heard.envelope,))
        self._said[slot] = heard
        if isinstance(body, Upload):
            return self._want_own_part(heard.sender, body)
        if isinstance(body, Result):
            return self._want(
                heard.sender, Digest(body.blob), self._owned(heard.sender)
            )
        return []

    def _problem(self, sender: bytes, body: Body) -> str:
        if isinstance(body, Upload) and len(body.shards) != len(self.shards):
            return f"upload of {len(body.shards)} shards, need {len(self.shards)}"
        if isinstance(body, Seed):
            upload = self._said.get((sender, Upload))
            if upload is None or not isinstance(upload.said.body, Upload):
                return ""  # judged again when the upload is here, before it is used
            return self._seed_problem(upload.said.body, body)
        return ""

    def _seed_problem(self, upload: Upload, seed: Seed) -> str:
        if seed_commitment(seed.seed, self.context) != upload.seed_commitment:
            return "seed does not match its commitment"
        return ""

    def _advance(self) -> list[Effect]:
        """Go on as far as what is here allows."""
        effects: list[Effect] = []
        while not self.over:
            step = self._step()
            if step is None:
                return effects
            effects += step
        return effects

    def _step(self) -> list[Effect] | None:
        uploads, everyone = self._bodies(Upload), len(self.attempt.members)
        if self.phase is Phase.UPLOADING and len(uploads) == everyone:
            seen = uploads_digest(uploads)
            if Report not in self._own and self._own_part() <= self._here:
                return self._say(Report(seen))
            reports = self._bodies(Report)
            if Report in self._own and len(reports) == everyone:
                odd = [m for m, r in reports.items() if r.uploads != seen]
                if odd:
                    return self._fail("members hold different uploads", tuple(odd))
                self.phase = Phase.VOTING
                return self._say(Vote(seen))
        elif self.phase is Phase.VOTING:
            votes = self._bodies(Vote)
            if len(votes) == everyone:
                odd = [
                    m for m, v in votes.items() if v.uploads != uploads_digest(uploads)
                ]
                if odd:
                    return self._fail("votes for different uploads", tuple(odd))
                self.phase = Phase.UNMASKING
                return self._say(Seed(self._seed))
        elif self.phase is Phase.UNMASKING:
            return self._unmasking(uploads, everyone)
        elif self.phase is Phase.GATHERING:
            results = self._bodies(Result)
            wanted = {Digest(result.blob) for result in results.values()}
            if (
                len(results) == everyone
                and wanted <= self._here
                and not self._asked_sum
            ):
                self._asked_sum = True
                ordered = tuple(Digest(results[s.owner].blob) for s in self.shards)
                return [ApplySum(ordered)]
        elif self.phase is Phase.CLAIMING:
            return self._claiming(everyone)
        return None

    def _unmasking(
        self, uploads: dict[bytes, Upload], everyone: int
    ) -> list[Effect] | None:
        seeds = self._bodies(Seed)
        if len(seeds) < everyone:
            return None
        for member, seed in seeds.items():
            problem = self._seed_problem(uploads[member], seed)
            if problem:
                said = self._said[(member, Seed)]
                return self._fail(problem, (member,), (said.envelope,))
        self.phase = Phase.GATHERING
        shard = self._owned(self._me)
        index = self.shards.index(shard)
        inputs = tuple(
            Digest(uploads[member].shards[index]) for member in self.attempt.members
        )
        return [SumShard(shard, inputs, {m: s.seed for m, s in seeds.items()})]

    def _claiming(self, everyone: int) -> list[Effect] | None:
        claims = self._bodies(Claim)
        if len(claims) < everyone:
            return None
        mine = claims[self._me]
        odd = tuple(m for m, claim in claims.items() if claim != mine)
        if odd:
            shown = tuple(self._said[(m, Claim)].envelope for m in (self._me, *odd))
            same = all(claims[m].results == mine.results for m in odd)
            what = "same sums, different states" if same else "different sums"
            return self._fail(what, odd, shown)
        self.phase = Phase.DONE
        proofs = tuple(self._said[(m, Claim)].envelope for m in self.attempt.members)
        return [Finished(Digest(mine.state), proofs)]

    def _say(self, body: Body) -> list[Effect]:
        """Once per context; the bytes are kept and said again as they are."""
        kind = type(body)
        if kind in self._own:
            raise LocalProtocolError(
                f"{kind.__name__} was already said in this context"
            )
        envelope = say(self._sign, self._me, self.attempt, body)
        self._own[kind] = envelope
        said = Heard(
            self._me,
            self.context,
            _said(self.attempt, body),
            envelope,
        )
        self._said[(self._me, kind)] = said
        return [Persist(kind.__name__.lower(), envelope), Publish(envelope)]

    def _want_own_part(self, member: bytes, upload: Upload) -> list[Effect]:
        shard = self._owned(self._me)
        blob = Digest(upload.shards[self.shards.index(shard)])
        return self._want(member, blob, shard)

    def _want(self, member: bytes, blob: Digest, shard: Shard) -> list[Effect]:
        if member == self._me or blob in self._here or blob in self._wanted:
            return []
        self._wanted.add(blob)
        size = max(1, WORD_BYTES * (shard.stop - shard.start))
        return [Fetch(member, blob, size)]

    def _own_part(self) -> set[Digest]:
        index = self.shards.index(self._owned(self._me))
        return {Digest(u.shards[index]) for u in self._bodies(Upload).values()}

    def _owned(self, member: bytes) -> Shard:
        return next(shard for shard in self.shards if shard.owner == member)

    def _bodies(self, kind: type[B]) -> dict[bytes, B]:
        return {
            sender: heard.said.body
            for (sender, of), heard in self._said.items()
            if of is kind and isinstance(heard.said.body, kind)
        }

    def _late(self, now: Millis) -> list[Effect]:
        uploading = self.phase <= Phase.UPLOADING
        limit = self._upload_deadline if uploading else self._deadline
        if self._since is None or now - self._since <= limit:
            return []
        missing = self.waiting_for()
        return self._fail(
            f"{self.phase.name.lower()} took longer than {limit} ms", missing
        )

    def _fail(
        self, reason: str, members: tuple[bytes, ...], evidence: tuple[bytes, ...] = ()
    ) -> list[Effect]:
        self.phase = Phase.DONE
        self._seed = b""
        return [Failed(reason, members, evidence)]


def _said(attempt: Attempt, body: Body) -> Said:
    return Said(attempt.run, attempt.round, attempt.attempt, body)


_AWAITED: dict[Phase, type[Body]] = {
    Phase.UPLOADING: Upload,
    Phase.VOTING: Vote,
    Phase.UNMASKING: Seed,
    Phase.GATHERING: Result,
    Phase.CLAIMING: Claim,
}
