"""Members that do not keep to the rules, as real processes: the lies of the simulator.

`tests/sim/federation_sim/liars.py` says what each lie says instead of the truth; here the same
is said by a daemon over libp2p.  Two lies are of a program that is broken rather than bad:
its log does not hold what it promised.
"""

import random
from dataclasses import replace

import msgspec
import numpy as np
from federation_sim import liars

from protocol.certificate import speak
from protocol.rounds import events as ev
from protocol.rounds.messages import Said, say
from protocol.types import digest

FLOOD = 40
"""Statements of nonsense with each true one."""


class Honest:
    """What every lie but one leaves as it is."""

    def forgets(self, _label):
        """Is a record with this label not written?"""
        return False

    async def summed(self, _hands, _effect, event):
        return event

    def effects(self, _machine, effect):
        """What is done instead of this."""
        return [effect]


class Forgets(Honest):
    """Rounds anew after a restart: what it rounded and said is not in its log."""

    def forgets(self, label):
        return label in {"quantised", "upload"}


class SaysTwoThings(Honest):
    """Half of the members hear one thing, half another."""

    def __init__(self, change):
        self._change = change

    def effects(self, machine, effect):
        opened = liars._opened(effect)
        if opened is None or opened[0].sender != machine._desk.me:
            return [effect]
        outer, said = opened
        forged = forgery(machine, outer, said, self._change)
        if forged is None:
            return [effect]
        if isinstance(effect, ev.Send):
            return [msgspec.structs.replace(effect, envelope=forged)]
        others = [m for m in machine.epoch.members if m != machine._desk.me]
        return [
            ev.Send(name, forged if place % 2 else effect.envelope)
            for place, name in enumerate(others)
        ]


class SumsWrongly(Honest):
    """Its slice's sum is off by one in one entry, which the ring's range does not show."""

    async def summed(self, hands, _effect, event):
        blobs = hands._tools.blobs
        kind = np.dtype(f"<u{hands._common['ring'][0] // 8}")
        words = np.fromfile(blobs.path(event.sum), kind)
        words[0] += kind.type(1)
        wrong = blobs.put(words.tobytes())
        await hands._parts.share(wrong)
        return replace(event, sum=wrong)


class Floods(Honest):
    """Nonsense of every round and place with every true word, and every true word three times."""

    def __init__(self):
        self._dice = random.Random(1)
        self._places = set()

    def effects(self, machine, effect):
        opened = liars._opened(effect) if isinstance(effect, ev.Publish) else None
        if opened is None or opened[0].sender != machine._desk.me:
            return [effect]
        outer, said = opened
        dice, out = self._dice, [effect, effect, effect]
        for _ in range(FLOOD if isinstance(said, Said) else 0):
            # Late turns, which a true report of its own hardly comes to.
            shard, turn = dice.randint(0, 40), dice.randint(3, 9)
            round_ = said.round + dice.randint(0, 3)
            attempt = said.attempt + dice.randint(0, 3)
            where = said.run, round_, attempt, shard, turn
            if where in self._places:
                continue  # it floods, and does not contradict itself: that is another lie
            self._places.add(where)
            report = liars.Report(
                *(shard, turn, dice.randint(1, 1 << 40)),
                *(digest(dice.randbytes(4)), digest(dice.randbytes(4)), b""),
            )
            ahead = Said(said.run, round_, attempt, report)
            desk = machine._desk
            out.append(ev.Publish(say(desk.keys.sign, desk.me, outer.context, ahead)))
        return out


def forgery(machine, outer, said, change):
    """The envelope of another body in the same place; None where nothing is to be changed."""
    desk = machine._desk
    if isinstance(said, Said):
        body = change(None, said.body)
        if body is None:
            return None
        other = Said(said.run, said.round, said.attempt, body)
        return say(desk.keys.sign, desk.me, outer.context, other)
    ballot = change(None, said)
    return None if ballot is None else speak(desk.keys.sign, desk.me, ballot)


LIES = {
    "forgets": Forgets(),
    "proposes two things": SaysTwoThings(liars._other_proposal),
    "uploads two things": SaysTwoThings(liars._other_upload),
    "sums wrongly": SumsWrongly(),
    "floods": Floods(),
}
