"""What the council has decided is what is final of it, and is read once for each block."""

import pytest
import trio
from evm_world import KEYS

from node.adapters.evm_chain import account_address
from node.adapters.evm_council import EvmCouncil
from node.errors import ChainError, ContractRefusedError
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


DAY_S = 86_400


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer_s": 59}, "answer_s is 59, it may be 60 to 31536000"),
        ({"dispute_s": 366 * DAY_S}, "dispute_s is 31622400, it may be 60 to 31536000"),
        (
            {"challenge_s": 61 * DAY_S},
            "challenge_s is 5270400, it may be 60 to 5184000",
        ),
        ({"vote_s": 0}, "vote_s is 0, it may be 60 to"),
        ({"unbonding_s": 1}, "unbonding_s is 1, it may be "),
        # Each is within its own bounds; what is liable in between is not.
        ({"challenge_s": 60 * DAY_S}, "unbonding_s is "),
        ({"quorum": 0}, "quorum is 0, it may be 1 to 100"),
        ({"quorum": 70_000}, "quorum is 70000, it may be 1 to 100"),
        ({"open_requests": 1_001}, "open_requests is 1001, it may be 1 to 1000"),
        ({"bond": 2**96}, f"bond is {2**96}, limit is {2**96 - 1}"),
        ({"quorums": 3}, "'quorums' is no parameter"),
    ],
)
async def test_what_no_vote_passes_is_not_proposed(world, members, changes, said):
    council = EvmCouncil(world.chain("one"))
    before = await council.motions()
    world.rpc.calls.clear()
    with pytest.raises(ChainError, match=said):
        await council.propose_rules(**changes)
    assert world.rpc.calls["eth_sendRawTransaction"] == 0
    assert await council.motions() == before
    # What is within the bounds is a motion.
    assert await council.propose_rules(quorum=100) == len(before)


async def test_a_token_without_a_contract_is_not_proposed(world, members):
    council = EvmCouncil(world.chain("one"))
    before = await council.motions()
    nobody = account_address(KEYS["two"])
    with pytest.raises(ContractRefusedError, match=f"InvalidToken.*{nobody.hex()}"):
        await council.propose_token(nobody, accepted=True)
    assert await council.motions() == before
    assert await council.propose_token(nobody, accepted=False) == len(before)
