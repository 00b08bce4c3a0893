"""Clinic, host, auditor and two more over ports in memory: what the suites beside this one share."""

from dataclasses import dataclass
from types import SimpleNamespace

import msgpack
import numpy as np
import trio

from ee import integer
from ee.spec import Column, ModelSpec, initial_state, part, split, trunk_config
from ee.table import final_norm, head_scores, parse, stem_tokens
from node.adapters.keyfile import KeyFile
from node.adapters.memory_chain import MemoryChain
from node.adapters.memory_store import MemoryBlobs, MemoryStore
from node.adapters.memory_transport import MemoryTransport
from node.compute import methods, table
from node.errors import (
    ComputeError,
)
from node.services.auditing import Verifier
from node.services.certificates import Certificates
from node.services.confirming import Confirmations
from node.services.federation import Federation
from node.services.inference import Host
from node.services.inference_asking import Requester
from node.services.keyed import KeyedAudits
from node.services.outbox import Outbox
from node.services.receipts import Receipts
from node.services.releases import Releases
from node.services.replaying import Replayer
from node.services.reports import Audits
from node.services.tracing import Traces
from protocol.confirmation import (
    CONFIRMATION_TOPIC,
)
from protocol.evaluation import (
    AUDIT_TOPIC,
    RELEASE_TOPIC,
)
from protocol.members import ROLE_AUDITOR, ROLE_COMPUTE_HOST, ROLE_RESEARCHER
from protocol.types import digest

SPEC = ModelSpec(
    columns=(
        *(Column(f"n{i}", 0.5, 2.0) for i in range(3)),
        Column("c", levels=("a", "b")),
    ),
    width=16,
    layers=3,
    heads=2,
    kv_heads=1,
    inner=24,
    seed=3,
)


RUN = digest(b"run")


ROLES = {
    "clinic": ROLE_RESEARCHER,
    "host": ROLE_COMPUTE_HOST,
    "auditor": ROLE_AUDITOR,
    "stranger": ROLE_RESEARCHER,
    "partner": ROLE_RESEARCHER,
}


CSV = b"n0,n1,n2,c\n" + b"".join(
    b"%d.5,%d,-%d,%s\n" % (i, i % 3, i, b"ab"[i % 2 : i % 2 + 1]) for i in range(20)
)


def trained():
    """A state with a head: the initial one scores everything alike."""
    flat = initial_state(SPEC)
    for name, array in split(SPEC, flat).items():
        if name.startswith("head."):
            array[...] = np.random.default_rng(1).normal(size=array.shape)
    return flat


class Inline:
    """The compute child's own methods, in a thread, over the child's own encoding."""

    def __init__(self):
        self.calls = []
        self.bend = False
        """Show sums of which one is another."""

    async def call(self, method, params, *, progress=None):
        self.calls.append(method)
        plain = msgpack.unpackb(msgpack.packb(dict(params)))
        run = methods.find(method)
        try:
            found = await trio.to_thread.run_sync(run, plain, lambda _: None)
        except Exception as error:
            raise ComputeError(str(error)) from error
        if self.bend and method == "audit.trace":
            first, *rest = found["sums"]
            found = {"sums": [bytes([first[0] ^ 1]) + first[1:], *rest]}
        return msgpack.unpackb(msgpack.packb(found))


@dataclass
class FakeRuns:
    root: bytes
    spec: dict

    def record(self, run):
        assert run == RUN
        return SimpleNamespace(
            spec=self.spec,
            members=(CLINIC.public_key, KEYS["partner"].public_key),
            initial=digest(b"first state"),
            datasets=(),
        )

    def final_state(self, run):
        assert run == RUN
        return self.root


KEYS = {
    name: KeyFile(bytes([i]) * 32, bytes([i + 10]) * 32, bytes([i + 20]) * 32)
    for i, name in enumerate(ROLES, 1)
}


CLINIC = KEYS["clinic"]


