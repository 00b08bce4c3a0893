"""Who lied, and where: whole replays, light ones, and keys without weights."""

import secrets
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import trio
from evaluation_world import CSV, SPEC, audited, eventually, scores_without_a_key

from node.errors import (
    NodeError,
    StorageError,
)
from node.services import auditing
from node.services.faults import altered
from node.services.inference import Host
from node.services.releases import Releases
from node.verifier import bundle
from node.verifier import keyed as verifier_keyed
from protocol.boundary import boundary_root
from protocol.wire import encode


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
