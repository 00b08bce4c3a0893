"""Whole federations in one process: real services, real vectors, ports in memory."""

import csv
import io
import sys
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio

sys.path.insert(0, str(Path(__file__).parent))

from ee.spec import Column, ModelSpec
from node.adapters.blob_dir import BlobDir
from node.adapters.memory_chain import Ledger, MemoryChain
from node.adapters.memory_compute import MemoryCompute
from node.adapters.memory_signer import memory_signer
from node.adapters.memory_store import MemoryStore
from node.adapters.memory_transport import MemoryNetwork, MemoryTransport
from node.errors import NodeError
from node.services.federation import Federation
from node.services.hands import Folders, Tools
from node.services.outbox import Outbox
from node.services.runs import Runs
from node.services.states import States
from node.worker.server import serve
from protocol.errors import GossipIgnore, ProtocolError
from protocol.members import ROLE_COMPUTE_HOST, ROLE_DATA_PROVIDER, Member
from protocol.runs import (
    CONSENT_TOPIC,
    PROPOSAL_TOPIC,
    ROUND_TOPIC,
    STANCE_TOPIC,
    Plan,
    canonical_plan,
)
from protocol.seating import CHANGE_TOPIC, WISH_TOPIC

SPEC = ModelSpec(
    columns=(Column("age", 40.0, 10.0), Column("sex", levels=("F", "M"))),
    width=16,
    layers=1,
    heads=2,
    kv_heads=2,
    inner=16,
    seed=3,
)
PLAN = canonical_plan(
    Plan(
        title="small",
        spec=SPEC.to_dict(),
        task={"id": "id", "label": "y", "above": 0.5, "held_out_percent": 30},
        train={"steps": 2, "batch": 8, "trunk_rate": 0.01, "ends_rate": 0.01},
        sum={
            "beat_ms": 200,
            "fresh_ms": 1500,
            "patience_ms": 3000,
            "view_ms": 400,
            "ask_ms": 300,
            "backup_ms": 400,
            "upload_floor_ms": 3000,
            "grace_ms": 5000,
            "idle_ms": 500,
        },
    )
).decode()


def table(seed, rows=40):
    """A table whose answer follows from age and sex."""
    draw = np.random.default_rng(seed)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "age", "sex", "y"])
    for number in range(rows):
        age, sex = draw.normal(40, 10), draw.integers(2)
        answer = int(age + 10 * sex + draw.normal(0, 3) > 45)
        writer.writerow([f"{seed}-{number}", f"{age:.1f}", "FM"[sex], answer])
    return out.getvalue().encode()


class Table:
    """Stands for the market: this node's own records."""

    def __init__(self, data):
        self.data = data

    async def own_rows(self, dataset):
        return self.data


