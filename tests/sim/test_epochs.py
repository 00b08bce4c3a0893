"""Changes of membership, one rule at a time; the campaign draws them with other faults."""

import pytest
from federation_sim import mutants, scenes
from federation_sim.invariants import Laws
from federation_sim.scenario import END_MS
from federation_sim.world import Node, World, quick_policy

from protocol.certificate import Kind, Step, Vote
from protocol.rounds import events as ev
from protocol.rounds.history import HEAD, HeadRecord
from protocol.rounds.messages import Proof, Verdict
from protocol.rounds.policy import Epoch
from protocol.wire import decode

WAITS_MS = 12_000


def started(
    seed: int, *, members: int = 4, extra: int = 1, rounds: int = 2
) -> tuple[World, Laws]:
    """Members at work, and nodes without a seat that are not."""
    world = World(members, seed, policy=quick_policy(16), rounds=rounds, extra=extra)
    laws = Laws(world)
    for name in world.epoch.members:
        world.start(world.nodes[name])
    return world, laws


def follows(world: World, leaver: Node | None, *joiners: Node) -> Epoch:
    """The epoch after the first, known to the laws and to those that join."""
    stay = [node for node in world.nodes.values() if node.name in world.epoch.members]
    return seated(world, 1, *(node for node in stay if node is not leaver), *joiners)


def seated(world: World, number: int, *nodes: Node) -> Epoch:
    """An epoch of these, known to the laws and to those that join in it."""
    epoch = world.epoch_of([node.name for node in nodes], number)
    world.epochs.append(epoch)
    for node in nodes:
        if node.name not in world.epoch.members and node.known_epochs is None:
            node.known_epochs = tuple(world.epochs[1:])
    return epoch


