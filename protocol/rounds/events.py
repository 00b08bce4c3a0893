"""Everything that can happen to a member's machine, and everything it can ask for (§7.2).

Effects are carried out in the order given; `Persist` is on disk before the next one starts.
Work on vectors is asked for by effect and answered by event, with digests in place of bytes:
a result named in an event outlives the process (docs/adr/0021 says what outlives the machine
it runs on).  A blob is never changed; a record is written once,
except for `HEAD`.  Those that come with every message are structs: made at a fraction of the cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from protocol.aggregate.shards import Slice
from protocol.aggregate.weighing import Answer
from protocol.certificate import Certificate
from protocol.rounds.messages import Heard, Opening, Verdict
from protocol.rounds.policy import Epoch
from protocol.types import Digest

# Events -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Started:
    """The machine runs, for the first time or after a restart."""


@dataclass(frozen=True)
class Tick:
    """Time passed."""


class Received(msgspec.Struct, frozen=True):
    """A verified message (`messages.hear`)."""

    heard: Heard


@dataclass(frozen=True)
class Trained:
    """Answer to `Train`: the update of this round is on disk under `update`."""

    round: int
    update: Digest


@dataclass(frozen=True)
class Quantised:
    """Answer to `Quantise`: what the rounded update is, or follows from, is on disk as `blob`."""

    context: bytes
    blob: Digest


@dataclass(frozen=True)
class Masked:
    """Answer to `Mask`: the masked slices are blobs, in the order of the vector."""

    context: bytes
    shards: tuple[Digest, ...]


@dataclass(frozen=True)
class Fetched:
    """A blob asked for is on this node."""

    blob: Digest


@dataclass(frozen=True)
class Summed:
    """Answer to `Sum`; `carry` is empty if it was not asked for."""

    context: bytes
    shard: int
    members: int
    sum: Digest
    carry: bytes


@dataclass(frozen=True)
class Astray:
    """Answer to `Apply` instead: slices with a sum that its members cannot have made."""

    context: bytes
    sums: tuple[Digest, ...]
    slices: tuple[int, ...]


@dataclass(frozen=True)
class Applied:
    """Answer to `Apply`: the new state is on disk beside the old one, and was evaluated."""

    context: bytes
    sums: tuple[Digest, ...]
    state: Digest
    scales: Digest
    accept: bool
    metric: int


@dataclass(frozen=True)
class Tagged:
    """Answer to `Tag`: one number per slice."""

    context: bytes
    values: tuple[int, ...]


@dataclass(frozen=True)
class Checked:
    """Answer to `Check`."""

    context: bytes
    shard: int
    good: bool


@dataclass(frozen=True)
class Drawn:
    """Answer to `Draw`: the sketches are a blob."""

    context: bytes
    blob: Digest


@dataclass(frozen=True)
class Weighed:
    """Answer to `Weigh`."""

    context: bytes
    turn: int
    answer: Answer


@dataclass(frozen=True)
class Synced:
    """Answer to `SyncState`: the state and its scales are on disk."""

    state: Digest


@dataclass(frozen=True)
class EpochOffered:
    """The registry, or the members, say which epoch comes next."""

    epoch: Epoch
    certificate: Certificate | None = None
    """The verdict that led to it, where it has begun already.

    Those that left with it are gone: who missed it might have nobody else to hear it from.
    """
    exposed: frozenset[bytes] = frozenset()
    """Of those that go: whose updates a quorum of operators agreed not to hide any more (§5.7)."""


@dataclass(frozen=True)
class Held:
    """Hold the run (True: finish the round, open no further one) or go on with it."""

    hold: bool


Event = (
    Started
    | Tick
    | Received
    | Trained
    | Quantised
    | Masked
    | Fetched
    | Summed
    | Astray
    | Applied
    | Tagged
    | Checked
    | Drawn
    | Weighed
    | Synced
    | EpochOffered
    | Held
)


# Effects ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Persist:
    """On disk before the next effect.  Some records are secrets: the store is the key file's."""

    key: str
    value: bytes = field(repr=False)


@dataclass(frozen=True)
class Forget:
    """Delete these records and blobs for good; they hold secrets, or updates."""

    keys: tuple[str, ...]
    blobs: tuple[Digest, ...]


class Publish(msgspec.Struct, frozen=True):
    """Tell every member."""

    envelope: bytes


class Send(msgspec.Struct, frozen=True):
    """Tell one member."""

    member: bytes
    envelope: bytes


@dataclass(frozen=True)
class Train:
    """Make an update relative to `base`; answer with `Trained`."""

    round: int
    base: Digest


@dataclass(frozen=True)
class Quantise:
    """Clip, add noise, round, by chance; answer with `Quantised`.

    Its result, or the coins it follows from, is on record before anything is masked: the
    same mask never covers two different roundings.
    """

    context: bytes
    opening: Opening
    update: Digest


