"""Withdrawn units are gone, and bad output is refused."""

import dataclasses
import stat

import pytest
from file_world import READER, TEXTS, VCF, listed, write

from node.errors import AccessError, ChainDownError, StorageError
from node.market import DatasetError
from node.rpc.results import provenance as results
from node.services.anchors import Anchors
from node.services.provenance import Provenance
from protocol import lineage


async def test_a_withdrawn_unit_has_no_key_no_body_and_no_grant(world, tmp_path):
    path = write(
        tmp_path / "t.csv",
        "who,x\n" + "".join(f"patient-{i % 3},{i}\n" for i in range(60)),
    )
    owner, reader = world.owner.market, world.reader.market
    shown = await owner.publish([path], *TEXTS, unit_by="who")
    dataset = shown["dataset"]
    await owner.give(dataset, READER, None, 10)
    await reader.fetch(dataset, None, tmp_path / "before.csv")
    gone_blobs = set(world.owner.blobs._held)
    told = await owner.withdraw(dataset, [1])
    assert told["units"] == [1]
    assert told["left"] == [0, 2]
    assert [one["left"] for one in told["grants"]] == [[0, 2]]
    assert any(
        "lab was given the keys of units 1:" in s for s in told["cannot_be_undone"]
    )
    # Its two blobs are deleted, and its use in coming rounds has ended.
    assert len(gone_blobs - set(world.owner.blobs._held)) == 2
    assert b"patient-1" not in await owner.own_rows(dataset)
    assert b"patient-2" in await owner.own_rows(dataset)
    # Long enough that ciphertext does not have it by chance.
    assert all(b"patient-1" not in v for v in world.owner.blobs._held.values())
    record = world.owner.market._shelf.own(dataset)[0]
    assert [bool(one) for one in record.headers] == [True, False, True]
    assert (await reader.show(dataset))["withdrawn"] == [1]
    # The rest is still granted, until the same day; the unit to nobody.
    active = [g for g in await owner.grants(dataset) if g["active"]]
    assert [g["units"] for g in active] == [[0, 2]]
    assert (await reader.fetch(dataset, None, tmp_path / "after.csv"))["units"] == [
        0,
        2,
    ]
    with pytest.raises(AccessError, match="withdrawn"):
        await owner.give(dataset, READER, [1], 10)
    with pytest.raises(AccessError, match="units 1 "):
        await reader.fetch(dataset, None, tmp_path / "x.csv", units=[1])
    with pytest.raises(AccessError, match="withdrawn"):
        await owner.own_bytes(dataset, 1, offset=0, length=1)
    # The same data do not come back by the back door.
    with pytest.raises(AccessError, match="were withdrawn"):
        await owner.publish([path], *TEXTS, unit_by="who")
    # After a restart it is as gone as before.
    world.owner.start(world)
    assert b"patient-1" not in await world.owner.market.own_rows(dataset)


async def test_a_withdrawn_dataset_is_read_by_nobody(world, tmp_path):
    write(tmp_path / "v" / "a.vcf", VCF)
    shown = await listed(world, tmp_path / "v")
    dataset = shown["dataset"]
    await world.owner.market.give(dataset, READER, None, 10)
    told = await world.owner.market.withdraw(dataset)
    assert told["left"] == []
    assert world.owner.blobs._held == {}
    assert (await world.reader.market.show(dataset))["withdrawn"] == [0]
    with pytest.raises(AccessError, match="no grant"):
        await world.reader.market.fetch(dataset, None, tmp_path / "x")
    # Again is harmless.
    again = await world.owner.market.withdraw(dataset)
    assert again["grants"] == []
    with pytest.raises(AccessError, match="not of this node"):
        await world.reader.market.withdraw(dataset)


async def test_keys_are_destroyed_also_while_the_chain_is_down(world, tmp_path):
    write(tmp_path / "v" / "a.vcf", VCF)
    shown = await listed(world, tmp_path / "v")
    await world.owner.market.give(shown["dataset"], READER, None, 10)

    async def down(*_):
        raise ChainDownError("the chain does not answer")

    chain = world.owner.chain
    withdraw, chain.withdraw_dataset = chain.withdraw_dataset, down
    with pytest.raises(ChainDownError, match=r"keys of units 0 are destroyed here"):
        await world.owner.market.withdraw(shown["dataset"])
    record = world.owner.market._shelf.own(shown["dataset"])[0]
    assert record.headers == (b"",)
    assert world.owner.blobs._held == {}
    chain.withdraw_dataset = withdraw
    told = await world.owner.market.withdraw(shown["dataset"])
    assert len(told["grants"]) == 1


# --- bad output ----------------------------------------------------------------


