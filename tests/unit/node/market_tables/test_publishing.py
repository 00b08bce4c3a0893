"""A table is encrypted, described, listed once; also after a crash."""

import pytest
import trio
from table_world import ROWS, TEXTS, rows_of, table, unit_rows

from node.errors import (
    AccessError,
    ChainError,
    StorageError,
)
from protocol.members import MemberSet


async def test_a_published_table_is_described_and_nowhere_in_the_clear(world):
    shown = await world.mn.market.publish([world.csv()], **TEXTS)
    assert shown["units"] == 4
    assert shown["owner"] == "clinic-mn"
    assert shown["listing"]["rows"] == [12, 12, 12, 11]
    assert shown["listing"]["columns"][2] == {"name": "BMI", "kind": "number"}
    assert shown["listing"]["duo"] == ["DUO:0000021", "DUO:0000042"]
    kept = b"".join([*world.mn.blobs.data.values(), *world.mn.store.rows.values()])
    for row in ROWS:
        assert ",".join(row).encode() not in kept
    assert world.ledger.tokens[0].record.hex() == shown["record"]


async def test_the_owner_reads_its_own_rows_also_without_the_chain(world):
    dataset = await world.listed()
    world.ledger.down = True
    assert (await world.mn.market.own_rows(dataset)).decode() == table()


async def test_small_units_do_not_show_their_count_by_number_or_by_length(world):
    rows = [[f"p{i % 3}", "1", "2"] for i in range(7)]
    path = world.csv(table(rows))
    shown = await world.mn.market.publish([path], **TEXTS, unit_by="PID")
    assert shown["listing"]["rows"] == [None, None, None]
    entries = world.mn.market._shelf.own(shown["dataset"])[2].entries
    assert len({entry.length for entry in entries}) == 1


@pytest.mark.slow
async def test_rows_of_one_person_share_a_unit(world):
    rows = [[f"p{i % 90}", str(i), "2"] for i in range(180)]
    path = world.csv(table(rows))
    shown = await world.mn.market.publish([path], **TEXTS, unit_by="PID")
    assert shown["units"] == 64
    seen = {}
    for unit in range(64):
        for row in await unit_rows(world, shown["dataset"], [unit]):
            assert seen.setdefault(row[0], unit) == unit
    assert len(seen) == 90


async def test_adding_the_same_table_again_finds_it(world):
    first = await world.mn.market.publish([world.csv()], **TEXTS)
    blobs = dict(world.mn.blobs.data)
    again = await world.mn.market.publish([world.csv()], **TEXTS)
    assert again == first
    assert world.mn.blobs.data == blobs
    assert len(world.ledger.tokens) == 1
    other = await world.mn.market.publish(
        [world.csv()], **{**TEXTS, "title": "another"}
    )
    assert other["dataset"] != first["dataset"]


async def test_a_crash_after_the_transaction_leaves_one_dataset(world):
    world.mn.chain.crash_after_listing = True
    with pytest.raises(trio.BrokenResourceError):
        await world.listed()
    world.mn.chain.crash_after_listing = False
    world.mn.start()
    assert await world.listed() == 1
    assert len(world.ledger.tokens) == 1


async def test_a_crash_before_the_transaction_is_completed_by_the_next_add(world):
    world.ledger.down = True
    with pytest.raises(ChainError):
        await world.listed()
    blobs = dict(world.mn.blobs.data)
    world.ledger.down = False
    world.mn.start()
    assert await world.listed() == 1
    assert world.mn.blobs.data == blobs


async def test_a_restart_keeps_listings_rows_and_grants(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [1], 1)
    before = await world.mn.market.show(dataset)
    world.mn.start()
    await world.mn.market.refresh()
    assert await world.mn.market.show(dataset) == before
    assert (await world.mn.market.own_rows(dataset)).decode() == table()
    await world.researcher.market.fetch(dataset, None, world.out())
    assert rows_of(world.out()) == await unit_rows(world, dataset, [1])


async def test_a_damaged_record_is_one_clear_line(world):
    await world.listed()
    rows = world.mn.store.rows
    key = next(k for k in rows if k[0] == "market.own")
    rows[key] = rows[key][:-1]
    world.mn.start()
    with pytest.raises(StorageError, match="is damaged"):
        await world.mn.market.refresh()


async def test_a_node_that_is_no_member_cannot_publish(world):
    world.ledger.set = MemberSet.of(
        [m for m in world.ledger.set.members if m.name != "clinic-mn"]
    )
    with pytest.raises(AccessError, match="not a member"):
        await world.listed()
