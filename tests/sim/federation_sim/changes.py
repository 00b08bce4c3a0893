"""Changes of membership: who wants whom in, when each node learns of it, and what it offers.

Each node plays its own registry.  It has a wish, the members it takes to be wanted, which comes
to it at its own time and may change before a verdict was found; from the wish and the epoch it
is in, it derives the next one and offers it to its machine, and again after each restart.  An
epoch that any node has derived is told to all the others in time, though not in its order.
"""

import random
from collections import defaultdict
from dataclasses import dataclass

from federation_sim.world import Node, World

from protocol.certificate import Certificate
from protocol.rounds import events as ev
from protocol.rounds.policy import MEMBERS_AT_LEAST, Epoch

Wish = tuple[bytes, ...]
"""Members, sorted."""

TOLD_MS = 1_500
"""At most so long after one node did, another hears of an epoch."""


@dataclass(frozen=True)
class Plan:
    """One or two changes in a row: how many go and come at each."""

    name: str
    steps: tuple[tuple[int, int], ...]

    @property
    def joiners(self) -> int:
        return sum(come for _, come in self.steps)

    def sizes(self, members: int) -> list[int]:
        """How many members there are, from the first epoch to the last."""
        out = [members]
        for go, come in self.steps:
            out.append(out[-1] - go + come)
        return out


PLANS = (
    Plan("a member joins", ((0, 1),)),
    Plan("a member joins", ((0, 1),)),
    Plan("two join at once", ((0, 2),)),
    Plan("a member leaves", ((1, 0),)),
    Plan("a member is swapped", ((1, 1),)),
    Plan("a member is swapped", ((1, 1),)),
    Plan("members change twice", ((0, 1), (1, 0))),
    Plan("members change twice", ((1, 1), (1, 1))),
    Plan("members change twice", ((0, 1), (0, 1))),
)


def drawn(dice: random.Random, members: int) -> Plan:
    """A plan that leaves three members at least."""
    fit = [p for p in PLANS if min(p.sizes(members)) >= MEMBERS_AT_LEAST]
    return dice.choice(fit)


