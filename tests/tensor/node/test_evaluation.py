"""Encrypted inference, receipts and audits between four nodes over ports in memory."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import msgpack
import msgspec
import numpy as np
import pytest
import trio

from ee import integer
from ee.recipe import StockSpec
from ee.spec import Column, ModelSpec, initial_state, part, split, trunk_config
from ee.table import final_norm, head_scores, parse, stem_tokens
from node.adapters.compute_child import open_compute_child
from node.adapters.keyfile import KeyFile
from node.adapters.memory_chain import Ledger, MemoryChain
from node.adapters.memory_store import MemoryBlobs, MemoryStore
from node.adapters.memory_transport import MemoryNetwork, MemoryTransport
from node.clock import now_s
from node.compute import methods, state, table
from node.compute.stock import Stock
from node.errors import (
    AccessError,
    ChainDownError,
    ComputeError,
    NodeError,
    StorageError,
    TransportError,
)
from node.market.works import Work
from node.rpc import results
from node.services import auditing
from node.services.anchors import Anchors
from node.services.answered import key_of
from node.services.auditing import Verifier
from node.services.certificates import LATE_AFTER_S, Certificate, Certificates
from node.services.confirming import Confirmations
from node.services.faults import altered
from node.services.federation import Federation
from node.services.inference import Host
from node.services.inference_asking import Requester, score_file
from node.services.keyed import KeyedAudits
from node.services.outbox import Outbox
from node.services.receipts import Receipts, fetch_rows
from node.services.releases import Releases
from node.services.replaying import Replayer, Subject
from node.services.reports import Audits
from node.services.tracing import Traces
from node.verifier import bundle, case
from node.verifier import keyed as verifier_keyed
from node.worker import server
from protocol.audit import open_audit, seal_audit
from protocol.boundary import boundary_root
from protocol.confirmation import (
    CONFIRMATION_TOPIC,
    Confirmation,
    open_confirmation,
    seal_confirmation,
)
from protocol.dispute import CENTRED, ROTARY, Trunk
from protocol.errors import ProtocolError
from protocol.evaluation import (
    AUDIT_TOPIC,
    INFER_PROTOCOL,
    RELEASE_TOPIC,
    BatchAnswer,
    InferAnswer,
    InferRequest,
)
from protocol.members import ROLE_AUDITOR, ROLE_COMPUTE_HOST, ROLE_RESEARCHER, Member
from protocol.receipt import (
    CLOCKS_APART_S,
    ROWS_KEPT_S,
    Order,
    batch_root,
    open_order,
    open_receipt,
    seal_order,
    seal_receipt,
)
from protocol.types import digest
from protocol.wire import decode, encode

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


async def test_a_long_inference_says_how_far_it_is(federation):
    async with federation(verify=False) as nodes:
        work, seen = Work("asked.csv", "encrypting"), []
        keep = nodes.clinic.certificates.keep

        async def kept(*arguments):
            seen.append((work.what, work.done, work.total))
            await keep(*arguments)

        nodes.clinic.certificates.keep = kept
        await nodes.clinic.requester.run(nodes.model, "host", CSV, work)
        case = 3 * SPEC.tokens * SPEC.width
        assert seen == [
            ("inferring", 0, 20 * case),
            ("inferring", 16 * case, 20 * case),
        ]
        assert work.done == work.total


def cut_after(nodes, orders, error):
    """Of what the clinic asks for, `orders` are answered and then no more."""
    real, asked = nodes.clinic.transport.request, []

    async def request(peer, protocol, payload, **options):
        if protocol == INFER_PROTOCOL:
            asked.append(payload)
            if len(asked) > orders:
                raise error
        return await real(peer, protocol, payload, **options)

    nodes.clinic.transport.request = request

    def mend():
        nodes.clinic.transport.request = real
        return asked

    return mend


HALF = b"".join(CSV.splitlines(keepends=True)[:17])
"""One order's worth of records."""


async def test_a_call_that_stops_midway_gives_its_answers_and_is_gone_on_with(
    federation,
):
    async with federation(verify=False) as nodes:
        ask, host = nodes.clinic.requester.run, nodes.host.receipts
        lost = TransportError("stream reset", hint="is it up?")
        # Before the first answer there is nothing to give.
        mend = cut_after(nodes, 0, lost)
        with pytest.raises(TransportError, match="host: stream reset"):
            await ask(nodes.model, "host", CSV)
        mend()
        mend = cut_after(nodes, 1, lost)
        part = await ask(nodes.model, "host", CSV)
        assert len(mend()) == 2
        assert len(part["receipts"]) == len(await host.rows()) == 1
        assert part["scores"][16:] == [None] * 4
        assert None not in part["scores"][:16]
        assert part["stopped"] == "host: stream reset"
        assert part["hint"].startswith("is it up?; the same call again")
        (event,) = await nodes.clinic.events("inference.stopped")
        assert (event["rows"], event["of"]) == (16, 20)
        assert score_file(part).splitlines()[17:] == [b'""'] * 4
        # Again, and as if the daemon had been restarted: only the others are asked.
        whole = await ask(nodes.model, "host", CSV)
        assert (whole["stopped"], whole["hint"]) == (None, None)
        assert whole["receipts"][0] == part["receipts"][0]
        assert whole["scores"][:16] == part["scores"][:16]
        assert len(await host.rows()) == 2
        np.testing.assert_allclose(whole["scores"], scores_without_a_key(), atol=0.05)
        # What is through is asked anew by whoever asks again.
        again = await ask(nodes.model, "host", CSV)
        assert not set(again["receipts"]) & set(whole["receipts"])
        assert again["scores"] == whole["scores"]
        assert len(await host.rows()) == 4
        assert not await nodes.clinic.store.scan("inference-answered")


async def test_what_was_answered_goes_for_the_same_rows_alone(federation):
    async with federation(verify=False) as nodes:

        async def ask(records, orders=9):
            mend = cut_after(nodes, orders, TransportError("stream reset"))
            found = await nodes.clinic.requester.run(nodes.model, "host", records)
            mend()
            return found["receipts"]

        cut = await ask(CSV, 1)
        assert await ask(HALF.replace(b"0.5,", b"0.75,", 1)) != cut
        assert await ask(HALF) == cut
        assert await ask(HALF) != cut
        # A certificate that cannot be read is no answer.
        (first,) = await ask(CSV, 1)
        for key, data in await nodes.clinic.store.scan("certificates"):
            if key.hex() == first:
                nodes.clinic.blobs.delete(decode(data, Certificate).rows)
        assert first not in await ask(CSV)


def test_an_answer_is_that_of_one_model_host_and_shape():
    made = {
        key_of(model, host, shape, b"rows")
        for model in (b"m" * 32, b"n" * 32)
        for host in (b"h" * 32, b"i" * 32)
        for shape in ((1, 2, 2), (2, 1, 2))
    }
    assert len(made) == 8


async def test_an_honest_hosts_receipts_pass_and_everybody_hears_of_it(federation):
    async with federation() as nodes:
        found = await nodes.clinic.requester.run(nodes.model, "host", CSV)
        assert len(found["scores"]) == 20
        assert len(found["receipts"]) == 2  # sixteen cases and four
        wanted = scores_without_a_key()
        assert np.abs(found["scores"] - wanted).max() < 0.01 * np.abs(wanted).mean()
        await nodes.host.receipts.anchor()
        reports = await audited(nodes.stranger, 2)
        assert {row["verdict"] for row in reports} == {"passed"}
        assert {row["layers_replayed"] for row in reports} == {3}
        assert {row["host"] for row in reports} == {"host"}
        assert {row["verifier"] for row in reports} == {"auditor"}
        assert {row["receipt"] for row in reports} == set(found["receipts"])
        opened = await nodes.host.events("receipt.opened")
        assert [(o["to"], o["boundary"]) for o in opened] == [("auditor", 0)] * 2
        assert not await nodes.auditor.events("audit.withheld")


