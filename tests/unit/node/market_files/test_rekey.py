"""New keys for a listed dataset: what was revoked opens nothing new, and what was granted goes on."""

import os

import msgspec
import pytest
from deals_world import ask, decide
from file_world import OTHER, READER, TEXTS, listed, write

from node.errors import AccessError, ChainDownError, StorageError
from node.market import DatasetError, body, sealed
from node.market.publisher import Publisher
from node.market.rekeys import Rekeys
from node.market.shelf import chunk_list
from node.rpc.results import data as results
from protocol import lineage

ROWS = "who,x\n" + "".join(f"patient-{i % 3},{i}\n" for i in range(60))
STEPS = ("keep", "forget", "chain", "delete")


@pytest.fixture
async def table(world, tmp_path):
    """Granted to both others, and read by them."""
    path = write(tmp_path / "t.csv", ROWS)
    shown = await world.owner.market.publish([path], *TEXTS, unit_by="who")
    for name in (READER, OTHER):
        await world.owner.market.give(shown["dataset"], name, None, 10)
    await world.reader.market.fetch(shown["dataset"], None, tmp_path / "first.csv")
    return shown["dataset"]


def held(world, dataset):
    return world.owner.market._shelf.own(dataset)


def plain(world, dataset, record, manifest, unit):
    """What the keys of one record open of the bodies of another."""
    secret, blobs = world.owner.secret, world.owner.blobs
    own = sealed.public_half(secret)
    key = sealed.session_key(record.headers[unit], secret_seal_key=secret, sender=own)
    entry, out = manifest.entries[unit], []
    body.decrypt(blobs, entry, chunk_list(blobs, entry), key, out.append)
    return b"".join(out)


async def read(world, dataset, path):
    await world.reader.market.fetch(dataset, None, path)
    return path.read_text()


async def test_new_keys_open_it_to_who_has_a_grant_and_old_ones_to_nobody(
    world, table, tmp_path
):
    owner = world.owner.market
    grants = await owner.grants(table)
    await owner.revoke(grants[1]["grant"])
    old, _, bodies = held(world, table)
    before, rows = set(world.owner.blobs._held), await owner.own_rows(table)
    # A holder of the old ciphertext has it no more once it has the new.
    assert set(world.reader.blobs._held) == before
    first = await owner.show(table)
    shown = await owner.rekey(table)
    msgspec.convert(shown, results.DatasetShown)  # what docs/rpc.md says
    assert (shown["dataset"], shown["keys"], first["keys"]) == (table, 2, 1)
    assert shown["record"] != first["record"]
    assert shown["warnings"] == [
        "lab was given the keys of units 0-2: what it has read, it has"
    ]
    same = {"manifest", "provenance", "created", "croissant"}
    assert {k: v for k, v in shown["listing"].items() if k not in same} == {
        k: v for k, v in first["listing"].items() if k not in same
    }
    # The same rows, under keys that nothing of before opens; nothing of before is left.
    new, _, made = held(world, table)
    assert await owner.own_rows(table) == rows
    assert plain(world, table, new, made, 1) != b""
    with pytest.raises(StorageError, match="does not decrypt"):
        plain(world, table, old, made, 1)
    assert not before & set(world.owner.blobs._held)
    assert not {e.root for e in bodies.entries} & {e.root for e in made.entries}
    kept = [v for rows in world.owner.store._records.values() for v in rows.values()]
    assert not any(header in value for header in old.headers for value in kept)
    assert not await world.owner.store.scan("market.draft")
    # Who has a grant goes on; who was revoked does not.
    assert [g["active"] for g in await owner.grants(table)] == [True, False]
    assert await read(world, table, tmp_path / "again.csv") == ROWS_SORTED
    assert set(world.reader.blobs._held) == set(world.owner.blobs._held)
    assert not [one for one in before if world.reader.market._shelf.place(one)]
    with pytest.raises(AccessError, match="no grant"):
        await world.other.market.fetch(table, None, tmp_path / "no.csv")
    assert (await world.reader.market.show(table))["keys"] == 2
    (found,) = await world.reader.market.search("tumour chest scans"[-11:])
    assert found["record"] == shown["record"]


ROWS_SORTED = "who,x\n" + "".join(
    f"patient-{p},{i}\n" for p in range(3) for i in range(p, 60, 3)
)


