"""Model states on disk, and how a member that missed a round gets the one it lacks.

A state is a file named by its root, the Merkle root over 1 MiB chunks.  Chunks come from any
members of the run (`node.services.syncing`) and nobody is believed: the root is in a verdict
that a quorum signed.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from node.compute.state import CHUNK_BYTES, drop_spares, path_of, retire
from node.disk import mapped
from node.errors import AccessError, StorageError
from node.ports.transport import Transport
from node.services.syncing import REQUEST_LIMIT_BYTES, Download, partial
from protocol import merkle
from protocol.sync import (
    CHUNK_PROTOCOL,
    LIST_PROTOCOL,
    ChunkRequest,
    ListAnswer,
    ListRequest,
)
from protocol.types import DIGEST_BYTES, Digest, PeerId
from protocol.wire import decode, encode, require_length

Stamp = tuple[bytes, int, int]
"""Root of a state's file, its size, and when it was last written, in nanoseconds."""
LISTS_KEPT = 8
"""Lists of leaves remembered: the states of a few runs, some 80 bytes for each MiB of one."""


class States:
    """The folder of states, shared with the compute child."""

    def __init__(
        self,
        folder: Path,
        transport: Transport,
        may_read: Callable[[bytes, bytes, PeerId], bool],
    ) -> None:
        """`may_read(run, root, peer)`: is it a state of a run that the peer is in."""
        self.folder = folder
        self._transport = transport
        self._may_read = may_read
        self._lists: dict[Stamp, tuple[bytes, ...]] = {}
        self._hashing = trio.CapacityLimiter(1)
        transport.serve(LIST_PROTOCOL, self._list, limit_bytes=REQUEST_LIMIT_BYTES)
        transport.serve(CHUNK_PROTOCOL, self._chunk, limit_bytes=REQUEST_LIMIT_BYTES)

    def has(self, root: bytes) -> bool:
        return self._path(root).is_file()

    async def is_whole(self, root: bytes) -> bool:
        """Is it here, and what its name says, to the last byte?"""
        try:
            await trio.to_thread.run_sync(self._read_anew, root, limiter=self._hashing)
        except StorageError:
            return False
        return True

    def _read_anew(self, root: bytes) -> None:
        # A disk that loses a bit does not change when the file was written.
        for stamp in [stamp for stamp in self._lists if stamp[0] == root]:
            del self._lists[stamp]
        self._leaves(root)

    async def fetch(
        self, run: bytes, root: bytes, length_bytes: int, holders: Sequence[PeerId]
    ) -> None:
        """Pull a state from all holders at once; what came before a failure is kept.

        Raises `ComputeError` where none of them gives what is still missing.
        """
        await trio.to_thread.run_sync(self._make_folder)
        download = Download(
            self._transport, self._path(root), run, Digest(root), length_bytes
        )
        await download.run(holders)

    def retire(self, root: bytes) -> None:
        """No longer wanted, and a state of its size will be: that takes its room."""
        with mapped(self.folder):
            retire(self.folder, root)
            partial(self._path(root)).unlink(missing_ok=True)

    def drop_spares(self) -> None:
        """No run goes on that would take the room of the retired."""
        with mapped(self.folder):
            drop_spares(self.folder)

    def delete(self, root: bytes) -> None:
        """Nothing happens if it is not here."""
        path = self._path(root)
        with mapped(path):
            path.unlink(missing_ok=True)
            partial(path).unlink(missing_ok=True)

    async def _list(self, peer: PeerId, payload: bytes) -> bytes:
        request = decode(payload, ListRequest, limit_bytes=REQUEST_LIMIT_BYTES)
        self._admit(peer, request.run, request.root)
        # Gigabytes may lie under a root, and asking for its list costs a peer nothing: one is
        # read at a time, and once.
        leaves = await trio.to_thread.run_sync(
            self._leaves, request.root, limiter=self._hashing
        )
        return encode(ListAnswer(leaves))

    async def _chunk(self, peer: PeerId, payload: bytes) -> bytes:
        request = decode(payload, ChunkRequest, limit_bytes=REQUEST_LIMIT_BYTES)
        self._admit(peer, request.run, request.root)
        return await trio.to_thread.run_sync(self._read, request.root, request.index)

    def _admit(self, peer: PeerId, run: bytes, root: bytes) -> None:
        require_length("run", run, DIGEST_BYTES)
        require_length("state root", root, DIGEST_BYTES)
        if not self._may_read(run, root, peer):
            raise AccessError("not a state of a run you are in")

    def _leaves(self, root: bytes) -> tuple[bytes, ...]:
        """In the one thread that hashes, so nobody else touches what is remembered."""
        try:
            with self._path(root).open("rb") as file:
                found = os.fstat(file.fileno())
                stamp = (root, found.st_size, found.st_mtime_ns)
                known = self._lists.get(stamp)
                if known is not None:
                    return known
                chunks = iter(lambda: file.read(CHUNK_BYTES), b"")
                leaves = tuple(merkle.leaf_digest(chunk) for chunk in chunks)
                self._require_named(root, file.fileno())
        except OSError as error:
            raise StorageError(f"state {root.hex()[:16]} is not here") from error
        if merkle.root_of_digests(leaves) != root:
            # Told of a wrong list, the other would have to take this node for a liar.
            raise StorageError(f"state {root.hex()[:16]} is damaged here")
        while len(self._lists) >= LISTS_KEPT:
            del self._lists[next(iter(self._lists))]
        self._lists[stamp] = leaves
        return leaves

    def _read(self, root: bytes, number: int) -> bytes:
        try:
            with self._path(root).open("rb") as file:
                file.seek(max(0, number) * CHUNK_BYTES)
                data = file.read(CHUNK_BYTES)
                self._require_named(root, file.fileno())
                return data
        except OSError as error:
            raise StorageError(f"state {root.hex()[:16]} is not here") from error

    def _require_named(self, root: bytes, file: int) -> None:
        """What was read so far is of this state: its room goes to another only without its name."""
        if not os.path.samestat(self._path(root).stat(), os.fstat(file)):
            raise FileNotFoundError(self._path(root))

    def _make_folder(self) -> None:
        with mapped(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, root: bytes) -> Path:
        return path_of(self.folder, root)
