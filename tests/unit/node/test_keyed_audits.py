"""The verifier's work among hosts of which one is silent, and across a restart."""

from hashlib import sha256
from types import SimpleNamespace

import nacl.signing
import numpy as np
import pytest
import trio

from ee import integer
from ee.integer import freivalds, known
from node.adapters.memory_store import MemoryStore
from node.compute import keyed as methods
from node.errors import ComputeError, ContractRefusedError, TransportError
from node.ports.chain import ChainEvent
from node.services.auditing import Verifier
from node.services.keyed import KeyedAudits
from node.services.replaying import Replayer, Subject
from node.services.reports import Audits
from protocol.audit import Audit, Entry, Fault, seal_audit
from protocol.boundary import boundary_root
from protocol.evaluation import (
    OPEN_PROTOCOL,
    RECEIPTS_PROTOCOL,
    TRACE_PROTOCOL,
    BatchAnswer,
    Opening,
    TraceAnswer,
)
from protocol.members import Member, MemberSet
from protocol.receipt import (
    Order,
    batch_proof,
    batch_root,
    open_receipt,
    seal_order,
    seal_receipt,
)
from protocol.types import digest
from protocol.wire import encode

KEYS = [nacl.signing.SigningKey(bytes([i]) * 32) for i in range(1, 5)]
CLINIC, SILENT, HOST, AUDITOR = KEYS
SALT, ROWS, SHAPE = bytes(32), bytes(12), (1, 2, 2)
MODEL, OTHER_MODEL = digest(b"model"), digest(b"another")
ANSWERS_S = 5.0
"""How fast a host that answers does, on a busy machine too; silence is far longer."""


def key_of(signing):
    return bytes(signing.verify_key)


def sign(signing):
    return lambda message: signing.sign(message).signature


def member(signing, name):
    key = key_of(signing)
    return Member(key, key, key[:20], 0, name)


MEMBERS = MemberSet.of([member(SILENT, "silent"), member(HOST, "host")])


def receipt(host, job=0, model=MODEL):
    root = boundary_root(ROWS, SHAPE, 0, SALT)
    order = Order(model, key_of(host), bytes([job]) * 16, SHAPE, root)
    sealed = seal_order(sign(CLINIC), key_of(CLINIC), order)
    return seal_receipt(sign(host), key_of(host), sealed, [root], 1_800_000_000)


class Transport:
    """Peers of which one never answers."""

    def __init__(self, answers):
        self.answers, self.announced = answers, []

    async def request(self, peer, protocol, _payload, *, timeout_s, limit_bytes):
        if peer == member(SILENT, "").peer_id:
            await trio.sleep(timeout_s)
            raise TransportError("no answer")
        await trio.sleep(0.01)
        answer = self.answers[protocol]
        assert len(answer) <= limit_bytes
        return answer

    async def announce(self, _topic, report):
        self.announced.append((trio.current_time(), report))


class Chain:
    def __init__(self, batches):
        self.batches = batches

    async def follow(self, _start):
        for place, (host, root) in enumerate(self.batches):
            data = {"host": key_of(host)[:20], "root": root}
            yield ChainEvent(place, 0, "ReceiptsAnchored", data)
        await trio.sleep_forever()


def federation():
    return SimpleNamespace(
        members=MEMBERS,
        name_of=lambda key: (
            MEMBERS.by_key(key).name if key != key_of(AUDITOR) else "me"
        ),
    )


def report_on(sealed, fault=None):
    return Audit(
        digest(sealed), MODEL, key_of(HOST), MODEL, 0, 1, fault, time=1_800_000_000
    )


class Looked:
    """A replayer that finds nothing, and what it was shown."""

    def __init__(self):
        self.subjects = []

    async def audit(self, subject, _layer):
        self.subjects.append(subject)
        return report_on(subject.sealed)


class Contract:
    """Takes one dispute about a receipt."""

    def __init__(self):
        self.disputed = []

    async def open(self, about):
        if about in self.disputed:
            raise ContractRefusedError("AlreadyDisputed", "disputed already")
        self.disputed.append(about)


