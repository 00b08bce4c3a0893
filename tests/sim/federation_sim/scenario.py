"""What goes wrong in a run, drawn from its seed.

A scenario is a world with its faults in place.  Faults that members may have: fewer than a
third of them lie or lose their disk; any number may crash and come back; the network may do
anything for a while.  After that it heals, and every honest node must finish.
"""

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass

from federation_sim import changes, liars
from federation_sim.invariants import Laws
from federation_sim.world import Node, World, quick_policy

from protocol.aggregate.sketch import ENTRIES_AT_LEAST
from protocol.rounds import events as ev

HEAL_MS = 12_000
END_MS = 240_000
"""Virtual time; long enough for every time-out to have doubled to its limit once."""

SIZES = (3,) * 40 + (4,) * 50 + (5,) * 7 + (6,) * 2 + (7,) * 3
"""Most federations are small, and most mistakes show in small ones."""
EVERY, EVERY_LARGE = 70, 320
"""One seed in so many has 8 to 16 members, or 17 to 32, in turn: ten thousand have each of those
sizes sixteen times, or twice.  One of thirty members takes as long as a hundred of four."""
REAL_EVERY = 100
"""One seed in so many signs with Ed25519 and agrees by X25519; the others by stand-ins."""


SKETCHED = 0.25
"""Of the small federations, how many sum vectors long enough to be sketched."""

CHANGED = 0.07
"""In how many federations the members change."""
CHANGED_OF_MANY = 0.03
"""The same of those with more than `MANY` members, each of which takes as long as a hundred others."""
ROUNDS_CHANGED = (3, 3, 3, 3, 3, 4, 5, 6)
MANY = 16
ROUNDS_OF_MANY = (2, 2, 3)
"""Of those with more members each round takes seconds."""

GONE = 0.06
"""In how many of the others a member is killed at some record and never comes back."""

SMALL = 10
LARGE = {"slower": 3, "beat_ms": 1_800, "fresh_ms": 9_000}
"""Larger federations have longer times: their messages, a square of the members, would otherwise
be mostly heartbeats.  In small ones deadlines are shorter than the worst links on purpose."""


@dataclass(frozen=True)
class Scenario:
    """A world with its faults, and the laws that watch it."""

    world: World
    laws: Laws
    what: tuple[str, ...]
    end_ms: int = END_MS

    def run(self) -> None:
        """Start everyone, run to the end, look at the end."""
        for node in self.world.nodes.values():
            if node.down_ms >= 0 and not node.starts_itself:
                delay = self.world.chance.randint(0, 200)
                self.world.later(delay, lambda node=node: self.world.start(node))
        self.world.run(self.end_ms)
        self.laws.final()