async def test_a_host_that_alters_one_number_is_caught_and_named(federation, tmp_path):
    async with federation(corrupt=1) as nodes:
        found = await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        reports = {row["receipt"]: row for row in await audited(nodes.clinic, 2)}
        bad, good = (reports[name] for name in found["receipts"])
        assert good["verdict"] == "passed"
        assert (bad["verdict"], bad["fault"], bad["host"]) == (
            "failed",
            "layer",
            "host",
        )
        entry = bad["entry"]
        assert entry["differing"] == 1
        assert abs(entry["committed"] - entry["computed"]) == 1
        # One file convicts it: the wrong layer and its rows, no trunk, no input.
        path = tmp_path / "proof.bundle"
        receipt = bytes.fromhex(found["receipts"][0])
        await nodes.auditor.certificates.export(receipt, path)
        fault = bundle.check(bundle.read(path.read_bytes())).fault
        assert fault is not None
        assert fault.layer == bad["layer"]
        assert fault.entry is not None
        assert fault.entry.committed == entry["committed"]


async def test_a_light_audit_needs_one_layer_and_one_boundary(federation):
    async with federation(full=0.0) as nodes:
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        reports = await audited(nodes.clinic, 2)
        assert {row["verdict"] for row in reports} == {"passed"}
        assert {row["layers_replayed"] for row in reports} == {1}
        layers = {row["first_layer"] for row in reports}
        assert layers <= {0, 1, 2}
        opened = {
            event["boundary"] for event in await nodes.host.events("receipt.opened")
        }
        assert opened == layers
        # The trunk never came, only the layers that were looked at.
        assert not nodes.auditor.releases.row(nodes.model)["here"]
        kept = [path.name for path in (nodes.folder / "auditor" / "trunks").iterdir()]
        assert sorted(kept) == [
            f"{nodes.model.hex()}.{i}.slice" for i in sorted(layers)
        ]


def test_the_coins_of_a_light_audit_reach_every_layer_and_no_other(monkeypatch):
    receipt = SimpleNamespace(layers=3)
    monkeypatch.setattr(auditing, "open_receipt", lambda _sealed: receipt)
    assert {auditing._layer(b"") for _ in range(200)} == {0, 1, 2}
    receipt.layers = 1
    assert auditing._layer(b"") == 0


@pytest.mark.parametrize("layer", [0, 1])
async def test_a_wrong_layer_is_escalated_to_the_whole_receipt(
    federation, monkeypatch, layer
):
    monkeypatch.setattr("node.services.auditing._layer", lambda _sealed: layer)
    monkeypatch.setattr(
        "node.services.inference.secrets",
        SimpleNamespace(randbelow=lambda _n: layer, token_bytes=secrets.token_bytes),
    )
    async with federation(corrupt=1, full=0.0) as nodes:
        found = await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        reports = {row["receipt"]: row for row in await audited(nodes.clinic, 2)}
        bad, good = (reports[name] for name in found["receipts"])
        assert (good["verdict"], good["layers_replayed"]) == ("passed", 1)
        assert (bad["verdict"], bad["layer"]) == ("failed", layer)
        assert (bad["first_layer"], bad["layers_replayed"]) == (0, 1 + layer)
        assert bad["entry"]["differing"] == 1


async def test_who_gives_the_wrong_layer_is_passed_over_and_spoils_no_later_audit(
    federation, monkeypatch
):
    monkeypatch.setattr("node.services.auditing._layer", lambda _sealed: 1)
    async with federation(full=0.0, verify=False) as nodes:
        real = Releases.slice_file

        async def another(self, model_root, layer):
            return await real(self, model_root, 2 - layer // 2)

        clinic, auditor = nodes.clinic.releases, nodes.auditor
        monkeypatch.setattr(clinic, "slice_file", another.__get__(clinic))
        # The releaser is asked first, and nobody else has the trunk yet.
        with pytest.raises(NodeError, match=r"given is layer 2 of .*, not 1 of"):
            await auditor.releases.slice_file(nodes.model, 1)
        assert not list((nodes.folder / "auditor" / "trunks").iterdir())
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(auditor.verifier.run)
            reports = await audited(auditor, 2)
            nursery.cancel_scope.cancel()
        assert {(row["verdict"], row["first_layer"]) for row in reports} == {
            ("passed", 1)
        }
        kept = [path.name for path in (nodes.folder / "auditor" / "trunks").iterdir()]
        assert kept == [f"{nodes.model.hex()}.1.slice"]


@pytest.mark.parametrize("tier", ["replay", "freivalds"])
async def test_a_receipt_of_more_layers_than_the_model_has_hides_nothing(
    federation, monkeypatch, tmp_path, tier
):
    """The host signs for 900 layers, so that hardly any draw is one of the three there are."""
    last = {}

    def long(after, shape, salt):
        last["rows"] = altered(after[-1])
        after[-1] = last["rows"]
        return [boundary_root(last["rows"], shape, i, salt) for i in range(1, 901)]

    monkeypatch.setattr("node.services.inference._roots", long)
    monkeypatch.setattr("node.services.auditing._layer", lambda _sealed: 700)
    async with federation(full=0.0, tier=tier) as nodes:
        rows_at = nodes.host.receipts.rows_at

        async def shown(receipt, kept, boundary):
            return last["rows"] if boundary else await rows_at(receipt, kept, 0)

        nodes.host.receipts.rows_at = shown
        one = CSV[: CSV.index(b"\n", 12) + 1]
        found = await nodes.clinic.requester.run(nodes.model, "host", one)
        await nodes.host.receipts.anchor()
        (report,) = await audited(nodes.clinic, 1)
        assert (report["verdict"], report["fault"]) == ("failed", "shape")
        path = tmp_path / "proof.bundle"
        await nodes.auditor.certificates.export(
            bytes.fromhex(found["receipts"][0]), path
        )
        fault = bundle.check(bundle.read(path.read_bytes())).fault
        assert fault is not None
        assert fault.kind == "shape"
        assert not await nodes.auditor.events("audit.skipped")


@pytest.mark.parametrize("hidden", [1, 3])
async def test_a_host_that_hides_the_rows_it_lied_in_is_convicted_by_its_root(
    federation, monkeypatch, tmp_path, hidden
):
    """Wrong after the first layer and after the last; the rows of one of them are not shown."""
    monkeypatch.setattr("node.services.replaying.TRIES", 2)
    monkeypatch.setattr("node.services.auditing._layer", lambda _sealed: 2)

    async def lie(self, order, after):
        first = altered(after[0])
        rest = await self._line.ask(order.model_root, first, order.shape, 1, who=b"me")
        return [first, rest[0], altered(rest[1])]

    monkeypatch.setattr(Host, "_lie", lie)
    async with federation(corrupt=1, full=0.0) as nodes:
        one = CSV[: CSV.index(b"\n", 12) + 1]
        rows_at = nodes.host.receipts.rows_at

        async def shown(receipt, kept, boundary):
            if boundary == hidden:
                raise StorageError("a disk broke")
            return await rows_at(receipt, kept, boundary)

        nodes.host.receipts.rows_at = shown
        found = await nodes.clinic.requester.run(nodes.model, "host", one)
        await nodes.host.receipts.anchor()
        (report,) = await audited(nodes.clinic, 1)
        path = tmp_path / "proof.bundle"
        await nodes.auditor.certificates.export(
            bytes.fromhex(found["receipts"][0]), path
        )
        fault = bundle.check(bundle.read(path.read_bytes())).fault
        # What names a number is kept; else the first wrong layer is, without one.
        assert report["layer"] == fault.layer == (2 if hidden == 1 else 0)
        assert report["entry"]["differing"] == fault.entry.differing == 1


async def test_rows_that_are_never_shown_still_leave_a_file_that_convicts(
    federation, monkeypatch, tmp_path
):
    monkeypatch.setattr("node.services.replaying.TRIES", 2)
    async with federation(corrupt=1) as nodes:
        rows_at = nodes.host.receipts.rows_at

        async def shown(receipt, kept, boundary):
            if boundary:
                raise StorageError("a disk broke")
            return await rows_at(receipt, kept, boundary)

        nodes.host.receipts.rows_at = shown
        one = CSV[: CSV.index(b"\n", 12) + 1]
        found = await nodes.clinic.requester.run(nodes.model, "host", one)
        await nodes.host.receipts.anchor()
        (report,) = await audited(nodes.clinic, 1)
        assert (report["fault"], report["entry"]) == ("layer", None)
        path = tmp_path / "proof.bundle"
        await nodes.auditor.certificates.export(
            bytes.fromhex(found["receipts"][0]), path
        )
        fault = bundle.check(bundle.read(path.read_bytes())).fault
        assert fault is not None
        assert (fault.kind, fault.layer) == ("layer", report["layer"])


async def test_a_host_cannot_have_other_coins_tossed_by_not_answering(
    federation, monkeypatch
):
    monkeypatch.setattr("node.services.replaying.TRIES", 1)
    monkeypatch.setattr("node.services.pending.FIRST_PAUSE_S", 0)
    monkeypatch.setattr("node.services.auditing.LOOK_EVERY_S", 0.05)
    tossed = iter([1, 2, 0, 0, 0, 0])
    monkeypatch.setattr("node.services.auditing._layer", lambda _sealed: next(tossed))
    async with federation(full=0.0, verify=False) as nodes:
        rows_at, hides, asked = nodes.host.receipts.rows_at, [True], []

        async def shown(receipt, kept, boundary):
            asked.append(boundary)
            if hides[0]:
                raise StorageError("not now")
            return await rows_at(receipt, kept, boundary)

        nodes.host.receipts.rows_at = shown
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        # Neither its silence nor a restart of the auditor moves what is looked at.
        with trio.move_on_after(1.0):
            await nodes.auditor.verifier.run()
        assert not nodes.auditor.audits.rows()
        again = nodes.auditor.verifier_of()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again.run)
            await trio.sleep(0.3)
            hides[0] = False
            reports = await audited(nodes.auditor, 2)
            await eventually(lambda: not again._queued)
            nursery.cancel_scope.cancel()
        assert {row["first_layer"] for row in reports} == {1, 2} == set(asked)
        assert len(asked) >= 6
        assert await nodes.auditor.events("audit.withheld")
        for space in ("audit-batches", "audit-looked"):
            assert not await nodes.auditor.store.scan(space)


