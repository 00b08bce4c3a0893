"""What the world may know of a dataset, and nothing of any record (docs/data.md §2).

A listing names columns and never a value, counts rows only where enough stand together,
and reaches the ciphertext through one Merkle root.  The chain holds its digest; the
owner's node signs it; whoever holds both needs to trust nobody to read it.
"""

import re
from collections.abc import Callable, Mapping

from protocol import duo
from protocol.envelope import open_envelope, seal
from protocol.errors import LocalProtocolError, MalformedMessageError, SignatureError
from protocol.types import DIGEST_BYTES, KEY_BYTES, Digest, PublicKey, digest
from protocol.wire import Message, decode, encode

LISTING_DOMAIN = "rexis/listing/2"
LISTING_TOPIC = "listing"

UNITS_LIMIT = 64
"""Bits of the grant's bitmap on chain (docs/chain.md)."""

COUNT_FLOOR = 10
"""Smallest count shown; statistical offices suppress cells below 5 to 11."""

COLUMNS_LIMIT = 1024
PARTS_LIMIT = 16
DETAILS_LIMIT = 32
DETAIL_LIMIT = 100
TEXT_LIMIT = 2000
COLUMN_NAME_LIMIT = 100
VERSION_LIMIT = 1 << 31
KINDS = ("integer", "number", "text")
_YEAR_10000 = 253_402_300_800

FORMATS: Mapping[str, str] = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "dicom": "application/dicom",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "tiff": "image/tiff",
    "nifti": "application/x-nifti",
    "fasta": "text/x-fasta",
    "vcf": "text/x-vcf",
    "h5ad": "application/x-hdf5",
    "edf": "application/x-edf",
    "wfdb": "application/x-wfdb",
    "bytes": "application/octet-stream",
}
"""Formats we can say something of, and their media types (x-: not registered)."""

TABLES = frozenset({"csv", "parquet"})

LICENCES = frozenset(
    {
        "CC0-1.0",
        "CC-BY-4.0",
        "CC-BY-3.0",
        "CC-BY-SA-4.0",
        "CC-BY-SA-3.0",
        "CC-BY-NC-4.0",
        "CC-BY-NC-SA-4.0",
        "CC-BY-NC-ND-4.0",
        "CC-BY-ND-4.0",
        "CC-PDDC",
        "PDDL-1.0",
        "ODbL-1.0",
        "ODC-By-1.0",
        "CDLA-Permissive-1.0",
        "CDLA-Permissive-2.0",
        "CDLA-Sharing-1.0",
        "OGL-UK-3.0",
        "DL-DE-BY-2.0",
        "DL-DE-ZERO-2.0",
        "etalab-2.0",
        "MIT",
        "MIT-0",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "GPL-2.0-only",
        "GPL-2.0-or-later",
        "GPL-3.0-only",
        "GPL-3.0-or-later",
        "LGPL-3.0-only",
        "AGPL-3.0-only",
        "Unlicense",
        "Artistic-2.0",
    }
)
"""SPDX identifiers that data are published under; any other is `LicenseRef-…`."""

_LICENCE_REF = re.compile(r"LicenseRef-[A-Za-z0-9.\-]{1,64}")
_PART_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")


class Column(Message, frozen=True, tag="column"):
    """A column's name and kind; no range, no categories, no examples."""

    name: str
    kind: str


class Part(Message, frozen=True, tag="part"):
    """Records of one kind; a dataset of scans and a table of patients has two parts."""

    name: str
    """A lower-case word; the record set's name in the metadata."""
    format: str
    """A key of `FORMATS`."""
    columns: tuple[Column, ...]
    details: tuple[str, ...]
    """Facts of the format, such as `modality CT`; never anything of one record."""
    records: int | None
    """Rows, or files; None where fewer than `COUNT_FLOOR`."""