class Auditor:
    def __init__(self, batches, transport, rate=1.0):
        self.store, self.transport = MemoryStore(), transport
        self.audits = Audits(self.store, federation())
        self.replayer, self.contract = Looked(), Contract()
        self.batches, self.rate = batches, rate

    async def run(self, seconds):
        """From a start to a kill."""
        verifier = Verifier(
            store=self.store,
            signer=SimpleNamespace(public_key=key_of(AUDITOR), sign=sign(AUDITOR)),
            chain=Chain(self.batches),
            transport=self.transport,
            federation=federation(),
            audits=self.audits,
            replayer=self.replayer,
            rate=self.rate,
            full=0.0,
            disputes=self.contract,
        )
        with trio.move_on_after(seconds):
            await verifier.run()


def batch_of(sealed):
    return Transport({RECEIPTS_PROTOCOL: encode(BatchAnswer((sealed,)))})


async def test_a_silent_host_holds_up_nobody_elses_batches(autojump_clock):
    sealed = receipt(HOST)
    stalled = [(SILENT, digest(b"batch %d" % n)) for n in range(100)]
    batches = [*stalled, (HOST, batch_root([sealed]))]
    auditor = Auditor(batches, batch_of(sealed))
    await auditor.run(10.0)
    (announced,) = auditor.transport.announced
    assert announced[0] < ANSWERS_S
    # Nothing of the silent one's is lost.
    assert len(await auditor.store.scan("audit-batches")) == len(stalled)


@pytest.mark.parametrize("rate", [0.0, 1.0])
async def test_a_fault_reported_before_a_kill_is_disputed_after_it(
    autojump_clock, rate
):
    sealed = receipt(HOST)
    entry = Entry(0, 0, 0, committed=1, computed=2, differing=1)
    batch = HOST, batch_root([sealed])
    auditor = Auditor([batch], batch_of(sealed), rate)
    # The report is on disk, the batch is not done with.
    failed = report_on(sealed, Fault("layer", 0, entry))
    await auditor.audits.keep(seal_audit(sign(AUDITOR), key_of(AUDITOR), failed))
    pending = key_of(HOST)[:20] + batch[1]
    await auditor.store.put("audit-batches", pending, b"place")
    await auditor.store.put("audit-cursor", b"last", b"\xff" * 12)
    for _ in range(2):
        await auditor.run(10.0)
        assert auditor.contract.disputed == [digest(sealed)]
        await auditor.store.put("audit-batches", pending, b"place")
    # It was looked at once, told again, and a second dispute is no complaint.
    assert auditor.replayer.subjects == []
    assert len(auditor.transport.announced) == 2
    assert not [
        event
        for event in await auditor.store.events(0, 100)
        if event.kind == "dispute.refused"
    ]


class Releases:
    """Slices, of which some come from somebody who is silent."""

    def __init__(self, folder, slow=()):
        self.folder, self.slow = folder, slow

    async def slice_file(self, model_root, layer):
        if model_root in self.slow:
            await trio.sleep(10_000)
        path = self.folder / f"{model_root.hex()}.{layer}.slice"
        path.write_bytes(b"slice")
        return path


class Compute:
    """Keys of which the first `stale` turn out to be another file."""

    def __init__(self, stale=0):
        self.stale, self.calls = stale, []

    async def call(self, method, params):
        self.calls.append(method)
        await trio.sleep(0.01)
        if method == "audit.key":
            await trio.Path(params["out"]).write_bytes(b"key")
            return {"digest": sha256(b"%d" % len(self.calls)).digest()}
        if method == "audit.keyed":
            self.stale -= 1
            return {"stale": self.stale >= 0, "reason": ""}
        assert await trio.Path(params["model"]).exists()
        return {"fault": b"", "count": 1, "evidence": b""}


def keyed(folder, transport, *, compute=None, slow=(), store=None):
    return KeyedAudits(
        store=store or MemoryStore(),
        transport=transport,
        releases=Releases(folder, slow),
        compute=compute or Compute(),
        folder=folder,
    )


def traced():
    opened = encode(Opening(SALT, ROWS))
    answer = encode(TraceAnswer(SALT, ROWS, (bytes(4),)))
    return Transport({OPEN_PROTOCOL: opened, TRACE_PROTOCOL: answer})


def subject(host, job=0, model=MODEL):
    sealed = receipt(host, job, model)
    found = MEMBERS.by_key(key_of(host))
    return Subject(found, batch_root([sealed]), sealed, batch_proof([sealed], 0))