@pytest.mark.parametrize("full", [0.0, 1.0])
async def test_an_auditor_without_weights_needs_a_key_and_the_sums(
    federation, tmp_path, full
):
    async with federation(full=full, tier="freivalds") as nodes:
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        reports = await audited(nodes.clinic, 2)
        assert {(row["verdict"], row["tier"]) for row in reports} == {
            ("passed", "freivalds")
        }
        layers = SPEC.layers if full else 1
        assert {row["layers_replayed"] for row in reports} == {layers}
        assert all(40 < row["error_bits"] < 60 for row in reports)
        assert "audit.replay" not in nodes.auditor.compute.calls
        # The weights are gone, the keys are nobody else's.
        assert not list((tmp_path / "auditor" / "trunks").glob("*"))
        keys = list((tmp_path / "auditor" / "audit-keys").iterdir())
        assert keys
        assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
        assert len(await nodes.host.events("receipt.opened")) == 2 * layers


async def test_a_lie_that_a_key_finds_is_replayed_and_proved(federation):
    async with federation(corrupt=1, tier="freivalds") as nodes:
        found = await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        reports = {row["receipt"]: row for row in await audited(nodes.clinic, 2)}
        bad, good = (reports[name] for name in found["receipts"])
        assert (good["verdict"], good["tier"]) == ("passed", "freivalds")
        assert (bad["verdict"], bad["tier"], bad["error_bits"]) == (
            *("failed", "replay"),
            0,
        )
        assert bad["entry"]["differing"] == 1
        (escalated,) = await nodes.auditor.events("audit.escalated")
        assert "are not what its sums make" in escalated["reason"]


@pytest.mark.parametrize("what", ["sums", "key"])
async def test_wrong_sums_or_a_forged_key_accuse_nobody(federation, tmp_path, what):
    async with federation(full=0.0, tier="freivalds", verify=False) as nodes:
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        if what == "sums":
            nodes.host.compute.bend = True
        else:
            # Keys of the right form and of other weights, where this node keeps its own.
            await forge(nodes.auditor, nodes.model, tmp_path / "auditor" / "audit-keys")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nodes.auditor.verifier.run)
            reports = await audited(nodes.clinic, 2)
            nursery.cancel_scope.cancel()
        tiers = {(row["verdict"], row["tier"]) for row in reports}
        escalated = await nodes.auditor.events("audit.escalated")
        rekeyed = await nodes.auditor.events("audit.rekeyed")
        if what == "sums":
            assert tiers == {("passed", "replay")}
            assert len(escalated) == 2
            assert all("sums of " in event["reason"] for event in escalated)
            assert not rekeyed
        else:
            # A forged key is made anew as soon as it is found, and costs nothing else.
            assert tiers == {("passed", "freivalds")}
            assert not escalated
            layers = [event["layer"] for event in rekeyed]
            assert layers
            assert len(set(layers)) == len(layers)


async def forge(auditor, model, folder):
    keyed = auditor.keyed(folder.parent)
    for layer in range(SPEC.layers):
        path, _ = await keyed._key(model, layer)
        key = verifier_keyed.read(path.read_bytes())
        parts = tuple(
            msgspec.structs.replace(part, vector=bytes(len(part.vector)))
            for part in key.parts
        )
        path.write_bytes(encode(msgspec.structs.replace(key, parts=parts)))


async def test_the_requester_and_the_host_write_bundles_that_pass(federation, tmp_path):
    async with federation(verify=False) as nodes:
        found = await nodes.clinic.requester.run(nodes.model, "host", CSV)
        receipt = bytes.fromhex(found["receipts"][1])
        with pytest.raises(NodeError, match="in no batch yet"):
            await nodes.host.certificates.export(receipt, tmp_path / "early")
        await nodes.host.receipts.anchor()
        await on_chain(nodes.host)
        for node in (nodes.clinic, nodes.host):
            path = tmp_path / f"{node.name}.bundle"
            told = await node.certificates.export(receipt, path)
            assert told["bytes"] == path.stat().st_size
            verdict = bundle.check(bundle.read(path.read_bytes()))
            assert verdict.fault is None
            assert verdict.receipt.digest == receipt
            assert verdict.count == 3
        assert (tmp_path / "clinic.bundle").read_bytes() == path.read_bytes()


