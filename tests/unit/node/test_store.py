"""What only the real store can do: survive, refuse what is damaged, and lose nothing."""

import os
import sqlite3
import subprocess
import sys

import pytest

from node.adapters.sqlite_store import SqliteStore
from node.errors import NoSpaceError, StorageError

WRITER = """
import sys, trio
from node.adapters.sqlite_store import SqliteStore
async def main():
    store = SqliteStore.open(sys.argv[1])
    number = 0
    while True:
        key = number.to_bytes(8, "big")
        await store.put_many([("n", key, key * 64)], event=("wrote", {"n": number}))
        print(number, flush=True)
        number += 1
trio.run(main)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.sqlite"


async def filled(path, rows=400):
    store = SqliteStore.open(path)
    await store.put_many(
        [("n", n.to_bytes(4, "big"), bytes([n % 251]) * 200) for n in range(rows)]
    )
    store.close()


async def test_a_full_disk_is_told_from_a_broken_one_and_nothing_is_half_written(path):
    store = SqliteStore.open(path)
    await store.put("a", b"k", b"v")
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(NoSpaceError, match="no space left on disk"):
        await store.put_many([("a", b"k", b"w"), ("a", b"l", bytes(1 << 20))])
    assert await store.scan("a") == [(b"k", b"v")]
    store._connection.execute("PRAGMA max_page_count = 1000000")
    await store.put("a", b"l", bytes(1 << 20))
    store.close()


async def test_records_and_event_numbers_survive_a_restart(path):
    store = SqliteStore.open(path)
    await store.put("a", b"k", b"v")
    first = await store.append_event("one", {})
    store.close()
    store = SqliteStore.open(path)
    assert await store.get("a", b"k") == b"v"
    assert await store.append_event("two", {}) > first
    store.close()


def killed_writer(path):
    """The last number a writer acknowledged before it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    last = -1
    while last < 20:
        last = int(process.stdout.readline())
    process.kill()
    last = max([last, *(int(n) for n in process.stdout.read().split())])
    process.wait()
    return last


async def test_what_was_acknowledged_survives_kill_9(path):
    last = killed_writer(path)
    store = SqliteStore.open(path)
    keys = [key for key, _ in await store.scan("n")]
    events = await store.events(0, 10**6)
    store.close()
    assert len(keys) > last
    assert len(events) == len(keys)


async def test_a_corrupt_page_is_refused_and_the_file_left_alone(path):
    await filled(path)
    raw = bytearray(path.read_bytes())
    assert len(raw) > 5 * 4096
    raw[3 * 4096 : 4 * 4096] = os.urandom(4096)
    path.write_bytes(raw)
    with pytest.raises(StorageError, match="is damaged") as caught:
        SqliteStore.open(path)
    assert "backup" in caught.value.hint()
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == raw


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path):
    path.write_bytes(b"not a database at all" * 400)
    with pytest.raises(StorageError, match="is damaged"):
        SqliteStore.open(path)
    assert path.read_bytes() == b"not a database at all" * 400


async def test_the_undamaged_twin_opens(path):
    await filled(path)
    store = SqliteStore.open(path)
    assert len(await store.scan("n")) == 400
    store.close()


async def test_a_newer_schema_is_refused(path):
    await filled(path, 1)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageError, match="schema 99"):
        SqliteStore.open(path)


async def test_half_a_batch_is_never_written(path):
    store = SqliteStore.open(path)
    with pytest.raises(StorageError):
        await store.put_many([("a", b"1", b"x"), ("a", b"2", "no bytes")])
    assert await store.scan("a") == []
    await store.put("a", b"3", b"works again")
    store.close()


async def test_only_the_owner_may_read_the_database(path):
    SqliteStore.open(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_closed_store_says_so(path):
    store = SqliteStore.open(path)
    store.close()
    with pytest.raises(StorageError, match="is closed"):
        await store.get("a", b"k")


async def test_a_backup_taken_while_open_opens_by_itself(path, tmp_path):
    store = SqliteStore.open(path)
    await store.put("a", b"k", b"v")
    await store.backup(tmp_path / "copy.sqlite")
    store.close()
    copy = SqliteStore.open(tmp_path / "copy.sqlite")
    assert await copy.get("a", b"k") == b"v"
    copy.close()


@pytest.mark.parametrize("zeroed", [True, False], ids=["ours", "sqlite's default"])
async def test_a_scrubbed_value_is_in_no_file_any_more(tmp_path, zeroed):
    store = SqliteStore.open(tmp_path / "state.sqlite")
    if not zeroed:  # what the pragma is for
        store._connection.execute("PRAGMA secure_delete = OFF")
    secret = b"0123456789abcdef" * 4096  # on pages of its own, which are then freed

    def on_disk():
        files = [one.read_bytes() for one in tmp_path.iterdir()]
        return any(secret[:512] in data for data in files)

    await store.put("market.own", b"key", secret)
    await store.put("market.own", b"other", b"stays")
    await store.put("market.own", b"key", b"replaced")
    assert on_disk(), "the log still has what was replaced"
    await store.scrub()
    assert on_disk() != zeroed
    assert await store.get("market.own", b"other") == b"stays"
    store.close()
