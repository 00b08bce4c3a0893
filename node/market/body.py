"""Crypt4GH bodies, chunk by chunk: encrypted with flat memory, opened only when whole.

A body is what follows a Crypt4GH header: segments of nonce, ciphertext and tag.  Nonces
are drawn at random, as the format asks: a publishing that was cut and goes on with the
same key must not meet a nonce twice, whatever became of the file meanwhile.

A few threads each make a chunk from beginning to end: a segment is hashed as a leaf while it
is still in the cache, the whole chunk again, as a blob's name, and written.  While one waits
for the disk another computes, and nobody hands anything on.  The buffers are few and used
again: memory does not grow with the file, and no time goes into fresh pages.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from node.errors import StorageError
from node.ports.storage import BlobBatch, Blobs
from protocol import merkle
from protocol.manifest import (
    BODY_LIMIT_BYTES,
    CHUNK_BYTES,
    CHUNK_PLAIN_BYTES,
    CHUNK_SEGMENTS,
    CIPHER_SEGMENT_BYTES,
    SEGMENT_BYTES,
    SEGMENT_OVERHEAD_BYTES,
    Chunk,
    ChunkList,
    Entry,
    segments_of,
)
from protocol.types import Digest
from protocol.wire import encode

NONCE_BYTES = 12
KEEP_CHUNKS = 8
"""Chunks between two calls of `keep`: at most 64 MiB are encrypted again after a crash,
and the journal costs one transaction for as much."""
_MAKERS = 3
"""Two compute while one waits for the disk."""
_AHEAD = 6
"""Chunks that were begun or wait for it, before the first of them is collected."""

Sink = Callable[[bytes], object]


class Source(Protocol):
    """Plaintext of one unit, from any chunk's start on."""

    def seek(self, offset: int, /) -> int: ...

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill from the front; 0 at the end only."""


class _Counted:
    """The chunks of one body in order, reported in batches."""

    def __init__(
        self, done: Sequence[Chunk], keep: Callable[[int, Sequence[Chunk]], None]
    ) -> None:
        self.chunks = list(done)
        self._kept = len(done)
        self._keep = keep

    def add(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)

    def flush(self) -> None:
        if self._kept < len(self.chunks):
            self._keep(self._kept, self.chunks[self._kept :])
            self._kept = len(self.chunks)


def encrypt(
    source: Source,
    index: int,
    key: bytes,
    blobs: Blobs,
    *,
    done: Sequence[Chunk] = (),
    keep: Callable[[int, Sequence[Chunk]], None] = lambda _first, _chunks: None,
) -> Entry:
    """Encrypt unit `index` into `blobs`, and its chunk list too; blocks.

    `done` are the chunks an earlier call has kept; `keep(first, chunks)` is told of new
    ones once they are durable.
    """
    counted = _Counted(done, keep)
    maker = _Maker(source, ChaCha20Poly1305(key))
    length = len(done) * CHUNK_BYTES
    number = len(done)
    waiting: deque[tuple[Future[_Made], BlobBatch]] = deque()
    # The threads end before what they have written without a name is dropped.
    with ExitStack() as batches, ThreadPoolExecutor(_MAKERS, "seal") as pool:
        batch = batches.enter_context(blobs.batch())
        while True:
            while len(waiting) < _AHEAD:
                waiting.append((pool.submit(maker.made, number, batch), batch))
                number += 1
                if (number - len(done)) % KEEP_CHUNKS == 0:
                    batch = batches.enter_context(blobs.batch())
            future, of = waiting.popleft()
            size, chunk = future.result()
            length += size
            if length > BODY_LIMIT_BYTES:
                pool.shutdown(cancel_futures=True)
                raise StorageError(
                    f"unit {index} has more than {BODY_LIMIT_BYTES} bytes sealed",
                    hint="divide it into smaller consent units",
                )
            if chunk is not None:
                counted.add(chunk)
            if size < CHUNK_BYTES or of is not waiting[0][1]:
                of.commit()
                counted.flush()
            if size < CHUNK_BYTES:
                break
    return _entry(index, length, counted.chunks, blobs)


class _Made(NamedTuple):
    """Bytes of a chunk, and what names it; none and nothing after the source's end."""

    size: int
    chunk: Chunk | None