async def test_nobody_writes_a_file_of_a_receipt_that_is_not_on_the_chain(
    federation, tmp_path
):
    """A regulator could not tell it from one that auditors have had a chance to look at."""
    async with federation(verify=False) as nodes:
        found = await nodes.clinic.requester.run(nodes.model, "host", CSV)
        receipt = bytes.fromhex(found["receipts"][0])
        taken, real = trio.Event(), nodes.host.outbox._senders["receipts"]

        async def slow(*row):
            await taken.wait()
            return await real(*row)

        nodes.host.outbox._senders = {"receipts": slow}
        await nodes.host.receipts.anchor()
        path, clinic = tmp_path / "file", nodes.clinic.certificates
        with pytest.raises(NodeError, match="is not on the chain by host: it has 0"):
            await clinic.export(receipt, path)
        with pytest.raises(NodeError, match="is not on the chain by host: it has 0"):
            await clinic.disclose(receipt, 5, path)
        with pytest.raises(NodeError, match="waits for the chain"):
            await nodes.host.certificates.export(receipt, path)
        assert not path.exists()
        taken.set()
        await on_chain(nodes.host)
        await clinic.disclose(receipt, 5, path)
        for node in (nodes.clinic, nodes.host):
            await node.certificates.export(receipt, path)
            assert bundle.check(bundle.read(path.read_bytes())).fault is None


@pytest.mark.parametrize("case", [None, 3])
async def test_a_file_is_written_whole_over_a_file_or_not_at_all(
    federation, tmp_path, case
):
    """A rename would put it over a device too, which as root made /dev/null a file."""
    async with federation(verify=False) as nodes:
        found = await nodes.clinic.requester.run(nodes.model, "host", CSV)
        receipt = bytes.fromhex(found["receipts"][0])
        await nodes.host.receipts.anchor()
        await on_chain(nodes.host)
        clinic = nodes.clinic.certificates

        async def write(path):
            if case is None:
                return await clinic.export(receipt, path)
            return await clinic.disclose(receipt, case, path)

        aim, link, pipe = (tmp_path / name for name in ("aim", "link", "pipe"))
        aim.write_bytes(b"mine")
        link.symlink_to(aim)
        os.mkfifo(pipe)
        for path in (link, pipe, tmp_path):
            with pytest.raises(StorageError, match="is not a regular file"):
                await write(path)
        with pytest.raises(StorageError, match="cannot be written: No such file"):
            await write(tmp_path / "none" / "file")
        assert aim.read_bytes() == b"mine"
        assert link.is_symlink()
        assert pipe.is_fifo()
        told = await write(aim)
        assert told["bytes"] == aim.stat().st_size > 4
        assert aim.stat().st_mode & 0o777 == 0o600
        with pytest.raises(NodeError, match="has not signed receipt ffffffffffffffff"):
            await clinic.export(b"\xff" * 32, aim)


async def test_the_requester_shows_one_case_and_no_other(federation, tmp_path):
    async with federation(verify=False) as nodes:
        found = await nodes.clinic.requester.run(nodes.model, "host", CSV)
        receipt = bytes.fromhex(found["receipts"][0])
        await nodes.host.receipts.anchor()
        await on_chain(nodes.host)
        path = tmp_path / "case"
        await nodes.clinic.certificates.disclose(receipt, 5, path)
        shown = case.read(path.read_bytes())
        verdict = case.check(shown)
        assert (verdict.fault, verdict.count, shown.case) == (None, 3, 5)
        opening = await fetch_rows(
            nodes.clinic.transport, nodes.host.key.peer_id, receipt, 0, 5
        )
        size = 3 * SPEC.tokens * SPEC.width
        assert shown.rows == opening.rows[5 * size : 6 * size]
        assert opening.salt not in path.read_bytes()
        with pytest.raises(NodeError, match="cases 0 to 15, not 16"):
            await nodes.clinic.certificates.disclose(receipt, 16, path)
        with pytest.raises(NodeError, match="did not ask"):
            await nodes.host.certificates.disclose(receipt, 0, path)


PROTEIN = {
    "kind": "stock",
    "text": "peptide",
    "classes": ["inert", "active", "unclear"],
    "config": {
        "model_type": "esm",
        "vocab_size": 24,
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 40,
        "position_embedding_type": "rotary",
        "pad_token_id": 1,
        "mask_token_id": 3,
    },
    "letters": "ACDEFGHIKLMNPQRSTVWY",
    "tokens": 16,
    "rank": 2,
}


def peptides(count):
    draw = np.random.default_rng(0)
    letters = list(PROTEIN["letters"])
    return ["".join(draw.choice(letters, 4 + number % 5)) for number in range(count)]


def protein_vector():
    """Adapters and a head that are not zero."""
    size = Stock(StockSpec.from_dict(PROTEIN), None, Path()).size
    return 0.5 * np.random.default_rng(1).standard_normal(size).astype(np.float32)


ROUNDING = 0.15
"""Relative, of log-odds: rounding costs 0.05 to 0.10 over two dozen release keys."""


def in_the_clear(vector, texts):
    """Logits, and the log-odds of the likeliest class, of the float model."""
    model = Stock(StockSpec.from_dict(PROTEIN), None, Path())
    logits = model.model.scores(vector, model._rows(texts))
    best = logits.max(1)
    return logits, best - np.log(np.exp(logits).sum(1) - np.exp(best))


def test_a_release_that_lost_one_adapter_would_be_further_off_than_rounding():
    texts, vector = peptides(20), protein_vector()
    _, wanted = in_the_clear(vector, texts)
    slots = Stock(StockSpec.from_dict(PROTEIN), None, Path()).model.slots
    adapters = [slot for slot in slots if slot.name.endswith("lora_B")]
    assert len(adapters) == 9  # q, k and v of three blocks
    for slot in adapters:
        without = vector.copy()
        without[slot.offset : slot.offset + slot.size] = 0
        _, found = in_the_clear(without, texts)
        lost = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert lost > 0.2 > ROUNDING, slot.name


@pytest.mark.parametrize("corrupt", [0, 1])
async def test_a_stock_model_of_a_run_is_released_asked_and_audited(
    federation, tmp_path, corrupt
):
    texts = peptides(20)
    table = b"peptide\n" + b"".join(b"%s\n" % text.encode() for text in texts)
    about = {"spec": PROTEIN, "vector": protein_vector, "corrupt": corrupt}
    async with federation(**about) as nodes:
        await nodes.clinic.confirmations._judge(nodes.model)
        assert nodes.clinic.confirmations.of(nodes.model) == ["clinic"]
        assert not await nodes.clinic.events("model.refuted")
        found = await nodes.clinic.requester.run(nodes.model, "host", table)
        assert len(found["receipts"]) == 5  # texts of five lengths, none padded
        await nodes.host.receipts.anchor()
        await eventually(lambda: len(nodes.auditor.audits.rows()) == 5)
        verdicts = sorted(row["verdict"] for row in nodes.auditor.audits.rows())
        assert verdicts == ["failed"] * corrupt + ["passed"] * (5 - corrupt)
        if corrupt:
            (evidence,) = tmp_path.glob("auditor/evidence/*.bundle")
            about = {"evidence": str(evidence)}
            found = await nodes.auditor.compute.call("dispute.place", about)
            (told,) = (
                row for row in nodes.auditor.audits.rows() if row["verdict"] == "failed"
            )
            entry = told["entry"]
            assert found["place"] == [told["layer"], entry["case"], entry["token"]]
            # What the contract reads of it: blocks with the norm first.
            flags = int.from_bytes(decode(found["trunk"], Trunk).numbers[-4:], "little")
            assert flags == CENTRED + ROTARY
            return
        logits, wanted = in_the_clear(protein_vector(), texts)
        best = logits.max(1)
        gap = np.array(found["scores"]) - wanted
        assert np.linalg.norm(gap) < ROUNDING * np.linalg.norm(wanted)
        # Which of two is larger is only asked where they are further apart than rounding.
        runner_up = np.sort(logits, axis=1)[:, -2]
        clear = np.flatnonzero(best - runner_up > 0.3)
        assert len(clear) > 10
        for place in clear:
            expected = PROTEIN["classes"][logits[place].argmax()]
            assert found["answers"][place] == expected
        assert score_file(found).splitlines()[0] == b"score,class"
        receipt = bytes.fromhex(found["receipts"][0])
        await nodes.clinic.certificates.disclose(receipt, 1, tmp_path / "one")
        shown = case.check(case.read((tmp_path / "one").read_bytes()))
        assert (shown.fault, shown.count) == (None, 3)