class Node:
    """One member: the services of the evaluation level on memory adapters."""

    def __init__(self, name, world, corrupt):
        key, self.name = KEYS[name], name
        self.key, self.compute, self.store = key, Inline(), MemoryStore()
        self.blobs = MemoryBlobs()
        self.chain = MemoryChain(
            world.ledger, bytes([list(ROLES).index(name) + 1]) * 20
        )
        self.federation = Federation(self.store, self.chain)
        self.transport = MemoryTransport(
            network=world.network,
            peer=key.peer_id,
            allowed=self.federation.is_member,
            blobs=self.blobs,
            may_fetch=lambda _peer, blob: self.releases.is_trunk(blob),
        )
        self.outbox = Outbox(self.store, self.chain)
        shared = {"store": self.store, "transport": self.transport}
        shared["federation"] = self.federation
        self.receipts = Receipts(blobs=self.blobs, outbox=self.outbox, **shared)
        folder = world.folder / name
        self.releases = Releases(
            blobs=self.blobs,
            signer=key,
            chain=self.chain,
            outbox=self.outbox,
            compute=self.compute,
            states=world.folder / "states",
            models=world.folder / "models",
            trunks=folder / "trunks",
            **shared,
        )
        self.traces = Traces(
            receipts=self.receipts,
            releases=self.releases,
            compute=self.compute,
            **shared,
        )
        self.certificates = Certificates(
            blobs=self.blobs,
            chain=self.chain,
            releases=self.releases,
            receipts=self.receipts,
            evidence=folder / "evidence",
            **shared,
        )
        self.host = Host(
            blobs=self.blobs,
            signer=key,
            transport=self.transport,
            federation=self.federation,
            releases=self.releases,
            receipts=self.receipts,
            worker_socket=str(world.socket),
            corrupt=corrupt,
        )
        self.runs = FakeRuns(world.state, world.spec)
        self.requester = Requester(
            signer=key,
            releases=self.releases,
            certificates=self.certificates,
            runs=self.runs,
            compute=self.compute,
            states=world.folder / "states",
            models=world.folder / "models",
            **shared,
        )
        self.confirmations = Confirmations(
            signer=key,
            releases=self.releases,
            runs=self.runs,
            outbox=self.outbox,
            compute=self.compute,
            states=str(world.folder / "states"),
            models=str(world.folder / "models"),
            look_every_s=0.01,
            **shared,
        )
        self.audits = Audits(self.store, self.federation)
        self.replayer = Replayer(
            store=self.store,
            transport=self.transport,
            releases=self.releases,
            compute=self.compute,
            evidence=folder / "evidence",
            keyed=self.keyed(folder) if world.tier == "freivalds" else None,
            retry_s=0.01,
        )
        self.full = world.full
        self.verifier = self.verifier_of()

    def verifier_of(self):
        """One that starts with what is in the store."""
        return Verifier(
            store=self.store,
            transport=self.transport,
            federation=self.federation,
            signer=self.key,
            chain=self.chain,
            audits=self.audits,
            replayer=self.replayer,
            rate=1.0,
            full=self.full,
            retry_s=0.01,
        )

    def keyed(self, folder):
        return KeyedAudits(
            store=self.store,
            transport=self.transport,
            releases=self.releases,
            compute=self.compute,
            folder=folder / "audit-keys",
        )

    async def listen(self):
        handlers = {
            RELEASE_TOPIC: self.releases.heard,
            CONFIRMATION_TOPIC: self.confirmations.heard,
            AUDIT_TOPIC: self.audits.heard,
        }
        async for said in self.transport.announcements():
            await handlers[said.topic](said)

    async def events(self, kind):
        return [e.data for e in await self.store.events(0, 1000) if e.kind == kind]


async def on_chain(host):
    with trio.fail_after(10):
        while await host.outbox.waiting():
            await trio.sleep(0.01)


async def audited(node, count):
    with trio.fail_after(60):
        while len(node.audits.rows()) < count:
            await trio.sleep(0.01)
    return node.audits.rows()


def scores_without_a_key():
    """The same integer arithmetic on the plain trunk: what the key must not change."""
    arrays = split(SPEC, trained())
    values = parse(SPEC, *table.read_csv(CSV))
    rows = stem_tokens(SPEC, part(arrays, "stem"), values)
    trunk = integer.quantise(
        part(arrays, "trunk"), trunk_config(SPEC), tokens=SPEC.tokens
    )
    last = trunk.forward(integer.encode_rows(rows)).output[:, -1]
    return head_scores(
        part(arrays, "head"), final_norm(SPEC, integer.decode_rows(last))
    )


async def eventually(condition):
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.01)
