"""The order in which a machine's effects are carried out: on record first, then said."""

import trio
import trio.testing

from node.driver import Driver
from protocol.rounds import events as ev


class Hands:
    """Writes down what it was asked for, in order."""

    def __init__(self) -> None:
        self.done: list[object] = []

    async def persist(self, effects):
        await trio.lowlevel.checkpoint()
        self.done.append([each.key for each in effects])

    async def publish(self, effect):
        await trio.lowlevel.checkpoint()
        self.done.append(effect.envelope)
        return ()

    async def forget(self, effect):
        await trio.lowlevel.checkpoint()
        self.done.append(effect.keys)


class Machine:
    """Answers its first event with the given effects."""

    def __init__(self, effects) -> None:
        self._effects = effects

    def handle(self, _event, _now):
        effects, self._effects = self._effects, []
        return effects


async def carried_out(*effects):
    hands = Hands()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Driver(Machine(effects), hands).run)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    return hands.done


def record(key):
    return ev.Persist(key, b"")


async def test_records_with_only_words_between_are_one_write_before_all_words():
    done = await carried_out(
        record("vote"), ev.Publish(b"vote"), record("said"), ev.Publish(b"said")
    )
    assert done == [["vote", "said"], b"vote", b"said"]


async def test_a_record_stays_behind_what_takes_records_away():
    done = await carried_out(
        record("a"), ev.Forget(("b",), ()), record("b"), ev.Publish(b"b")
    )
    assert done == [["a"], ("b",), ["b"], b"b"]
