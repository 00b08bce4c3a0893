"""Blobs: nothing under a name that is not what the name says."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from node.adapters import blob_dir
from node.adapters.blob_dir import BlobDir
from node.adapters.memory_store import MemoryBlobs
from node.errors import StorageError
from protocol.types import Digest


def digest(data):
    return Digest(hashlib.sha256(data).digest())


@pytest.fixture(params=["disk", "memory"])
def blobs(request, tmp_path):
    return BlobDir(tmp_path / "blobs") if request.param == "disk" else MemoryBlobs()


def test_what_was_put_is_read_in_pieces(blobs):
    name = blobs.put(b"0123456789")
    assert name == digest(b"0123456789")
    assert blobs.has(name)
    assert blobs.size(name) == 10
    assert blobs.read(name, 3, 4) == b"3456"
    assert blobs.read(name, 8, 100) == b"89"
    assert blobs.put(b"0123456789") == name


def test_what_is_put_together_is_here_together_and_not_before(blobs):
    old = blobs.put(b"old")
    with blobs.batch() as batch:
        names = [batch.put(data) for data in (b"one", b"two", b"two", b"old")]
        assert names == [digest(b"one"), digest(b"two"), digest(b"two"), old]
        assert [blobs.has(name) for name in names] == [False, False, False, True]
        batch.commit()
        assert all(blobs.has(name) for name in names)
        lost = batch.put(b"three")
    assert not blobs.has(lost)
    assert blobs.read(digest(b"one"), 0, 9) == b"one"


def test_an_absent_blob_is_one_clear_error(blobs):
    absent = digest(b"absent")
    assert not blobs.has(absent)
    for use in (blobs.size, lambda d: blobs.read(d, 0, 1)):
        with pytest.raises(StorageError, match="is not here"):
            use(absent)
    with pytest.raises(StorageError, match="3 bytes"):
        blobs.has(b"abc")


def test_a_deleted_blob_is_gone(blobs):
    name = blobs.put(b"x")
    blobs.delete(name)
    blobs.delete(name)
    assert not blobs.has(name)


def test_a_blob_arrives_piece_by_piece(tmp_path):
    blobs = BlobDir(tmp_path)
    with blobs.writer() as writer:
        writer.write(b"ab")
        assert not blobs.has(digest(b"abcd"))
        writer.write(b"cd")
        writer.commit(digest(b"abcd"))
    assert blobs.path(digest(b"abcd")).read_bytes() == b"abcd"
    writer.abort()
    assert blobs.has(digest(b"abcd"))


def test_other_bytes_than_announced_leave_nothing(tmp_path):
    blobs = BlobDir(tmp_path)
    writer = blobs.writer()
    writer.write(b"evil")
    with pytest.raises(StorageError, match="not " + digest(b"good").hex()):
        writer.commit(digest(b"good"))
    assert not blobs.has(digest(b"good"))
    assert not blobs.has(digest(b"evil"))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_leftovers_of_a_crash_go_and_blobs_stay(tmp_path):
    blobs = BlobDir(tmp_path)
    name = blobs.put(b"kept")
    blobs.writer().write(b"half")
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    again = BlobDir(tmp_path)
    assert len(list((tmp_path / "tmp").iterdir())) == 1  # the child's may be among them
    again.tidy()
    assert again.has(name)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_need_not_last_is_there_until_the_machine_starts_again(
    tmp_path, monkeypatch
):
    synced = []
    monkeypatch.setattr("os.fsync", synced.append)
    blobs = BlobDir(tmp_path)
    name = blobs.put(b"masked", lasting=False)
    assert synced == []
    again = BlobDir(tmp_path)  # a new process on the same machine
    again.tidy()
    assert again.read(name, 0, 6) == b"masked"
    boot = tmp_path / "boot_id"
    boot.write_text("another start\n")
    monkeypatch.setattr(blob_dir, "_BOOT", boot)
    after = BlobDir(tmp_path)
    assert not after.has(name)
    after.tidy()
    assert not list(tmp_path.rglob(name.hex()))


def test_a_blob_that_is_to_last_is_synced_though_it_is_here_already(
    tmp_path, monkeypatch
):
    blobs = BlobDir(tmp_path)
    name = blobs.put(b"twice", lasting=False)
    synced = []
    monkeypatch.setattr("os.fsync", synced.append)
    assert blobs.put(b"twice") == name
    assert synced
    assert blobs.place(name, lasting=True).is_file()
    blobs.delete(name)
    assert not blobs.has(name)


def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    blobs = BlobDir(tmp_path)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="no space left on disk") as caught:
        blobs.put(b"x")
    assert "free space" in caught.value.hint()
    assert not blobs.has(digest(b"x"))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_batch_is_on_disk_before_it_has_a_name_and_its_names_when_it_is_committed(
    tmp_path, monkeypatch
):
    blobs, seen = BlobDir(tmp_path), []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor):
        seen.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    def named(path, place):
        seen.append(place)
        return replace(path, place)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr(Path, "replace", named)
    with blobs.batch() as batch:
        names = [batch.put(bytes([n]) * 600_000) for n in range(3)]
        contents = seen.copy()
        batch.commit()
    places = [blobs.path(name) for name in names]
    # Content, under no name; then the names; then the folders that hold them, each once.
    assert [path.parent.name for path in contents] == ["tmp"] * 3
    assert seen[3:6] == places
    assert seen[6:] == sorted({tmp_path, *(place.parent for place in places)})
    assert [place.stat().st_size for place in places] == [600_000] * 3
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_batch_that_was_cut_leaves_nothing(tmp_path, monkeypatch):
    blobs = BlobDir(tmp_path)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="no space left on disk"), blobs.batch() as b:
        b.put(b"one")
        monkeypatch.setattr("os.fsync", full)
        b.put(b"two")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not blobs.has(digest(b"one"))


def test_a_changed_file_is_found(tmp_path):
    blobs = BlobDir(tmp_path)
    name = blobs.put(b"x" * 100)
    blobs.check(name)
    blobs.path(name).write_bytes(b"y" * 100)
    with pytest.raises(StorageError, match="reads as"):
        blobs.check(name)