def draw(
    seed: int,
    *,
    members: int | None = None,
    real: bool | None = None,
    hard: bool = False,
) -> Scenario:
    """The scenario of a seed; `hard`: two rounds and at least two faults."""
    if real is None:
        real = seed % REAL_EVERY == 0
    dice = random.Random(seed * 7919 + 17)
    count = members if members is not None else size(dice, seed)
    ring = dice.choice(((32, 20), (32, 16), (16, 9)))
    length = dice.choice((5, 9, 64, 200))
    chance = random.Random(seed * 131 + 3)
    plan = None
    share = CHANGED if count <= MANY else CHANGED_OF_MANY
    if not hard and chance.random() < share:
        plan = changes.drawn(chance, count)
    elif count <= SMALL and random.Random(seed * 31 + 7).random() < SKETCHED:
        length = ENTRIES_AT_LEAST + length
    policy = quick_policy(
        length,
        ring_bits=ring[0],
        input_bits=ring[1] if ring[0] == 32 else (9 if count <= 100 else 8),
        checked=dice.random() < 0.6,
        **({} if count <= SMALL else LARGE),
    )
    rounds = 2 if hard or (count <= 7 and dice.random() < 0.2) else 1
    budget = (count - 1) // 3
    what: list[str] = []
    if plan:
        rounds = chance.choice(ROUNDS_CHANGED if count <= MANY else ROUNDS_OF_MANY)
        budget = (min(plan.sizes(count)) - 1) // 3
        what.append(plan.name)
    extra = plan.joiners if plan else 0
    world = World(count, seed, policy=policy, rounds=rounds, real=real, extra=extra)
    laws = Laws(world)
    registries = changes.Registries(world, chance, plan) if plan else None
    faults: list[Callable[..., str]] = [
        _crashes,
        _crashes,
        _loses_messages,
        _partitions,
        _liar,
        _dislikes,
        _absent,
        _loses_disk,
        _poisons,
    ]
    drawn = dice.sample(
        faults, k=dice.choice((2, 3, 4) if hard else (0, 1, 1, 2, 2, 3))
    )
    if registries:
        laws.told_of = registries.offered
        dismissed = functools.partial(_is_dismissed, registries, laws)
        # Alone: who is away from a sum that is rejected is needed for one without the spoiler.
        drawn = [dismissed] if _poisons in drawn else drawn[:2]
        # A liar that was in a rejected sum can keep the same members from another (§5.7).
        if _liar in drawn and _dislikes in drawn:
            drawn.remove(_dislikes)
    elif not hard and budget and chance.random() < GONE:
        drawn = [_gone, *(each for each in drawn if each is _crashes)][:2]
    elif count > SMALL and not hard:
        # There are few of them: each fault in turn, and one more at times.  A turn later each time
        # around, because there are as many sizes: else each size would always meet the same.
        turn = seed // EVERY
        drawn = [faults[(turn + turn // len(faults)) % len(faults)], *drawn[:1]]
    for fault in dict.fromkeys(drawn):
        told = fault(world, dice, budget)
        if told:
            what.append(told)
            budget -= told.startswith(("liar", "absent", "disk"))
    return Scenario(world, laws, tuple(what))


def size(dice, seed: int) -> int:
    """How many members the federation of a seed has."""
    if seed % EVERY_LARGE == 7:
        return 32 - seed // EVERY_LARGE % 16
    if seed % EVERY == 3:
        return 8 + seed // EVERY % 9
    return dice.choice(SIZES)


def _nodes(world: World, dice, count: int) -> list[Node]:
    free = [n for n in world.nodes.values() if n.honest and n.down_ms >= 0]
    return dice.sample(free, k=min(count, len(free)))


def _crashes(world: World, dice, _budget: int) -> str:
    """Kill nodes at any record: before it is on disk, or right after."""
    victims = _nodes(world, dice, dice.choice((1, 1, 1, 2, len(world.nodes))))
    for node in victims:
        node.crash_at = (dice.randint(1, 60), dice.random() < 0.5)
        node.down_ms = dice.choice((0, 50, 500, 2_500))
    return f"crash of {len(victims)}"


def _loses_messages(world: World, dice, _budget: int) -> str:
    net = world.network
    # A large federation under heavy loss takes minutes to simulate and shows nothing new.
    large = len(world.nodes) > SMALL
    net.drop = dice.choice((0.02, 0.05, 0.05 if large else 0.2))
    net.duplicate = dice.choice((0.0, 0.1))
    net.most_ms = dice.choice((30, 200, 200 if large else 600))

    def heal() -> None:
        net.drop, net.most_ms = min(net.drop, 0.05), min(net.most_ms, 200)

    world.later(HEAL_MS, heal)
    twice = " and twice" if net.duplicate else ""
    return f"lost, late, out of order{twice}: drop {net.drop} delay {net.most_ms}"


def _partitions(world: World, dice, _budget: int) -> str:
    start = dice.randint(0, 2_500)
    length = dice.choice((300, 2_000, 9_000))
    sides = {name: dice.randrange(2) for name in world.nodes}

    def split() -> None:
        world.network.sides = sides

    def join() -> None:
        world.network.sides = None

    world.later(start, split)
    world.later(start + length, join)
    return f"partition at {start} for {length}"


def _liar(world: World, dice, budget: int) -> str:
    if budget < 1:
        return ""
    (node,) = _nodes(world, dice, 1)
    node.honest = False
    # Noise breaks the sum of each round: nothing but its dismissal ends that (§5.7).
    left_out = {"uploads noise"} if world.members is not None else set()
    name = dice.choice(sorted(liars.LIES.keys() - left_out - HUSHED.keys()))
    for hushed, known in HUSHED.items():
        name = hushed if name == known and world.seed % 2 else name
    liars.LIES[name](world, node, dice)
    return f"liar {name}"


def _dislikes(world: World, dice, _budget: int) -> str:
    """Hold-outs that reject a round."""
    few = max(1, len(world.nodes) // 3)
    count = dice.choice((few, len(world.nodes)))
    for node in _nodes(world, dice, count):
        node.dislikes = frozenset({0})
    return f"{count} reject round 0"


HUSHED = {"sums wrongly and keeps its tags": "sums wrongly within range"}
"""A lie, and the one in whose place every other seed has it."""

HIDES = (
    "sketches a mask wrongly",
    "sketches its update wrongly",
    "sketches both wrongly",
    "sketches nothing",
    "opens wrong keys",
)
"""How a poisoner may try not to be found."""


def _poisons(world: World, dice, budget: int) -> str:
    """A liar whose update makes all honest hold-outs reject the round, and at times hides it."""
    if budget < 1:
        return ""
    (node,) = _nodes(world, dice, 1)
    for other in world.nodes.values():
        other.dislikes = frozenset({0})
    node.honest = False
    kinds = ("uploads a long update", "uploads noise")
    chosen = [dice.choice(kinds), *dice.sample(HIDES, k=dice.choice((0, 0, 1, 2)))]
    for name in chosen:
        liars.LIES[name](world, node, dice)
    return f"liar poisons and {chosen[-1] if chosen[1:] else 'hides nothing'}"


def _is_dismissed(
    registries: changes.Registries, laws: Laws, world: World, dice, budget: int
) -> str:
    """A member that goes spoils a round that is rejected, or each; the others may expose it."""
    goers = [
        n for n in _nodes(world, dice, len(world.nodes)) if n.name in registries.goers
    ]
    if budget < 1 or not goers:
        return ""
    for other in world.nodes.values():
        other.dislikes = frozenset({0})
    node = goers[0]
    node.honest = False
    name = dice.choice(SPOILS)
    liars.LIES[name](world, node, dice)
    world.watchers.append(functools.partial(_stops_at_last, world, node))
    registries.exposed.add(node.name)
    laws.exposed.add(node.name)
    return f"liar that goes {name}"


def _stops_at_last(world: World, liar: Node, node: Node, effect: object) -> None:
    """Somebody may have been late for the sum that is rejected: too few of the others may then be
    left for one without the liar (§5.7), and it must let them have one with it."""
    finished = isinstance(effect, ev.Finished) and node is liar
    if finished and effect.verdict.round >= SPOILT_AT_MOST:
        world.mischief = lambda _node, _effect: None


SPOILT_AT_MOST = 5
SPOILS = (
    "uploads noise",
    "uploads noise",
    "uploads a long update",
    "uploads two things",
    "uploads nothing it announced",
)


def _absent(world: World, dice, budget: int) -> str:
    """A node that is never there."""
    if budget < 1 or len(world.nodes) < 4:
        return ""
    (node,) = _nodes(world, dice, 1)
    node.down_ms = -1
    return "absent"


def _gone(world: World, dice, _budget: int) -> str:
    """Killed at any record, and away for good: the others go on with what it left."""
    (node,) = _nodes(world, dice, 1)
    node.crash_at = (dice.randint(1, 60), dice.random() < 0.5)
    node.stays_away = True
    return "gone for good"


def _loses_disk(world: World, dice, budget: int) -> str:
    if budget < 1:
        return ""
    (node,) = _nodes(world, dice, 1)
    node.crash_at = (dice.randint(2, 40), True)
    node.down_ms = dice.choice((0, 500))
    node.loses_disk = True
    return "disk loss"