async def test_a_stock_release_of_another_state_is_refuted(federation):
    async with federation(verify=False, spec=PROTEIN, vector=protein_vector) as nodes:
        releases = nodes.clinic.releases
        about = {
            "spec": PROTEIN,
            "folder": str(nodes.folder / "states"),
            "models": "",
            "seed": releases.key_seed(nodes.model),
            "trunk": str(await releases.trunk_file(nodes.model)),
            "model_root": nodes.model,
        }
        for vector, differs in (
            (protein_vector(), ""),
            (1.01 * protein_vector(), "layer 0 q"),
        ):
            root = state.write(nodes.folder / "states", vector)
            found = await nodes.clinic.compute.call(
                "model.confirm", {**about, "root": root}
            )
            assert found["differs"].startswith(differs)
            assert bool(found["differs"]) == bool(differs)


async def test_a_certificate_outlives_its_host(federation, tmp_path):
    """Once complete, both exports need nobody; before, they need the host."""
    async with federation(verify=False) as nodes:
        found = await nodes.clinic.requester.run(nodes.model, "host", CSV)
        first, second = (bytes.fromhex(one) for one in found["receipts"])
        own = nodes.clinic.certificates
        assert await own.complete() == 0  # the batch is open
        assert {one.proof for one in await own.placed()} == {None}
        assert [row["batch"] for row in await own.rows()] == [None, None]
        root = await nodes.host.receipts.anchor()
        await on_chain(nodes.host)
        assert await own.complete() == 2
        # What its provenance says of them, too: each stands in a batch of the chain.
        for one in await own.placed():
            one.proof.verify(one.batch, one.sealed)
            assert await nodes.clinic.chain.anchored_receipts(
                nodes.host.chain.account, one.batch
            )
        rows = await own.rows()
        assert {row["batch"] for row in rows} == {root.hex()}
        assert {row["receipt"] for row in rows} == set(found["receipts"])
        assert sorted(row["cases"] for row in rows) == [4, 16]
        later = await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        await on_chain(nodes.host)

        async def away(*_args, **_options):
            raise NodeError("nobody answers")

        nodes.clinic.transport.request = away
        for receipt in (first, second):
            await own.export(receipt, tmp_path / "whole")
            whole = bundle.check(bundle.read((tmp_path / "whole").read_bytes()))
            assert (whole.fault, whole.receipt.digest) == (None, receipt)
        await own.disclose(first, 3, tmp_path / "one")
        assert case.check(case.read((tmp_path / "one").read_bytes())).fault is None
        with pytest.raises(NodeError, match="nobody answers"):
            await own.export(bytes.fromhex(later["receipts"][0]), tmp_path / "none")
        assert await own.complete() == 0


async def test_a_host_that_shows_its_requester_a_batch_it_never_anchors_is_found_out(
    federation, monkeypatch
):
    """Such a receipt no auditor hears of, so the requester's own node has to ask the chain."""
    async with federation(verify=False) as nodes:
        own, sealed = nodes.clinic.certificates, nodes.host.receipts

        async def swallowed(_root, _count):
            pass

        monkeypatch.setattr(sealed, "_outbox_once", swallowed)
        found = await nodes.clinic.requester.run(nodes.model, "host", CSV)
        root = await sealed.anchor()
        assert root is not None
        assert await own.complete() == 0
        assert [row["batch"] for row in await own.rows()] == [None, None]
        # Somebody else's anchor of the same root does not stand in for the host's.
        await nodes.stranger.chain.anchor_receipts(root, 2)
        assert await own.complete() == 0
        assert not await nodes.clinic.events("certificate.late")

        async def down(_host, _root):
            raise ChainDownError("no chain")

        late = now_s() + LATE_AFTER_S + CLOCKS_APART_S
        monkeypatch.setattr("node.services.certificates.now_s", lambda: late)
        with monkeypatch.context() as patch:
            patch.setattr(nodes.clinic.chain, "anchored_receipts", down)
            assert await own.complete() == 0
        assert not await nodes.clinic.events("certificate.late")
        for _ in range(2):
            assert await own.complete() == 0
        said = await nodes.clinic.events("certificate.late")
        assert {row["receipt"] for row in said} == set(found["receipts"])
        assert [row["host"] for row in said] == ["host", "host"]
        assert all("not on the chain by host" in row["reason"] for row in said)
        await nodes.host.chain.anchor_receipts(root, 2)
        assert await own.complete() == 2


async def test_any_node_says_what_a_host_has_on_the_chain(federation, tmp_path):
    async with federation(verify=False) as nodes, trio.open_nursery() as nursery:
        clinic, host = nodes.clinic, nodes.host.key.peer_id
        roots = []
        for _ in range(2):
            found = await clinic.requester.run(nodes.model, "host", CSV)
            roots.append((await nodes.host.receipts.anchor()).hex())
        await on_chain(nodes.host)
        # Somebody else's word for a root of its own making is none of the host's.
        await nodes.stranger.chain.anchor_receipts(digest(b"never"), 2)
        seen = Anchors(nodes.auditor.chain, nodes.auditor.federation)
        nursery.start_soon(seen.run)
        await eventually(lambda: seen.batches("stranger", "")["batches"])
        for name in ("host", host):
            told = seen.batches(name, "")
            assert [one["batch"] for one in told["batches"]] == roots
            assert [one["receipts"] for one in told["batches"]] == [2, 2]
            assert told["account"] == "0x" + nodes.host.chain.account.hex()
        msgspec.convert(told, results.ReceiptsAnchored)
        # What the file's reader sees there is what its reader is given here.
        path = tmp_path / "receipt.bundle"
        await clinic.certificates.export(bytes.fromhex(found["receipts"][0]), path)
        batch = bundle.read(path.read_bytes()).batch.hex()
        (one,) = seen.batches(host, batch[:16])["batches"]
        assert one["batch"] == batch == roots[1]
        assert seen.batches(host, digest(b"never").hex())["batches"] == []
        with pytest.raises(AccessError, match="no member is called 'nobody'"):
            seen.batches("nobody", "")
        nursery.cancel_scope.cancel()


async def test_only_auditors_and_the_requester_see_rows(federation):
    async with federation(verify=False) as nodes:
        found = await nodes.clinic.requester.run(nodes.model, "host", CSV)
        receipt, host = bytes.fromhex(found["receipts"][0]), nodes.host.key.peer_id
        for node in (nodes.clinic, nodes.auditor):
            assert await fetch_rows(node.transport, host, receipt, 0, 5)
        with pytest.raises(AccessError, match="may not open"):
            await fetch_rows(nodes.stranger.transport, host, receipt, 0, 5)
        with pytest.raises(NodeError, match="3 layers"):
            await fetch_rows(nodes.auditor.transport, host, receipt, 4, 5)
        with pytest.raises(NodeError, match="no receipt"):
            await fetch_rows(nodes.auditor.transport, host, bytes(32), 0, 5)