async def test_a_unit_of_several_chunks_is_the_same_after_it(world, tmp_path):
    folder = tmp_path / "f"
    data = os.urandom(2 * (8 << 20) + 12_345)
    write(folder / "a.bin", data)
    write(folder / "b.bin", data[:65_536])
    dataset = (await listed(world, folder))["dataset"]
    files = [folder / "a.bin", folder / "b.bin"]
    for path in files:
        path.unlink()  # what is stored here is enough
    await world.owner.market.rekey(dataset)
    read = world.owner.market.own_bytes
    assert await read(dataset, 0, offset=0, length=len(data) + 9) == data
    assert await read(dataset, 1, offset=0, length=65_537) == data[:65_536]
    part = await read(dataset, 0, offset=(8 << 20) - 7, length=14)
    assert part == data[(8 << 20) - 7 :][:14]


@pytest.mark.parametrize("step", STEPS)
async def test_cut_anywhere_it_goes_on_and_loses_nothing(
    world, table, tmp_path, monkeypatch, step
):
    owner = world.owner

    class CutError(Exception):
        """The daemon dies here."""

    def cut(*_arguments, **_more):
        raise CutError

    async def cut_later(*_arguments, **_more):
        raise CutError

    with monkeypatch.context() as patch:
        if step == "keep":
            patch.setattr("node.market.publisher._Journal.keep", cut)
        elif step == "forget":
            patch.setattr(Publisher, "ended", cut_later)
        elif step == "chain":
            patch.setattr(type(owner.chain), "add_version", cut_later)
        else:
            patch.setattr(Rekeys, "_delete", cut_later)
        with pytest.raises(CutError):
            await owner.market.rekey(table)
    owner.start(world)
    if step in {"chain", "delete"}:
        await owner.market._owner.catch_up()
    assert b"patient-1" in await owner.market.own_rows(table)
    if step in {"keep", "forget"}:
        # Nothing is in force yet, and grantees read as before.
        assert await read(world, table, tmp_path / "between.csv") == ROWS_SORTED
        await owner.market.rekey(table)
    assert (await owner.market.show(table))["keys"] == 2
    assert await read(world, table, tmp_path / "after.csv") == ROWS_SORTED
    listed_blobs = {
        digest
        for entry in held(world, table)[2].entries
        for digest in owner.market._shelf.digests(entry)
    }
    # What was on the disk and not yet noted when it was cut is made again, and stays there.
    assert len(set(owner.blobs._held) - listed_blobs) == (step == "keep")
    assert set(owner.blobs._held) >= listed_blobs
    for namespace in ("market.draft", "market.chunk", "market.exchanged"):
        assert not await owner.store.scan(namespace)


async def test_a_chain_that_is_down_is_told_later_and_once(
    world, table, tmp_path, monkeypatch
):
    owner, path = world.owner.market, tmp_path / "t.csv"
    with monkeypatch.context() as patch:

        async def down(*_arguments, **_more):
            raise ChainDownError("no answer", hint="is it up?")

        patch.setattr(type(world.owner.chain), "add_version", down)
        with pytest.raises(ChainDownError):
            await owner.rekey(table)
        await owner._owner.catch_up()  # says so in the log, and goes on
        # The chain has the old listing: that is shown, and no new one is minted.
        assert (await owner.show(table))["keys"] == 1
        with pytest.raises(ChainDownError):
            await owner.publish([path], *TEXTS, unit_by="who")
        with pytest.raises(AccessError, match="listing"):
            await read(world, table, tmp_path / "no.csv")
    # Given again it ends what was begun, and does not begin anew.
    assert (await owner.rekey(table))["keys"] == 2
    again = await owner.publish([path], *TEXTS, unit_by="who")
    assert again["dataset"] == table
    assert len(await world.owner.chain.datasets()) == 1
    await owner._owner.catch_up()
    assert (await owner.show(table))["keys"] == 2
    assert (await owner.rekey(table))["keys"] == 3


async def test_what_is_withdrawn_meanwhile_stays_withdrawn(world, table, monkeypatch):
    owner = world.owner.market
    made = Publisher.rekeyed

    async def slow(self, before, work):
        found = await made(self, before, work)
        await owner.withdraw(table, [1])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "rekeyed", slow)
        with pytest.raises(DatasetError, match="was changed while"):
            await owner.rekey(table)
    assert not await world.owner.store.scan("market.draft")
    shown = await owner.rekey(table)
    assert (shown["keys"], shown["withdrawn"]) == (2, [1])
    record, _, manifest = held(world, table)
    assert [bool(one) for one in record.headers] == [True, False, True]
    assert not [*owner._shelf.digests(manifest.entries[1])]
    assert b"patient-1" not in await owner.own_rows(table)
    assert len(world.owner.blobs._held) == 4  # two units, each a chunk and its list


