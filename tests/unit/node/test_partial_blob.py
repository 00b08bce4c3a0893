"""A blob on its way in: out of order, interrupted, corrupted, out of space."""

import errno
import hashlib
import os
import signal
import subprocess
import sys

import pytest

from node.adapters import partial_blob
from node.adapters.blob_dir import BlobDir
from node.adapters.partial_blob import (
    CHUNK_BYTES,
    PartialFile,
    chunk_count,
    earlier_size,
    open_partial,
)
from node.errors import StorageError
from protocol.types import Digest

SIZE = 3 * CHUNK_BYTES + 5
CONTENT = hashlib.shake_128(b"content").digest(SIZE)
DIGEST = Digest(hashlib.sha256(CONTENT).digest())


def chunk(index):
    return CONTENT[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


def write(partial, index, data=None):
    data = chunk(index) if data is None else data
    partial.write(index, [data[:7], data[7:]])


@pytest.fixture
def blobs(tmp_path):
    return BlobDir(tmp_path)


class Held:
    """The smallest store that is not a folder."""

    def __init__(self):
        self.held = {}

    def put(self, data):
        self.held[Digest(hashlib.sha256(data).digest())] = data


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
@pytest.mark.parametrize("on_disk", [True, False])
def test_chunks_in_any_order_become_the_blob(blobs, order, on_disk):
    store = blobs if on_disk else Held()
    partial = open_partial(store, DIGEST, SIZE)
    for index in order:
        assert not partial.has(index)
        write(partial, index)
        assert partial.has(index)
    assert partial.missing() == []
    assert partial.matches()
    partial.commit()
    partial.close()
    if on_disk:
        assert blobs.read(DIGEST, 0, SIZE) == CONTENT
        assert not list((blobs.path(DIGEST).parent.parent / "partial").iterdir())
    else:
        assert store.held[DIGEST] == CONTENT


def test_an_empty_blob_is_complete_at_once(blobs):
    digest = Digest(hashlib.sha256(b"").digest())
    partial = open_partial(blobs, digest, 0)
    assert partial.matches()
    partial.commit()
    assert blobs.size(digest) == 0


def test_what_an_earlier_life_left_is_taken_up(blobs, tmp_path):
    partial = open_partial(blobs, DIGEST, SIZE)
    write(partial, 2)
    write(partial, 0)
    partial.close()
    assert earlier_size(blobs, DIGEST) == SIZE
    again = open_partial(BlobDir(tmp_path), DIGEST, SIZE)
    assert again.missing() == [1, 3]
    write(again, 1)
    write(again, 3)
    assert again.matches()


def test_another_size_starts_anew(blobs):
    partial = open_partial(blobs, DIGEST, SIZE)
    write(partial, 2)
    partial.close()
    again = open_partial(blobs, DIGEST, SIZE + 1)
    assert again.missing() == list(range(chunk_count(SIZE + 1)))
    assert earlier_size(blobs, DIGEST) == SIZE + 1


@pytest.mark.parametrize("notes", [b"", b"rexis", b"x" * 40, None])
def test_notes_that_say_nothing_are_not_believed(blobs, notes):
    partial = open_partial(blobs, DIGEST, SIZE)
    write(partial, 2)
    partial.close()
    path = blobs.path(DIGEST).parent.parent / "partial" / f"{DIGEST.hex()}.have"
    path.unlink() if notes is None else path.write_bytes(notes)
    assert earlier_size(blobs, DIGEST) is None
    assert open_partial(blobs, DIGEST, SIZE).missing() == [0, 1, 2, 3]


def test_a_wrong_chunk_is_found_and_can_be_replaced(blobs):
    partial = open_partial(blobs, DIGEST, SIZE)
    for index in range(4):
        write(partial, index, bytes(CHUNK_BYTES) if index == 1 else None)
    assert not partial.matches()
    assert partial.found() != DIGEST.hex()
    right = [hashlib.sha256(chunk(index)).digest() for index in range(4)]
    (wrong,) = [n for n, own in enumerate(partial.chunk_digests()) if own != right[n]]
    assert wrong == 1
    write(partial, 1)
    assert partial.matches()


@pytest.mark.parametrize("data", [b"", bytes(CHUNK_BYTES - 1), bytes(CHUNK_BYTES + 1)])
def test_what_is_no_chunk_is_refused(blobs, data):
    partial = open_partial(blobs, DIGEST, SIZE)
    with pytest.raises(StorageError, match="not chunks from 0 on"):
        partial.write(0, [data])
    for first in (-1, 2, 4):
        with pytest.raises(StorageError, match=f"not chunks from {first} on"):
            partial.write(first, [chunk(3)])
    assert partial.missing() == [0, 1, 2, 3]


def test_a_run_of_chunks_is_written_at_once(blobs):
    partial = open_partial(blobs, DIGEST, SIZE)
    partial.write(1, [chunk(1), chunk(2)[:9], chunk(2)[9:], chunk(3)])
    assert partial.missing() == [0]
    write(partial, 0)
    assert partial.matches()


def test_a_full_disk_says_so_before_the_first_byte(blobs, monkeypatch):
    def full(descriptor, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="no space left") as caught:
        open_partial(blobs, DIGEST, SIZE)
    assert "free space" in caught.value.hint()


def test_a_download_nobody_came_back_to_gives_its_space_back(blobs, monkeypatch):
    open_partial(blobs, DIGEST, SIZE).close()
    monkeypatch.setattr(partial_blob, "FORGET_AFTER_S", -1)
    other = Digest(hashlib.sha256(b"other").digest())
    open_partial(blobs, other, 5).close()
    assert earlier_size(blobs, DIGEST) is None
    assert earlier_size(blobs, other) == 5


def test_another_fetch_may_end_while_old_downloads_are_looked_for(
    blobs, tmp_path, monkeypatch
):
    """Its file has a new place between the listing of the folder and the look at the file."""
    others = open_partial(blobs, DIGEST, SIZE)
    for index in range(4):
        write(others, index)
    assert others.matches()
    listed = type(tmp_path).iterdir

    def then_it_ends(folder):
        names = list(listed(folder))
        if not blobs.has(DIGEST):
            others.commit()
        return iter(names)

    monkeypatch.setattr(type(tmp_path), "iterdir", then_it_ends)
    open_partial(blobs, Digest(hashlib.sha256(b"other").digest()), 5).close()
    assert blobs.has(DIGEST)


CHILD = """
import sys
from node.adapters.blob_dir import BlobDir
from node.adapters.partial_blob import open_partial
from protocol.types import Digest
folder, digest, size = sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3])
partial = open_partial(BlobDir(folder), Digest(digest), size)
content = sys.stdin.buffer.read(size)
for index in (3, 0, 2):
    part = content[index << 20 : index + 1 << 20]
    partial.write(index, [part])
print("written", flush=True)
sys.stdin.read()
"""


def test_kill_9_leaves_no_less_than_what_was_noted(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), DIGEST.hex(), str(SIZE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        child.stdin.write(CONTENT)
        child.stdin.flush()
        assert child.stdout.readline() == b"written\n"
        child.send_signal(signal.SIGKILL)
    partial = PartialFile(BlobDir(tmp_path), DIGEST, SIZE)
    assert partial.missing() == [1]
    write(partial, 1)
    assert partial.matches()
