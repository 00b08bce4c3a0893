"""From a CSV file to sealed units, listing, manifest and provenance, in one thread.

Nothing here waits for the network or the chain: the result is complete and signed, and
the service stores and anchors it.
"""

import stat
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from node.market import DatasetError, privacy, sealed, table
from node.ports import Blobs, Signer
from protocol.errors import MalformedMessageError
from protocol.listing import (
    COUNT_FLOOR,
    Column,
    Listing,
    check_duo,
    check_licence,
    check_listing,
    check_text,
    seal_listing,
)
from protocol.manifest import Entry, Manifest, seal_manifest
from protocol.provenance import Step, chain_digest, citation_digest, seal_step

TOOL = "rexis"


@dataclass(frozen=True)
class Description:
    """What the owner says of a table."""

    title: str
    licence: str
    duo: tuple[str, ...]
    source: str
    unit_column: str | None

    def words(self) -> tuple[str | tuple[str, ...] | None, ...]:
        """Everything said, for the fingerprint."""
        return (self.title, self.licence, self.duo, self.source, self.unit_column)

    def check(self) -> None:
        """Before a long computation, not after it."""
        privacy.check_text("the title", self.title)
        privacy.check_text("the source", self.source, dates=True)
        try:
            check_text("title", self.title)
            check_text("source", self.source)
            if self.unit_column is not None:
                check_text("unit column", self.unit_column)
            check_licence(self.licence)
            check_duo(self.duo)
        except MalformedMessageError as error:
            raise DatasetError(str(error), hint="see docs/data.md") from error


@dataclass(frozen=True)
class Published:
    """All that is stored of a new dataset; the bodies are in `Blobs` already."""

    listing: Listing
    sealed_listing: bytes
    sealed_manifest: bytes
    provenance: tuple[bytes, ...]
    headers: tuple[bytes, ...]


def read_table(path: Path) -> bytes:
    """The file's bytes, if it is a regular file of a size we take."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{path} is not a regular file")
        if status.st_size > table.TABLE_LIMIT_BYTES:
            raise DatasetError(
                f"{path} has {status.st_size} bytes, limit is "
                f"{table.TABLE_LIMIT_BYTES}",
                hint="publish it in parts",
            )
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read: {error.strerror}",
            hint="check the path and its permissions",
        ) from error
    except ValueError as error:
        raise DatasetError("path holds a zero byte") from error


def publish(
    data: bytes,
    said: Description,
    *,
    signer: Signer,
    blobs: Blobs,
    secret_seal_key: bytes,
    now: int,
) -> Published:
    """Cut, encrypt and describe; every signature is made here."""
    parsed = table.parse(data)
    units = table.split(parsed, said.unit_column)
    plain = [table.pad(table.write(parsed.columns, rows)) for rows in units]
    manifest, headers = _seal_units(plain, blobs, secret_seal_key)
    step = _step(said, manifest, signer, now)
    listing = Listing(
        title=said.title,
        licence=said.licence,
        duo=said.duo,
        source=said.source,
        provenance=chain_digest([step]),
        columns=tuple(map(Column, parsed.columns, table.kinds(parsed))),
        units=len(units),
        rows=tuple(len(u) if len(u) >= COUNT_FLOOR else None for u in units),
        manifest=manifest.root(),
        owner=signer.public_key,
        created=now,
    )
    return _seal(listing, manifest, step, headers, signer)


def _seal_units(
    plain: list[bytes], blobs: Blobs, secret_seal_key: bytes
) -> tuple[Manifest, tuple[bytes, ...]]:
    headers: list[bytes] = []
    entries: list[Entry] = []
    for index, unit in enumerate(plain):
        header, body = sealed.seal_unit(unit, secret_seal_key=secret_seal_key)
        headers.append(header)
        entries.append(Entry(index, blobs.put(body), len(body)))
    return Manifest(tuple(entries)), tuple(headers)


def _step(said: Description, manifest: Manifest, signer: Signer, now: int) -> Step:
    return Step(
        activity="encrypt",
        used=(citation_digest(said.source),),
        made=manifest.root(),
        tool=TOOL,
        version=_version(),
        agent=signer.public_key,
        at=now,
    )


def _seal(
    listing: Listing,
    manifest: Manifest,
    step: Step,
    headers: tuple[bytes, ...],
    signer: Signer,
) -> Published:
    try:
        check_listing(listing)
    except MalformedMessageError as error:
        raise DatasetError(str(error), hint="see docs/data.md") from error
    sign, owner = signer.sign, signer.public_key
    return Published(
        listing,
        seal_listing(sign, owner, listing),
        seal_manifest(sign, owner, manifest),
        (seal_step(sign, owner, step),),
        headers,
    )


def _version() -> str:
    try:
        return metadata.version(TOOL)
    except metadata.PackageNotFoundError:
        return "from source"
