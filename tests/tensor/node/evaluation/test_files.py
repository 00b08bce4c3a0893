"""Bundles, cases and certificates that a requester or a host hands on."""

import os

import msgspec
import pytest
import trio
from evaluation_world import CSV, SPEC, eventually, on_chain

from node.clock import now_s
from node.errors import (
    AccessError,
    ChainDownError,
    NodeError,
    StorageError,
)
from node.rpc.results import evaluation as results
from node.services.anchors import Anchors
from node.services.certificates import LATE_AFTER_S
from node.services.receipts import fetch_rows
from node.verifier import bundle, case
from protocol.receipt import (
    CLOCKS_APART_S,
)
from protocol.types import digest


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
