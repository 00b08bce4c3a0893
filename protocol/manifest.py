"""The ciphertext of a dataset, unit by unit, and what passes between owner and grantee.

A unit's body is a Crypt4GH body: segments of 65,536 bytes of plaintext, 28 longer when
encrypted.  The format does not notice a segment that is dropped, swapped or appended, so
an entry fixes the length and a Merkle root over the segments, in order.  Bodies are
stored and moved as chunks, 128 segments each, under their own digests; a chunk's subtree
is a node of the unit's tree, so chunk by chunk everything is checked under the root that
the listing, and with it the chain, has fixed.

The keys are not here: they travel as Crypt4GH headers, one per unit and grantee.
"""

from collections.abc import Callable, Sequence

from protocol import merkle
from protocol.envelope import open_envelope, seal
from protocol.errors import MalformedMessageError, SignatureError, VerificationError
from protocol.listing import UNITS_LIMIT, Listing
from protocol.types import DIGEST_BYTES, Digest, PublicKey, digest
from protocol.wire import Message, decode, encode

MANIFEST_DOMAIN = "rexis/manifest/2"
DATA_PROTOCOL = "/rexis/data/2"

SEGMENT_BYTES = 65_536
SEGMENT_OVERHEAD_BYTES = 28
"""12 of nonce, 16 of tag (Crypt4GH 1.0, section 3.2)."""
CIPHER_SEGMENT_BYTES = SEGMENT_BYTES + SEGMENT_OVERHEAD_BYTES

CHUNK_SEGMENTS = 128
"""A power of two, so that a chunk is a whole subtree; 8 MiB is short enough to be lost
in a crash and long enough that its file costs nothing beside its bytes."""
CHUNK_BYTES = CHUNK_SEGMENTS * CIPHER_SEGMENT_BYTES
CHUNK_PLAIN_BYTES = CHUNK_SEGMENTS * SEGMENT_BYTES

BODY_LIMIT_BYTES = 1 << 36
"""Of one unit's ciphertext: 64 GiB, whose 8,192 chunks still fit one list."""

HEADER_LIMIT_BYTES = 4096
"""An honest header of one key is 124 bytes: 16 of preamble, 108 of packet."""

QUERY_LIMIT_BYTES = 256
ANSWER_LIMIT_BYTES = 1 << 20
CHUNK_LIST_LIMIT_BYTES = 1 << 20


class Chunk(Message, frozen=True, tag="chunk"):
    """One stored piece of a body."""

    sha256: bytes
    """Of its bytes; the blob's name."""
    root: bytes
    """Merkle root over its segments."""


class ChunkList(Message, frozen=True, tag="chunks"):
    """All chunks of one body, in order; a blob of its own, named by the entry."""

    chunks: tuple[Chunk, ...]

    def digest(self) -> Digest:
        return digest(encode(self))

    def root(self) -> Digest:
        """Merkle root over all segments of the body.

        Every chunk but the last is a full subtree of 2^7 leaves, and the last node of an
        odd level is carried up: the tree over the chunks' roots is the tree's top.
        """
        return merkle.root_of_digests([chunk.root for chunk in self.chunks])


