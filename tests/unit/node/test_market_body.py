"""Bodies: the field's format, flat, resumable, and opened only when whole."""

import io
import secrets
import tarfile
import tracemalloc

import crypt4gh.lib
import msgspec
import pytest

from node.adapters.blob_dir import BlobDir
from node.adapters.memory_store import MemoryBlobs
from node.errors import StorageError
from node.market import DatasetError, body, sealed
from node.market.shelf import chunk_list
from node.market.source import PAD_BYTES, File, Stream, packed
from protocol import merkle
from protocol.manifest import (
    CHUNK_PLAIN_BYTES,
    CIPHER_SEGMENT_BYTES,
    SEGMENT_BYTES,
    ChunkList,
    segments_of,
)
from protocol.types import digest
from protocol.wire import encode

KEY = bytes(range(32))
SECRET = bytes([1]) * 32


def pattern(size):
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def whole(blobs, entry):
    return b"".join(
        blobs.read(one.sha256, 0, entry.length)
        for one in chunk_list(blobs, entry).chunks
    )


def opened(blobs, entry, key=KEY):
    out = bytearray()
    body.decrypt(blobs, entry, chunk_list(blobs, entry), key, out.extend)
    return bytes(out)


@pytest.fixture(scope="module")
def three():
    """A body of three chunks, the last a short one."""
    blobs = MemoryBlobs()
    plain = pattern(2 * CHUNK_PLAIN_BYTES + SEGMENT_BYTES + 5)
    return blobs, plain, body.encrypt(Stream([plain]), 0, KEY, blobs)


@pytest.mark.parametrize(
    "size", [1, 100, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES]
)
def test_the_reference_package_opens_header_and_body(size):
    header = sealed.new_header(secret_seal_key=SECRET)
    own = sealed.public_half(SECRET)
    key = sealed.session_key(header, secret_seal_key=SECRET, sender=own)
    blobs = MemoryBlobs()
    entry = body.encrypt(Stream([pattern(size)]), 0, key, blobs)
    out = io.BytesIO()
    file = io.BytesIO(header + whole(blobs, entry))
    crypt4gh.lib.decrypt([(0, SECRET, None)], file, out, sender_pubkey=own)
    assert out.getvalue() == pattern(size)


def test_the_root_is_the_tree_over_all_segments(three):
    blobs, plain, entry = three
    segments = segments_of(whole(blobs, entry))
    assert entry.segments == len(segments) == 258
    assert entry.root == merkle.root(segments)
    assert entry.length == len(plain) + 28 * len(segments)
    assert opened(blobs, entry) == plain


def test_no_nonce_comes_twice(three):
    blobs, _, entry = three
    nonces = {one[:12] for one in segments_of(whole(blobs, entry))}
    assert len(nonces) == entry.segments


@pytest.mark.parametrize("broken", ["cut", "swapped", "bent", "gone"])
def test_whatever_is_wrong_is_noticed_before_it_is_opened(three, broken):
    blobs, _, entry = three
    listed = chunk_list(blobs, entry)
    first, second, last = (blobs.read(c.sha256, 0, 1 << 24) for c in listed.chunks)
    if broken == "cut":  # a whole segment: the format does not notice
        first = first[:-CIPHER_SEGMENT_BYTES]
    elif broken == "swapped":
        first = (
            first[CIPHER_SEGMENT_BYTES : 2 * CIPHER_SEGMENT_BYTES]
            + first[:CIPHER_SEGMENT_BYTES]
            + first[2 * CIPHER_SEGMENT_BYTES :]
        )
    elif broken == "bent":
        first = bytes([first[0] ^ 1]) + first[1:]
    other = MemoryBlobs()
    for data in (second, last, encode(listed)):
        other.put(data)
    if broken != "gone":
        other._held[listed.chunks[0].sha256] = first
    out = bytearray()
    with pytest.raises(StorageError, match="chunk 0 of unit 0"):
        body.decrypt(other, entry, listed, KEY, out.extend)
    assert not out


def test_the_format_itself_takes_a_body_cut_between_segments(three):
    # This is why the manifest is checked first.
    blobs, plain, entry = three
    cut = whole(blobs, entry)[: 2 * CIPHER_SEGMENT_BYTES]
    out = io.BytesIO()
    output = crypt4gh.lib.limited_output(process=out.write)
    next(output)
    crypt4gh.lib.body_decrypt(io.BytesIO(cut), [KEY], output, 0)
    assert out.getvalue() == plain[: 2 * SEGMENT_BYTES]


def test_another_key_opens_nothing(three):
    blobs, _, entry = three
    with pytest.raises(StorageError, match="does not decrypt"):
        opened(blobs, entry, bytes(32))


def test_a_chunk_list_of_another_unit_is_refused(three):
    blobs, _, entry = three
    listed = chunk_list(blobs, entry)
    other = ChunkList(listed.chunks[::-1])
    blobs.put(encode(other))
    bent = msgspec.structs.replace(entry, chunks=other.digest())
    with pytest.raises(StorageError, match="not what the manifest says"):
        chunk_list(blobs, bent)
    lost = msgspec.structs.replace(entry, chunks=digest(b"lost"))
    with pytest.raises(StorageError, match="not in the blob store"):
        chunk_list(blobs, lost)


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 10),
        (SEGMENT_BYTES - 3, 7),
        # Beyond the first segment the reference package's own reader is wrong.
        (SEGMENT_BYTES, SEGMENT_BYTES),
        (CHUNK_PLAIN_BYTES - 1, 2),
        (2 * CHUNK_PLAIN_BYTES + SEGMENT_BYTES, 100),
        (1 << 30, 4),
        (5, 0),
    ],
)
def test_a_range_is_what_stands_there(three, offset, length):
    blobs, plain, entry = three
    listed = chunk_list(blobs, entry)
    found = body.read_range(blobs, entry, listed, KEY, offset=offset, length=length)
    assert found == plain[offset : offset + length]


