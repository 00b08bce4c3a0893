"""Many wait for the next block, one asks for it."""

import pytest
import trio
from trio.testing import MockClock

from node.adapters.evm_heads import Heads, Newest
from node.errors import ChainDownError, ChainError

EVERY_S = 2.0


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


class Chain:
    """A new block each `block_s`; counts who asks."""

    def __init__(self, block_s: float = 12.0) -> None:
        self.asked, self.down, self.branch = 0, False, b"a"
        self._block_s = block_s
        self.heads = Heads(self.newest, EVERY_S)

    async def newest(self) -> Newest:
        self.asked += 1
        await trio.sleep(0.1)
        if self.down:
            raise ChainDownError("the chain does not answer")
        return Newest(int(trio.current_time() / self._block_s), self.branch)


async def test_each_block_is_told_to_all_that_wait_and_asked_for_once(autojump_clock):
    chain, told = Chain(), {name: list[int]() for name in "abc"}

    async def wait(name: str) -> None:
        seen = None
        while True:
            seen = await chain.heads.other_than(seen)
            told[name].append(seen.number)

    start = trio.current_time()
    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            for name in told:
                nursery.start_soon(wait, name)
    numbers = list(range(int(start / 12), int((start + 60) / 12) + 1))
    assert all(one in (numbers, numbers[:-1]) for one in told.values()), told
    assert 60 / EVERY_S / 2 < chain.asked <= 60 / EVERY_S + 1


async def test_another_block_of_the_same_height_is_another(autojump_clock):
    chain = Chain(block_s=1e9)
    first = await chain.heads.other_than(None)
    chain.branch = b"b"
    assert await chain.heads.other_than(first) == Newest(first.number, b"b")


async def test_a_dead_chain_is_told_to_each_and_does_not_leave_an_old_block(
    autojump_clock,
):
    chain = Chain()
    seen = await chain.heads.other_than(None)
    chain.down = True
    for _ in range(2):
        with pytest.raises(ChainError, match="does not answer"):
            await chain.heads.other_than(seen)
    with pytest.raises(ChainError, match="does not answer"):
        await chain.heads.other_than(None)
    chain.down, chain.branch = False, b"b"
    assert (await chain.heads.other_than(seen)).hash == b"b"


async def test_a_pause_that_is_over_before_it_begins_is_none(
    autojump_clock, monkeypatch
):
    chain = Chain(block_s=1e9)
    seen = await chain.heads.other_than(None)
    left = iter([0.001, -0.001])
    monkeypatch.setattr(chain.heads, "_left", lambda: next(left, 0.0))
    chain.branch = b"b"
    assert (await chain.heads.other_than(seen)).hash == b"b"
