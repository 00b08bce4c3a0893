"""What the council has decided is what is final of it, and is read once for each block."""

import pytest
import trio
from evm_world import KEYS

from node.adapters.evm_chain import account_address
from node.adapters.evm_council import EvmCouncil
from protocol.members import ROLE_DATA_PROVIDER, Member

pytestmark = pytest.mark.slow
CONFIRMATIONS = 3


@pytest.fixture
async def members(world):
    for number, name in enumerate(KEYS):
        key = bytes([number + 1]) * 32
        one = Member(key, key, account_address(KEYS[name]), ROLE_DATA_PROVIDER, name)
        await world.chain("owner").register(one, one.roles)
    world.ask("dev_move", "0x1")  # they vote on what is proposed after they came


async def test_votes_and_motions_are_counted_at_the_final_block(world, members):
    now = EvmCouncil(world.chain("one"))
    final = EvmCouncil(world.chain("two", CONFIRMATIONS))
    assert await now.propose_rules(quorum=3) == 0
    assert [one.yes for one in await now.motions()] == [0]
    assert await final.motions() == []
    world.mine(CONFIRMATIONS)
    (motion,) = await final.motions()
    assert motion.text.endswith("quorum 3, open_requests 20, bond 0")
    assert (motion.yes, motion.electorate, motion.ready) == (0, 3, 0)
    for name in ("one", "owner"):
        await EvmCouncil(world.chain(name)).vote(0)
    (newest,) = await now.motions()
    assert newest.yes == 2
    assert newest.ready
    # Neither a vote nor that it has passed, before both are final.
    assert [one.yes for one in await final.motions()] == [0]
    world.mine(CONFIRMATIONS - 1)
    assert [(one.yes, one.ready) for one in await final.motions()] == [(1, 0)]
    world.mine(1)
    assert [(one.yes, one.ready) for one in await final.motions()] == [
        (2, newest.ready)
    ]


async def test_motions_are_read_once_for_each_final_block(world):
    council = EvmCouncil(world.chain("two"))
    first = await council.motions()
    world.rpc.calls.clear()
    again = await council.motions()
    assert again == first
    again.clear()  # theirs to keep
    assert await council.motions() == first
    assert world.rpc.calls["eth_call"] == 0
    assert world.rpc.calls["eth_getLogs"] == 0
    world.mine(1)
    assert await council.motions() == first
    assert world.rpc.calls["eth_call"] == 1 + len(first)
    assert world.rpc.calls["eth_getLogs"] == 0  # what was proposed does not change


async def test_who_proposes_at_once_is_told_its_own_motion(world, members, monkeypatch):
    """Both are past everything they read beforehand when the first of them is sent."""
    wanted = {"one": 5, "two": 6}
    numbers, there = {}, []

    async def propose(name):
        chain = world.chain(name)
        send = chain.link.send

        async def together(*said):
            there.append(name)
            while len(there) < len(wanted):
                await trio.sleep(0.01)
            return await send(*said)

        monkeypatch.setattr(chain.link, "send", together)
        numbers[name] = await EvmCouncil(chain).propose_rules(quorum=wanted[name])

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for name in wanted:
                nursery.start_soon(propose, name)
    motions = await EvmCouncil(world.chain("owner")).motions()
    texts = {motion.number: motion.text for motion in motions}
    for name, quorum in wanted.items():
        assert f"quorum {quorum}," in texts[numbers[name]]
