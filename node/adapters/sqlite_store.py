"""Records and events in one SQLite file: one writer, and durable when a call returns.

WAL with synchronous=FULL means that a commit is on the disk before we go on.  All calls
run in one thread at a time, off the trio thread.  A file that is damaged, or newer than
this program, is refused and left exactly as it is.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Self, TypeVar

import trio

from node.adapters.events import decoded, encoded
from node.clock import now_millis
from node.disk import FREE
from node.errors import NoSpaceError, StorageError
from node.ports.storage import Event

T = TypeVar("T")
Write = tuple[str, bytes, bytes | None]
"""Namespace, key, value; None deletes."""

_DAMAGED = (
    "nothing was changed or deleted; copy the folder aside, then restore state.sqlite "
    "from a backup, or try `sqlite3 state.sqlite .recover` on the copy "
    "(docs/operations.md)"
)
_PUT = (
    "INSERT INTO record VALUES (?, ?, ?) "
    "ON CONFLICT (namespace, key) DO UPDATE SET value = excluded.value"
)


class SqliteStore:
    """Implements `node.ports.storage.Store`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._lock = threading.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._appended = trio.Event()
        self._closed = False

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open or create; checks every page and brings the schema up to date."""
        path = Path(path)
        with _mapped(path):
            connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA quick_check(1)")  # reads the header at least
                _require_sound(path, connection)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                # A destroyed key must not lie on in a free page (docs/data.md, erasure).
                connection.execute("PRAGMA secure_delete = ON")
                _migrate(path, connection)
                path.chmod(0o600)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def close(self) -> None:
        """Fold the log into the file; the store cannot be used any more."""
        with self._lock, _mapped(self._path):
            self._closed = True
            self._connection.close()

    async def get(self, namespace: str, key: bytes) -> bytes | None:
        rows = await self._rows(
            "SELECT value FROM record WHERE namespace = ? AND key = ?", namespace, key
        )
        return rows[0][0] if rows else None

    async def scan(self, namespace: str) -> list[tuple[bytes, bytes]]:
        """All of a namespace, by key."""
        return await self._rows(
            "SELECT key, value FROM record WHERE namespace = ? ORDER BY key", namespace
        )

    async def put(self, namespace: str, key: bytes, value: bytes) -> None:
        await self.put_many([(namespace, key, value)])

    async def delete(self, namespace: str, key: bytes) -> None:
        await self.put_many([(namespace, key, None)])

    async def put_many(
        self,
        writes: Sequence[Write],
        *,
        event: tuple[str, Mapping[str, Any]] | None = None,
        lasting: bool = True,
    ) -> int | None:
        """All of it or nothing, with an event if one is given; returns its number."""
        text = None if event is None else encoded(*event)

        def write() -> int | None:
            for namespace, key, value in writes:
                if value is None:
                    self._connection.execute(
                        "DELETE FROM record WHERE namespace = ? AND key = ?",
                        (namespace, key),
                    )
                else:
                    self._connection.execute(_PUT, (namespace, key, value))
            if event is None:
                return None
            return self._connection.execute(
                "INSERT INTO event (time, kind, data) VALUES (?, ?, ?)",
                (now_millis(), event[0], text),
            ).lastrowid

        number = await self._run(lambda: self._atomically(write, lasting=lasting))
        if number is not None:
            self._appended.set()
            self._appended = trio.Event()
        return number

    async def scrub(self) -> None:
        """What was deleted or replaced until now is in neither file any more."""
        # Freed content is zeroed, but the log keeps older copies until it is cut.
        await self._rows("PRAGMA wal_checkpoint(TRUNCATE)")

    async def append_event(self, kind: str, data: Mapping[str, Any]) -> int:
        number = await self.put_many([], event=(kind, data))
        assert number is not None
        return number

    async def events(self, after: int = 0, limit: int = 100) -> list[Event]:
        """The next events with a number above `after`, oldest first."""
        rows = await self._rows(
            "SELECT number, time, kind, data FROM event "
            "WHERE number > ? ORDER BY number LIMIT ?",
            *(after, limit),
        )
        return [Event(n, time, kind, decoded(data)) for n, time, kind, data in rows]

    async def wait_events(self, after: int) -> None:
        """Return once there is an event above `after`."""
        while True:
            appended = self._appended  # taken before the look, so none is missed
            if await self.events(after, 1):
                return
            await appended.wait()

    async def backup(self, path: Path) -> None:
        """A consistent copy in a new file while we go on working."""
        await self._rows("VACUUM INTO ?", str(path))

    def _atomically(self, write: Callable[[], T], *, lasting: bool) -> T:
        if not lasting:
            # In the log, and on the disk with the next commit that is to last.
            self._connection.execute("PRAGMA synchronous = NORMAL")
        try:
            return self._in_transaction(write)
        finally:
            if not lasting:
                self._connection.execute("PRAGMA synchronous = FULL")

    def _in_transaction(self, write: Callable[[], T]) -> T:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = write()
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return result

    async def _rows(self, statement: str, *values: object) -> list[Any]:
        return await self._run(
            lambda: self._connection.execute(statement, values).fetchall()
        )

    async def _run(self, work: Callable[[], T]) -> T:
        def locked() -> T:
            with self._lock, _mapped(self._path):
                if self._closed:
                    raise StorageError(f"{self._path} is closed")
                return work()

        return await trio.to_thread.run_sync(locked, limiter=self._limiter)


def _require_sound(path: Path, connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchall()
    if found != [("ok",)]:
        said = " ".join(str(found[0][0]).split()) if found else "no answer"
        raise StorageError(f"the database {path} is damaged: {said}", hint=_DAMAGED)


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    steps = sorted(
        (entry.name, entry.read_text())
        for entry in resources.files("node.adapters").joinpath("migrations").iterdir()
        if entry.name.endswith(".sql")
    )
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(steps):
        raise StorageError(
            f"the database {path} has schema {version}, this program knows {len(steps)}",
            hint="it was written by a newer release; run that one",
        )
    for number, (_, script) in enumerate(steps[version:], start=version + 1):
        # One script: either the tables and their number are there, or neither.
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;"
        )


@contextmanager
def _mapped(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "malformed" in text or "not a database" in text or "corrupt" in text:
            raise StorageError(
                f"the database {path} is damaged: {text}", hint=_DAMAGED
            ) from error
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise NoSpaceError(
                f"the database {path}: no space left on disk", hint=FREE
            ) from error
        raise StorageError(
            f"the database {path}: {text}",
            hint="check the disk's free space and who owns the folder",
        ) from error
    except sqlite3.Error as error:
        raise StorageError(f"the database {path}: {error}") from error