async def test_a_licence_that_has_ended_is_asked_and_served_no_more(
    federation, monkeypatch
):
    async with federation(verify=False) as nodes:
        made = await nodes.clinic.releases.make(
            nodes.clinic.runs, RUN, ["host"], days=30
        )
        model, day = bytes.fromhex(made["model"]), 86_400
        assert abs(made["until"] - time.time() - 30 * day) < 60
        await eventually(lambda: model in nodes.host.releases.roots())
        assert len((await nodes.clinic.requester.run(model, "host", CSV))["scores"])
        for when in (made["until"], made["until"] + 1):
            monkeypatch.setattr("node.services.releases.now_s", lambda now=when: now)
            if when == made["until"]:
                await nodes.clinic.requester.run(model, "host", CSV)
                continue
            with pytest.raises(AccessError, match=r"licence for .* ended at 20"):
                await nodes.clinic.requester.run(model, "host", CSV)
            # A requester that does not look is told so by the host.
            nodes.clinic.releases.require_licence = nodes.clinic.releases.get
            asked = await nodes.host.receipts.rows()
            with pytest.raises(AccessError, match="ended at"):
                await nodes.clinic.requester.run(model, "host", CSV)
            assert await nodes.host.receipts.rows() == asked
        # What was answered before is shown as ever.
        receipt, kept = await nodes.host.receipts.kept(
            bytes.fromhex(asked[0]["receipt"])
        )
        assert await nodes.host.receipts.rows_at(receipt, kept, 0)


async def test_the_same_rows_asked_twice_are_kept_for_each_answer(
    federation, monkeypatch
):
    async with federation(verify=False) as nodes:
        host, found = nodes.host.receipts, []
        for later in (0, 500):
            now = int(time.time()) + later
            monkeypatch.setattr("node.services.inference.now_s", lambda now=now: now)
            answer = await nodes.clinic.requester.run(nodes.model, "host", CSV)
            found.append(bytes.fromhex(answer["receipts"][0]))
        await host.anchor()
        await on_chain(nodes.host)
        (first, _), (second, kept) = [await host.kept(one) for one in found]
        assert await host.expire(first.time + ROWS_KEPT_S + 1)
        with pytest.raises(StorageError, match="deleted after 90 days"):
            await host.rows_at(*await host.kept(found[0]), 0)
        rows = await host.rows_at(second, kept, 0)
        assert boundary_root(rows, second.order.shape, 0, kept.salt) == (
            second.order.input_root
        )


async def test_a_full_host_says_so_before_it_computes(federation):
    async with federation(verify=False) as nodes:
        nodes.host.receipts._limit_bytes = 1
        await nodes.clinic.requester.run(nodes.model, "host", CSV.split(b"\n2")[0])
        nodes.host.host._line = None  # nothing is computed
        with pytest.raises(NodeError, match=r"rows for audits take .* limit is 1"):
            await nodes.clinic.requester.run(nodes.model, "host", CSV)


async def test_a_member_without_a_licence_is_not_served(federation):
    async with federation(verify=False) as nodes:
        rows = bytes(3 * 5 * 16)
        key = nodes.stranger.key
        order = Order(
            nodes.model, nodes.host.key.public_key, bytes(16), (1, 5, 16), bytes(32)
        )
        sealed = seal_order(key.sign, key.public_key, order)
        with pytest.raises(AccessError, match="stranger has no licence"):
            await nodes.stranger.transport.request(
                nodes.host.key.peer_id,
                INFER_PROTOCOL,
                encode(InferRequest(sealed, bytes(32), rows)),
                timeout_s=5,
                limit_bytes=1 << 20,
            )
        with pytest.raises(AccessError, match="no key to model"):
            await nodes.stranger.requester.run(nodes.model, "host", CSV)
        with pytest.raises(AccessError, match="not registered as a compute host"):
            await nodes.clinic.requester.run(nodes.model, "auditor", CSV)


async def test_who_may_not_host_a_model_is_told_before_anything_leaves(federation):
    async with federation(verify=False) as nodes:
        clinic, sent = nodes.clinic, []

        async def request(*arguments, **_more):
            sent.append(arguments)

        clinic.transport.request = request
        owner = MemoryChain(
            nodes.clinic.chain._ledger, nodes.clinic.chain._ledger.owner
        )
        for name in ("clinic", "partner"):
            node = getattr(nodes, name)
            member = node.federation.named(name)
            await owner.register(member, ROLE_COMPUTE_HOST)
        await clinic.federation.refresh()
        with pytest.raises(AccessError, match="partner does not host") as told:
            await clinic.requester.run(nodes.model, "partner", CSV)
        assert told.value.hint() == "its hosts are: host"
        made = await clinic.releases.make(clinic.runs, RUN, [])
        with pytest.raises(AccessError, match="clinic is this node"):
            await clinic.requester.run(bytes.fromhex(made["model"]), "clinic", CSV)
        assert not sent


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b"secret,1,1,a", "record 21: n0 is not a number"),
        (b"1,1,1,secret", "record 21: c is not one of ['a', 'b']"),
    ],
)
async def test_no_cell_of_a_record_stands_in_an_error(federation, row, said):
    async with federation(verify=False) as nodes:
        with pytest.raises(Exception) as told:
            await nodes.clinic.requester.run(nodes.model, "host", CSV + row + b"\n")
        assert str(told.value) == said


async def test_a_model_is_released_to_compute_hosts_only(federation):
    async with federation(verify=False) as nodes:
        before = nodes.clinic.releases.rows()
        with pytest.raises(AccessError, match="auditor is not registered") as told:
            await nodes.clinic.releases.make(
                nodes.clinic.runs, RUN, ["host", "auditor"]
            )
        assert told.value.hint() == "compute hosts are: host"
        assert nodes.clinic.releases.rows() == before


async def test_a_lost_worker_is_told_without_the_hosts_own_paths(federation, tmp_path):
    async with federation(verify=False) as nodes:
        nodes.host.host._socket = str(tmp_path / "nobody.sock")
        with pytest.raises(NodeError) as told:
            await nodes.clinic.requester.run(nodes.model, "host", CSV)
        assert str(told.value) == "host: the host's worker does not compute"


@pytest.mark.parametrize("change", ["signer", "host", "rows", "salt", "shape"])
async def test_a_request_that_does_not_hold_together_is_refused(federation, change):
    async with federation(verify=False) as nodes:
        clinic = nodes.clinic
        real = clinic.transport.request

        async def bent(peer, protocol, payload, **options):
            request = decode(payload, InferRequest)
            key = nodes.stranger.key if change == "signer" else clinic.key
            order = open_order(request.order)[0]
            fields = {name: getattr(order, name) for name in order.__struct_fields__}
            if change == "host":
                fields["host"] = nodes.auditor.key.public_key
            if change == "shape":
                fields["shape"] = (order.shape[0] + 1, *order.shape[1:])
            sealed = seal_order(key.sign, key.public_key, Order(**fields))
            rows = altered(request.rows) if change == "rows" else request.rows
            salt = bytes(32) if change == "salt" else request.salt
            return await real(
                peer, protocol, encode(InferRequest(sealed, salt, rows)), **options
            )

        clinic.transport.request = bent
        with pytest.raises(
            NodeError, match=r"did not sign|another host|input root|needs"
        ):
            await clinic.requester.run(nodes.model, "host", CSV)
        assert not await nodes.host.receipts.rows()


