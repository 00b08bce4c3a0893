import msgspec
import nacl.signing
import pytest

from protocol import manifest as mf
from protocol import merkle
from protocol.envelope import seal
from protocol.errors import MalformedMessageError, SignatureError, VerificationError
from protocol.listing import Column, Listing, Part
from protocol.types import digest
from protocol.wire import encode

KEY = nacl.signing.SigningKey(bytes(range(32)))
PUBLIC = bytes(KEY.verify_key)
MANIFEST = mf.Manifest(
    tuple(
        mf.Entry(i, 100 + i, digest(bytes([i])), digest(bytes([100 + i])))
        for i in range(5)
    )
)


def sign(message: bytes) -> bytes:
    return KEY.sign(message).signature


def listing(manifest=MANIFEST, units=5):
    return Listing(
        title="t",
        licence="MIT",
        duo=("DUO:0000042",),
        disease=None,
        source="s",
        version=1,
        previous=b"",
        provenance=bytes(32),
        parts=(Part("table", "csv", (Column("a", "text"),), (), None),),
        packed=False,
        units=units,
        rows=(None,) * units,
        manifest=manifest.root(),
        owner=PUBLIC,
        created=0,
    )


def test_a_sealed_manifest_comes_back_under_its_listing():
    sealed = mf.seal_manifest(sign, PUBLIC, MANIFEST)
    assert mf.open_manifest(sealed, listing()) == MANIFEST


def test_each_entry_is_proved_under_the_root():
    leaves = [encode(entry) for entry in MANIFEST.entries]
    proof = merkle.inclusion_proof(leaves, 3)
    merkle.verify_inclusion(MANIFEST.root(), leaves[3], 3, 5, proof)


@pytest.mark.parametrize(
    "change",
    [{"root": digest(b"other")}, {"length": 99}, {"chunks": digest(b"other")}],
    ids=["swapped", "cut", "relisted"],
)
def test_a_changed_entry_is_another_root(change):
    entries = list(MANIFEST.entries)
    entries[2] = msgspec.structs.replace(entries[2], **change)
    sealed = mf.seal_manifest(sign, PUBLIC, mf.Manifest(tuple(entries)))
    with pytest.raises(VerificationError, match="manifest root"):
        mf.open_manifest(sealed, listing())


def test_a_manifest_of_another_signer_or_with_units_missing_is_refused():
    other = nacl.signing.SigningKey(bytes(32))
    forged = mf.seal_manifest(
        lambda m: other.sign(m).signature, bytes(other.verify_key), MANIFEST
    )
    with pytest.raises(SignatureError, match="manifest's signer"):
        mf.open_manifest(forged, listing())
    sealed = mf.seal_manifest(sign, PUBLIC, MANIFEST)
    with pytest.raises(VerificationError, match="manifest's units"):
        mf.open_manifest(sealed, listing(units=6))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ((), "0 units"),
        ((mf.Entry(1, 99, bytes(32), bytes(32)),), "numbered 1"),
        ((mf.Entry(0, 99, bytes(31), bytes(32)),), "31 bytes"),
        ((mf.Entry(0, 99, bytes(32), bytes(33)),), "33 bytes"),
        ((mf.Entry(0, 0, bytes(32), bytes(32)),), "0 bytes"),
        ((mf.Entry(0, (1 << 36) + 1, bytes(32), bytes(32)),), "needs between"),
        ((mf.Entry(0, 28, bytes(32), bytes(32)),), "no plaintext gives"),
        ((mf.Entry(0, 65_564 + 28, bytes(32), bytes(32)),), "no plaintext gives"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_neither_made_nor_read(entries, reason):
    broken = mf.Manifest(entries)
    with pytest.raises(MalformedMessageError, match=reason):
        mf.seal_manifest(sign, PUBLIC, broken)
    forced = seal(sign, mf.MANIFEST_DOMAIN, PUBLIC, broken.root(), encode(broken))
    with pytest.raises(MalformedMessageError, match=reason):
        mf.open_manifest(forced, listing())


def body(segments, last=1000):
    """A ciphertext of so many segments, cheap to make and all different."""
    full = [bytes([i % 251, i // 251]) * 32_782 for i in range(segments - 1)]
    return [*full, b"z" * last]


def listed(segments):
    chunks = [
        b"".join(segments[i : i + mf.CHUNK_SEGMENTS])
        for i in range(0, len(segments), mf.CHUNK_SEGMENTS)
    ]
    chunk_list = mf.ChunkList(
        tuple(mf.Chunk(digest(one), merkle.root(mf.segments_of(one))) for one in chunks)
    )
    length = sum(map(len, segments))
    return mf.Entry(0, length, merkle.root(segments), chunk_list.digest()), chunk_list


@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 200, 257])
def test_chunks_are_subtrees_of_the_tree_over_the_segments(count):
    entry, chunks = listed(body(count))
    assert chunks.root() == entry.root
    assert mf.open_chunks(encode(chunks), entry) == chunks
    assert entry.segments == count
    lengths = [entry.chunk_length(i) for i in range(len(chunks.chunks))]
    assert sum(lengths) == entry.length


def test_a_chunk_list_that_is_not_the_entrys_is_refused():
    entry, chunks = listed(body(257))
    one, two, three = chunks.chunks
    for wrong in ((two, one, three), (one, two), (one, two, three, three)):
        other = mf.ChunkList(wrong)
        with pytest.raises(VerificationError, match="chunk list"):
            mf.open_chunks(encode(other), entry)
        # An entry whose list and tree do not agree is no better.
        bent = msgspec.structs.replace(entry, chunks=other.digest())
        with pytest.raises(VerificationError, match=r"root of the body|number of"):
            mf.open_chunks(encode(other), bent)


def test_one_segment_is_proved_without_the_others():
    segments = body(130)
    entry, _ = listed(segments)
    for number in (0, 64, 128, 129):
        proof = merkle.inclusion_proof(segments, number)
        mf.verify_segment(entry, number, segments[number], proof)
        for wrong in (number + 1, number - 1, 130, -1):
            with pytest.raises(VerificationError):
                mf.verify_segment(entry, wrong, segments[number], proof)
    cut = segments[129][:-1]
    with pytest.raises(VerificationError, match="length of the segment"):
        mf.verify_segment(entry, 129, cut, merkle.inclusion_proof(segments, 129))


def test_bitmaps_name_units_both_ways():
    assert mf.bitmap([0, 3, 63, 3]) == 1 | 8 | 1 << 63
    assert mf.unit_list(1 | 8 | 1 << 63) == [0, 3, 63]
    assert mf.unit_list(0) == []
    for unit in (-1, 64):
        with pytest.raises(MalformedMessageError):
            mf.bitmap([unit])
    for bits in (-1, 1 << 64):
        with pytest.raises(MalformedMessageError):
            mf.unit_list(bits)