@dataclass(frozen=True)
class Mask:
    """Add the masks of `plus`, take off those of `minus`, cut; answer with `Masked`.

    The outcome depends on nothing else, so that doing it again gives the same bytes.
    """

    context: bytes
    quantised: Digest
    slices: tuple[Slice, ...]
    plus: tuple[bytes, ...] = field(repr=False)
    minus: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True)
class Fetch:
    """Pull a blob from any of `sources`, until it is here or dropped; answer with `Fetched`.

    A second `Fetch` of one blob replaces its sources.
    """

    sources: tuple[bytes, ...]
    blob: Digest
    limit_bytes: int


@dataclass(frozen=True)
class Drop:
    """Stop pulling these blobs."""

    blobs: tuple[Digest, ...]


@dataclass(frozen=True)
class Sum:
    """Add the parts of one slice; answer with `Summed`.

    With `carry`, also write down how often each entry passed the end of the ring.
    """

    context: bytes
    slice: Slice
    members: int
    inputs: tuple[Digest, ...]
    carry: bool


@dataclass(frozen=True)
class Apply:
    """Take the masks off the sums, step from the base by the weighted mean, try the result.

    Answer with `Applied`, or `Astray` where an unmasked entry is out of range.
    """

    context: bytes
    opening: Opening
    slices: tuple[Slice, ...]
    sums: tuple[Digest, ...]
    survivors: tuple[bytes, ...]
    plus: tuple[bytes, ...] = field(repr=False)
    minus: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True)
class Tag:
    """Combine each of the own masked slices under `seed`; answer with `Tagged`."""

    context: bytes
    slices: tuple[Slice, ...]
    shards: tuple[Digest, ...]
    seed: bytes


@dataclass(frozen=True)
class Check:
    """Does the combination of the sum equal `tag`?  Answer with `Checked`."""

    context: bytes
    slice: Slice
    members: int
    sum: Digest
    carry: Digest
    seed: bytes
    tag: int


@dataclass(frozen=True)
class Draw:
    """Sketch the own masked update and the masks under `keys`; answer with `Drawn`."""

    context: bytes
    slices: tuple[Slice, ...]
    shards: tuple[Digest, ...]
    keys: tuple[bytes, ...] = field(repr=False)
    """Of the masks shared with each other survivor, in order."""
    seed: bytes


@dataclass(frozen=True)
class Weigh:
    """Compare what the survivors said, and measure (`weighing.Question`); answer with `Weighed`."""

    context: bytes
    turn: int
    slices: tuple[Slice, ...]
    said: tuple[Digest, ...]
    alone: tuple[tuple[tuple[bytes, ...], tuple[bytes, ...]], ...] = field(repr=False)
    sums: tuple[Digest, ...]
    weights: tuple[int, ...]
    opened: tuple[tuple[int, int, bytes], ...] = field(repr=False)
    parts: tuple[tuple[Digest, ...], ...]
    """Per survivor its masked slices; empty where those are not looked at."""
    seed: bytes


@dataclass(frozen=True)
class SyncState:
    """Fetch a state that others hold, by chunk, from several; answer with `Synced`."""

    state: Digest
    scales: Digest
    donors: tuple[bytes, ...]


@dataclass(frozen=True)
class Accuse:
    """A member broke a rule, and `evidence` shows it to anyone."""

    member: bytes
    reason: str
    evidence: tuple[bytes, ...]


@dataclass(frozen=True)
class Measured:
    """What the sketches of a rejected sum showed, for people to judge."""

    round: int
    context: bytes
    members: tuple[bytes, ...]
    """The survivors."""
    times: tuple[int, ...]
    """Length of each one's update over the typical one, in thousandths; empty: no verdict."""
    worst: tuple[int, ...]
    """The same of the block in which it is most unlike the others."""
    outliers: tuple[bytes, ...]
    false: tuple[bytes, ...]
    """Members whose sketches were shown to be wrong; each is accused as well."""
    silent: tuple[bytes, ...]
    """Survivors that said nothing in time."""


@dataclass(frozen=True)
class Finished:
    """A round ended with a verdict: swap the state pointer if it was accepted; anchor it."""

    verdict: Verdict
    certificate: Certificate
    survivors: tuple[bytes, ...]
    """Whose updates the sum is over."""
    disliked: tuple[bytes, ...] | None = None
    """Of a rejected sum: whose hold-outs rejected it, none if it was not had, or not checked, in
    time; None where it was accepted, or this node had no part in the attempt."""


@dataclass(frozen=True)
class EpochEntered:
    """From here on these are the members."""

    epoch: Epoch


@dataclass(frozen=True)
class Left:
    """The next epoch has no seat for this node; the machine is over."""

    epoch: Epoch


Effect = (
    Persist
    | Forget
    | Publish
    | Send
    | Train
    | Quantise
    | Mask
    | Fetch
    | Drop
    | Sum
    | Apply
    | Tag
    | Check
    | Draw
    | Weigh
    | SyncState
    | Accuse
    | Measured
    | Finished
    | EpochEntered
    | Left
)

Records = Mapping[str, bytes]
"""What `Persist` left behind."""