@pytest.mark.parametrize("change", ["output", "order", "receipt", "time"])
async def test_an_answer_that_is_not_for_the_order_is_refused(federation, change):
    async with federation(verify=False) as nodes:
        clinic, host = nodes.clinic, nodes.host.key
        real = clinic.transport.request
        first = []

        async def bent(*args, **options):
            answer = decode(await real(*args, **options), InferAnswer)
            first.append(answer)
            output, receipt = answer.output, answer.receipt
            if change == "output":
                output = altered(output)
            elif change == "time":
                opened = open_receipt(receipt)
                receipt = seal_receipt(
                    host.sign,
                    host.public_key,
                    opened.sealed_order,
                    opened.roots[1:],
                    opened.time - CLOCKS_APART_S - 60,
                )
            elif change == "order" and len(first) > 1:
                receipt = first[0].receipt
            elif change == "receipt":
                opened = open_receipt(receipt)
                receipt = seal_receipt(
                    host.sign,
                    host.public_key,
                    opened.sealed_order,
                    [*opened.roots[1:-1], bytes(32)],
                    opened.time,
                )
            return encode(InferAnswer(receipt, output))

        clinic.transport.request = bent
        if change == "order":
            # Only the second answer is wrong; the first one stands, and so does its certificate.
            found = await clinic.requester.run(nodes.model, "host", CSV)
            assert "another order" in found["stopped"]
            assert found["scores"][16:] == [None] * 4
            assert [digest(first[0].receipt).hex()] == found["receipts"]
            assert len(await clinic.certificates.rows()) == 1
            return
        with pytest.raises(ProtocolError, match=r"output root|time"):
            await clinic.requester.run(nodes.model, "host", CSV)
        assert not await clinic.certificates.rows()


async def test_a_host_that_hides_its_batch_or_its_rows_is_reported(
    federation, monkeypatch
):
    monkeypatch.setattr("node.services.auditing.TRIES", 2)
    monkeypatch.setattr("node.services.replaying.TRIES", 2)
    async with federation() as nodes:
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        real = nodes.auditor.transport.request

        async def hidden(peer, protocol, payload, **options):
            answer = await real(peer, protocol, payload, **options)
            return altered(answer) if "open" in protocol else answer

        nodes.auditor.transport.request = hidden
        await nodes.host.receipts.anchor()
        with trio.fail_after(20):
            while len(await nodes.auditor.events("audit.withheld")) < 2:
                await trio.sleep(0.01)
        withheld = await nodes.auditor.events("audit.withheld")
        assert {event["host"] for event in withheld} == {"host"}
        # Roots nobody has the receipts of.
        await nodes.host.chain.anchor_receipts(digest(b"nothing"), 1)
        with trio.fail_after(20):
            while len(await nodes.auditor.events("audit.withheld")) < 3:
                await trio.sleep(0.01)
        assert not nodes.auditor.audits.rows()


async def test_rows_are_deleted_after_the_stated_time_and_an_audit_says_so(
    federation, monkeypatch
):
    async with federation(verify=False) as nodes:
        host, peer = nodes.host, nodes.host.key.peer_id
        found = await nodes.clinic.requester.run(nodes.model, "host", CSV)
        receipt = bytes.fromhex(found["receipts"][0])
        late = now_s() + ROWS_KEPT_S + CLOCKS_APART_S
        # In no batch, nobody could have looked at them.
        assert await host.receipts.expire(late) == 0
        await host.receipts.anchor()
        with trio.fail_after(10):
            while await host.outbox.waiting():
                await trio.sleep(0.01)
        assert await host.receipts.expire(late - 2 * CLOCKS_APART_S) == 0
        kept = (await host.receipts.kept(receipt))[1]
        assert await fetch_rows(nodes.auditor.transport, peer, receipt, 0, 5)
        assert await host.receipts.expire(late) == 2
        assert not host.blobs.has(kept.rows)
        assert (await host.receipts.kept(receipt))[1].salt == b""
        with pytest.raises(NodeError, match="deleted after 90 days"):
            await fetch_rows(nodes.auditor.transport, peer, receipt, 0, 5)
        assert len(await host.events("receipt.expired")) == 2
        assert await host.receipts.expire(late) == 0
        # Early, an auditor calls that withholding; late, it does not.
        monkeypatch.setattr("node.services.replaying.TRIES", 2)
        subject = Subject(
            host.federation.named("host"),
            (await host.receipts.place(receipt)).batch,
            kept.sealed,
            (await host.receipts.place(receipt)).proof,
        )
        replayer = nodes.auditor.verifier._replayer
        assert await replayer.audit(subject, None) is None
        assert len(await nodes.auditor.events("audit.withheld")) == 1
        monkeypatch.setattr("node.services.replaying.now_s", lambda: late)
        assert await replayer.audit(subject, None) is None
        assert len(await nodes.auditor.events("audit.withheld")) == 1
        assert len(await nodes.auditor.events("audit.expired")) == 1


async def test_an_anchored_batch_of_something_else_is_a_fault(federation):
    async with federation() as nodes:
        junk = (b"no receipt at all", b"neither")
        root = batch_root(junk)
        await nodes.host.store.put("receipts-batches", root, encode(BatchAnswer(junk)))
        await nodes.host.chain.anchor_receipts(root, 2)
        reports = await audited(nodes.clinic, 2)
        assert {(row["fault"], row["host"]) for row in reports} == {("receipt", "host")}


async def test_a_report_by_no_auditor_or_under_another_name_is_refused(federation):
    async with federation() as nodes:
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        await audited(nodes.clinic, 2)
        (_, sealed), *_ = await nodes.clinic.store.scan("audits")
        before = len(nodes.host.audits.rows())
        said = SimpleNamespace(origin=nodes.stranger.key.peer_id, payload=sealed)
        with pytest.raises(ProtocolError, match=r"did not sign"):
            await nodes.host.audits.heard(said)
        forged = seal_audit(
            nodes.stranger.key.sign,
            nodes.stranger.key.public_key,
            open_audit(sealed)[0],
        )
        said = SimpleNamespace(origin=nodes.stranger.key.peer_id, payload=forged)
        with pytest.raises(ProtocolError, match="is no auditor"):
            await nodes.host.audits.heard(said)
        assert len(nodes.host.audits.rows()) == before


async def test_reports_stand_in_the_order_of_their_times(federation):
    async with federation() as nodes:
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        await audited(nodes.auditor, 2)
        key, audits = nodes.auditor.key, nodes.auditor.audits
        (_, sealed), *_ = await nodes.auditor.store.scan("audits")
        first, _ = open_audit(sealed)
        for back in (5, 9, 7, 8, 6):
            earlier = msgspec.structs.replace(first, time=first.time - back)
            await audits.keep(seal_audit(key.sign, key.public_key, earlier))
        for _ in range(2):
            times = [row["time"] for row in audits.rows()]
            assert times == sorted(times)
            assert len(times) == 7
            audits = Audits(nodes.auditor.store, nodes.auditor.federation)
            await audits.load()


async def test_a_restart_keeps_receipts_and_audits_and_repeats_nothing(federation):
    async with federation() as nodes:
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        await audited(nodes.auditor, 2)
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        again = Receipts.__new__(Receipts)
        again.__dict__ |= nodes.host.receipts.__dict__ | {"_open": {}, "_placed": {}}
        await again.load()
        assert sorted(await again.rows(), key=str) == sorted(
            await nodes.host.receipts.rows(), key=str
        )
        events = await nodes.host.events("anchored.receipts")
        reports = Audits(nodes.auditor.store, nodes.auditor.federation)
        await reports.load()
        assert sorted(reports.rows(), key=str) == sorted(
            nodes.auditor.audits.rows(), key=str
        )
        # The verifier starts at its cursor: the old batch is seen again and not redone.
        done = nodes.auditor.compute.calls.count("audit.replay")
        with trio.move_on_after(0.2):
            await nodes.auditor.verifier.run()
        assert nodes.auditor.compute.calls.count("audit.replay") == done
        assert len(events) == 1


