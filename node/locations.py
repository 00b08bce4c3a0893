"""Every path of a node, and the lock that keeps a second daemon off them.

No other module joins a path below the home.  Nothing here creates a file except the
lock, so asking for a path is free.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.errors import StorageError


class Home:
    """The data directory of one node."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().absolute()
        self.config = self.path / "config.toml"
        self.keyfile = self.path / "node.key"
        self.card = self.path / "card.json"
        self.database = self.path / "state.sqlite"
        self.blobs = self.path / "blobs"
        self.states = self.path / "states"
        self.trunks = self.path / "trunks"
        self.models = self.path / "models"
        self.evidence = self.path / "evidence"
        self.audit_keys = self.path / "audit-keys"
        self.rpc_socket = self.path / "rpc.sock"
        self.worker_socket = self.path / "worker.sock"
        self.borrowed_socket = self.path / "borrowed.sock"
        self.logs = self.path / "logs"
        self.lock_file = self.path / "lock"
        self.exports = self.path / "exports"

    def create(self) -> None:
        """The folder itself, readable by its owner only."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot create {self.path}: {error.strerror}",
                hint="choose a folder this user may write, with --home",
            ) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while a daemon runs; the kernel frees it however the process ends."""
        descriptor = self._open_lock()
        try:
            self._take(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int:
        try:
            return os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError as error:
            raise StorageError(
                f"no node lives in {self.path}",
                hint=f"make one with `rexis --home {self.path} init`",
            ) from error
        except OSError as error:
            raise StorageError(
                f"cannot open {self.lock_file}: {error.strerror}",
                hint="run as the user who owns the folder",
            ) from error

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            raise StorageError(
                f"another daemon runs on {self.path} (pid {holder or 'unknown'})",
                hint="stop it with `rexis stop`, or give this one its own --home",
            ) from error
