"""What every `Store` promises, asked of both adapters."""

import pytest
import trio

from node.adapters.memory_store import MemoryStore
from node.adapters.sqlite_store import SqliteStore
from node.errors import StorageError


@pytest.fixture(params=["sqlite", "memory"])
def store(request, tmp_path):
    kind = request.param
    made = (
        MemoryStore() if kind == "memory" else SqliteStore.open(tmp_path / "s.sqlite")
    )
    yield made
    made.close()


async def test_a_record_is_read_back_replaced_and_deleted(store):
    assert await store.get("a", b"k") is None
    await store.put("a", b"k", b"1")
    await store.put("a", b"k", b"2")
    assert await store.get("a", b"k") == b"2"
    await store.delete("a", b"k")
    await store.delete("a", b"k")
    assert await store.get("a", b"k") is None


async def test_namespaces_do_not_meet_and_a_scan_is_sorted(store):
    for key in (b"b", b"", b"\xff", b"a"):
        await store.put("one", key, b"v" + key)
    await store.put("two", b"c", b"")
    assert await store.scan("one") == [
        (k, b"v" + k) for k in (b"", b"a", b"b", b"\xff")
    ]
    assert await store.scan("two") == [(b"c", b"")]
    assert await store.scan("three") == []


async def test_many_writes_and_an_event_go_together(store):
    await store.put("a", b"old", b"1")
    number = await store.put_many(
        [("a", b"old", None), ("a", b"new", b"2")], event=("moved", {"to": b"\x01"})
    )
    assert await store.scan("a") == [(b"new", b"2")]
    [event] = await store.events()
    assert (event.number, event.kind, event.data) == (number, "moved", {"to": "01"})


async def test_events_are_numbered_and_read_in_order(store):
    numbers = [await store.append_event("tick", {"n": n}) for n in range(5)]
    assert numbers == sorted(set(numbers))
    later = await store.events(numbers[1], 2)
    assert [event.number for event in later] == numbers[2:4]
    assert [event.data["n"] for event in later] == [2, 3]


async def test_an_event_that_is_no_data_is_refused_and_leaves_nothing(store):
    with pytest.raises(StorageError, match="cannot be stored"):
        await store.put_many([("a", b"k", b"v")], event=("bad", {"x": object()}))
    assert await store.get("a", b"k") is None
    assert await store.events() == []


async def test_a_follower_wakes_for_each_event(store):
    seen = []

    async def follow(task_status):
        task_status.started()
        while len(seen) < 3:
            await store.wait_events(seen[-1] if seen else 0)
            seen.extend(e.number for e in await store.events(seen[-1] if seen else 0))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(follow)
            sent = [await store.append_event("tick", {}) for _ in range(3)]
    assert seen == sent
