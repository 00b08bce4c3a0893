"""Lists and names, and calls that mean nothing."""

import msgspec
import pytest
from table_world import TEXTS

from node.errors import (
    AccessError,
    ChainDownError,
    NodeError,
    StorageError,
)
from node.market import DatasetError
from node.rpc.results import data as results
from protocol.errors import ProtocolError
from protocol.manifest import DataQuery
from protocol.wire import encode


async def test_anyone_sees_a_listing_once_its_owner_showed_it(world):
    dataset = await world.listed()
    (unknown,) = await world.stranger.market.list()
    assert unknown["title"] is None
    shown = await world.stranger.market.show(dataset)
    assert shown["listing"]["licence"] == "MIT"
    assert not shown["mine"]
    # Kept: the owner is not asked again.
    del world.wire.nodes[world.mn.signer.peer_id]
    (known,) = await world.stranger.market.list()
    assert known["title"] == TEXTS["title"]
    assert (await world.stranger.market.show(dataset))["listing"] == shown["listing"]
    assert "no such peer" in (await world.ky.market.show(dataset))["why"]


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_was_seen_is_shown_while_the_chain_is_away_and_nothing_decided(
    world, restarted
):
    dataset = await world.listed()
    market = world.researcher.market
    before = await market.show(dataset), await market.list(), await market.search("")
    assert before[0]["as_of"] is None
    read_at = world.clock.time
    world.ledger.down = True
    world.clock.time += 3600
    if restarted:
        world.researcher.start()
        market = world.researcher.market
    shown, (row,), (found,) = (
        await market.show(dataset),
        await market.list(),
        await market.search(""),
    )
    assert shown["as_of"] == row["as_of"] == found["as_of"] == read_at
    msgspec.convert(shown, results.DatasetShown)
    for now, then in ((shown, before[0]), (row, before[1][0]), (found, before[2][0])):
        assert {**now, "as_of": None} == then
    for call in (
        market.fetch(dataset, None, world.folder / "x.csv"),
        world.mn.market.give(dataset, "researcher", [0], 1),
        market.listing(dataset),
        world.stranger.market.list(),  # has never seen the chain
    ):
        with pytest.raises(ChainDownError):
            await call
    world.ledger.down = False
    assert (await market.show(dataset))["as_of"] is None


async def test_a_grant_names_member_units_and_days_or_is_refused(world):
    dataset = await world.listed()
    give = world.mn.market.give
    for call, reason in (
        ((dataset, "nobody", [0], 1), "0 members are called 'nobody'"),
        ((dataset, "researcher", [4], 1), r"units \[4\] are not in the dataset"),
        ((dataset, "researcher", [-1], 1), r"units \[-1\]"),
        ((dataset, "researcher", [], 1), "no unit named"),
        ((dataset, "researcher", [0], 0), "0 days"),
        ((dataset, "researcher", [0], 3651), "3651 days"),
        ((99, "researcher", [0], 1), "dataset 99 is not of this node"),
    ):
        with pytest.raises(AccessError, match=reason):
            await give(*call)
    assert not world.ledger.given
    shown = await give(dataset, "researcher", None, 2)
    assert shown["units"] == [0, 1, 2, 3]
    assert shown["until"] == world.clock.time + 2 * 86_400


async def test_only_the_owner_grants_and_revokes(world):
    dataset = await world.listed()
    given = await world.mn.market.give(dataset, "researcher", [0], 1)
    with pytest.raises(AccessError, match="not of this node"):
        await world.ky.market.give(dataset, "stranger", [0], 1)
    with pytest.raises(AccessError, match="not on a dataset of this node"):
        await world.ky.market.revoke(given["grant"])
    with pytest.raises(AccessError, match="not of this node"):
        await world.ky.market.own_rows(dataset)


async def test_unknown_datasets_and_wrong_owners_are_named(world):
    dataset = await world.listed()
    for call in (
        world.ky.market.show(7),
        world.ky.market.grants(7),
        world.ky.market.fetch(7, None, world.out()),
    ):
        with pytest.raises(AccessError, match="dataset 7 is not on the chain"):
            await call
    with pytest.raises(AccessError, match="belongs to clinic-mn"):
        await world.researcher.market.fetch(
            dataset, world.ky.signer.peer_id, world.out()
        )


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        encode(("data?", 1)),
        encode(DataQuery(1, 1 << 63)),
        encode(DataQuery(1, -1)),
    ],
)
async def test_a_strange_query_is_refused_with_an_error_of_ours(world, payload):
    await world.listed()
    answer, _ = world.mn.transport.served["/rexis/data/2"]
    with pytest.raises((ProtocolError, NodeError)):
        await answer(world.researcher.signer.peer_id, payload)


