"""The vector work of a node, done for real on small vectors; what a compute child does."""

import hashlib
from dataclasses import replace

import numpy as np

from protocol.aggregate import checks, masks, sketch, weighing
from protocol.aggregate.ring import (
    Exponents,
    Floats,
    Ring,
    blocks,
    mean_factor,
    weight_factor,
)
from protocol.rounds.events import (
    Applied,
    Apply,
    Astray,
    Check,
    Checked,
    Draw,
    Drawn,
    Mask,
    Masked,
    Quantise,
    Quantised,
    Sum,
    Summed,
    Tag,
    Tagged,
    Weigh,
    Weighed,
)
from protocol.rounds.policy import Epoch
from protocol.types import Digest

Blobs = dict[bytes, bytes]


def put(blobs: Blobs, data: bytes) -> Digest:
    name = Digest(hashlib.sha256(data).digest())
    blobs[name] = data
    return name


def first_scales(length: int) -> Exponents:
    return np.full(blocks(length), -12, np.int8)


def words(blobs: Blobs, name: bytes, ring: Ring) -> np.ndarray:
    return np.frombuffer(blobs[name], ring.dtype)


def quantise(
    effect: Quantise, blobs: Blobs, epoch: Epoch, me: bytes, chance: np.random.Generator
) -> Quantised:
    update = np.frombuffer(blobs[effect.update], "<f4")
    scales = np.frombuffer(blobs[effect.opening.scales], np.int8)
    total = sum(seat.weight for seat in epoch.seats)
    weight = next(seat.weight for seat in epoch.seats if seat.node_key == me)
    factor = weight_factor(weight, total, len(epoch.seats))
    encoded = epoch.policy.ring().encode(update, scales, factor, chance)
    return Quantised(effect.context, put(blobs, encoded.words.tobytes()))


def mask(effect: Mask, blobs: Blobs, ring: Ring) -> Masked:
    out = words(blobs, effect.quantised, ring).copy()
    masks.apply(out, 0, effect.plus, effect.minus)
    shards = tuple(put(blobs, out[s.start : s.stop].tobytes()) for s in effect.slices)
    return Masked(effect.context, shards)


def add_up(effect: Sum, blobs: Blobs, ring: Ring, wrong: int = 0) -> Summed:
    parts = [words(blobs, part, ring) for part in effect.inputs]
    total, carry = checks.add(parts, ring, carry=effect.carry)
    if wrong and total.size:
        total = total.copy()
        total[:1] += ring.dtype.type(wrong & ((1 << ring.bits) - 1))
    return Summed(
        effect.context,
        effect.slice.index,
        effect.members,
        put(blobs, total.tobytes()),
        b"" if carry is None else put(blobs, checks.pack(carry, len(parts))),
    )


def stepped(
    base: Floats,
    total: np.ndarray,
    scales: Exponents,
    epoch: Epoch,
    members: list[bytes],
) -> tuple[Floats, Exponents]:
    """The next state and scales: the same bits for everyone."""
    ring = epoch.policy.ring()
    everyone = sum(seat.weight for seat in epoch.seats)
    here = sum(seat.weight for seat in epoch.seats if seat.node_key in members)
    mean = ring.decode(total, scales, mean_factor(here, everyone, len(epoch.seats)))
    return base + mean, ring.next_exponents(total, scales, len(members))


def apply(
    effect: Apply, blobs: Blobs, epoch: Epoch, *, accept: bool
) -> Applied | Astray:
    opening, ring = effect.opening, epoch.policy.ring()
    total = np.concatenate([words(blobs, each, ring) for each in effect.sums])
    masks.apply(total, 0, effect.plus, effect.minus)
    strays = tuple(
        s.index
        for s in effect.slices
        if ring.strays(total[s.start : s.stop], len(effect.survivors))
    )
    if strays:
        return Astray(effect.context, effect.sums, strays)
    base = np.frombuffer(blobs[opening.base], "<f4")
    scales = np.frombuffer(blobs[opening.scales], np.int8)
    state, after = stepped(base, total, scales, epoch, list(effect.survivors))
    return Applied(
        effect.context,
        effect.sums,
        put(blobs, state.tobytes()),
        put(blobs, after.tobytes()),
        accept,
        0,
    )


class Done:
    """Work that several nodes of a world are asked for in the same words, done for the first only.

    A blob is named by its content, so the same effect has the same outcome wherever its blobs
    are: this holds what comes out, and looks each time whether the node has what goes in.
    """

    def __init__(self) -> None:
        self._applied: dict[Apply, tuple[Applied | Astray, Blobs]] = {}
        self._checked: dict[Check, Checked] = {}
        self._weighed: dict[Weigh, Weighed] = {}

    def apply(
        self, effect: Apply, blobs: Blobs, epoch: Epoch, *, accept: bool
    ) -> Applied | Astray:
        opening = effect.opening
        _require(blobs, *effect.sums, opening.base, opening.scales)
        if effect not in self._applied:
            answer = apply(effect, blobs, epoch, accept=accept)
            made = (answer.state, answer.scales) if isinstance(answer, Applied) else ()
            self._applied[effect] = answer, {name: blobs[name] for name in made}
            return answer
        answer, made = self._applied[effect]
        blobs.update(made)
        return replace(answer, accept=accept) if isinstance(answer, Applied) else answer

    def check(self, effect: Check, blobs: Blobs, ring: Ring) -> Checked:
        _require(blobs, effect.sum, effect.carry)
        if effect not in self._checked:
            self._checked[effect] = check(effect, blobs, ring)
        return self._checked[effect]

    def weigh(self, effect: Weigh, blobs: Blobs, epoch: Epoch) -> Weighed:
        parts = [part for each in effect.parts for part in each]
        _require(blobs, *effect.said, *effect.sums, *parts)
        if effect not in self._weighed:
            self._weighed[effect] = weigh(effect, blobs, epoch)
        return self._weighed[effect]


def _require(blobs: Blobs, *names: bytes) -> None:
    """Raises `KeyError` as the work itself would."""
    for name in names:
        blobs[name]


def tag(effect: Tag, blobs: Blobs, ring: Ring) -> Tagged:
    values = tuple(
        checks.combination(words(blobs, shard, ring), each.start, effect.seed)
        for each, shard in zip(effect.slices, effect.shards, strict=True)
    )
    return Tagged(effect.context, values)


def check(effect: Check, blobs: Blobs, ring: Ring) -> Checked:
    each = effect.slice
    good = checks.holds(
        words(blobs, effect.sum, ring),
        checks.unpack(blobs[effect.carry], each.size, effect.members),
        ring,
        each.start,
        effect.seed,
        members=effect.members,
        tag=effect.tag,
    )
    return Checked(effect.context, each.index, good)


def draw(effect: Draw, blobs: Blobs, epoch: Epoch) -> Drawn:
    ring, length = epoch.policy.ring(), epoch.policy.length
    own = [words(blobs, shard, ring) for shard in effect.shards]
    several = sketch.sketches([own], effect.keys, length, ring, effect.seed)
    return Drawn(effect.context, put(blobs, sketch.pack(several, ring)))


def weigh(effect: Weigh, blobs: Blobs, epoch: Epoch) -> Weighed:
    ring = epoch.policy.ring()
    question = weighing.Question(
        epoch.policy.length,
        ring,
        effect.seed,
        [blobs[blob] for blob in effect.said],
        effect.alone,
        [words(blobs, each, ring) for each in effect.sums],
        effect.weights,
        effect.opened,
        [[words(blobs, part, ring) for part in parts] for parts in effect.parts],
    )
    return Weighed(effect.context, effect.turn, weighing.weigh(question))
