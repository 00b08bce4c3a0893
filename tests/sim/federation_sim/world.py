"""A whole federation in one process: a heap of events, a seed, no clock and no socket.

Nodes run the machine that a daemon runs.  What they send arrives as decoded copies, late,
twice, out of order or never; nodes die between any two effects and come back with what they
had recorded.  There is no repair below the machine: what is lost is lost until it asks.
"""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from federation_sim import work
from federation_sim.keys import FastIdentity, RealIdentity, use_curve

from protocol.errors import ProtocolError
from protocol.rounds import events as ev
from protocol.rounds.machine import Rounds
from protocol.rounds.messages import Heard, hear
from protocol.rounds.policy import Epoch, Policy, Seat
from protocol.types import Digest, Millis, PublicKey, digest

TICKS_AN_ASK = 4
EVENTS_AT_MOST = 400_000
EVENTS_A_PAIR = 500
"""In each round; what needs more than both has gone round in circles.

Everybody speaks to everybody, and says it again until it is answered: 33 members behind a
partition of 9 s on a network that is slow and loses were seen to take 250.
"""


@dataclass
class Network:
    """How messages fare."""

    least_ms: int = 2
    most_ms: int = 30
    drop: float = 0.0
    duplicate: float = 0.0
    sides: dict[bytes, int] | None = None
    """During a partition: which side each node is on."""

    def connects(self, one: bytes, other: bytes) -> bool:
        return self.sides is None or self.sides[one] == self.sides[other]


@dataclass
class Node:
    """What survives a crash, and what does not."""

    number: int
    keys: FastIdentity | RealIdentity
    records: dict[str, bytes] = field(default_factory=dict)
    blobs: work.Blobs = field(default_factory=dict)
    machine: Rounds | None = None
    life: int = 0
    """Counts restarts: what was under way in an earlier life does not answer."""
    fetching: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    persisted: int = 0
    crash_at: tuple[int, bool] | None = None
    """Die at this record: before it is on disk, or right after."""
    crash_on: str = ""
    """Die once, right before a record whose key ends so."""
    down_ms: int = 0
    """How long it is away then; less than 0: for good.  Whoever starts so is never there."""
    stays_away: bool = False
    """Once dead it does not come back."""
    loses_disk: bool = False
    lost: bool = False
    honest: bool = True
    dislikes: frozenset[int] = frozenset()
    """Rounds whose result the node's own hold-out rejects."""
    finished: list[ev.Finished] = field(default_factory=list)
    accused: list[ev.Accuse] = field(default_factory=list)
    measured: list[ev.Measured] = field(default_factory=list)
    crashes: int = 0
    starts_itself: bool = False
    """Comes later: whoever planned that starts it."""
    known_epochs: tuple[Epoch, ...] | None = None
    """Later epochs that it knows of when it starts; None: all there are."""
    name: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.keys.node_key


_Due = deque[tuple[Callable[..., None], tuple[Any, ...]]]