async def test_an_existing_folder_is_not_written_into(world, tmp_path):
    write(tmp_path / "v" / "a.vcf", VCF)
    shown = await listed(world, tmp_path / "v")
    await world.owner.market.give(shown["dataset"], READER, None, 10)
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match="exists"):
        await world.reader.market.fetch(shown["dataset"], None, tmp_path / "out")
    with pytest.raises(StorageError, match="cannot be written"):
        await world.reader.market.fetch(shown["dataset"], None, tmp_path / "no" / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "/abs", "link"])
def test_a_tar_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    import tarfile

    from node.market import folder

    path = tmp_path / "unit-000.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        if name == "link":
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(StorageError, match="no plain file below it"):
        folder._unpack(path)


async def test_what_is_under_way_is_told_and_gone_when_it_ends(world, tmp_path):
    write(tmp_path / "study" / "a" / "x.bin", b"x" * (9 << 20))
    seen = []
    put_many = world.owner.store.put_many

    async def look(writes, **more):
        seen.extend(world.owner.market.works.rows())
        return await put_many(writes, **more)

    world.owner.store.put_many = look
    await world.owner.market.publish([tmp_path / "study"], *TEXTS)
    assert {row["what"] for row in seen} == {"encrypting", "anchoring"}
    done = [row["done_bytes"] for row in seen if row["what"] == "encrypting"]
    assert done[0] == 0
    assert max(done) == 9 << 20
    assert {row["path"] for row in seen} == {str(tmp_path / "study")}
    assert world.owner.market.works.rows() == []
    with pytest.raises(DatasetError):
        await world.owner.market.publish([tmp_path / "none"], *TEXTS)
    assert world.owner.market.works.rows() == []


class Nobody:
    """A service that keeps no records of runs, releases or receipts."""

    async def signed(self):
        return [], [], []

    async def placed(self):
        return []

    receipts = placed


class NoQueries:
    async def signed(self):
        return []


class NoReleases:
    def signed(self):
        return [b"no release at all"]


def provenance_of(node):
    return Provenance(
        chain=node.chain,
        anchors=Anchors(node.chain, Nobody()),
        market=node.market,
        runs=Nobody(),
        releases=NoReleases(),
        receipts=Nobody(),
        certificates=Nobody(),
        queries=NoQueries(),
        where=(31337, "0x" + "00" * 20),
    )


async def test_provenance_is_shown_around_a_dataset_and_written(world, tmp_path):
    write(tmp_path / "a.csv", "x\n1\n")
    first = await world.owner.market.publish([tmp_path / "a.csv"], *TEXTS)
    write(tmp_path / "b.csv", "x\n2\n")
    await world.owner.market.publish([tmp_path / "b.csv"], *TEXTS)
    await world.owner.market.give(first["dataset"], READER, None, 2)
    graph = provenance_of(world.owner)
    shown = await graph.show(f"dataset:{first['dataset']}", "both")
    results.ProvenanceShow(**shown)
    assert [one["kind"] for one in shown["things"]].count("dataset") == 1
    proofs = {(one["relation"], one["proof"]) for one in shown["relations"]}
    assert ("prov:wasAttributedTo", "signature and chain") in proofs
    assert ("rexis:grantedTo", "chain") in proofs
    assert len(shown["doubts"]) == 1
    whole = await graph.show(None, "both")
    assert len(whole["things"]) > len(shown["things"])
    forms = {
        "prov": b"{",
        "svg": b"<svg",
        "dot": b"digraph",
        "lineage": b"\x99\xa9lineage",
    }
    for form, start in forms.items():
        path = tmp_path / form
        made = await graph.export(None, "both", form, path)
        assert path.read_bytes().startswith(start)
        assert made["bytes"] == path.stat().st_size
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(AccessError, match="nothing that verifies is called"):
        await graph.show("dataset:99", "back")


async def test_the_records_of_one_node_are_verified_by_another(world, tmp_path):
    write(tmp_path / "a.csv", "x\n1\n")
    await world.owner.market.publish([tmp_path / "a.csv"], *TEXTS)
    path = tmp_path / "records"
    await provenance_of(world.owner).export(None, "both", "records", path)
    records = lineage.open_records(path.read_bytes())
    _, facts = await world.reader.market.lineage([])
    assert len(lineage.build(records, facts).edges) == 2
    none = dataclasses.replace(facts, tokens=())
    assert lineage.build(records, none).edges == []


async def test_what_was_revoked_can_be_given_again_and_revoked_again(world, tmp_path):
    write(tmp_path / "a.csv", "x\n1\n")
    owner, reader = world.owner.market, world.reader.market
    dataset = (await owner.publish([tmp_path / "a.csv"], *TEXTS))["dataset"]
    for attempt in range(2):
        grant = (await owner.give(dataset, READER, None, 2))["grant"]
        await reader.fetch(dataset, None, tmp_path / f"read-{attempt}")
        assert not (await owner.revoke(grant))["active"]
        with pytest.raises(AccessError, match="no grant"):
            await reader.fetch(dataset, None, tmp_path / "never")
