"""A listing as Croissant 1.1 metadata: one JSON-LD document in the field's own words.

Terms of use are Data Use Ontology terms and the same as an ODRL offer; the origin is
PROV-O.  The distribution is the set of encrypted unit files, which nobody reads without
a header released to them; fields say what stands in one after decryption.  The document
is a function of the listing, so its digest needs no signature of its own.
"""

import datetime as dt
import json
from typing import Any

from protocol import duo
from protocol.listing import FORMATS, Column, Listing, Part, check_listing
from protocol.members import peer_id
from protocol.types import Digest, digest

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
CRYPT4GH = "application/vnd.ga4gh.crypt4gh"
"""Our word for it: the format has no registered media type."""

_WORDS = (
    *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract"),
    *("field", "fileProperty", "fileObject", "fileSet", "format", "includes"),
    *("isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path"),
    *("recordSet", "references", "regex", "repeated", "replace", "samplingRate"),
    *("separator", "source", "subField", "transform"),
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "duo": "http://purl.obolibrary.org/obo/DUO_",
    "mondo": "http://purl.obolibrary.org/obo/MONDO_",
    "odrl": "http://www.w3.org/ns/odrl/2/",
    "prov": "http://www.w3.org/ns/prov#",
    "rexis": "urn:rexis:",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{word: f"cr:{word}" for word in _WORDS},
}
"""The standard context of 1.1, and the prefixes its section on governance asks for."""
_KIND = {"integer": "sc:Integer", "number": "sc:Float", "text": "sc:Text"}
_DISEASE_OPERAND = "duo:0000010"
"""DUO's relation "is restricted to" between a permission and a disease."""


def to_croissant(listing: Listing) -> dict[str, Any]:
    """The metadata; the dataset's identifier is the listing's digest."""
    check_listing(listing)
    day = dt.datetime.fromtimestamp(listing.created, tz=dt.UTC)
    name = listing.digest().hex()
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "@id": f"urn:rexis:dataset:{name}",
        "conformsTo": CONFORMS_TO,
        "name": listing.title,
        "description": f"{listing.title} ({listing.units} consent units, encrypted)",
        "url": f"urn:rexis:dataset:{name}",
        "identifier": f"sha256:{name}",
        "version": f"{listing.version}.0.0",
        "license": licence_url(listing.licence),
        "citeAs": listing.source,
        "isAccessibleForFree": False,
        "dct:accessRights": "restricted",
        "usageInfo": [*map(_defined_term, listing.duo), offer(listing)],
        "datePublished": day.date().isoformat(),
        "creator": _agent(listing),
        **_origin(listing, day),
        "distribution": _distribution(listing),
        "recordSet": [_record_set(listing, part) for part in listing.parts],
        "rexis:provenance": listing.provenance.hex(),
    }


