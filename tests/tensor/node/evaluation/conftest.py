"""A federation whose clinic has released a model to its host; the suites share its world."""

import shutil
import sys
import tempfile
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent))

from evaluation_world import ROLES, RUN, SPEC, Node, trained

from node.adapters.memory_chain import Ledger, MemoryChain
from node.adapters.memory_transport import MemoryNetwork
from node.compute import state
from node.worker import server
from protocol.members import Member


@pytest.fixture(scope="module")
def socket_path():
    # A unix socket's path is short; pytest's folders are not.
    folder = Path(tempfile.mkdtemp(prefix="rexis-"))
    path = folder / "w.sock"
    threading.Thread(target=server.serve, args=(path,), daemon=True).start()
    while not path.exists():
        pass
    yield path
    shutil.rmtree(folder)


@pytest.fixture
def federation(tmp_path, socket_path):
    @asynccontextmanager
    async def opened(
        *,
        corrupt=0,
        verify=True,
        full=1.0,
        tier="replay",
        spec=None,
        vector=trained,
    ):
        ledger = Ledger(b"\x01" * 20)
        world = SimpleNamespace(
            network=MemoryNetwork(),
            ledger=ledger,
            folder=tmp_path,
            socket=socket_path,
            full=full,
            tier=tier,
            spec=SPEC.to_dict() if spec is None else spec,
        )
        world.state = state.write(tmp_path / "states", vector())
        nodes = SimpleNamespace()
        async with trio.open_nursery() as nursery:
            for name, roles in ROLES.items():
                node = Node(name, world, corrupt if name == "host" else 0)
                setattr(nodes, name, node)
                member = Member(
                    node.key.public_key, node.key.seal_key, node.chain.account, 0, name
                )
                await MemoryChain(ledger, ledger.owner).register(member, roles)
            every = list(vars(nodes).values())
            nodes.folder = tmp_path
            for node in every:
                await node.federation.refresh()
            for node in every:
                await nursery.start(node.transport.run)
                for other in every:
                    if other is not node:
                        node.transport.keep_connected(other.key.peer_id, ("/memory",))
                nursery.start_soon(node.listen)
                nursery.start_soon(node.outbox.run)
                nursery.start_soon(node.releases.run)
            if verify:
                nursery.start_soon(nodes.auditor.verifier.run)
            made = await nodes.clinic.releases.make(nodes.clinic.runs, RUN, ["host"])
            nodes.model = bytes.fromhex(made["model"])
            with trio.fail_after(10):
                while not nodes.host.releases.rows():
                    await trio.sleep(0.01)
            yield nodes
            nodes.host.host.close()
            nursery.cancel_scope.cancel()

    return opened