class _Maker:
    """Makes chunks of one source, several at a time."""

    def __init__(self, source: Source, cipher: ChaCha20Poly1305) -> None:
        self._source = source
        self._cipher = cipher
        self._reading = threading.Lock()
        self._free: SimpleQueue[tuple[memoryview, memoryview]] = SimpleQueue()
        for _ in range(_MAKERS):
            plain, sealed = bytearray(SEGMENT_BYTES), bytearray(CHUNK_BYTES)
            self._free.put((memoryview(plain), memoryview(sealed)))

    def made(self, number: int, batch: BlobBatch) -> _Made:
        """Chunk `number`, whose bytes are on the disk when this returns."""
        plain, buffer = self._free.get()
        try:
            sealed, root = self._sealed(number * CHUNK_PLAIN_BYTES, plain, buffer)
            if not sealed:
                return _Made(0, None)
            return _Made(len(sealed), Chunk(batch.put(sealed), root))
        finally:
            self._free.put((plain, buffer))

    def _sealed(
        self, offset: int, plain: memoryview, buffer: memoryview
    ) -> tuple[memoryview, Digest]:
        """What comes of the source from `offset` on, in `buffer`, and the root over it."""
        nonces = os.urandom(NONCE_BYTES * CHUNK_SEGMENTS)
        leaves: list[Digest] = []
        start = 0
        while start < len(buffer) and (size := self._fill(offset, plain)):
            nonce = nonces[len(leaves) * NONCE_BYTES :][:NONCE_BYTES]
            after_nonce, end = (
                start + NONCE_BYTES,
                start + size + SEGMENT_OVERHEAD_BYTES,
            )
            buffer[start:after_nonce] = nonce
            self._cipher.encrypt_into(
                nonce, plain[:size], None, buffer[after_nonce:end]
            )
            leaves.append(merkle.leaf_digest(buffer[start:end]))
            start, offset = end, offset + size
            if size < SEGMENT_BYTES:
                break
        return buffer[:start], merkle.root_of_digests(leaves)

    def _fill(self, offset: int, buffer: memoryview) -> int:
        """Read until the buffer is full or the source ends."""
        size = 0
        with self._reading:
            self._source.seek(offset)
            while size < len(buffer):
                count = self._source.readinto(buffer[size:])
                if not count:
                    break
                size += count
        return size


def _entry(index: int, length: int, chunks: list[Chunk], blobs: Blobs) -> Entry:
    if not chunks:
        raise StorageError(f"unit {index} has not a byte", hint="leave it out")
    if length == len(chunks) * CHUNK_BYTES:
        # Where all was done before, the last chunk may be short.
        length += blobs.size(Digest(chunks[-1].sha256)) - CHUNK_BYTES
    listed = ChunkList(tuple(chunks))
    blobs.put(encode(listed))
    return Entry(index, length, listed.root(), listed.digest())


def chunk_root(chunk: bytes | memoryview) -> Digest:
    """Merkle root over a chunk's segments; none of them is copied."""
    view = memoryview(chunk)
    return merkle.root_of_digests(
        [
            merkle.leaf_digest(view[start : start + CIPHER_SEGMENT_BYTES])
            for start in range(0, len(view), CIPHER_SEGMENT_BYTES)
        ]
    )


def decrypt(
    blobs: Blobs, entry: Entry, chunks: ChunkList, key: bytes, sink: Sink
) -> None:
    """The unit's plaintext, piece by piece; `StorageError` before a wrong byte.

    Each chunk is checked against its digest and its place in the tree before any of it
    is opened; `chunks` is what `open_chunks` returned for `entry`.
    """
    cipher = ChaCha20Poly1305(key)
    for number in range(len(chunks.chunks)):
        for segment in segments_of(read_chunk(blobs, entry, chunks, number)):
            sink(_opened(cipher, segment, entry.index))


