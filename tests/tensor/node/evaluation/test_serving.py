"""Whom a host serves, what it refuses, and what an error may say."""

import time

import pytest
import trio
from evaluation_world import CSV, RUN, SPEC, eventually, on_chain

from node.adapters.memory_chain import MemoryChain
from node.clock import now_s
from node.errors import (
    AccessError,
    NodeError,
    StorageError,
)
from node.services.faults import altered
from protocol.boundary import boundary_root
from protocol.errors import ProtocolError
from protocol.evaluation import (
    INFER_PROTOCOL,
    BatchAnswer,
    InferAnswer,
    InferRequest,
)
from protocol.members import ROLE_COMPUTE_HOST
from protocol.receipt import (
    CLOCKS_APART_S,
    ROWS_KEPT_S,
    Order,
    open_order,
    open_receipt,
    seal_order,
    seal_receipt,
)
from protocol.types import digest
from protocol.wire import decode, encode


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
