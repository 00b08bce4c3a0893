"""The world that the suites beside this one share; a module, no package."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from file_world import World

from node.adapters.memory_chain import MemoryChain


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