class Registries:
    """What every node of a world knows about who is wanted."""

    def __init__(
        self, world: World, dice: random.Random, plan: Plan, *, pace: int = 1
    ) -> None:
        """`world` has `plan.joiners` extra nodes.  Word of a change takes `pace` times as long."""
        self._pace = pace
        self._world = world
        self._dice = dice
        self._wish: dict[bytes, Wish] = {}
        self._told: dict[bytes, list[Epoch]] = defaultdict(list)
        self._named: dict[bytes, Epoch] = {}
        self._entered = [world.epoch]
        self._awaited: set[bytes] = set()
        self._shown: dict[bytes, Certificate] = {}
        """By epoch: the verdict that led to it, once somebody has entered it or left with it."""
        self.exposed: set[bytes] = set()
        """Of those that go: whom everybody dismisses although its update can be told then."""
        self._wishes = self._planned(plan)
        world.members = self._wishes[-1]
        joiners = [n for n in world.nodes.values() if n.name not in world.epoch.members]
        for node in joiners:
            node.starts_itself = True
            self._awaited.add(node.name)
        world.watchers.append(self._watch)
        world.begun.append(self._again)
        for node in world.nodes.values():
            self._schedule(node)

    @property
    def goers(self) -> frozenset[bytes]:
        """First members that are wanted no more in the end."""
        return frozenset(self._world.epoch.members).difference(self._wishes[-1])

    def offered(self, epoch: bytes) -> frozenset[bytes]:
        """Nodes that were told of the epoch of this name."""
        return frozenset(
            name
            for name, told in self._told.items()
            if any(each.name() == epoch for each in told)
        )

    def _planned(self, plan: Plan) -> list[Wish]:
        world = self._world
        present = list(world.epoch.members)
        new = [name for name in world.nodes if name not in present]
        wishes = []
        for go, come in plan.steps:
            # Whoever has just come does not go again: it may never have been let in.
            old = [name for name in present if name in world.epoch.members]
            for name in self._dice.sample(old, k=go):
                present.remove(name)
            present += [new.pop() for _ in range(come)]
            wishes.append(tuple(sorted(present)))
        return wishes

    def _schedule(self, node: Node) -> None:
        """Each wish comes at the node's own time; now and then the first one after the second."""
        dice, world = self._dice, self._world
        at = self._pace * dice.randint(200, 1_500)
        times = []
        for _ in self._wishes:
            times.append(at)
            at += dice.choice((100, 600, 2_500)) + dice.randint(0, 500)
        order = list(zip(times, self._wishes, strict=True))
        if len(order) > 1 and dice.random() < 0.2:
            order = [(times[0], self._wishes[1]), (times[0] + 50, self._wishes[0])]
            order.append((times[1], self._wishes[1]))
        for when, wish in order:
            world.soon(when, self._wants, node, wish)

    def _wants(self, node: Node, wish: Wish) -> None:
        self._wish[node.name] = wish
        self._derive(node)

    def _derive(self, node: Node) -> None:
        """The epoch that follows from where this node is and what it wants."""
        machine, wish = node.machine, self._wish.get(node.name)
        if machine is None or machine.over or wish is None:
            return
        present = machine.epoch
        if node.name not in present.members or machine.silent:
            return
        # The present one again says that nothing is to follow it.
        follows = wish != present.members
        number = present.number + 1
        epoch = self._world.epoch_of(list(wish), number) if follows else present
        if follows:
            self._name(epoch, node)
        self._tell(node, epoch)

    def _name(self, epoch: Epoch, first: Node) -> None:
        if epoch.name() in self._named:
            return
        self._named[epoch.name()] = epoch
        self._world.epochs.append(epoch)
        for other in self._world.nodes.values():
            if other is not first:
                delay = self._pace * self._dice.randint(0, TOLD_MS)
                self._world.soon(delay, self._hears, other, epoch)

    def _hears(self, node: Node, epoch: Epoch) -> None:
        """Of an epoch that others have derived; what this node wants itself stays the offer."""
        if node.name in self._awaited:
            if node.name in epoch.members and node.down_ms >= 0:
                self._awaited.remove(node.name)
                late = self._dice.choice((0, 0, 500, 4_000))
                self._world.soon(late, self._joins, node, epoch)
            return
        self._tell(node, epoch)
        self._derive(node)

    def _joins(self, node: Node, epoch: Epoch) -> None:
        """With the epochs so far, and the one it thinks it will be let in with."""
        earlier = [e for e in self._entered if e.number < epoch.number]
        node.known_epochs = (*earlier[1:], epoch)
        # It was told of none while it waited.
        self._told[node.name] = [*self._named.values()]
        self._world.start(node)

    def _tell(self, node: Node, epoch: Epoch) -> None:
        told = self._told[node.name]
        if epoch not in told:
            told.append(epoch)
        shown = self._shown.get(epoch.name())
        self._world.give(node, ev.EpochOffered(epoch, shown, frozenset(self.exposed)))

    def _again(self, node: Node) -> None:
        """After each start: nothing that was told is kept for certain by a node that was killed."""
        life = node.life
        for epoch in list(self._told[node.name]):
            if node.life == life:
                self._tell(node, epoch)
        if node.life == life:
            self._derive(node)

    def _watch(self, node: Node, effect: object) -> None:
        if isinstance(effect, ev.EpochEntered | ev.Left):
            self._show(node, effect.epoch)
        if isinstance(effect, ev.EpochEntered):
            if effect.epoch not in self._entered:
                self._entered.append(effect.epoch)
            self._world.soon(0, self._derive, node)

    def _show(self, node: Node, epoch: Epoch) -> None:
        """Whoever saw members change lets all know of it, in time, as a daemon does."""
        newest = None if node.machine is None else node.machine.newest()
        if newest is None or epoch.name() in self._shown:
            return
        if newest.certificate.slot.epoch == epoch.name():
            return  # it came by a later one
        self._shown[epoch.name()] = newest.certificate
        for other in self._world.nodes.values():
            delay = self._pace * self._dice.randint(0, TOLD_MS)
            self._world.soon(delay, self._hears, other, epoch)
