"""How a round grows with members and with the vector: bytes and seconds on slow links.

The machine is the daemon's and its messages are real; vectors are only their sizes, so that 32
members of 110 million entries fit.  Every member has a link of `RATE_BYTES_PER_MS` up and the same
down, shared by its transfers; work takes no time worth mentioning.  Counted is what the machine
asks to be carried, once per receiver: its envelopes and its blobs.  Frames, requests for blobs and
second copies that a gossip mesh delivers are not.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from federation_sim.world import Node, World

from protocol.aggregate.checks import packed_bytes
from protocol.aggregate.shards import Slice
from protocol.rounds import events as ev
from protocol.rounds.policy import Policy
from protocol.types import Digest, digest

MEMBERS = (4, 8, 16, 32)
ENTRIES = (300_000, 10_000_000, 110_000_000)
RATE_BYTES_PER_MS = 3_750
"""30 Mbit/s."""
DELAY_MS = 100
"""One way: 200 ms there and back."""
END_MS = 3_600_000


@dataclass(frozen=True)
class Cell:
    """One round of `members` with `entries`; bytes are those of the busiest direction of a peer."""

    members: int
    entries: int
    bytes_per_peer: int
    bound_bytes: int
    bytes_ratio: float
    message_bytes: int
    """The part of it that is not vectors."""
    seconds: float
    bound_seconds: float


class Links:
    """Transfers that share links evenly: none is faster than its part of either end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ends = np.zeros((0, 2), np.int64)
        self._left = np.zeros(0)
        self._done: list[Any] = []
        self._since = 0
        self._turn = 0

    def carry(self, source: int, target: int, size: int, done: Any) -> None:
        self._pass()
        self._ends = np.vstack([self._ends, [[source, target]]])
        self._left = np.append(self._left, float(size))
        self._done.append(done)
        self._plan()

    def _rates(self) -> Any:
        up, down = (np.bincount(self._ends[:, i]) for i in (0, 1))
        shared = np.maximum(up[self._ends[:, 0]], down[self._ends[:, 1]])
        return RATE_BYTES_PER_MS / shared

    def _pass(self) -> None:
        if self._left.size:
            self._left -= self._rates() * (self._world.now - self._since)
        self._since = self._world.now

    def _plan(self) -> None:
        self._turn += 1
        turn = self._turn
        if self._left.size:
            wait = int(np.ceil(max(0.0, (self._left / self._rates()).min())))
            self._world.later(wait, lambda: self._finish(turn))

    def _finish(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._pass()
        over = self._left <= 0
        ready = [
            done for done, is_over in zip(self._done, over, strict=True) if is_over
        ]
        self._done = [
            d for d, is_over in zip(self._done, over, strict=True) if not is_over
        ]
        self._ends, self._left = self._ends[~over], self._left[~over]
        self._plan()
        for done in ready:
            self._world.later(DELAY_MS, done)


class SizedWorld(World):
    """A federation whose blobs are sizes and whose links are slow."""

    def __init__(self, members: int, entries: int) -> None:
        policy = Policy(entries, ring_bits=16, input_bits=9)
        super().__init__(members, members, policy=policy, rounds=1)
        self.sent: Counter[bytes] = Counter()
        self.received: Counter[bytes] = Counter()
        self.messages: Counter[bytes] = Counter()
        self._links = Links(self)

    def first(self, blobs: dict[bytes, Any]) -> tuple[Digest, Digest]:
        blobs[b"state"], blobs[b"scales"] = 4 * self.policy.length, 0
        return digest(b"state"), digest(b"scales")

    def _count(self, node: Node, other: Node, size: int) -> None:
        self.sent[node.name] += size
        self.received[other.name] += size

    def _send(self, node: Node, other: Node, envelope: bytes) -> None:
        # A message is small and does not wait for whole blobs: it takes its own time only.
        self._count(node, other, len(envelope))
        self.messages[node.name] += len(envelope)
        delay = DELAY_MS + len(envelope) // RATE_BYTES_PER_MS
        self.later(delay, lambda: self._arrive(node, other, envelope))

    def _fetch(self, node: Node, effect: ev.Fetch, life: int, turn: int) -> None:
        if node.fetching.get(effect.blob) != effect.sources:
            return
        source = self.nodes[effect.sources[turn % len(effect.sources)]]
        size: Any = source.blobs.get(effect.blob)
        if size is None:
            self.later(DELAY_MS, lambda: self._fetch(node, effect, life, turn + 1))
            return
        assert size <= effect.limit_bytes
        self._count(source, node, size)
        self._links.carry(
            source.number,
            node.number,
            size,
            lambda: self._fetched(node, effect, life, size),
        )

    def _answer_to(self, node: Node, effect: Any, epoch: Any, ring: Any) -> ev.Event:
        blobs: dict[bytes, Any] = node.blobs

        def put(size: int, *of: bytes) -> Digest:
            name = digest(type(effect).__name__.encode() + b"".join(of))
            blobs[name] = size
            return name

        def slice_bytes(each: Slice) -> int:
            return each.size * ring.bytes_each

        match effect:
            case ev.Train():
                return ev.Trained(effect.round, put(0, node.name))
            case ev.Quantise():
                return ev.Quantised(effect.context, put(0, effect.update))
            case ev.Mask():
                shards = tuple(
                    put(slice_bytes(s), effect.quantised, bytes([s.index]))
                    for s in effect.slices
                )
                return ev.Masked(effect.context, shards)
            case ev.Sum():
                size = effect.slice.size
                carry = put(
                    packed_bytes(size, len(effect.inputs)), b"c", *effect.inputs
                )
                total = put(slice_bytes(effect.slice), *effect.inputs)
                return ev.Summed(
                    effect.context, effect.slice.index, effect.members, total, carry
                )
            case ev.Apply():
                state, scales = put(0, *effect.sums), put(0, b"s", *effect.sums)
                return ev.Applied(
                    effect.context, effect.sums, state, scales, accept=True, metric=0
                )
            case ev.Tag():
                return ev.Tagged(effect.context, (0,) * len(effect.slices))
            case ev.Check():
                return ev.Checked(effect.context, effect.slice.index, good=True)
            case _:
                raise AssertionError(f"nobody does {effect!r}")


def measure(members: int, entries: int) -> Cell:
    """One round without faults, from the first certified opening to the last verdict."""
    world = SizedWorld(members, entries)
    opened: list[int] = []

    def watch(_node: Node, effect: Any) -> None:
        if isinstance(effect, ev.Persist) and "/opened/" in effect.key:
            opened.append(world.now)

    world.watchers.append(watch)
    for node in world.nodes.values():
        world.start(node)
    world.run(END_MS)
    ends = [node.finished for node in world.nodes.values()]
    assert all(len(end) == 1 and end[0].verdict.accept for end in ends)
    assert all(len(end[0].survivors) == members for end in ends)
    busiest = max(*world.sent.values(), *world.received.values())
    bound = 2 * (members - 1) * 2 * entries // members
    return Cell(
        members,
        entries,
        busiest,
        bound,
        round(busiest / bound, 4),
        max(world.messages.values()),
        round((world.now - opened[0]) / 1_000, 1),
        round(bound / RATE_BYTES_PER_MS / 1_000, 1),
    )


def slope(cells: list[Cell]) -> float:
    """Bytes per peer for each byte of the bound, by least squares."""
    x = np.array([cell.bound_bytes for cell in cells], float)
    y = np.array([cell.bytes_per_peer for cell in cells], float)
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def main(*, as_json: bool) -> int:
    """Print the table; 1 if the bytes of a large vector pass the issue's 1.05."""
    cells = [measure(n, d) for d in ENTRIES for n in MEMBERS]
    slopes = {d: round(slope([c for c in cells if c.entries == d]), 4) for d in ENTRIES}
    everything = round(slope(cells), 4)
    if as_json:
        rows = [asdict(cell) for cell in cells]
        print(json.dumps({"cells": rows, "slope": everything, "slopes": slopes}))
    else:
        print(
            "| n | entries | MB per peer | bound | ratio | messages MB | s | bound s |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for c in cells:
            mb = (c.bytes_per_peer / 1e6, c.bound_bytes / 1e6, c.message_bytes / 1e6)
            print(
                f"| {c.members} | {c.entries:,} | {mb[0]:.2f} | {mb[1]:.2f}"
                f" | {c.bytes_ratio:.3f} | {mb[2]:.2f} | {c.seconds} | {c.bound_seconds} |"
            )
        print(f"slope over all: {everything}; by entries: {slopes}")
    return (
        1 if any(c.bytes_ratio > 1.05 for c in cells if c.entries == ENTRIES[-1]) else 0
    )