async def test_what_is_drawn_depends_on_the_auditors_coins(federation, monkeypatch):
    async with federation(verify=False) as nodes:
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        verifier = nodes.auditor.verifier
        verifier._rate = 0.5
        coins = iter([0.1, 0.1, 0.9])
        monkeypatch.setattr(secrets, "randbelow", lambda n: int(next(coins) * n))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(verifier.run)
            await eventually(nodes.auditor.audits.rows)
            # Of both receipts before the first is asked for: the other was not drawn.
            assert next(coins, None) is None
            nursery.cancel_scope.cancel()
        assert len(nodes.auditor.audits.rows()) == 1


async def test_an_order_that_comes_twice_in_a_second_is_anchored_once(
    federation, monkeypatch
):
    async with federation(verify=False) as nodes:
        at, host = now_s(), nodes.host
        monkeypatch.setattr("node.services.inference.now_s", lambda: at)
        real, answers = nodes.clinic.transport.request, []

        async def twice(peer, protocol, payload, **options):
            async def once():
                answers.append(await real(peer, protocol, payload, **options))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(once)
                nursery.start_soon(once)
            return answers[-1]

        nodes.clinic.transport.request = twice
        found = await nodes.clinic.requester.run(nodes.model, "host", CSV)
        assert len(answers) == 4 == 2 * len(set(answers))
        await host.receipts.anchor()
        (row,) = await host.store.scan("receipts-batches")
        batch = decode(row[1], BatchAnswer).receipts
        assert sorted(digest(one).hex() for one in batch) == sorted(found["receipts"])
        # And not once more in a later batch.
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        host.receipts._next += 1
        kept = (await host.receipts.kept(digest(batch[0])))[1]
        await host.receipts.keep(batch[0], kept.salt, kept.rows)
        await host.receipts.anchor()
        batches = [
            decode(data, BatchAnswer).receipts
            for _, data in await host.store.scan("receipts-batches")
        ]
        assert sum(one == batch[0] for many in batches for one in many) == 1


async def test_a_busy_host_says_so(federation, monkeypatch):
    monkeypatch.setattr("node.services.line.WAITING_LIMIT", 0)
    async with federation(verify=False) as nodes:
        with pytest.raises(NodeError, match="0 requests are in line, limit is 0"):
            await nodes.clinic.requester.run(nodes.model, "host", CSV)


async def eventually(condition):
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.01)


async def test_holders_of_the_key_vouch_for_a_release_and_the_chain_keeps_it(
    federation,
):
    async with federation(verify=False) as nodes, trio.open_nursery() as nursery:
        for node in (nodes.clinic, nodes.partner, nodes.stranger):
            nursery.start_soon(node.confirmations.run)
        names = ["clinic", "partner"]
        await eventually(lambda: nodes.host.confirmations.of(nodes.model) == names)
        anchored = nodes.host.chain._ledger.events
        accounts = {nodes.clinic.chain.account, nodes.partner.chain.account}
        await eventually(
            lambda: (
                {e.data["account"] for e in anchored if e.kind == "ModelAnchored"}
                == accounts
            )
        )
        again = Confirmations.__new__(Confirmations)
        again.__dict__ |= nodes.host.confirmations.__dict__ | {
            "_by": {},
            "_done": set(),
        }
        await again.load()
        assert again.of(nodes.model) == names
        nursery.cancel_scope.cancel()


async def test_a_release_of_other_weights_is_refuted_and_not_signed(
    federation, tmp_path
):
    async with federation(verify=False) as nodes, trio.open_nursery() as nursery:
        bent = trained()
        for name, array in split(SPEC, bent).items():
            if name == "trunk.layers.1.mlp.up_proj.weight":
                array[3, 4] += np.abs(array).max()
        other, real = state.write(tmp_path / "states", bent), nodes.clinic.compute.call

        async def call(method, params, **options):
            if method == "model.release":
                params = {**params, "root": other}
            return await real(method, params, **options)

        nodes.clinic.compute.call = call
        made = await nodes.clinic.releases.make(nodes.clinic.runs, RUN, ["host"])
        root = bytes.fromhex(made["model"])
        await eventually(lambda: root in nodes.partner.releases.roots())
        nursery.start_soon(nodes.partner.confirmations.run)
        done = nodes.partner.confirmations._done
        await eventually(lambda: {root, nodes.model} <= done)
        refuted = await nodes.partner.events("model.refuted")
        assert [event["model"] for event in refuted] == [root.hex()]
        assert "layer 1 up" in refuted[0]["reason"]
        assert nodes.partner.confirmations.of(root) == []
        assert nodes.partner.confirmations.of(nodes.model) == ["partner"]
        nursery.cancel_scope.cancel()


async def test_nobody_vouches_in_anothers_name_or_twice(federation):
    async with federation(verify=False) as nodes:
        key = nodes.partner.key
        said = Confirmation(nodes.model, bytes(32))
        sealed = seal_confirmation(key.sign, key.public_key, said)
        by_other = SimpleNamespace(origin=nodes.stranger.key.peer_id, payload=sealed)
        with pytest.raises(ProtocolError, match="did not sign"):
            await nodes.host.confirmations.heard(by_other)
        await nodes.host.confirmations.heard(
            SimpleNamespace(origin=key.peer_id, payload=sealed)
        )
        # It vouched for another record than the one known here: that counts for nothing.
        assert nodes.host.confirmations.of(nodes.model) == []
        two = seal_confirmation(
            key.sign, key.public_key, Confirmation(nodes.model, b"1" * 32)
        )
        with pytest.raises(ProtocolError, match="two releases"):
            await nodes.host.confirmations.heard(
                SimpleNamespace(origin=key.peer_id, payload=two)
            )
        assert open_confirmation(sealed)[0] == said
        with pytest.raises(ProtocolError, match="record is not 32 bytes"):
            seal_confirmation(key.sign, key.public_key, Confirmation(nodes.model, b""))


@pytest.fixture
def worker_process(tmp_path):
    # Beside pytest's own folder, because a unix socket's path is short.
    path = Path(tempfile.mkdtemp(prefix="rexis-")) / "w"
    command = [sys.executable, "-m", "node.worker", "--socket", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout.readline().startswith(b"ready")
        yield path
        worker.terminate()
    shutil.rmtree(path.parent)


def libraries(pid):
    """What a process has mapped, as one text."""
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.slow
async def test_over_real_processes_and_the_child_that_replays_loads_no_torch(
    federation, worker_process
):
    async with federation() as nodes, open_compute_child() as child:
        nodes.host.host._socket = str(worker_process)
        nodes.auditor.verifier._replayer._compute = child
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        reports = await audited(nodes.clinic, 2)
        assert {row["verdict"] for row in reports} == {"passed"}
        assert "numpy" in libraries(child.pid)
        assert "torch" not in libraries(child.pid)


async def test_rows_the_model_cannot_take_are_refused_and_cost_nobody_a_reload(
    federation,
):
    async with federation(verify=False) as nodes:
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        session = nodes.host.host._session
        member = nodes.clinic.federation.named("host")
        shape = (1, SPEC.tokens + 1, SPEC.width)
        rows = bytes(3 * shape[1] * shape[2])
        with pytest.raises(NodeError, match="worker refused infer"):
            await nodes.clinic.requester._ask(member, nodes.model, rows, shape)
        assert nodes.host.host._session is session
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
