"""What auditors see, report and keep, and what of others they refuse."""

import secrets
from types import SimpleNamespace

import msgspec
import pytest
import trio
from evaluation_world import CSV, audited, eventually

from node.clock import now_s
from node.errors import (
    AccessError,
    NodeError,
)
from node.services.faults import altered
from node.services.receipts import Receipts, fetch_rows
from node.services.replaying import Subject
from node.services.reports import Audits
from protocol.audit import open_audit, seal_audit
from protocol.errors import ProtocolError
from protocol.evaluation import (
    BatchAnswer,
)
from protocol.receipt import (
    CLOCKS_APART_S,
    ROWS_KEPT_S,
    batch_root,
)
from protocol.types import digest
from protocol.wire import encode


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