def read_range(
    blobs: Blobs,
    entry: Entry,
    chunks: ChunkList,
    key: bytes,
    *,
    offset: int,
    length: int,
) -> bytes:
    """At most `length` bytes of plaintext from `offset` on, touching no other chunk."""
    cipher = ChaCha20Poly1305(key)
    out = bytearray()
    end = offset + length
    while offset < end:
        number, inside = divmod(offset, CHUNK_PLAIN_BYTES)
        if number >= len(chunks.chunks):
            break
        segments = segments_of(read_chunk(blobs, entry, chunks, number))
        first, skip = divmod(inside, SEGMENT_BYTES)
        before = offset
        for segment in segments[first:]:
            plain = _opened(cipher, segment, entry.index)[skip : skip + end - offset]
            out += plain
            offset += len(plain)
            skip = 0
            if offset >= end:
                break
        if offset == before:
            break
    return bytes(out)


class Opened:
    """The plaintext of a sealed unit of ours, from any offset on; a `Source`.

    Several makers read several chunks by turns, so as many are kept: a chunk is checked and
    read from the disk once.
    """

    def __init__(
        self, blobs: Blobs, entry: Entry, chunks: ChunkList, key: bytes
    ) -> None:
        self._blobs = blobs
        self._entry = entry
        self._chunks = chunks
        self._cipher = ChaCha20Poly1305(key)
        self._offset = 0
        self._read: dict[int, Sequence[bytes]] = {}

    def seek(self, offset: int, /) -> int:
        self._offset = offset
        return offset

    def readinto(self, buffer: memoryview, /) -> int:
        """From one segment; 0 after the last."""
        number, inside = divmod(self._offset, CHUNK_PLAIN_BYTES)
        segment, skip = divmod(inside, SEGMENT_BYTES)
        if number >= len(self._chunks.chunks):
            return 0
        segments = self._segments(number)
        if segment >= len(segments):
            return 0
        plain = _opened(self._cipher, segments[segment], self._entry.index)[skip:]
        size = min(len(plain), len(buffer))
        buffer[:size] = plain[:size]
        self._offset += size
        return size

    def _segments(self, number: int) -> Sequence[bytes]:
        found = self._read.pop(number, None)
        if found is None:
            data = read_chunk(self._blobs, self._entry, self._chunks, number)
            found = list(segments_of(data))
        self._read[number] = found
        while len(self._read) > _MAKERS:
            del self._read[next(iter(self._read))]
        return found


def read_chunk(blobs: Blobs, entry: Entry, chunks: ChunkList, number: int) -> bytes:
    """A chunk of a body from our own store, as the manifest has it."""
    chunk = chunks.chunks[number]
    where = f"chunk {number} of unit {entry.index}"
    digest, wanted = Digest(chunk.sha256), entry.chunk_length(number)
    if not blobs.has(digest):
        raise StorageError(
            f"{where} ({digest.hex()[:16]}…) is not in the blob store",
            hint="fetch it again, or restore the blobs from their backup",
        )
    size = blobs.size(digest)
    if size != wanted:
        raise StorageError(
            f"{where} has {size} bytes, the manifest says {wanted}",
            hint="the file was cut or extended; fetch it again",
        )
    data = blobs.read(digest, 0, size)
    # The tree is checked, not the blob's name: it is what the chain has fixed, and
    # blobs are checked against their names on their way in.
    if chunk_root(data) != chunk.root:
        raise StorageError(
            f"{where} is not what the manifest says",
            hint="the file was altered; fetch it again",
        )
    return data


def _opened(cipher: ChaCha20Poly1305, segment: bytes, index: int) -> bytes:
    try:
        return cipher.decrypt(segment[:NONCE_BYTES], segment[NONCE_BYTES:], None)
    except InvalidTag as error:
        raise StorageError(
            f"unit {index} does not decrypt under its own header",
            hint="the owner's header and body do not belong together; ask the owner",
        ) from error
