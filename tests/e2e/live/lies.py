"""Members that do not keep to the rules, as real processes: the lies of the simulator.

`tests/sim/federation_sim/liars.py` says what each lie says instead of the truth; here the same
is said by a daemon over libp2p.
"""

from dataclasses import replace

from federation_sim import liars

from protocol.certificate import speak
from protocol.rounds import events as ev
from protocol.rounds.messages import Said, say


class SaysTwoThings:
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
            return [replace(effect, envelope=forged)]
        others = [m for m in machine.epoch.members if m != machine._desk.me]
        return [
            ev.Send(name, forged if place % 2 else effect.envelope)
            for place, name in enumerate(others)
        ]


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
    "proposes two things": SaysTwoThings(liars._other_proposal),
    "uploads two things": SaysTwoThings(liars._other_upload),
}