@pytest.mark.parametrize("seed", range(4))
def test_who_was_not_told_of_the_new_epoch_waits_for_word(seed):
    """Killed and started in between: the verdict that it cannot follow is on its record."""
    world, laws = started(seed)
    *members, joiner = world.nodes.values()
    epoch = follows(world, members[0], joiner)
    world.members = epoch.members
    late = members[1 + seed % 3]
    world.soon(300, world.start, joiner)
    for node in members:
        if node is not late:
            world.soon(300, world.give, node, ev.EpochOffered(epoch))
    world.run(WAITS_MS // 2)
    assert late.machine.epoch == world.epoch
    late.down_ms = 100
    world.crash(late)
    world.run(WAITS_MS)
    assert late.machine.epoch == world.epoch
    others = [n for n in (*members[1:], joiner) if n is not late]
    assert all(node.machine.epoch == epoch for node in others)

    world.give(late, ev.EpochOffered(epoch))
    world.run(END_MS)
    laws.final()
    assert late.machine.epoch == epoch


@pytest.mark.parametrize("seed", range(3))
def test_who_missed_the_verdict_that_the_others_left_with_is_shown_it(
    seed, monkeypatch
):
    """Two of three go with it, and answer nobody any more; the two that come have never had it."""
    world, laws = started(seed, members=3, extra=2)
    stays, *leavers, one, other = world.nodes.values()
    epoch = seated(world, 1, stays, one, other)
    world.members = epoch.members
    usual = world._arrive

    def arrive(node: Node, to: Node, envelope: bytes) -> None:
        body = world.parsed(envelope).body
        last = isinstance(body, Vote) and body.step == Step.PRECOMMIT
        if to is not stays or not (
            (last and body.slot.kind == Kind.VERDICT) or isinstance(body, Proof)
        ):
            usual(node, to, envelope)

    with monkeypatch.context() as patch:
        patch.setattr(world, "_arrive", arrive)
        for node in (one, other):
            world.soon(300, world.start, node)
        for node in (stays, *leavers):
            world.soon(300, world.give, node, ev.EpochOffered(epoch))
        world.run(WAITS_MS)
    assert all(node.machine.over for node in leavers)
    assert stays.machine.epoch == world.epoch
    newest = leavers[0].machine.newest()
    for node in (stays, one, other):
        world.give(node, ev.EpochOffered(epoch))
    world.run(2 * WAITS_MS)
    assert stays.machine.epoch == world.epoch

    world.give(stays, ev.EpochOffered(epoch, newest.certificate))
    world.run(END_MS)
    laws.final()
    assert stays.machine.epoch == epoch


@pytest.mark.parametrize("seed", range(3))
def test_a_joiner_that_expected_another_epoch_enters_the_one_it_is_let_in_with(seed):
    world, laws = started(seed, extra=2, rounds=4)
    *members, joiner, other = world.nodes.values()
    follows(world, members[0], joiner)  # what the first of the two expects
    epoch = follows(world, members[1], joiner, other)
    other.known_epochs = (epoch,)
    world.members = epoch.members
    for node in (joiner, other):
        world.soon(300, world.start, node)
    for node in members:
        world.soon(300, world.give, node, ev.EpochOffered(epoch))
    world.run(WAITS_MS)
    assert other.machine.epoch == epoch
    assert joiner.machine.silent
    assert joiner.machine.phase == "syncing"

    world.give(joiner, ev.EpochOffered(epoch))
    world.run(END_MS)
    laws.final()
    assert joiner.machine.epoch == epoch


@pytest.mark.parametrize("leaves", [True, False])
def test_who_is_killed_at_the_record_of_a_change_deletes_the_old_keys_when_it_is_back(
    leaves,
):
    world, laws = started(3)
    *members, joiner = world.nodes.values()
    epoch = follows(world, members[0], joiner)
    world.members = epoch.members
    victim = members[0] if leaves else members[1]
    victim.down_ms = 500

    def watch(node: Node, effect: object) -> None:
        if node is not victim or node.crashes:
            return
        if isinstance(effect, ev.Persist) and effect.key == HEAD:
            head = decode(effect.value, HeadRecord)
            if decode(head.certificate.value, Verdict).epoch == epoch.name():
                node.crash_at = (0, True)

    world.watchers.append(watch)
    world.soon(300, world.start, joiner)
    for node in members:
        world.soon(300, world.give, node, ev.EpochOffered(epoch))
    world.run(END_MS)
    assert victim.crashes == 1
    laws.final()
    assert victim.machine.over == leaves
    former = f"prekey/{world.epoch.name().hex()}"
    assert not [key for key in victim.records if key.startswith(former)]


def test_which_epochs_a_verdict_may_lead_to():
    world, _ = started(1, extra=2)
    *members, one, other = world.nodes.values()
    machine = members[0].machine
    first, second = follows(world, None, one), follows(world, None, other)
    for epoch in (first, second):
        assert not machine.may_follow(epoch.name(), moves=True)
        machine.handle(ev.EpochOffered(epoch), world.now)
        assert machine.may_follow(epoch.name(), moves=True)
        assert not machine.may_follow(epoch.name(), moves=False)
    # Members may be locked on a verdict that names what is not offered any more.
    assert machine.may_follow(first.name(), moves=True)
    assert machine.may_follow(world.epoch.name(), moves=False)


def test_an_offer_is_withdrawn_by_the_present_epoch():
    world, laws = started(2, extra=1, rounds=3)
    *members, joiner = world.nodes.values()
    joiner.down_ms = -1
    for epoch in (follows(world, None, joiner), world.epoch):
        for node in members:
            world.give(node, ev.EpochOffered(epoch))
    world.run(END_MS)
    laws.final()
    assert all(node.machine.epoch == world.epoch for node in members if node.finished)


@pytest.mark.parametrize(
    "scene",
    [
        scenes.silent_after_a_rejection,
        pytest.param(scenes.keeps_its_parts_after_a_rejection, marks=pytest.mark.slow),
        pytest.param(scenes.says_two_things_after_a_rejection, marks=pytest.mark.slow),
        pytest.param(scenes.poisons_every_round, marks=pytest.mark.slow),
    ],
    ids=["silent", "keeps its parts", "says two things", "poisons"],
)
def test_the_others_go_on_without_one_that_they_agreed_to_expose(scene):
    for seed in range(4):
        scene(seed).run()


@pytest.mark.parametrize(
    "name",
    [
        "waits for a member that may be exposed",
        pytest.param(
            "never looks again at a set that it refused", marks=pytest.mark.slow
        ),
    ],
)
def test_what_lets_them_go_on_is_what_they_agreed_to(name):
    found = mutants.catch(mutants.MUTANTS[name], seeds=20)
    assert found is not None
    assert found.law == "everyone finishes"


def rejected_without_the_second(world: World) -> list[Node]:
    """The first round is rejected, its sum without the second node; then the first is gone for good."""
    gone, late, *others = nodes = list(world.nodes.values())
    gone.honest, gone.down_ms = False, -1

    def watch(node: Node, effect: object) -> None:
        if isinstance(effect, ev.Finished) and node is gone and not gone.crashes:
            world.later(0, lambda: world.crash(gone))

    world.watchers.append(watch)
    for node in nodes:
        node.dislikes = frozenset({0})
        if node is not late:
            world.start(node)
    world.run(4_000)
    assert {node.machine.round for node in others} == {1}
    return nodes


def test_whom_nobody_agreed_to_expose_is_not_singled_out_by_one_that_is():
    """The rejected sum was without one: with the dismissed one's update known, it would be told."""
    world = World(5, 4, policy=quick_policy(16), rounds=2)
    laws = Laws(world)
    gone, late, *others = rejected_without_the_second(world)
    epoch = follows(world, gone)
    laws.exposed.add(gone.name)
    world.start(late)
    for node in (late, *others):
        world.give(node, ev.EpochOffered(epoch, exposed=frozenset({gone.name})))
    world.run(20_000)
    assert {node.machine.round for node in (late, *others)} == {1}
    # Also the late one knows, which has nothing of that round but its verdict.
    assert {node.machine.lacking() for node in (late, *others)} == {(gone.name,)}
    assert late.finished[0].survivors == others[0].finished[0].survivors
    gone.down_ms = 0
    world.start(gone)
    world.members = epoch.members
    world.run(END_MS)
    laws.final()
    assert others[0].finished[-1].verdict.accept


def test_whoever_comes_back_to_strangers_only_believes_what_they_prove():
    """Cut off while all that it sat with leave, in two changes: it was told of both."""
    world, laws = started(5, extra=3, rounds=6)
    away, *others = world.nodes.values()
    stays, *joiners, last = others[0], *others[3:]
    first = seated(world, 1, away, stays, *joiners)
    second = seated(world, 2, away, *joiners, last)
    world.members = second.members
    world.network.sides = {name: int(name == away.name) for name in world.nodes}
    for node in others[3:]:
        world.soon(300, world.start, node)
    for node in world.nodes.values():
        world.soon(400, world.give, node, ev.EpochOffered(first))
        world.soon(8_000, world.give, node, ev.EpochOffered(second))
    world.run(20_000)
    assert away.machine.epoch == world.epoch
    assert all(node.machine.epoch == second for node in (*joiners, last))
    world.network.sides = None
    world.run(END_MS)
    laws.final()
    assert away.machine.epoch == second


@pytest.mark.parametrize("seed", range(3))
def test_the_others_of_a_rejected_sum_go_on_also_where_one_was_away_from_it(seed):
    """Six of seven were in it: five are left without the one that goes, as many as a sum needs."""
    world = World(7, seed, policy=quick_policy(16), rounds=2)
    laws = Laws(world)
    gone, late, *others = rejected_without_the_second(world)
    assert {node.machine.lacking() for node in others} == {(gone.name,)}
    epoch = follows(world, gone)
    world.members = epoch.members
    laws.exposed.add(gone.name)
    world.start(late)
    for node in (late, *others):
        world.give(node, ev.EpochOffered(epoch, exposed=frozenset({gone.name})))
    world.run(END_MS)
    laws.final()
    summed = others[0].finished[-1]
    assert summed.verdict.accept
    assert set(summed.survivors) == {node.name for node in others}
