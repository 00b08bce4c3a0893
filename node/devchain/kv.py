"""One SQLite file under py-evm: trie nodes, headers, and our index of logs and receipts.

A block is one SQLite transaction, so a kill at any moment leaves the state after some
whole block.  Callers hold the ledger's lock: there is one writer, and it is this process.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eth.db.backends.base import BaseDB

from node.errors import StorageError

_SCHEMA = """
create table if not exists kv(k blob primary key, v blob not null) without rowid;
create table if not exists receipts(hash blob primary key, body text not null) without rowid;
create table if not exists logs(
    block integer not null, position integer not null, address text not null,
    body text not null, primary key(block, position)
) without rowid;
"""


_DAMAGED = (
    "this is a development chain: move the file away and start a new one,"
    " or restore a copy"
)


def _hint(error: sqlite3.Error) -> str:
    if "locked" in str(error):
        return (
            "another development chain runs on this file; use its URL, or another --db"
        )
    if isinstance(error, sqlite3.OperationalError):
        return "give --db a path in a folder you may write to"
    return _DAMAGED


class SqliteKV(BaseDB):
    """The key-value store that py-evm asks for."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(
                path, check_same_thread=False, isolation_level=None, timeout=0.5
            )
            # A second chain on the same file would fork it; the lock ends with us.
            self._db.execute("pragma locking_mode=exclusive")
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=normal")
            self._db.executescript(_SCHEMA)
            (found,) = self._db.execute("pragma quick_check(1)").fetchone()
        except sqlite3.Error as error:
            raise StorageError(
                f"chain database {path} cannot be opened: {error}", hint=_hint(error)
            ) from error
        if found != "ok":
            raise StorageError(
                f"chain database {path} is damaged: {found}", hint=_DAMAGED
            )

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def block(self) -> Iterator[None]:
        """Everything inside is written, or nothing is."""
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def __getitem__(self, key: bytes) -> bytes:
        row = self._db.execute("select v from kv where k=?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return bytes(row[0])

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._db.execute("insert or replace into kv values(?,?)", (key, value))

    def __delitem__(self, key: bytes) -> None:
        if self._db.execute("delete from kv where k=?", (key,)).rowcount == 0:
            raise KeyError(key)

    def _exists(self, key: bytes) -> bool:
        found = self._db.execute("select 1 from kv where k=?", (key,))
        return found.fetchone() is not None

    def add_receipt(self, transaction: bytes, receipt: dict[str, Any]) -> None:
        """File a receipt in its JSON-RPC shape, and its logs for searching."""
        self._db.execute(
            "insert into receipts values(?,?)", (transaction, json.dumps(receipt))
        )
        self._db.executemany(
            "insert into logs values(?,?,?,?)",
            [
                (
                    int(log["blockNumber"], 16),
                    int(log["logIndex"], 16),
                    log["address"],
                    json.dumps(log),
                )
                for log in receipt["logs"]
            ],
        )

    def receipt(self, transaction: bytes) -> dict[str, Any] | None:
        row = self._db.execute(
            "select body from receipts where hash=?", (transaction,)
        ).fetchone()
        return None if row is None else json.loads(row[0])

    def logs(
        self, first: int, last: int, addresses: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Logs of blocks `first` to `last`, in order; no addresses means any."""
        marks = ",".join("?" * len(addresses))
        where = f" and address in ({marks})" if addresses else ""
        rows = self._db.execute(
            f"select body from logs where block between ? and ?{where}"  # noqa: S608 - only question marks go in
            " order by block, position",
            (first, last, *addresses),
        )
        return [json.loads(body) for (body,) in rows]
