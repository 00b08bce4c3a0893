import hashlib
import random

import pytest

from protocol import merkle, sync
from protocol.errors import LocalProtocolError
from protocol.types import Digest, Millis

CHUNKS = [bytes([i]) * 100 for i in range(23)]
LEAVES = tuple(merkle.leaf_digest(chunk) for chunk in CHUNKS)
ROOT = merkle.root(CHUNKS)
SIZE = len(CHUNKS) * sync.CHUNK_BYTES


BEGUN = sync.Begun()


class Federation:
    """Donors that serve, fail, vanish or lie; chunks land on one disk."""

    def __init__(self, donors: dict[bytes, str], seed: int) -> None:
        self.kind = donors
        self.disk: dict[int, bytes] = {}
        self.chance = random.Random(seed)
        self.asked: list[bytes] = []

    def run(
        self, machine: sync.StateSync, steps: int = 2000, first: sync.Event = BEGUN
    ) -> bool:
        now = 0
        todo = [first]
        for _ in range(steps):
            now += 100
            if not todo:
                todo.append(sync.Tick())
            event = todo.pop(self.chance.randrange(len(todo)))
            for effect in machine.handle(event, Millis(now)):
                if isinstance(effect, sync.Complete):
                    joined = [self.disk[i] for i in range(len(effect.leaves))]
                    assert merkle.root(joined) == ROOT
                    return True
                todo += self.answer(effect)
        return False

    def answer(self, effect: sync.Effect) -> list[sync.Event]:
        if isinstance(effect, sync.LookUp):
            return [sync.Found(frozenset(self.disk))]
        kind = self.kind[effect.donor]
        self.asked.append(effect.donor)
        if kind == "flaky" and self.chance.random() < 0.6:
            kind = "gone"
        index = effect.index if isinstance(effect, sync.AskChunk) else None
        if kind == "gone":
            return [sync.Failed(effect.donor, index)]
        if isinstance(effect, sync.AskList):
            leaves = LEAVES[:-1] if kind == "liar" else LEAVES
            return [sync.Listed(effect.donor, tuple(map(Digest, leaves)))]
        chunk = b"something else" if kind == "liar" else CHUNKS[effect.index]
        if merkle.leaf_digest(chunk) != effect.leaf:
            return [sync.Failed(effect.donor, effect.index, lied=True)]
        self.disk[effect.index] = chunk
        return [sync.Stored(effect.donor, effect.index)]


@pytest.mark.parametrize("seed", range(10))
def test_a_state_comes_from_whoever_serves_it(seed):
    donors = {b"a": "flaky", b"b": "gone", b"c": "liar", b"d": "good"}
    federation = Federation(donors, seed)
    machine = sync.StateSync(ROOT, SIZE, list(donors))
    assert federation.run(machine)
    assert machine.barred() in {(b"c",), ()}


def test_the_loss_of_a_donor_in_the_middle_costs_nothing():
    federation = Federation({b"a": "good", b"b": "good"}, 3)
    machine = sync.StateSync(ROOT, SIZE, [b"a", b"b"])
    assert not federation.run(machine, steps=12)
    federation.kind[b"a"] = "gone"
    for donor, index in [(b"a", i) for i in machine._donors[b"a"].busy.copy()]:
        machine.handle(sync.Failed(donor, index), Millis(5000))
    for index in machine._donors[b"b"].busy.copy():
        machine.handle(sync.Failed(b"b", index), Millis(5000))
    assert federation.run(machine)


def test_what_is_on_disk_is_not_fetched_again():
    federation = Federation({b"a": "good"}, 4)
    federation.disk = {i: CHUNKS[i] for i in range(20)}
    assert federation.run(sync.StateSync(ROOT, SIZE, [b"a"]))
    assert len(federation.asked) == 1 + 3


def test_nobody_honest_means_no_state_and_no_false_one():
    federation = Federation({b"a": "liar", b"b": "gone"}, 5)
    machine = sync.StateSync(ROOT, SIZE, [b"a", b"b"])
    assert not federation.run(machine)
    assert machine.barred() == (b"a",)
    assert machine.leaves is None


def test_a_donor_that_comes_later_ends_the_wait():
    federation = Federation({b"a": "gone"}, 6)
    machine = sync.StateSync(ROOT, SIZE, [b"a"])
    assert not federation.run(machine, steps=50)
    federation.kind[b"b"] = "good"
    assert federation.run(machine, first=sync.Donors((b"b",)))


def test_an_answer_from_a_stranger_is_our_own_bug():
    machine = sync.StateSync(ROOT, SIZE, [b"a"])
    with pytest.raises(LocalProtocolError, match="no donor"):
        machine.handle(sync.Failed(hashlib.sha256(b"x").digest(), None), Millis(0))


def cut_anew(leaves):
    """The same bytes under the root, in other leaves: 31 and 33 in place of twice 32."""
    joined = b"".join(leaves[:2])
    return (joined[:31], joined[31:], *leaves[2:])


def as_inner_nodes(leaves):
    """The level above the leaves has the same root."""
    return tuple(merkle.levels(leaves)[1])


@pytest.mark.parametrize("forged", [cut_anew, as_inner_nodes])
def test_a_list_with_the_right_root_and_other_leaves_is_a_lie(forged):
    machine = sync.StateSync(ROOT, SIZE, [b"a", b"b"])
    leaves = tuple(map(Digest, forged(list(LEAVES))))
    assert merkle.root_of_digests(leaves) == ROOT
    machine.handle(BEGUN, Millis(0))
    effects = machine.handle(sync.Listed(b"a", leaves), Millis(1))
    assert machine.barred() == (b"a",)
    assert effects == [sync.AskList(b"b", ROOT)]
    assert machine.handle(sync.Listed(b"b", LEAVES), Millis(2)) == [sync.LookUp(LEAVES)]


def test_who_failed_is_asked_after_the_others():
    machine = sync.StateSync(ROOT, SIZE, [b"a", b"b"])
    assert machine.handle(BEGUN, Millis(0)) == [sync.AskList(b"a", ROOT)]
    first = machine.handle(sync.Failed(b"a", None), Millis(1))
    assert first == [sync.AskList(b"b", ROOT)]
    later = Millis(sync.PAUSE_MS + 5)
    assert machine.handle(sync.Failed(b"b", None), later) == [sync.AskList(b"a", ROOT)]
    assert machine.handle(sync.Failed(b"a", None), Millis(later + 1)) == []
    # Both have been left alone for long enough; it is not the first one's turn again.
    much_later = Millis(2 * later)
    assert machine.handle(sync.Tick(), much_later) == [sync.AskList(b"b", ROOT)]
