"""Federations in which one rule decides what happens: where a mutant without it is caught.

Each scene takes a seed, so that times and roles differ; the machine as it is keeps every law in
all of them.
"""

from collections.abc import Callable
from typing import Any

from federation_sim import changes, liars, scenario
from federation_sim.invariants import Laws, require
from federation_sim.scenario import Scenario
from federation_sim.world import Node, World, quick_policy

from protocol.aggregate.sketch import ENTRIES_AT_LEAST
from protocol.certificate import Proposal, Step, Vote
from protocol.rounds import events as ev

END_MS = 40_000
"""Twice what the slowest of them takes."""


def _made(
    members: int,
    seed: int,
    arrange: Callable[[World, list[Node]], None],
    *,
    rounds: int = 1,
    length: int = 16,
    **numbers: Any,
) -> Scenario:
    policy = quick_policy(length, **numbers)
    world = World(members, seed, policy=policy, rounds=rounds)
    laws = Laws(world)
    nodes = list(world.nodes.values())
    turn = seed % members
    arrange(world, nodes[turn:] + nodes[:turn])
    return Scenario(world, laws, ("scene",), END_MS)


def _lies(world: World, node: Node, name: str) -> None:
    node.honest = False
    liars.LIES[name](world, node, world.chance)


def hard(seed: int) -> Scenario:
    """Small federations with every kind of fault more often than in a campaign."""
    return scenario.draw(100_000 + seed, members=(4, 4, 3, 5)[seed % 4], hard=True)


def dies_before_its_upload(seed: int) -> Scenario:
    """One of three is gone from before its upload until long after the deadline."""

    def arrange(_world: World, nodes: list[Node]) -> None:
        nodes[0].crash_on, nodes[0].down_ms = "/quantised", 8_000

    return _made(3, seed, arrange)


