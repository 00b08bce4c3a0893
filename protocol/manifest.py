"""The ciphertext of a dataset, unit by unit, and what passes between owner and grantee.

An entry fixes a unit's place, its digest and its length, so that no body can be cut,
swapped or replaced under the root that the listing, and with it the chain, has fixed.
The keys are not here: they travel as Crypt4GH headers, one per unit and grantee.
"""

from collections.abc import Callable

from protocol import merkle
from protocol.envelope import open_envelope, seal
from protocol.errors import MalformedMessageError, SignatureError, VerificationError
from protocol.listing import UNITS_LIMIT, Listing
from protocol.types import DIGEST_BYTES, Digest, PublicKey
from protocol.wire import Message, decode, encode

MANIFEST_DOMAIN = "rexis/manifest/1"
DATA_PROTOCOL = "/rexis/data/1"

BODY_LIMIT_BYTES = 1 << 28
"""Of one unit's ciphertext: 256 MiB, four times the largest table we take."""

HEADER_LIMIT_BYTES = 4096
"""An honest header of one key is 124 bytes: 16 of preamble, 108 of packet."""

QUERY_LIMIT_BYTES = 256
ANSWER_LIMIT_BYTES = 1 << 20


class Entry(Message, frozen=True, tag="unit"):
    """One consent unit's encrypted body."""

    index: int
    sha256: bytes
    length: int


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
        if len(entry.sha256) != DIGEST_BYTES:
            raise MalformedMessageError(
                f"digest of unit {place} has {len(entry.sha256)} bytes, needs "
                f"{DIGEST_BYTES}"
            )
        if not 1 <= entry.length <= BODY_LIMIT_BYTES:
            raise MalformedMessageError(
                f"unit {place} has {entry.length} bytes, needs between 1 and "
                f"{BODY_LIMIT_BYTES}"
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
