"""A blob on its way in: chunks in any order, and what is here survives a crash.

The content lies in one file of its final size beside the finished blobs, and a second
small file says which chunks are in it.  A chunk is written first and noted after, so what
kill -9 leaves behind is never more than noted.  A power cut may leave notes of bytes that
the disk lost; nothing is believed before the whole content has been hashed from the file,
and a fetch that then disagrees compares chunk by chunk and asks again for those that
differ.

Methods that touch bytes are called from worker threads, one call at a time; only `settle`
may run beside another.
"""

import hashlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from node.adapters.blob_dir import BlobDir, move_in
from node.disk import mapped, write_all
from node.errors import StorageError
from node.ports.storage import Blobs
from protocol.types import Digest

CHUNK_BYTES = 1 << 20
FORGET_AFTER_S = 14 * 86_400
"""A download nobody has come back to for a fortnight gives its space back."""
_MAGIC = b"rexis have 1\n"
_FOLDER = "partial"


def chunk_count(size: int) -> int:
    return -(-size // CHUNK_BYTES)


class PartialBlob(ABC):
    """Chunks by index; the last may be short."""

    def __init__(self, digest: Digest, size: int, have: bytearray) -> None:
        self.digest = digest
        self.size = size
        self.chunks = chunk_count(size)
        self._have = have
        self._hasher = hashlib.sha256()
        self._hashed = 0
        self._buffer = memoryview(bytearray())

    def length(self, index: int) -> int:
        """Bytes of chunk `index`."""
        return min(CHUNK_BYTES, self.size - index * CHUNK_BYTES)

    def has(self, index: int) -> bool:
        return bool(self._have[index // 8] & 1 << index % 8)

    def missing(self) -> list[int]:
        return [index for index in range(self.chunks) if not self.has(index)]

    def write(self, first: int, parts: Sequence[bytes]) -> None:
        """Keep whole chunks, from chunk `first` on, then note that they are here."""
        data = self._joined(parts)
        count = chunk_count(len(data))
        end = first + count
        if not (count and first >= 0 and end <= self.chunks) or len(data) != (
            (count - 1) * CHUNK_BYTES + self.length(end - 1)
        ):
            raise StorageError(f"{len(data)} bytes are not chunks from {first} on")
        self._store(first * CHUNK_BYTES, data)
        for index in range(first, end):
            self._have[index // 8] |= 1 << index % 8
        self._note(first // 8, (end - 1) // 8 + 1)
        if first == self._hashed:  # in order, as from a single holder: still in memory
            self._hasher.update(data)
            self._hashed = end
        elif first < self._hashed:
            self._hasher = hashlib.sha256()
            self._hashed = 0

    def _joined(self, parts: Sequence[bytes]) -> memoryview:
        """One buffer, always the same.

        A thread that writes and hashes it needs the interpreter three times, and not once
        for each piece; and a new buffer each time would cost as much as hashing it.
        """
        size = sum(map(len, parts))
        if len(self._buffer) < size:
            self._buffer = memoryview(bytearray(size))
        position = 0
        for part in parts:
            self._buffer[position : position + len(part)] = part
            position += len(part)
        return self._buffer[:size]

    def advance(self) -> bool:
        """Hash the next chunk if it is here; the hash must see them in order."""
        if self._hashed == self.chunks or not self.has(self._hashed):
            return False
        self._hasher.update(self.read(self._hashed))
        self._hashed += 1
        return True

    def matches(self) -> bool:
        """Whether everything is here and is what the name says."""
        while self.advance():
            pass
        return self._hashed == self.chunks and self._hasher.digest() == self.digest

    def found(self) -> str:
        """The digest of what is here instead."""
        return self._hasher.hexdigest()

    def chunk_digests(self) -> list[Digest]:
        return [
            Digest(hashlib.sha256(self.read(index)).digest())
            for index in range(self.chunks)
        ]

    @abstractmethod
    def read(self, index: int) -> bytes: ...

    @abstractmethod
    def settle(self) -> None:
        """Make durable what is here so far, if it is on a disk."""

    @abstractmethod
    def commit(self) -> None:
        """Make it a blob, durable when this returns; only after `matches`."""

    @abstractmethod
    def discard(self) -> None:
        """Give up what is here."""

    @abstractmethod
    def close(self) -> None:
        """Leave it for another time."""

    @abstractmethod
    def _store(self, offset: int, data: memoryview) -> None: ...

    @abstractmethod
    def _note(self, first: int, end: int) -> None:
        """Keep these bytes of the map of what is here."""


class PartialBuffer(PartialBlob):
    """For a store that keeps its blobs in memory: nothing survives there anyway."""

    def __init__(self, blobs: Blobs, digest: Digest, size: int) -> None:
        super().__init__(digest, size, bytearray(chunk_count(size) // 8 + 1))
        self._blobs = blobs
        self._content = bytearray(size)

    def read(self, index: int) -> bytes:
        start = index * CHUNK_BYTES
        return bytes(self._content[start : start + CHUNK_BYTES])

    def settle(self) -> None:
        pass

    def commit(self) -> None:
        self._blobs.put(bytes(self._content))

    def discard(self) -> None:
        self._content.clear()

    def close(self) -> None:
        self._content.clear()

    def _store(self, offset: int, data: memoryview) -> None:
        self._content[offset : offset + len(data)] = data

    def _note(self, first: int, end: int) -> None:
        pass


class PartialFile(PartialBlob):
    """On disk beside the blobs of a `BlobDir`."""

    def __init__(
        self, blobs: BlobDir, digest: Digest, size: int, *, lasting: bool = True
    ) -> None:
        """Take up what an earlier life left, if it was of this size."""
        self._lasting = lasting
        self._place = blobs.place(digest, lasting=lasting)
        folder = _folder(blobs)
        self._path = folder / digest.hex()
        self._notes = folder / f"{digest.hex()}.have"
        head = _MAGIC + size.to_bytes(8, "big")
        empty = head + bytes(chunk_count(size) // 8 + 1)
        with mapped(self._path):
            folder.mkdir(mode=0o700, exist_ok=True)
            _forget_old(folder, keep=self._path)
            notes = self._notes.read_bytes() if self._notes.exists() else b""
            known = notes.startswith(head) and len(notes) == len(empty)
            if not known or not self._path.exists():
                notes = empty
                self._path.unlink(missing_ok=True)
                self._notes.write_bytes(notes)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            self._map = os.open(self._notes, os.O_RDWR)
            if size:
                # All the space at once: a full disk says so before the first byte has
                # travelled, and writing into it costs a fifth of growing a file.
                os.posix_fallocate(self._file, 0, size)
        self._head_bytes = len(head)
        super().__init__(digest, size, bytearray(notes[len(head) :]))

    def read(self, index: int) -> bytes:
        with mapped(self._path):
            return os.pread(self._file, self.length(index), index * CHUNK_BYTES)

    def settle(self) -> None:
        if self._lasting:
            with mapped(self._path):
                os.fdatasync(self._file)

    def commit(self) -> None:
        with mapped(self._path):
            move_in(self._file, self._path, self._place, lasting=self._lasting)
            self._notes.unlink(missing_ok=True)
        self.close()

    def discard(self) -> None:
        self.close()
        with mapped(self._path):
            self._path.unlink(missing_ok=True)
            self._notes.unlink(missing_ok=True)

    def close(self) -> None:
        for descriptor in (self._file, self._map):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._map = -1

    def _store(self, offset: int, data: memoryview) -> None:
        with mapped(self._path):
            write_all(self._file, data, offset)

    def _note(self, first: int, end: int) -> None:
        with mapped(self._notes):
            os.pwrite(self._map, self._have[first:end], self._head_bytes + first)


def open_partial(
    blobs: Blobs, digest: Digest, size: int, lasting: bool = True
) -> PartialBlob:
    """The kind that fits the store."""
    if isinstance(blobs, BlobDir):
        return PartialFile(blobs, digest, size, lasting=lasting)
    return PartialBuffer(blobs, digest, size)


def earlier_size(blobs: Blobs, digest: Digest) -> int | None:
    """The size of the blob whose chunks an interrupted fetch has left here."""
    if not isinstance(blobs, BlobDir):
        return None
    notes = _folder(blobs) / f"{digest.hex()}.have"
    with mapped(notes):
        head = notes.read_bytes()[: len(_MAGIC) + 8] if notes.exists() else b""
    if not head.startswith(_MAGIC) or len(head) < len(_MAGIC) + 8:
        return None
    return int.from_bytes(head[len(_MAGIC) :], "big")


def _folder(blobs: BlobDir) -> Path:
    return blobs.root / _FOLDER


def _forget_old(folder: Path, keep: Path) -> None:
    for path in folder.iterdir():
        # Another fetch may be done with its own between the two looks.
        with suppress(FileNotFoundError):
            old = time.time() - path.stat().st_mtime > FORGET_AFTER_S
            if old and path.stem != keep.name:
                path.unlink()