async def test_a_silent_giver_of_weights_holds_up_no_other_models(tmp_path):
    audits = keyed(tmp_path, traced(), slow=(OTHER_MODEL,))

    async def passes(about):
        opened = open_receipt(about.sealed)
        placed = about.sealed, about.batch, about.proof
        peer = about.host.peer_id
        assert await audits.passes(peer, opened, placed, range(1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(passes, subject(HOST, 1, OTHER_MODEL))
        await trio.sleep(0.1)
        with trio.fail_after(ANSWERS_S):
            await passes(subject(HOST))
        nursery.cancel_scope.cancel()


async def test_a_host_that_shows_no_rows_keeps_the_weights_from_nobody(tmp_path):
    """A replay of its receipt and another's of the same layer."""
    transport = traced()
    audits = keyed(tmp_path, transport)
    replayer = Replayer(
        store=MemoryStore(),
        transport=transport,
        releases=Releases(tmp_path),
        compute=Compute(),
        evidence=tmp_path,
        keyed=audits,
    )
    # Not looked at by key, so that it is replayed.
    audits.passes = no_key
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replayer.audit, subject(SILENT), 0)
        await trio.sleep(0.1)
        with trio.fail_after(ANSWERS_S):
            assert await replayer.audit(subject(HOST), 0)
        nursery.cancel_scope.cancel()


async def no_key(*_about):
    return None


@pytest.mark.parametrize(("stale", "calls"), [(0, 2), (1, 4), (2, 4)])
async def test_a_stale_key_is_made_anew_once(tmp_path, stale, calls):
    store, compute = MemoryStore(), Compute(stale)
    audits, about = (
        keyed(tmp_path, traced(), compute=compute, store=store),
        subject(HOST),
    )
    placed = about.sealed, about.batch, about.proof
    opened = open_receipt(about.sealed)
    bits = await audits.passes(about.host.peer_id, opened, placed, range(1))
    assert (bits is None) == (stale == 2)
    assert compute.calls == ["audit.key", "audit.keyed"] * (calls // 2)
    kinds = [event.kind for event in await store.events(0, 10)]
    assert kinds == ["audit.rekeyed"] * (stale > 0) + ["audit.escalated"] * (stale == 2)


async def test_a_compute_child_that_is_away_costs_no_key(tmp_path):
    store, compute = MemoryStore(), Compute()
    audits, about = (
        keyed(tmp_path, traced(), compute=compute, store=store),
        subject(HOST),
    )
    placed = about.sealed, about.batch, about.proof
    opened = open_receipt(about.sealed)
    assert await audits.passes(about.host.peer_id, opened, placed, range(1))
    kept = await store.scan("audit-keys")

    async def away(*_):
        raise ComputeError("compute child ended")

    compute.call = away
    assert await audits.passes(about.host.peer_id, opened, placed, range(1)) is None
    assert await store.scan("audit-keys") == kept


def test_a_trace_that_is_too_long_is_not_computed(tmp_path, monkeypatch):
    trunk = known.drawn_trunk(causal=True)
    path = tmp_path / "trunk"
    path.write_bytes(integer.encode(trunk))
    rows = known.drawn_rows(trunk.config)
    packed = integer.pack_rows(rows)
    _, sums = freivalds.shown(trunk.header, trunk.layers[0], rows)
    shown = freivalds.pack_sums(trunk.layers[0], sums)
    length = len(packed) + sum(map(len, shown))
    about = {
        "model": str(path),
        "layer": 0,
        "rows": packed,
        "shape": list(rows.shape),
        "limit_bytes": length,
    }
    assert methods.trace(about, print)["sums"] == list(shown)
    monkeypatch.setattr(freivalds, "shown", np.testing.assert_)
    with pytest.raises(ComputeError, match=f"{length} bytes, limit is {length - 1}"):
        methods.trace({**about, "limit_bytes": length - 1}, print)


def test_what_is_no_key_any_more_is_stale(tmp_path):
    about = {"key": str(tmp_path / "key"), "digest": sha256(b"key").digest()}
    assert methods.check(about, print)["stale"]
    (tmp_path / "key").write_bytes(b"another")
    assert methods.check(about, print)["stale"]
