"""What a reorganisation of the chain does to grants, sends and followers, on anvil."""

import threading
from collections.abc import Iterator

import pytest
import requests
import trio
from chain_worlds import (
    ACCOUNTS,
    CHAIN_ID,
    FAR,
    KEYS,
    RECORD,
    ROOT,
    RUN,
    anvil,
    member,
)

from node.adapters.evm_chain import EvmChain, deploy
from node.ports.chain import ChainEvent

pytestmark = pytest.mark.slow
DEEP = 4


class Node:
    """An anvil whose blocks are made by hand."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()
        self.contracts = deploy(url, CHAIN_ID, KEYS["owner"])

    def ask(self, method: str, *params: object) -> object:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = self._session.post(self.url, json=body, timeout=10).json()
        assert "error" not in answer, answer
        return answer["result"]

    def mine(self, blocks: int) -> None:
        self.ask("anvil_mine", hex(blocks))

    def reorganise(self, depth: int) -> None:
        """Replace the newest blocks by empty ones."""
        self.ask("anvil_reorg", depth, [])

    def chain(self, name: str, confirmations: int) -> EvmChain:
        return EvmChain(
            url=self.url,
            chain_id=CHAIN_ID,
            contracts=self.contracts,
            account_key=KEYS[name],
            confirmations=confirmations,
            poll_s=0.01,
        )


@pytest.fixture
def node() -> Iterator[Node]:
    with anvil() as url:
        yield Node(url)


async def heard(chain: EvmChain, from_block: int, seconds: float) -> list[ChainEvent]:
    found: list[ChainEvent] = []
    with trio.move_on_after(seconds):
        async for event in chain.follow(from_block):
            found.append(event)  # noqa: PERF401 - kept when it is cancelled
    return found


async def begin(node: Node) -> int:
    """A member with a dataset, well below every depth; the block after it."""
    await node.chain("owner", 0).register(member("clinic"), 1)
    await node.chain("owner", 0).register(member("other"), 1)
    await node.chain("clinic", 0).list_dataset(RECORD, 4, 0)
    node.mine(2 * DEEP)
    return (await node.chain("clinic", 0).head()).number + 1


async def test_what_is_reorganised_away_was_never_final(node):
    start = await begin(node)
    careful, hasty = node.chain("other", DEEP), node.chain("clinic", 0)
    await hasty.grant(0, ACCOUNTS["other"], 1, FAR)
    await hasty.anchor_model(ROOT, RECORD)
    assert await hasty.grants(0) != []
    assert await careful.grants(0) == []
    node.reorganise(3)
    node.mine(2 * DEEP)
    assert await careful.grants(0) == []
    assert await heard(careful, start, 0.5) == []


async def test_what_stays_becomes_final_and_is_told_once(node):
    start = await begin(node)
    careful, hasty = node.chain("other", DEEP), node.chain("clinic", 0)
    await hasty.anchor_model(ROOT, RECORD)
    found: list[ChainEvent] = []
    async with trio.open_nursery() as nursery:

        async def follow() -> None:
            found.extend(await heard(careful, start, 1.5))

        nursery.start_soon(follow)
        node.mine(1)
        await trio.sleep(0.2)
        node.reorganise(1)  # the empty block, not the anchor
        node.mine(2 * DEEP)
    assert [event.kind for event in found] == ["ModelAnchored"]


async def test_a_revocation_acts_before_it_is_final(node):
    await begin(node)
    careful, hasty = node.chain("other", DEEP), node.chain("clinic", 0)
    grant = await hasty.grant(0, ACCOUNTS["other"], 0b11, FAR)
    node.mine(2 * DEEP)
    assert not (await careful.grants(0))[0].revoked
    await hasty.withdraw_units(0, 0b01)
    assert (await careful.grants(0))[0].units == 0b10
    await hasty.revoke(grant)
    assert (await careful.grants(0))[0].revoked
    # And a revocation that did not come to be takes nothing away.
    node.reorganise(2)
    assert not (await careful.grants(0))[0].revoked
    assert (await careful.grants(0))[0].units == 0b11


async def test_a_send_ends_only_when_it_is_deep_enough(node):
    await begin(node)
    stop = threading.Event()

    def keep_mining() -> None:
        while not stop.wait(0.05):
            node.ask("anvil_mine", "0x1")

    careful = node.chain("clinic", DEEP)
    with trio.move_on_after(0.5) as scope:
        await careful.anchor_model(ROOT, RECORD)
    assert scope.cancelled_caught
    miner = threading.Thread(target=keep_mining)
    miner.start()
    try:
        with trio.fail_after(20):
            await careful.anchor_round(RUN, 1, ROOT)
    finally:
        stop.set()
        miner.join()


async def test_a_reorganisation_below_the_depth_is_followed_onto_the_new_branch(node):
    start = await begin(node)
    hasty, follower = node.chain("clinic", 0), node.chain("other", 0)
    found: list[ChainEvent] = []

    async def follow() -> None:
        async for event in follower.follow(start):
            found.append(event)  # noqa: PERF401 - looked at while it grows

    async def told(count: int) -> None:
        while len(found) < count:
            await trio.sleep(0.02)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await hasty.anchor_model(ROOT, RECORD)
            await told(1)
            node.reorganise(1)
            # The same account, whose transaction is gone, anchors something else.
            await node.chain("clinic", 0).anchor_round(RUN, 7, ROOT)
            await told(2)
            await trio.sleep(0.2)  # for anything told twice
            nursery.cancel_scope.cancel()
    assert [event.kind for event in found] == ["ModelAnchored", "RoundAnchored"]
    assert found[1].block >= found[0].block
