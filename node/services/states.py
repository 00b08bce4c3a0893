"""Model states on disk, and how a member that missed a round gets the one it lacks.

A state is a file named by its root, the Merkle root over 1 MiB chunks.  Chunks come from any
member of the run and nobody is believed: the whole is checked against the root that every
member signed a claim for.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from node.compute.state import CHUNK_BYTES, path_of, write_file
from node.errors import AccessError, ComputeError, NodeError, StorageError
from node.ports import Transport
from protocol import merkle
from protocol.runs import STATE_PROTOCOL, StateRequest
from protocol.types import DIGEST_BYTES, PeerId
from protocol.wire import decode, encode, require_length

REQUEST_LIMIT_BYTES = 256
CHUNK_TIMEOUT_S = 30.0


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
        transport.serve(STATE_PROTOCOL, self._serve, limit_bytes=REQUEST_LIMIT_BYTES)

    def has(self, root: bytes) -> bool:
        return self._path(root).is_file()

    async def fetch(
        self, run: bytes, root: bytes, length_bytes: int, holders: Sequence[PeerId]
    ) -> None:
        """Pull a state from the first holder that gives the right one."""
        refused: list[str] = []
        for holder in holders:
            try:
                data = await self._pull(run, root, length_bytes, holder)
            except NodeError as error:
                refused.append(str(error))
                continue
            self.folder.mkdir(parents=True, exist_ok=True)
            await trio.to_thread.run_sync(write_file, self._path(root), data)
            return
        raise ComputeError(
            f"no member gives state {root.hex()[:16]}: {'; '.join(refused) or 'none asked'}",
            hint="it is asked for again",
        )

    def delete(self, root: bytes) -> None:
        """Nothing happens if it is not here."""
        self._path(root).unlink(missing_ok=True)

    async def _pull(
        self, run: bytes, root: bytes, length_bytes: int, holder: PeerId
    ) -> bytes:
        chunks = [
            await self._transport.request(
                holder,
                STATE_PROTOCOL,
                encode(StateRequest(run, root, number)),
                timeout_s=CHUNK_TIMEOUT_S,
                limit_bytes=CHUNK_BYTES,
            )
            for number in range(-(-length_bytes // CHUNK_BYTES))
        ]
        data = b"".join(chunks)
        if len(data) != length_bytes or merkle.root(chunks) != root:
            raise StorageError(
                f"{holder} gave {len(data)} bytes that are not state {root.hex()[:16]}"
            )
        return data

    async def _serve(self, peer: PeerId, payload: bytes) -> bytes:
        request = decode(payload, StateRequest, limit_bytes=REQUEST_LIMIT_BYTES)
        require_length("run", request.run, DIGEST_BYTES)
        require_length("state root", request.root, DIGEST_BYTES)
        if not self._may_read(request.run, request.root, peer):
            raise AccessError("not a state of a run you are in")
        return await trio.to_thread.run_sync(self._chunk, request.root, request.chunk)

    def _chunk(self, root: bytes, number: int) -> bytes:
        try:
            with self._path(root).open("rb") as file:
                file.seek(max(0, number) * CHUNK_BYTES)
                return file.read(CHUNK_BYTES)
        except OSError as error:
            raise StorageError(f"state {root.hex()[:16]} is not here") from error

    def _path(self, root: bytes) -> Path:
        return path_of(self.folder, root)
