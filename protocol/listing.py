"""What the world may know of a dataset, and nothing of any record (docs/data.md §2).

A listing names columns and never a value, counts rows only where enough stand together,
and reaches the ciphertext through one Merkle root.  The chain holds its digest; the
owner's node signs it; whoever holds both needs to trust nobody to read it.
"""

import datetime as dt
import json
import re
from collections.abc import Callable
from typing import Any

from protocol.envelope import open_envelope, seal
from protocol.errors import LocalProtocolError, MalformedMessageError, SignatureError
from protocol.members import peer_id
from protocol.types import DIGEST_BYTES, KEY_BYTES, Digest, PublicKey, digest
from protocol.wire import Message, decode, encode

LISTING_DOMAIN = "rexis/listing/1"

UNITS_LIMIT = 64
"""Bits of the grant's bitmap on chain (docs/chain.md)."""

COUNT_FLOOR = 10
"""Smallest count shown; statistical offices suppress cells below 5 to 11."""

COLUMNS_LIMIT = 1024
TEXT_LIMIT = 2000
COLUMN_NAME_LIMIT = 100
KINDS = ("integer", "number", "text")
_YEAR_10000 = 253_402_300_800

DUO_PERMISSIONS = {
    "DUO:0000004": "no restriction",
    "DUO:0000006": "health or medical or biomedical research",
    "DUO:0000007": "disease specific research",
    "DUO:0000011": "population origins or ancestry research only",
    "DUO:0000042": "general research use",
}
DUO_MODIFIERS = {
    "DUO:0000012": "research specific restrictions",
    "DUO:0000015": "no general methods research",
    "DUO:0000016": "genetic studies only",
    "DUO:0000018": "not for profit, non commercial use only",
    "DUO:0000019": "publication required",
    "DUO:0000020": "collaboration required",
    "DUO:0000021": "ethics approval required",
    "DUO:0000022": "geographical restriction",
    "DUO:0000024": "publication moratorium",
    "DUO:0000025": "time limit on use",
    "DUO:0000026": "user specific restriction",
    "DUO:0000027": "project specific restriction",
    "DUO:0000028": "institution specific restriction",
    "DUO:0000029": "return to database or resource",
    "DUO:0000043": "clinical care use",
    "DUO:0000044": "population origins or ancestry research prohibited",
    "DUO:0000045": "not for profit organisation use only",
    "DUO:0000046": "non-commercial use only",
}
"""Data Use Ontology, GA4GH standard of 2021."""

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


class Column(Message, frozen=True, tag="column"):
    """A column's name and kind; no range, no categories, no examples."""

    name: str
    kind: str


class Listing(Message, frozen=True, tag="listing"):
    """The public description of one dataset."""

    title: str
    licence: str
    """SPDX identifier."""
    duo: tuple[str, ...]
    source: str
    """Where the data come from, as one would cite it."""
    provenance: bytes
    """`protocol.provenance.chain_digest` of how the dataset was made."""
    columns: tuple[Column, ...]
    units: int
    rows: tuple[int | None, ...]
    """Rows of each consent unit; None where fewer than `COUNT_FLOOR`."""
    manifest: bytes
    """Merkle root over the manifest's entries."""
    owner: bytes
    """Ed25519 key of the owner's node."""
    created: int
    """Unix seconds."""

    def digest(self) -> Digest:
        """What the chain records."""
        return digest(encode(self))


def check_listing(listing: Listing) -> None:
    """Raise `MalformedMessageError` unless every field keeps its rule."""
    check_text("title", listing.title)
    check_text("source", listing.source)
    check_licence(listing.licence)
    check_duo(listing.duo)
    _check_columns(listing.columns)
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


def check_duo(codes: tuple[str, ...]) -> None:
    """Exactly one permission and any modifiers, sorted, none twice."""
    for code in codes:
        if code not in DUO_PERMISSIONS and code not in DUO_MODIFIERS:
            raise MalformedMessageError(f"{code[:80]!r} is not a data use term we know")
    if list(codes) != sorted(set(codes)):
        raise MalformedMessageError("data use terms are not sorted or stand twice")
    permissions = [code for code in codes if code in DUO_PERMISSIONS]
    if len(permissions) != 1:
        raise MalformedMessageError(
            f"{len(permissions)} permission terms, needs exactly one of "
            + ", ".join(DUO_PERMISSIONS)
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


_CROISSANT_WORDS = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty"),
    *("fileObject", "fileSet", "format", "includes", "isLiveDataset", "jsonPath"),
    *("key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField"),
    "transform",
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "rexis": "urn:rexis:",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{word: f"cr:{word}" for word in _CROISSANT_WORDS},
}
"""The context of Croissant 1.0 and one prefix of ours."""
_CROISSANT_KIND = {"integer": "sc:Integer", "number": "sc:Float", "text": "sc:Text"}


def to_croissant(listing: Listing) -> dict[str, Any]:
    """Croissant metadata (JSON-LD); the dataset's identifier is the listing's digest.

    The distribution is the set of encrypted unit files, which nobody reads without a
    header released to them; fields say what stands in one after decryption.
    """
    check_listing(listing)
    day = dt.datetime.fromtimestamp(listing.created, tz=dt.UTC)
    name = listing.digest().hex()
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "@id": f"urn:rexis:dataset:{name}",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": listing.title,
        "description": f"{listing.title} ({listing.units} consent units, encrypted)",
        "identifier": f"sha256:{name}",
        "version": "1.0.0",
        "license": _licence_url(listing.licence),
        "citeAs": listing.source,
        "isAccessibleForFree": False,
        "usageInfo": [_duo_term(code) for code in listing.duo],
        "datePublished": day.date().isoformat(),
        "creator": {"@type": "sc:Organization", "name": peer_id(listing.owner)},
        "distribution": [_units(listing)],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "rows",
                "name": "rows",
                "field": [_field(column) for column in listing.columns],
            }
        ],
        "rexis:provenance": listing.provenance.hex(),
    }


def croissant_digest(listing: Listing) -> Digest:
    """SHA-256 of the metadata as UTF-8 JSON with sorted keys and no spaces."""
    text = json.dumps(
        to_croissant(listing),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    return digest(text.encode())


def _units(listing: Listing) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": "units",
        "name": "units",
        "encodingFormat": "application/vnd.ga4gh.crypt4gh",
        "includes": "unit-*.csv.c4gh",
        "rexis:manifestRoot": listing.manifest.hex(),
        "rexis:unitRows": list(listing.rows),
    }


def _field(column: Column) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"rows/{column.name}",
        "name": column.name,
        "dataType": _CROISSANT_KIND[column.kind],
        "source": {
            "fileSet": {"@id": "units"},
            "extract": {"column": column.name},
        },
    }


def _duo_term(code: str) -> str:
    return "http://purl.obolibrary.org/obo/" + code.replace(":", "_")


def _licence_url(licence: str) -> str:
    if licence.startswith("LicenseRef-"):
        return licence
    return f"https://spdx.org/licenses/{licence}.html"


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


def _check_columns(columns: tuple[Column, ...]) -> None:
    if not 1 <= len(columns) <= COLUMNS_LIMIT:
        raise MalformedMessageError(
            f"{len(columns)} columns, needs between 1 and {COLUMNS_LIMIT}"
        )
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