class Listing(Message, frozen=True, tag="listing"):
    """The public description of one dataset."""

    title: str
    licence: str
    """SPDX identifier."""
    duo: tuple[str, ...]
    disease: str | None
    """A MONDO term beside a disease specific permission, if it is to be public."""
    source: str
    """Where the data come from, as one would cite it."""
    version: int
    previous: bytes
    """Digest of the listing that this one replaces; empty for the first."""
    provenance: bytes
    """`protocol.provenance.chain_digest` of how the dataset was made."""
    parts: tuple[Part, ...]
    packed: bool
    """A unit is a tar of its files; otherwise it is one file of the one part."""
    units: int
    rows: tuple[int | None, ...]
    """Records of each consent unit; None where fewer than `COUNT_FLOOR`."""
    manifest: bytes
    """Merkle root over the manifest's entries."""
    owner: bytes
    """Ed25519 key of the owner's node."""
    created: int
    """Unix seconds."""

    def digest(self) -> Digest:
        """What the chain records."""
        return digest(encode(self))

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of the first part that has any."""
        return next((part.columns for part in self.parts if part.columns), ())

    @property
    def table(self) -> bool:
        """Whether the units put together are one table."""
        return not self.packed and self.parts[0].format in TABLES


def check_listing(listing: Listing) -> None:
    """Raise `MalformedMessageError` unless every field keeps its rule."""
    check_text("title", listing.title)
    check_text("source", listing.source)
    check_licence(listing.licence)
    duo.check_codes(listing.duo)
    duo.check_disease(listing.duo, listing.disease)
    _check_version(listing)
    _check_parts(listing)
    _check_units(listing)
    for name, value, size in (
        ("provenance", listing.provenance, DIGEST_BYTES),
        ("manifest root", listing.manifest, DIGEST_BYTES),
        ("owner", listing.owner, KEY_BYTES),
    ):
        if len(value) != size:
            raise MalformedMessageError(f"{name} has {len(value)} bytes, needs {size}")
    if not 0 <= listing.created < _YEAR_10000:
        raise MalformedMessageError(
            f"created is {listing.created}, not a Unix time below {_YEAR_10000}"
        )


def check_licence(licence: str) -> None:
    """One SPDX identifier, or a `LicenseRef-` name for terms of one's own."""
    if licence not in LICENCES and not _LICENCE_REF.fullmatch(licence):
        raise MalformedMessageError(
            f"licence {licence[:80]!r} is neither a known SPDX identifier nor "
            "LicenseRef-NAME"
        )


def seal_listing(
    sign: Callable[[bytes], bytes], sender: PublicKey, listing: Listing
) -> bytes:
    """The owner signs `listing`, in the context of its manifest."""
    check_listing(listing)
    if sender != listing.owner:
        raise LocalProtocolError("a listing is sealed by its owner only")
    return seal(sign, LISTING_DOMAIN, sender, listing.manifest, encode(listing))


def open_listing(data: bytes) -> Listing:
    """The listing in `data`, its owner's signature and all rules checked."""
    envelope = open_envelope(data, LISTING_DOMAIN)
    listing = decode(envelope.payload, Listing)
    check_listing(listing)
    if envelope.sender != listing.owner:
        raise SignatureError(
            "listing's signer", listing.owner.hex(), envelope.sender.hex()
        )
    if envelope.context != listing.manifest:
        raise SignatureError(
            "listing's context", listing.manifest.hex(), envelope.context.hex()
        )
    return listing


def check_text(name: str, value: str) -> None:
    """A printable text that is neither empty nor long."""
    if not value.strip():
        raise MalformedMessageError(f"{name} is empty")
    if len(value) > TEXT_LIMIT:
        raise MalformedMessageError(
            f"{name} has {len(value)} characters, limit is {TEXT_LIMIT}"
        )
    if not value.isprintable():
        raise MalformedMessageError(f"{name} holds a control character")


def _check_version(listing: Listing) -> None:
    if not 1 <= listing.version < VERSION_LIMIT:
        raise MalformedMessageError(
            f"version is {listing.version}, needs between 1 and {VERSION_LIMIT - 1}"
        )
    wanted = 0 if listing.version == 1 else DIGEST_BYTES
    if len(listing.previous) != wanted:
        raise MalformedMessageError(
            f"version {listing.version} names a previous one of "
            f"{len(listing.previous)} bytes, needs {wanted}"
        )