class CutError(Exception):
    pass


@pytest.mark.parametrize("kept", [0, 8, 16])
def test_a_cut_publishing_goes_on_and_no_chunk_is_made_twice(kept, monkeypatch):
    # Small chunks, so that many fit a test: 1 segment each.
    monkeypatch.setattr(body, "CHUNK_PLAIN_BYTES", SEGMENT_BYTES)
    monkeypatch.setattr(body, "CHUNK_BYTES", CIPHER_SEGMENT_BYTES)
    plain = pattern(20 * SEGMENT_BYTES + 9)
    blobs, journal = MemoryBlobs(), []

    def keep(first, chunks):
        assert first == len(journal)
        # What the journal has seen is here: a crash may come at once.
        assert all(blobs.has(chunk.sha256) for chunk in chunks)
        if len(journal) >= kept:
            raise CutError
        journal.extend(chunks)

    with pytest.raises(CutError):
        body.encrypt(Stream([plain]), 0, KEY, blobs, keep=keep)
    assert len(journal) == kept
    before = set(blobs._held)
    entry = body.encrypt(Stream([plain]), 0, KEY, blobs, done=journal)
    whole_body = b"".join(
        blobs.read(one.sha256, 0, entry.length)
        for one in msgspec.msgpack.decode(
            blobs.read(entry.chunks, 0, 1 << 20), type=ChunkList
        ).chunks
    )
    assert entry.root == merkle.root(segments_of(whole_body))
    assert {one.sha256 for one in journal} <= before
    out = io.BytesIO()
    output = crypt4gh.lib.limited_output(process=out.write)
    next(output)
    crypt4gh.lib.body_decrypt(io.BytesIO(whole_body), [KEY], output, 0)
    assert out.getvalue() == plain


def test_one_that_was_done_already_is_only_listed():
    plain = pattern(CHUNK_PLAIN_BYTES + 77)
    blobs = MemoryBlobs()
    entry = body.encrypt(Stream([plain]), 0, KEY, blobs)
    done = chunk_list(blobs, entry).chunks
    assert body.encrypt(Stream([plain]), 0, KEY, blobs, done=done) == entry


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for chunks in (3, 9):
        path = tmp_path / f"{chunks}.bin"
        path.write_bytes(secrets.token_bytes(chunks * CHUNK_PLAIN_BYTES))
        blobs = BlobDir(tmp_path / f"blobs-{chunks}")
        tracemalloc.start()
        with Stream([File.found(path, "x")]) as stream:
            entry = body.encrypt(stream, 0, KEY, blobs)
        out = hashed()
        body.decrypt(blobs, entry, chunk_list(blobs, entry), KEY, out.update)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert out.digest() == digest(path.read_bytes())
    assert peaks[1] < 1.1 * peaks[0] < 64 << 20


def hashed():
    import hashlib

    return hashlib.sha256()


# Sources


def files_in(folder, contents):
    found = []
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        found.append(File.found(path, name))
    return found


CONTENTS = {
    "dicom/a/1.dcm": pattern(700),
    "dicom/a/2.dcm": b"",
    "csv/" + "ü" * 120 + ".csv": pattern(70_000),
}


def read_all(stream, start=0, piece=1000):
    stream.seek(start)
    out = bytearray()
    buffer = memoryview(bytearray(piece))
    while count := stream.readinto(buffer):
        out += buffer[:count]
    return bytes(out)


def test_a_packed_unit_is_a_tar_of_its_files_and_says_nothing_else(tmp_path):
    with Stream(packed(files_in(tmp_path, CONTENTS))) as stream:
        data = read_all(stream)
        assert len(data) == stream.size
        assert len(data) % PAD_BYTES == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        assert {m.name: tar.extractfile(m).read() for m in members} == CONTENTS
    for member in members:
        assert (member.mtime, member.uid, member.uname) == (0, 0, "")


def test_a_stream_starts_anywhere(tmp_path):
    with Stream(packed(files_in(tmp_path, CONTENTS))) as stream:
        data = read_all(stream)
        for start in (0, 1, 511, 512, 1300, 1537, 40_000, len(data) - 1, len(data)):
            assert read_all(stream, start, 333) == data[start:]


@pytest.mark.parametrize("change", ["longer", "shorter", "gone"])
def test_a_file_that_changes_meanwhile_is_not_published(tmp_path, change):
    (file,) = files_in(tmp_path, {"a": pattern(5000)})
    if change == "gone":
        file.path.unlink()
    else:
        file.path.write_bytes(pattern(6000 if change == "longer" else 10))
    reason = "cannot be read" if change == "gone" else "changed while"
    with Stream([file]) as stream, pytest.raises(DatasetError, match=reason):
        read_all(stream)