class World:
    """The federation, its network and its time."""

    def __init__(
        self,
        members: int,
        seed: int,
        *,
        policy: Policy,
        rounds: int = 2,
        real: bool = False,
        extra: int = 0,
    ) -> None:
        """`extra`: nodes that have no seat at first."""
        self.seed = seed
        self.rounds = rounds
        self.chance = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.network = Network()
        self.now = 0
        self.watchers: list[Callable[[Node, Any], None]] = []
        """Called with every effect before it is carried out."""
        self.mischief: Callable[[Node, Any], list[Any] | None] = lambda _n, _e: None
        """What a dishonest node does instead of an effect."""
        self.counts: Counter[str] = Counter()
        self.events = 0
        self._events_at_most = max(
            EVENTS_AT_MOST, EVENTS_A_PAIR * (members + extra) ** 2 * rounds
        )
        self._identity = RealIdentity if real else FastIdentity
        use_curve(real=real)
        self._agenda: dict[int, _Due] = {}
        """What is to happen, by its time; of one time in the order in which it was asked for."""
        self._times: list[int] = []
        """A heap of those times: several messages of a large federation come in each of them."""
        self._ended = False
        self._heard: dict[bytes, Heard] = {}
        self._done = work.Done()
        keys = [
            self._identity(i, random.Random(self.chance.random()))
            for i in range(members + extra)
        ]
        self.nodes = {k.node_key: Node(i, k) for i, k in enumerate(keys)}
        self.policy = policy
        self.run_id = digest(b"run" + seed.to_bytes(8, "big"))
        self.epoch = self.epoch_of(list(self.nodes)[:members], 0)
        self.epochs = [self.epoch]
        self.members: tuple[bytes, ...] | None = None
        """Who sits in the last epoch, if the members are to change."""
        self.begun: list[Callable[[Node], None]] = []
        """Called with each node that has just started."""
        for node in self.nodes.values():
            self.state, self.scales = self.first(node.blobs)

    def first(self, blobs: work.Blobs) -> tuple[Digest, Digest]:
        """Put the state and the scales that a run begins with."""
        state = np.zeros(self.policy.length, "<f4").tobytes()
        scales = work.first_scales(self.policy.length).tobytes()
        return work.put(blobs, state), work.put(blobs, scales)

    def epoch_of(self, names: list[bytes], number: int) -> Epoch:
        seats = tuple(
            Seat(name, self.nodes[name].keys.seal_key, 10 + self.nodes[name].number)
            for name in sorted(names)
        )
        return Epoch(self.run_id, number, seats, self.policy)

    def verify(self, key: bytes, message: bytes, signature: bytes) -> bool:
        """Does a signature of one of these nodes hold?"""
        return self._identity.verify(key, message, signature)

    # Life ----------------------------------------------------------------------------------

    def start(self, node: Node) -> None:
        """A process starts: with records, if it left any."""
        node.life += 1
        node.fetching.clear()
        known = node.known_epochs
        if known is None:
            seated = any(node.name in e.members for e in self.epochs)
            known = tuple(self.epochs[1:]) if seated and self.members is None else ()
        node.machine = Rounds(
            self.epoch,
            PublicKey(node.name),
            node.keys,
            state=self.state,
            scales=self.scales,
            records=dict(node.records),
            known_epochs=known,
            lost=node.lost,
            verify=self._identity.verify,
        )
        node.lost = False
        life = node.life
        self.give(node, ev.Started())
        self._tick(node, life)
        for call in self.begun:
            if node.life == life:
                call(node)

    def crash(self, node: Node) -> None:
        """kill -9: memory is gone, records and blobs are not, unless the disk is."""
        node.machine = None
        node.crashes += 1
        self.counts["crashes"] += 1
        if node.loses_disk:
            node.records.clear()
            keep = {self.state, self.scales}
            node.blobs = {k: v for k, v in node.blobs.items() if k in keep}
            node.lost = True
            node.loses_disk = False
        if node.stays_away:
            node.down_ms = -1
        if node.down_ms >= 0:
            self.later(node.down_ms, lambda: self.start(node))

    def later(self, delay: int, action: Callable[[], None]) -> None:
        self.soon(delay, action)

    def soon(self, delay: int, action: Callable[..., None], *what: Any) -> None:
        """The same, with what it is called with: a closure for each message costs more."""
        self._due(self.now + delay).append((action, what))

    def _due(self, when: int) -> _Due:
        due = self._agenda.get(when)
        if due is None:
            due = self._agenda[when] = deque()
            heapq.heappush(self._times, when)
        return due

    def run(self, until: int) -> None:
        """Until everyone that should has finished, or the time is over."""
        agenda, times = self._agenda, self._times
        while times and self.now <= until:
            self.now = now = times[0]
            due = agenda[now]
            action, what = due.popleft()
            if not due:
                del agenda[heapq.heappop(times)]
            action(*what)
            if self._ended:
                if self.done():
                    return
                self._ended = False

    def done(self) -> bool:
        return all(
            self.arrived(node)
            for node in self.nodes.values()
            if node.honest and node.down_ms >= 0
        )

    def arrived(self, node: Node) -> bool:
        """Has this node done all its rounds, among the last members, or left before?"""
        machine = node.machine
        if machine is None:
            return False
        if self.members is None:
            return machine.over or machine.round >= self.rounds
        if node.name not in self.members:
            return machine.over
        there = machine.epoch.members == self.members
        return there and not machine.over and machine.round >= self.rounds

    def give(self, node: Node, event: ev.Event) -> None:
        """One event in, its effects out; a crash in between loses the rest."""
        machine = node.machine
        if machine is None:
            return
        self.events += 1
        if self.events > self._events_at_most:
            raise AssertionError(f"more than {self._events_at_most} events")
        effects = machine.handle(event, Millis(self.now))
        if not effects:
            return
        life = node.life
        for effect in effects:
            for watch in self.watchers:
                watch(node, effect)
            instead = None if node.honest else self.mischief(node, effect)
            for each in (effect,) if instead is None else instead:
                if not self._perform(node, each) or node.life != life:
                    return

    def _tick(self, node: Node, life: int) -> None:
        if node.machine is None or node.life != life:
            return
        self.give(node, ev.Tick())
        # As often against its deadlines whatever a policy's times are.
        self.soon(self.policy.ask_ms // TICKS_AN_ASK, self._tick, node, life)

    # Effects -------------------------------------------------------------------------------

    def _perform(self, node: Node, effect: Any) -> bool:
        """Carry out one effect; False if the node died at it."""
        match effect:
            case ev.Publish():
                send, envelope = self._send, effect.envelope
                for other in self.nodes.values():
                    if other is not node:
                        send(node, other, envelope)
            case ev.Send():
                self._send(node, self.nodes[effect.member], effect.envelope)
            case ev.Persist():
                return self._persist(node, effect)
            case ev.Forget():
                for key in effect.keys:
                    node.records.pop(key, None)
                for blob in effect.blobs:
                    node.blobs.pop(blob, None)
            case ev.Fetch():
                node.fetching[effect.blob] = effect.sources
                self._fetch(node, effect, node.life, 0)
            case ev.Drop():
                for blob in effect.blobs:
                    node.fetching.pop(blob, None)
            case ev.SyncState():
                self._sync(node, effect, node.life, 0)
            case ev.Finished():
                node.finished.append(effect)
                self._ended = True
            case ev.Accuse():
                node.accused.append(effect)
            case ev.Measured():
                node.measured.append(effect)
            case ev.EpochEntered() | ev.Left():
                self._ended = True
            case _:
                self._work(node, effect)
        return True

    def _persist(self, node: Node, effect: ev.Persist) -> bool:
        node.persisted += 1
        if node.crash_on and effect.key.endswith(node.crash_on):
            node.crash_on = ""
            self.crash(node)
            return False
        if node.crash_at is None or node.persisted < node.crash_at[0]:
            node.records[effect.key] = effect.value
            return True
        if node.crash_at[1]:
            node.records[effect.key] = effect.value
        node.crash_at = None
        self.crash(node)
        return False

    def _send(self, node: Node, other: Node, envelope: bytes) -> None:
        net, random = self.network, self.chance.random
        twice = net.duplicate and random() < net.duplicate
        for _ in (1, 2) if twice else (1,):
            if net.drop and random() < net.drop:
                continue
            # `randint` would be the dearest call of a large federation.
            delay = net.least_ms + int(random() * (net.most_ms - net.least_ms + 1))
            when = self.now + delay
            due = self._agenda.get(when) or self._due(when)
            due.append((self._arrive, (node, other, envelope)))

    def _arrive(self, node: Node, other: Node, envelope: bytes) -> None:
        """What arrives is a copy: the sender's object never reaches a receiver, and now and then
        not even the one another receiver got, so that nothing depends on identity."""
        if other.machine is None:
            return
        if self.network.sides and not self.network.connects(node.name, other.name):
            return
        if self.chance.random() < 0.02:
            self._heard.pop(envelope, None)
        heard = self._heard.get(envelope)
        if heard is None:
            try:
                heard = self.parsed(envelope)
            except ProtocolError:
                self.counts["refused"] += 1
                return
        self.give(other, ev.Received(heard))

    def parsed(self, envelope: bytes) -> Heard:
        """What an envelope says, verified once."""
        heard = self._heard.get(envelope)
        if heard is None:
            heard = hear(envelope, self._identity.verify)
            self._heard[envelope] = heard
        return heard

    def _fetch(self, node: Node, effect: ev.Fetch, life: int, turn: int) -> None:
        if node.life != life or node.machine is None:
            return
        if node.fetching.get(effect.blob) != effect.sources:
            return
        source = self.nodes[effect.sources[turn % len(effect.sources)]]
        has = source.machine is not None and effect.blob in source.blobs
        delay = self.chance.randint(self.network.least_ms, self.network.most_ms)
        if has and self.network.connects(node.name, source.name):
            data = source.blobs[effect.blob]
            assert len(data) <= effect.limit_bytes, "a blob is larger than asked for"
            self.later(2 * delay, lambda: self._fetched(node, effect, life, data))
        else:
            wait = 20 if turn % len(effect.sources) else 100
            self.later(wait, lambda: self._fetch(node, effect, life, turn + 1))

    def _fetched(self, node: Node, effect: ev.Fetch, life: int, data: bytes) -> None:
        if node.life != life or effect.blob not in node.fetching:
            return
        node.fetching.pop(effect.blob)
        node.blobs[effect.blob] = data
        self.give(node, ev.Fetched(effect.blob))

    def _sync(self, node: Node, effect: ev.SyncState, life: int, turn: int) -> None:
        if node.life != life or node.machine is None:
            return
        if node.machine.state != effect.state:
            return
        wanted = {effect.state, effect.scales}
        for name in effect.donors:
            donor = self.nodes[name]
            if donor.machine is not None and self.network.connects(node.name, name):
                for blob in wanted & donor.blobs.keys():
                    node.blobs[blob] = donor.blobs[blob]
        if wanted <= node.blobs.keys():
            self.counts["synced"] += 1
            self.later(50, lambda: self._answer(node, life, ev.Synced(effect.state)))
        else:
            self.later(200, lambda: self._sync(node, effect, life, turn + 1))

    def _work(self, node: Node, effect: Any) -> None:
        assert node.machine is not None
        epoch = node.machine.epoch
        ring = epoch.policy.ring()
        life = node.life
        try:
            answer = self._answer_to(node, effect, epoch, ring)
        except KeyError:
            # A blob that a verdict has deleted meanwhile: the child fails, nobody waits.
            self.counts["work without its blobs"] += 1
            return
        delay = self.chance.randint(1, 25)
        self.later(delay, lambda: self._answer(node, life, answer))

    def _answer_to(self, node: Node, effect: Any, epoch: Epoch, ring: Any) -> ev.Event:
        blobs = node.blobs
        match effect:
            case ev.Train():
                update = self.numbers.normal(size=self.policy.length) * 0.02
                return ev.Trained(
                    effect.round, work.put(blobs, update.astype("<f4").tobytes())
                )
            case ev.Quantise():
                return work.quantise(effect, blobs, epoch, node.name, self.numbers)
            case ev.Mask():
                return work.mask(effect, blobs, ring)
            case ev.Sum():
                return work.add_up(effect, blobs, ring)
            case ev.Apply():
                accept = effect.opening.round not in node.dislikes
                return self._done.apply(effect, blobs, epoch, accept=accept)
            case ev.Tag():
                return work.tag(effect, blobs, ring)
            case ev.Check():
                return self._done.check(effect, blobs, ring)
            case ev.Draw():
                return work.draw(effect, blobs, epoch)
            case ev.Weigh():
                return self._done.weigh(effect, blobs, epoch)
            case _:
                raise AssertionError(f"nobody does {effect!r}")

    def _answer(self, node: Node, life: int, event: ev.Event) -> None:
        if node.life == life:
            self.give(node, event)


def quick_policy(
    length: int,
    *,
    ring_bits: int = 32,
    input_bits: int = 20,
    slower: int = 1,
    **more: Any,
) -> Policy:
    """Numbers for a network of milliseconds, `slower` times as long."""
    times = {
        "beat_ms": 400,
        "fresh_ms": 2_000,
        "patience_ms": 400,
        "view_ms": 400,
        "ask_ms": 600,
        "backup_ms": 400,
        "upload_floor_ms": 300,
        "upload_cap_ms": 3_000,
        "grace_ms": 8_000,
        "idle_ms": 1_000,
    }
    numbers: dict[str, Any] = {name: slower * each for name, each in times.items()}
    return Policy(length, ring_bits, input_bits, **{**numbers, **more})


def digest_of(blob: bytes) -> Digest:
    return Digest(digest(blob))