def _check_parts(listing: Listing) -> None:
    parts = listing.parts
    if not 1 <= len(parts) <= PARTS_LIMIT:
        raise MalformedMessageError(
            f"{len(parts)} parts, needs between 1 and {PARTS_LIMIT}"
        )
    if len({part.name for part in parts}) != len(parts):
        raise MalformedMessageError("two parts have one name")
    if len(parts) > 1 and not listing.packed:
        raise MalformedMessageError("several parts, but units that are single files")
    for part in parts:
        _check_part(part)


def _check_part(part: Part) -> None:
    if not _PART_NAME.fullmatch(part.name):
        raise MalformedMessageError(f"part {part.name[:40]!r} is not a word")
    if part.format not in FORMATS:
        raise MalformedMessageError(f"format {part.format[:40]!r} is none we know")
    if part.format in TABLES and not part.columns:
        raise MalformedMessageError(f"part {part.name} is a table without columns")
    _check_columns(part.columns)
    if len(part.details) > DETAILS_LIMIT:
        raise MalformedMessageError(
            f"part {part.name} has {len(part.details)} details, limit is "
            f"{DETAILS_LIMIT}"
        )
    for detail in part.details:
        if not 1 <= len(detail) <= DETAIL_LIMIT or not detail.isprintable():
            raise MalformedMessageError(
                f"a detail of part {part.name} is not a printable text of at most "
                f"{DETAIL_LIMIT} characters"
            )
    if part.records is not None and part.records < COUNT_FLOOR:
        raise MalformedMessageError(
            f"part {part.name} shows {part.records} records, the floor is {COUNT_FLOOR}"
        )


def _check_columns(columns: tuple[Column, ...]) -> None:
    if len(columns) > COLUMNS_LIMIT:
        raise MalformedMessageError(f"{len(columns)} columns, limit is {COLUMNS_LIMIT}")
    seen: set[str] = set()
    for column in columns:
        if not 1 <= len(column.name) <= COLUMN_NAME_LIMIT:
            raise MalformedMessageError(
                f"a column's name has {len(column.name)} characters, needs between 1 "
                f"and {COLUMN_NAME_LIMIT}"
            )
        if not column.name.isprintable():
            raise MalformedMessageError("a column's name holds a control character")
        if column.kind not in KINDS:
            raise MalformedMessageError(
                f"column kind {column.kind[:40]!r} is none of {', '.join(KINDS)}"
            )
        if column.name in seen:
            raise MalformedMessageError(f"column {column.name!r} stands twice")
        seen.add(column.name)


def _check_units(listing: Listing) -> None:
    if not 1 <= listing.units <= UNITS_LIMIT:
        raise MalformedMessageError(
            f"{listing.units} consent units, needs between 1 and {UNITS_LIMIT}"
        )
    if len(listing.rows) != listing.units:
        raise MalformedMessageError(
            f"row counts for {len(listing.rows)} units, needs {listing.units}"
        )
    for index, count in enumerate(listing.rows):
        if count is not None and count < COUNT_FLOOR:
            raise MalformedMessageError(
                f"unit {index} shows {count} rows, the floor is {COUNT_FLOOR}"
            )
    _check_total(listing)


def _check_total(listing: Listing) -> None:
    """The total must not give away what a unit's count was left out for."""
    totals = [part.records for part in listing.parts]
    shown = [count for count in listing.rows if count is not None]
    hidden = len(listing.rows) - len(shown)
    if any(total is None for total in totals):
        return
    rest = sum(total or 0 for total in totals) - sum(shown)
    if hidden == 0 and rest == 0:
        return
    if hidden < 2 or rest < COUNT_FLOOR:
        raise MalformedMessageError(
            f"the parts' records leave {rest} for {hidden} units without a count"
        )