def croissant_digest(listing: Listing) -> Digest:
    """SHA-256 of the metadata as UTF-8 JSON with sorted keys and no spaces.

    For our values (text, integers, booleans) that is RFC 8785's canonical form.
    """
    text = json.dumps(
        to_croissant(listing),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    return digest(text.encode())


def offer(listing: Listing) -> dict[str, Any]:
    """The terms as an ODRL policy, in the shape Croissant 1.1 asks for."""
    permission = duo.permission(listing.duo)
    constraints = [
        {
            "@type": "odrl:Constraint",
            "name": duo.label(code),
            "odrl:operator": {"@id": "odrl:eq"},
            "odrl:rightOperand": {"@id": _short(code)},
        }
        for code in listing.duo
        if code != permission
    ]
    if listing.disease is not None:
        constraints.append(
            {
                "@type": "odrl:Constraint",
                "odrl:leftOperand": {"@id": _DISEASE_OPERAND},
                "odrl:operator": {"@id": "odrl:eq"},
                "odrl:rightOperand": {"@id": listing.disease.lower()},
            }
        )
    return {
        "@type": ["CreativeWork", "odrl:Offer"],
        "name": "Terms of use",
        "odrl:permission": {
            "@type": "odrl:Permission",
            "odrl:action": {"@id": _short(permission), "name": duo.label(permission)},
            **({"odrl:constraint": constraints} if constraints else {}),
        },
    }


def licence_url(licence: str) -> str:
    """Where the licence's text is, for SPDX identifiers."""
    if licence.startswith("LicenseRef-"):
        return licence
    return f"https://spdx.org/licenses/{licence}.html"


def unit_suffix(listing: Listing) -> str:
    """How the name of a unit's file ends once it is decrypted, dot included."""
    return ".tar" if listing.packed else f".{listing.parts[0].format}"


def _agent(listing: Listing) -> dict[str, Any]:
    return {
        "@type": ["sc:Organization", "prov:Agent"],
        "@id": f"urn:rexis:node:{listing.owner.hex()}",
        "name": peer_id(listing.owner),
    }


def _origin(listing: Listing, day: dt.datetime) -> dict[str, Any]:
    origin: dict[str, Any] = {
        "prov:wasAttributedTo": {"@id": f"urn:rexis:node:{listing.owner.hex()}"},
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": "encryption into consent units",
            "prov:endedAtTime": day.isoformat().replace("+00:00", "Z"),
        },
    }
    if listing.previous:
        previous = f"urn:rexis:dataset:{listing.previous.hex()}"
        origin["prov:wasRevisionOf"] = {"@id": previous}
    return origin


def _distribution(listing: Listing) -> list[dict[str, Any]]:
    units: dict[str, Any] = {
        "@type": "cr:FileSet",
        "@id": "units",
        "name": "units",
        "encodingFormat": CRYPT4GH,
        "includes": f"unit-*{unit_suffix(listing)}.c4gh",
        "rexis:manifestRoot": listing.manifest.hex(),
        "rexis:unitRows": list(listing.rows),
    }
    inside = [
        {
            "@type": "cr:FileSet",
            "@id": part.name,
            "name": part.name,
            "description": f"files of {part.name} in the decrypted units",
            "containedIn": {"@id": "units"},
            "encodingFormat": FORMATS[part.format],
            "includes": f"{part.name}/*",
        }
        for part in listing.parts
    ]
    return [units, *(inside if listing.packed else [])]


def _record_set(listing: Listing, part: Part) -> dict[str, Any]:
    files = part.name if listing.packed else "units"
    name = f"{part.name}-records"
    ids = _ids([column.name for column in part.columns])
    fields = [
        _field(f"{name}/{one}", files, column)
        for one, column in zip(ids, part.columns, strict=True)
    ]
    if not fields:
        fields = [
            {
                "@type": "cr:Field",
                "@id": f"{name}/content",
                "name": "content",
                "dataType": "sc:Text",
                "source": {
                    "fileSet": {"@id": files},
                    "extract": {"fileProperty": "content"},
                },
            }
        ]
    record_set: dict[str, Any] = {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "rexis:format": part.format,
        "field": fields,
    }
    if part.details:
        record_set["description"] = "; ".join(part.details)
    if part.records is not None:
        record_set["rexis:records"] = part.records
    return record_set


def _ids(names: list[str]) -> list[str]:
    """Names as ids: the reference reader takes none with white space, escaped or not."""
    found: list[str] = []
    for place, name in enumerate(names):
        one = "_".join(name.split())
        clash = one in found or (one != name and one in names)
        found.append(f"{one}_{place}" if clash else one)
    return found


def _field(name: str, files: str, column: Column) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": name,
        "name": column.name,
        "dataType": _KIND[column.kind],
        "source": {
            "fileSet": {"@id": files},
            "extract": {"column": column.name},
        },
    }


def _defined_term(code: str) -> dict[str, Any]:
    return {
        "@type": "DefinedTerm",
        "name": duo.label(code),
        "termCode": code.replace(":", "_"),
        "url": _short(code),
    }


def _short(code: str) -> str:
    return code.lower()  # DUO:0000042 under the prefix `duo`