def disk_lost_after_each_record(seed: int) -> Scenario:
    """Of four, one loses its disk right after a record, a later one every four seeds."""

    def arrange(_world: World, nodes: list[Node]) -> None:
        nodes[0].crash_at, nodes[0].loses_disk = (2 + seed // 4, True), True

    return _made(4, seed, arrange, rounds=2)


def no_sum_at_first(seed: int) -> Scenario:
    """Of four, one is gone before its upload and one lets nobody have its parts."""

    def arrange(world: World, nodes: list[Node]) -> None:
        nodes[0].crash_on, nodes[0].down_ms = "/quantised", 9_000
        _lies(world, nodes[1], "uploads nothing it announced")

    return _made(4, seed, arrange)


def away_after_a_rejection(seed: int) -> Scenario:
    """All reject a sum of all; then one is away when the next round opens on the same base."""

    def arrange(_world: World, nodes: list[Node]) -> None:
        for node in nodes:
            node.dislikes = frozenset({0})
        nodes[0].crash_on, nodes[0].down_ms = "head", 6_000

    return _made(4, seed, arrange, rounds=2)


def three_sums_of_one_base(seed: int) -> Scenario:
    """Of six, other two hold back in each of three rounds, and all hold-outs reject.

    Any two of the three sums differ by four members; all three together tell of two.
    """

    def arrange(world: World, nodes: list[Node]) -> None:
        pairs = (nodes[4:], nodes[2:4], nodes[:2])
        usual = world.start
        for node in nodes:
            node.dislikes = frozenset(range(9))

        def start(node: Node) -> None:
            usual(node)
            world.give(node, ev.Held(hold=node in pairs[0]))

        def watch(node: Node, effect: Any) -> None:
            if isinstance(effect, ev.Finished) and effect.verdict.round < 2:
                held = ev.Held(hold=node in pairs[effect.verdict.round + 1])
                world.later(0, lambda: world.give(node, held))

        def release() -> None:
            for node in nodes:
                world.give(node, ev.Held(hold=False))

        world.start = start  # type: ignore[method-assign]
        world.watchers.append(watch)
        # As it is, the machine opens the third sum only when an earlier one can be repeated.
        world.later(12_000, release)

    return _made(6, seed, arrange, rounds=3)


def wrong_sum(seed: int) -> Scenario:
    """An owner adds one to one entry of its sum."""
    return _made(4, seed, lambda w, n: _lies(w, n[0], "sums wrongly within range"))


def wrong_sum_whose_checker_dies(seed: int) -> Scenario:
    """The same, and a member that may be the one to check it dies when all could be checked."""

    def arrange(world: World, nodes: list[Node]) -> None:
        _lies(world, nodes[0], "sums wrongly within range")
        nodes[1].down_ms = 6_000

        def watch(node: Node, effect: Any) -> None:
            spoke = isinstance(effect, ev.Persist) and effect.key.endswith("/tags")
            if spoke and node is nodes[1] and not node.crashes:
                world.later(1, lambda: world.crash(node))

        world.watchers.append(watch)

    return _made(4, seed, arrange)


def wrong_sum_while_another_is_silent(seed: int) -> Scenario:
    """The same owner gives its tags; another's never come, and it is away for long."""

    def arrange(world: World, nodes: list[Node]) -> None:
        _lies(world, nodes[0], "sums wrongly within range")
        nodes[1].crash_on, nodes[1].down_ms = "/tags", 8_000

    return _made(4, seed, arrange)


def owner_gone_before_its_tags(seed: int) -> Scenario:
    """Its part of the slice that it added up is nowhere else."""

    def arrange(_world: World, nodes: list[Node]) -> None:
        nodes[0].crash_on, nodes[0].stays_away = "/tags", True

    return _made(4, seed, arrange, rounds=2)


def _sketched(
    *names: str, rejects: tuple[int, ...] = (0,)
) -> Callable[[int], Scenario]:
    """A member does all of these, and all hold-outs reject; what it uploads can be sketched."""

    def scene(seed: int) -> Scenario:
        def arrange(world: World, nodes: list[Node]) -> None:
            for node in nodes:
                node.dislikes = frozenset(rejects)
            for name in names:
                _lies(world, nodes[0], name)

        drawn = _made(
            (4, 5, 7)[seed % 3],
            seed,
            arrange,
            rounds=max(1, len(rejects)),
            length=ENTRIES_AT_LEAST,
            input_bits=16 + seed % 8,
        )
        drawn.laws.demands.append(lambda: _all_measure(drawn.world, bool(names)))
        return drawn

    return scene


def _all_measure(world: World, names: bool) -> None:
    """Every honest member comes to a verdict, and names the liar if there is one.

    Among three survivors no mask may be opened: a liar may leave them without a verdict then.
    """
    for node in world.nodes.values():
        if node.honest and (names or node.measured):
            (found,) = node.measured
            liars_found = {*found.outliers, *found.false}
            wanted = {n.name for n in world.nodes.values() if not n.honest}
            open_ended = len(found.members) == 3 and not found.times
            good = liars_found <= wanted if open_ended else liars_found == wanted
            require("a liar is named", good, f"by {node.number}")


poisoned = _sketched("uploads a long update")
noisy = _sketched("uploads noise")
hidden_in_a_mask = _sketched("uploads a long update", "sketches a mask wrongly")
hidden_in_its_sum = _sketched("uploads a long update", "sketches its update wrongly")
hidden_in_both = _sketched(
    "uploads a long update", "sketches both wrongly", "opens wrong keys"
)


def noised_and_rejected(seed: int) -> Scenario:
    """A sum long enough to be sketched is rejected, and updates are said to carry noise."""

    def arrange(_world: World, nodes: list[Node]) -> None:
        for node in nodes:
            node.dislikes = frozenset({0})

    return _made(4, seed, arrange, length=ENTRIES_AT_LEAST, noised=True)


accepted = _sketched(rejects=())
rejected_twice = _sketched(rejects=(0, 1))


def framed(seed: int) -> Scenario:
    """A liar is bound to another key than its partner, and opens that one."""

    def arrange(world: World, nodes: list[Node]) -> None:
        for node in nodes:
            node.dislikes = frozenset({0})
        _lies(world, nodes[0], "binds itself to another key")

    drawn = _made(4, seed, arrange, length=ENTRIES_AT_LEAST)
    drawn.laws.demands.append(lambda: _all_accuse(drawn.world, drawn.laws))
    return drawn


def bound_elsewhere_after_a_rejection(seed: int) -> Scenario:
    """The same liar goes on after the rejection, in a sum that it cannot be left out of.

    Where its lie left out its partner, only the same members may be summed again (§5.7).
    """

    def arrange(world: World, nodes: list[Node]) -> None:
        for node in nodes:
            node.dislikes = frozenset({0})
        _lies(world, nodes[0], "binds itself to another key")

    members = (4, 4, 5, 7)[seed % 4]
    return _made(members, seed, arrange, rounds=2, length=ENTRIES_AT_LEAST)


def _all_accuse(world: World, laws: Laws) -> None:
    """Everyone names the liars of the attempt that was decided, if it was opened with any."""
    opened = {member for each in laws.decided_openings() for member in each.members}
    liars_here = {n.name for n in world.nodes.values() if not n.honest} & opened
    for node in world.nodes.values():
        if node.honest:
            accused = {each.member for each in node.accused}
            require("a liar is named", accused == liars_here, f"by {node.number}")


def owner_that_never_sums(seed: int) -> Scenario:
    """An owner takes part, and never reports the sum of its slice."""
    return _made(4, seed, lambda w, n: _lies(w, n[0], "sums nothing"))


def apart_at_first(seed: int) -> Scenario:
    """What members announce when they start is lost between two halves."""

    def arrange(world: World, nodes: list[Node]) -> None:
        world.network.sides = {node.name: i % 2 for i, node in enumerate(nodes)}

        def join() -> None:
            world.network.sides = None

        world.later(2_000, join)

    return _made(4, seed, arrange)


def alone_in_a_view(seed: int) -> Scenario:
    """Of three that are there, one gives a view up, and its vote is lost to the two others.

    It goes on to the next view, where it is alone: fewer than the others may follow.
    """

    def arrange(world: World, nodes: list[Node]) -> None:
        nodes[0].down_ms = -1
        first: set[tuple[bytes, bytes]] = set()
        usual = world._send

        def send(node: Node, other: Node, envelope: bytes) -> None:
            body = world.parsed(envelope).body
            if (node.name, envelope + other.name) in first:
                return usual(node, other, envelope)
            first.add((node.name, envelope + other.name))
            lost = False
            if isinstance(body, Vote | Proposal) and body.view == 0:
                proposes = isinstance(body, Proposal)
                lost = (proposes and other is nodes[1]) or (
                    not proposes and body.step == Step.PRECOMMIT and node is nodes[1]
                )
            return None if lost else usual(node, other, envelope)

        world._send = send  # type: ignore[method-assign]

    return _made(4, seed, arrange)


def decided_by_one_that_goes(seed: int) -> Scenario:
    """Three of four vote; the proposer alone learns the outcome, and all three die.

    The others come back with the fourth, who never heard of it.  What they are locked on is all
    that keeps them from opening with other members.
    """

    def arrange(world: World, nodes: list[Node]) -> None:
        nodes[0].crash_at, nodes[0].down_ms = (1, False), 3_000
        proposer: list[Node] = []

        def watch(node: Node, effect: Any) -> None:
            if not isinstance(effect, ev.Persist):
                return
            if effect.key.endswith("/0/proposal") and not proposer:
                proposer.append(node)
            elif "/opened/" in effect.key and proposer == [node] and not node.crashes:
                world.later(1, kill)

        def kill() -> None:
            for node in nodes[1:]:
                node.down_ms = 9_000 if node is proposer[0] else 100
                world.crash(node)

        world.watchers.append(watch)

    return _made(4, seed, arrange)


def changes_members(
    seed: int, *, rejects: tuple[int, ...] = (), pace: int = 1
) -> Scenario:
    """One of five goes and one comes, as each node learns at its own time."""
    plan = changes.Plan("a member is swapped", ((1, 1),))
    world = World(5, seed, policy=quick_policy(16), rounds=2, extra=1)
    laws = Laws(world)
    registries = changes.Registries(world, world.chance, plan, pace=pace)
    laws.told_of = registries.offered
    for node in world.nodes.values():
        node.dislikes = frozenset(rejects)
    return Scenario(world, laws, ("scene",), END_MS)


def exposed_and_dismissed(*names: str) -> Callable[[int], Scenario]:
    """A member was in a rejected sum and does all of these from then on, whatever it did before.

    The others' operators dismiss it in time, and do not mind that its update can be told then.
    Nothing is demanded of the liar; the others go on without it, each sum of theirs accepted.
    """

    def scene(seed: int) -> Scenario:
        members = (4, 4, 5, 7)[seed % 4]
        liar: list[Node] = []

        def arrange(world: World, nodes: list[Node]) -> None:
            liar.append(nodes[0])
            nodes[0].honest = False
            for node in nodes:
                node.dislikes = frozenset({0})
            stay = [node.name for node in nodes[1:]]
            epoch = world.epoch_of(stay, 1)
            world.epochs.append(epoch)
            world.members = epoch.members
            offer = ev.EpochOffered(epoch, exposed=frozenset({nodes[0].name}))

            def watch(node: Node, effect: Any) -> None:
                if isinstance(effect, ev.Finished) and not effect.verdict.round:
                    if node is nodes[0]:
                        for name in names:
                            _lies(world, node, name)
                    # Each hears of it at its own time: in a view, in an attempt, or before it.
                    world.later(
                        world.chance.randint(500, 6_000),
                        lambda: world.give(node, offer),
                    )

            world.watchers.append(watch)

        drawn = _made(members, seed, arrange, rounds=3)
        drawn.laws.exposed.add(liar[0].name)
        drawn.laws.demands.append(lambda: _all_go_on(drawn.world))
        return drawn

    return scene


def _all_go_on(world: World) -> None:
    """All that stay accept a sum; not only one that a liar happened to spare."""
    assert world.members is not None
    for name in world.members:
        last = world.nodes[name].finished[-1].verdict
        require("the others go on", last.accept, f"{world.nodes[name].number}")


silent_after_a_rejection = exposed_and_dismissed("is silent")
keeps_its_parts_after_a_rejection = exposed_and_dismissed(
    "uploads nothing it announced"
)
says_two_things_after_a_rejection = exposed_and_dismissed("uploads two things")
poisons_every_round = exposed_and_dismissed("uploads noise")


def rejects_while_members_change(seed: int) -> Scenario:
    """The same, while hold-outs reject the first rounds."""
    return changes_members(seed, rejects=tuple(range(12)))


def hears_slowly_of_a_change(seed: int) -> Scenario:
    """The same, when some know of the change for several rounds before the others do."""
    return changes_members(seed, pace=6)
