"""The world that the suites beside this one share; a module, no package."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from deals_world import PRICE, RICH, TEXTS
from file_world import COIN, VCF, World, write

from node.adapters.memory_chain import MemoryChain
from node.market.offer import Offer


@pytest.fixture
async def world(nursery):
    world = World()
    registrar = MemoryChain(world.ledger, world.ledger.owner)
    for node in world.nodes.values():
        await registrar.register(node.member(), 15)
        await nursery.start(node.transport.run)
    for node in world.nodes.values():
        for other in world.nodes.values():
            if other is not node:
                node.transport.keep_connected(other.peer_id, ("there",))
    return world


@pytest.fixture
def purse(world):
    """What the members have; the reader's is full."""
    world.coins.balances[COIN][world.reader.account] = RICH
    return lambda node: world.coins.balances[COIN][node.account]


@pytest.fixture
async def listed(world, purse, tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "v" / f"{name}.vcf", VCF)
    shown = await world.owner.market.publish(
        [tmp_path / "v"], *TEXTS, offered=Offer(PRICE, COIN, 100)
    )
    return shown["dataset"]