class Entry(Message, frozen=True, tag="unit"):
    """One consent unit's encrypted body."""

    index: int
    length: int
    """Bytes of ciphertext, without the header."""
    root: bytes
    """Merkle root over the ciphertext's segments."""
    chunks: bytes
    """Digest of the body's `ChunkList`."""

    @property
    def segments(self) -> int:
        return -(-self.length // CIPHER_SEGMENT_BYTES)

    def chunk_length(self, number: int) -> int:
        """Bytes of chunk `number`."""
        return min(CHUNK_BYTES, self.length - number * CHUNK_BYTES)


class Manifest(Message, frozen=True, tag="manifest"):
    """All units of a dataset, in order."""

    entries: tuple[Entry, ...]

    def root(self) -> Digest:
        """Merkle root over the entries."""
        return merkle.root([encode(entry) for entry in self.entries])


class DataQuery(Message, frozen=True, tag="data?"):
    """Any member asks for the public half; a grantee asks for the keys of `units`.

    `units` is None for the public half, a bitmap for those units, and 0 for all that the
    asker was granted.
    """

    dataset: int
    units: int | None


class ListingAnswer(Message, frozen=True, tag="listing!"):
    """The public half: sealed listing and the sealed steps of its provenance."""

    listing: bytes
    provenance: tuple[bytes, ...]


class UnitHeader(Message, frozen=True, tag="header"):
    """The Crypt4GH header of one unit, encrypted to the one who asked."""

    index: int
    header: bytes


class UnitsAnswer(Message, frozen=True, tag="units!"):
    """Sealed listing and manifest, and one header for each unit that is granted."""

    listing: bytes
    manifest: bytes
    headers: tuple[UnitHeader, ...]


def check_manifest(manifest: Manifest) -> None:
    """Raise `MalformedMessageError` unless the entries are 0, 1, … and well formed."""
    if not 1 <= len(manifest.entries) <= UNITS_LIMIT:
        raise MalformedMessageError(
            f"manifest has {len(manifest.entries)} units, needs between 1 and "
            f"{UNITS_LIMIT}"
        )
    for place, entry in enumerate(manifest.entries):
        if entry.index != place:
            raise MalformedMessageError(
                f"manifest entry {place} is numbered {entry.index}"
            )
        for one in (entry.root, entry.chunks):
            if len(one) != DIGEST_BYTES:
                raise MalformedMessageError(
                    f"a digest of unit {place} has {len(one)} bytes, needs "
                    f"{DIGEST_BYTES}"
                )
        if not 1 <= entry.length <= BODY_LIMIT_BYTES:
            raise MalformedMessageError(
                f"unit {place} has {entry.length} bytes, needs between 1 and "
                f"{BODY_LIMIT_BYTES}"
            )
        if 0 < entry.length % CIPHER_SEGMENT_BYTES <= SEGMENT_OVERHEAD_BYTES:
            raise MalformedMessageError(
                f"unit {place} has {entry.length} bytes, which no plaintext gives"
            )


def seal_manifest(
    sign: Callable[[bytes], bytes], sender: PublicKey, manifest: Manifest
) -> bytes:
    """The owner signs `manifest`, in the context of its root."""
    check_manifest(manifest)
    return seal(sign, MANIFEST_DOMAIN, sender, manifest.root(), encode(manifest))


def open_manifest(data: bytes, listing: Listing) -> Manifest:
    """The manifest in `data`, which must be the one that `listing` names."""
    envelope = open_envelope(data, MANIFEST_DOMAIN)
    if envelope.sender != listing.owner:
        raise SignatureError(
            "manifest's signer", listing.owner.hex(), envelope.sender.hex()
        )
    manifest = decode(envelope.payload, Manifest)
    check_manifest(manifest)
    root = manifest.root()
    if envelope.context != root:
        raise SignatureError("manifest's context", root.hex(), envelope.context.hex())
    if root != listing.manifest:
        raise VerificationError("manifest root", listing.manifest.hex(), root.hex())
    if len(manifest.entries) != listing.units:
        raise VerificationError(
            "manifest's units", listing.units, len(manifest.entries)
        )
    return manifest


def open_chunks(data: bytes, entry: Entry) -> ChunkList:
    """The chunks in `data`, which must be the list that `entry` names."""
    chunks = decode(data, ChunkList, limit_bytes=CHUNK_LIST_LIMIT_BYTES)
    if digest(data) != entry.chunks:
        raise VerificationError("chunk list", entry.chunks.hex(), digest(data).hex())
    wanted = -(-entry.length // CHUNK_BYTES)
    if len(chunks.chunks) != wanted:
        raise VerificationError("number of chunks", wanted, len(chunks.chunks))
    for chunk in chunks.chunks:
        if len(chunk.sha256) != DIGEST_BYTES or len(chunk.root) != DIGEST_BYTES:
            raise MalformedMessageError(
                f"a chunk's digest has not {DIGEST_BYTES} bytes"
            )
    if chunks.root() != entry.root:
        raise VerificationError(
            "root of the body", entry.root.hex(), chunks.root().hex()
        )
    return chunks


def segments_of(chunk: bytes) -> list[bytes]:
    """The segments of a chunk's bytes; the last may be short."""
    return [
        chunk[start : start + CIPHER_SEGMENT_BYTES]
        for start in range(0, len(chunk), CIPHER_SEGMENT_BYTES)
    ]


def verify_segment(
    entry: Entry, number: int, segment: bytes, proof: Sequence[bytes]
) -> None:
    """Raise `VerificationError` unless `segment` stands at `number` of the body.

    For whoever is shown one segment and neither the chunks nor a key.
    """
    if not 0 <= number < entry.segments:
        raise VerificationError("segment", f"below {entry.segments}", number)
    last = number == entry.segments - 1
    rest = entry.length - (entry.segments - 1) * CIPHER_SEGMENT_BYTES
    wanted = rest if last else CIPHER_SEGMENT_BYTES
    if len(segment) != wanted:
        raise VerificationError("length of the segment", wanted, len(segment))
    merkle.verify_inclusion(entry.root, segment, number, entry.segments, proof)


def bitmap(units: list[int] | tuple[int, ...]) -> int:
    """Bit i is unit i."""
    for unit in units:
        if not 0 <= unit < UNITS_LIMIT:
            raise MalformedMessageError(
                f"unit {unit} is not between 0 and {UNITS_LIMIT - 1}"
            )
    return sum(1 << unit for unit in set(units))


def unit_list(bits: int) -> list[int]:
    """The units of a bitmap, ascending."""
    if not 0 <= bits < 1 << UNITS_LIMIT:
        raise MalformedMessageError(f"a bitmap of units has {UNITS_LIMIT} bits")
    return [unit for unit in range(UNITS_LIMIT) if bits >> unit & 1]