async def test_a_withdrawal_destroys_keys_that_were_being_made(
    world, table, monkeypatch
):
    owner = world.owner.market
    with monkeypatch.context() as patch:

        async def cut(*_arguments):
            raise StorageError("the disk is full")

        patch.setattr(Publisher, "ended", cut)
        with pytest.raises(StorageError, match="disk is full"):
            await owner.rekey(table)
    assert await world.owner.store.scan("market.draft")
    left = set(world.owner.blobs._held)

    async def killed(*_arguments):
        raise StorageError("killed here")

    # Once the unit's own key is gone, those made of it are: whatever comes between.
    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "drop", killed)
        with pytest.raises(StorageError, match="killed here"):
            await owner.withdraw(table, [0])
    assert not owner._shelf.own(table)[0].headers[0]
    assert not await world.owner.store.scan("market.draft")
    assert not await world.owner.store.scan("market.chunk")
    assert set(world.owner.blobs._held) == left
    await owner.withdraw(table, [0])
    await owner.withdraw(table, [1])
    assert len(world.owner.blobs._held) < len(left)


async def test_a_withdrawal_given_twice_takes_nothing_from_a_rekeying_under_way(
    world, table, monkeypatch
):
    owner = world.owner.market
    await owner.withdraw(table, [1])
    made = Publisher.rekeyed

    async def slow(self, before, work):
        found = await made(self, before, work)
        await owner.withdraw(table, [1])
        return found

    monkeypatch.setattr(Publisher, "rekeyed", slow)
    assert (await owner.rekey(table))["keys"] == 2
    assert b"patient-2" in await owner.own_rows(table)


async def test_where_new_keys_would_break_a_promise_or_name_nothing(
    world, table, listed, tmp_path
):
    owner = world.owner.market
    number = await ask(world, listed)
    with pytest.raises(AccessError, match=f"requests {number} for dataset {listed}"):
        await owner.rekey(listed)
    await decide(world).refuse(number)
    assert (await owner.rekey(listed))["keys"] == 2
    paid = await ask(world, listed)
    await decide(world).approve(paid)
    with pytest.raises(AccessError, match="not settled"):
        await owner.rekey(listed)
    newer = await owner.publish(
        [write(tmp_path / "u.csv", ROWS + "patient-0,60\n")],
        *TEXTS,
        unit_by="who",
        replaces=table,
    )
    with pytest.raises(AccessError, match=f"replaced by dataset {newer['dataset']}"):
        await owner.rekey(table)
    await owner.withdraw(newer["dataset"])
    await owner.rekey(table)
    with pytest.raises(AccessError, match="is withdrawn"):
        await owner.rekey(newer["dataset"])
    with pytest.raises(AccessError, match="not of this node"):
        await world.reader.market.rekey(table)


async def test_provenance_knows_the_dataset_under_all_its_keys(world, table):
    owner, events = world.owner.market, world.ledger.events
    old = held(world, table)[1].digest()
    await world.reader.market.show(table)
    await owner.rekey(table)
    new = held(world, table)[1].digest()
    for market in (owner, world.reader.market):
        await market.show(table)
        graph = lineage.build(*await market.lineage(events))
        assert graph.doubts == []
        start = graph.named(f"dataset:{table}")
        assert start.endswith(new.hex())
        (edge,) = [e for e in graph.edges if e.relation == "prov:wasRevisionOf"]
        assert (edge.subject, edge.object[-64:]) == (start, old.hex())
        back, on = graph.back(start), graph.forward(start)
        assert {one.kind for one in back.vertices.values()} >= {"source", "grant"}
        assert edge.object in on.vertices
        keys = {
            one.id: dict(one.about)["keys"]
            for one in on.vertices.values()
            if one.kind == "dataset"
        }
        assert keys == {edge.object: 1, start: 2}
    # Without the chain's history the old listing is no listing of anybody's.
    records, facts = await owner.lineage(())
    assert len(records.listings) == len(facts.tokens) == 1