async def test_the_output_is_never_written_through_a_link_or_into_nowhere(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0], 1)
    fetch = world.researcher.market.fetch
    (world.folder / "link").symlink_to(world.folder / "target")
    for path, reason in (
        (world.folder / "link", "not a regular file"),
        (world.folder, "not a regular file"),
        (world.folder / "no" / "such" / "x.csv", "cannot be written"),
        ("a\0b", "zero byte"),
    ):
        with pytest.raises(StorageError, match=reason):
            await fetch(dataset, None, path)
    assert not (world.folder / "target").exists()
    assert sorted(p.name for p in world.folder.iterdir()) == ["link", "mn.csv"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("a,b\n", "no rows"),
        ("a,a\n1,2\n", "column 2 has the name of an earlier"),
        ("a,\n1,2\n", "column 2 has no name"),
        ("a,b\n1\n", "row 1 has 1 cells"),
        ("a,b\n1,2,3\n", "row 1 has 3 cells"),
        ('a,b\n1,"2\n', "not CSV"),
        ("a,b\n1,\x00\n", "zero byte"),
        ("a,b\n1,=cmd|' /C calc'!A0\n", "row 1 column 2 begins like a spreadsheet"),
        ("a,b\n1,@SUM(A1)\n", "formula"),
        ("a,b\n1,+SUM(A1)\n", "formula"),
        ("=a,b\n1,2\n", "column 1 begins like a spreadsheet"),
        ("17,23.5\n18,20\n", "no header row"),
        ("a,jo@clinic.org\n1,2\n", "column 2 holds an e-mail"),
        ("a," + "b" * 101 + "\n1,2\n", "at most 100"),
        ("a,b\n1," + "x" * 32_768 + "\n", "32768 characters"),
        (",".join(f"c{i}" for i in range(1025)) + "\n", "1025 columns"),
    ],
)
async def test_a_bad_table_is_one_clear_line_and_nothing_is_listed(world, text, reason):
    with pytest.raises(DatasetError, match=reason):
        await world.mn.market.publish([world.csv(text)], **TEXTS)
    assert not world.ledger.tokens
    assert not world.mn.store.rows


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"title": "Patients of jane.doe@clinic.org"}, "e-mail"),
        ({"title": "Patient 123-45-6789"}, "social security"),
        ({"title": "Call +1 612-555-0173"}, "telephone"),
        ({"title": "MRN 4401992834"}, "nine or more digits"),
        ({"title": "born 1984-03-12"}, "full date"),
        ({"title": ""}, "title is empty"),
        ({"title": "\ud800"}, "control character"),
        ({"licence": "free"}, "SPDX"),
        ({"duo": ["DUO:1"]}, "data use term"),
        ({"duo": []}, "0 permission terms"),
        ({"source": "x" * 2001}, "limit is 2000"),
        ({"unit_by": "nope"}, "no column 'nope'"),
        ({"unit_by": "\ud800"}, "control character"),
    ],
)
async def test_a_bad_description_is_refused_before_anything_is_kept(
    world, change, reason
):
    with pytest.raises(DatasetError, match=reason):
        await world.listed(**change)
    assert not world.mn.blobs.data
    assert not world.ledger.tokens


async def test_files_that_are_none_of_ours_are_named(world):
    big = world.folder / "big.csv"
    with big.open("wb") as file:
        file.truncate((1 << 26) + 1)
    latin = world.folder / "latin.csv"
    latin.write_bytes("a\n\xe9\n".encode("latin-1"))
    for path, reason in (
        (world.folder / "missing.csv", "missing.csv cannot be read: No such file"),
        (big, "up to 67108864"),
        (latin, "not UTF-8 at byte 2"),
        ("a\0b", "zero byte"),
    ):
        with pytest.raises(DatasetError, match=reason):
            await world.mn.market.publish([path], **TEXTS, unit_by="a")


async def test_columns_that_name_persons_are_warned_of(world):
    path = world.csv("LastName,Age\nx,1\n")
    shown = await world.mn.market.publish([path], **TEXTS)
    assert shown["warnings"] == ["column 'LastName' seems to hold direct identifiers"]