class Site:
    """What survives a crash of one node: its keys, its store, its folders, its data."""

    def __init__(self, number, world, folder):
        self.name = f"clinic-{number}"
        self.key = memory_signer(number)
        self.world = world
        self.store = MemoryStore()
        self.folder = folder / self.name
        self.folder.mkdir()
        self.blobs = BlobDir(self.folder / "blobs")
        self.datasets = Table(table(number))
        self.account = bytes([number + 1]) * 20
        self.worker_host = ""
        self.runs = None
        self.deaf = frozenset()
        """Topics whose announcements never come."""

    def member(self):
        return Member(
            node_key=self.key.public_key,
            seal_key=self.key.seal_key,
            account=self.account,
            roles=ROLE_DATA_PROVIDER | ROLE_COMPUTE_HOST,
            name=self.name,
        )

    @asynccontextmanager
    async def up(self):
        """A running node; leaving is like `kill -9`: nothing is told to anybody."""
        world = self.world
        chain = MemoryChain(world.ledger, self.account)
        federation = Federation(self.store, chain)
        await federation.load()
        await federation.refresh()
        transport = MemoryTransport(
            network=world.network,
            peer=self.key.peer_id,
            allowed=federation.is_member,
            blobs=self.blobs,
            may_fetch=self._may_fetch,
        )
        states = States(
            self.folder / "states",
            transport,
            self._may_read_state,
        )
        outbox = Outbox(self.store, chain)
        self.runs = Runs(
            tools=Tools(
                store=self.store,
                blobs=self.blobs,
                signer=self.key,
                transport=transport,
                federation=federation,
                compute=world.compute,
                states=states,
                folders=Folders(
                    *(self.folder / name for name in ("states", "blobs", "models"))
                ),
                worker_socket=world.worker,
                worker_host=self.worker_host,
            ),
            datasets=self.datasets,
            outbox=outbox,
        )
        await self.runs.load()
        async with trio.open_nursery() as nursery:
            await nursery.start(transport.run)
            nursery.start_soon(self._listen, transport)
            nursery.start_soon(self.runs.run)
            nursery.start_soon(outbox.run)
            for other in world.sites:
                transport.keep_connected(other.key.peer_id, ("/memory",))
            try:
                yield self
            finally:
                nursery.cancel_scope.cancel()

    def _may_fetch(self, peer, blob):
        return self.runs.may_fetch(peer, blob)

    def _may_read_state(self, run, root, peer):
        return self.runs.may_read_state(run, root, peer)

    async def _listen(self, transport):
        handlers = {
            PROPOSAL_TOPIC: self.runs.heard_proposal,
            CONSENT_TOPIC: self.runs.heard_consent,
            STANCE_TOPIC: self.runs.heard_stance,
            WISH_TOPIC: self.runs.heard_wish,
            CHANGE_TOPIC: self.runs.heard_change,
            ROUND_TOPIC: self.runs.heard_round,
        }
        async for said in transport.announcements():
            if said.topic in self.deaf:
                continue
            try:
                await handlers[said.topic](said)
            except GossipIgnore:
                continue
            except (NodeError, ProtocolError) as error:
                self.world.refused.append(str(error))


class World:
    """Several sites, one network, one chain, one worker."""

    def __init__(self, folder, worker, count=4):
        self.network = MemoryNetwork()
        self.compute = MemoryCompute()
        self.worker = worker
        self.refused = []
        self.plan = PLAN
        owner = bytes(20)
        self.ledger = Ledger(owner)
        self.sites = [Site(number, self, folder) for number in range(count)]

    async def register(self):
        chain = MemoryChain(self.ledger, bytes(20))
        for site in self.sites:
            await chain.register(site.member(), site.member().roles)

    def events(self, kind):
        """What the chain has emitted."""
        return [event for event in self.ledger.events if event.kind == kind]

    async def propose(self, rounds):
        """The first site proposes, all others join; returns the run's id."""
        names = [site.name for site in self.sites]
        row = await self.sites[0].runs.propose(self.plan, rounds, names, 0)
        run = bytes.fromhex(row["run"])
        for site in self.sites[1:]:
            with trio.fail_after(10):
                while run not in site.runs._known:
                    await trio.sleep(0.01)
            await site.runs.join(run, 0)
        return run

    async def through_kills(self, site, rounds, draw):
        """Propose `rounds` and kill `site` four times meanwhile; its start is the caller's."""
        async with site.up():
            run = await self.propose(rounds)
            await trio.sleep(draw.uniform(0.0, 0.8))
        for _ in range(3):
            async with site.up():
                await trio.sleep(draw.uniform(0.1, 0.6))
        return run

    async def until_finished(self, run, sites=None, seconds=60):
        with trio.fail_after(seconds):
            for site in sites or self.sites:
                while site.runs.row(run)["phase"] != "finished":
                    await trio.sleep(0.02)


@pytest.fixture(scope="session")
def spec():
    """The model of every run here, unless a test says otherwise."""
    return SPEC


@pytest.fixture(scope="session")
def worker(tmp_path_factory):
    path = tmp_path_factory.mktemp("w") / "worker.sock"
    threading.Thread(target=serve, args=(path,), daemon=True).start()
    while not path.exists():
        threading.Event().wait(0.01)
    return str(path)


@pytest.fixture
def count():
    """How many sites there are, unless a test says otherwise."""
    return 4


@pytest.fixture
async def world(tmp_path, worker, count):
    made = World(tmp_path, worker, count)
    await made.register()
    return made
