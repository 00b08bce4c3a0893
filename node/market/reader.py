"""The grantee's side: believe the chain, then what its record leads to, then nothing.

The chain names a record; the record is the digest of a listing; the listing is signed
by the owner and names the manifest's root; the manifest fixes every body.  A step that
does not hold stops the reading, and nothing is written before the last one has.
"""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from node.errors import AccessError, StorageError
from node.market import body, parquet, sealed, table
from node.market.shelf import chunk_list
from node.ports.chain import DatasetToken
from node.ports.storage import Blobs
from protocol.errors import ProtocolError, VerificationError
from protocol.listing import Listing, open_listing
from protocol.manifest import (
    ANSWER_LIMIT_BYTES,
    ListingAnswer,
    Manifest,
    UnitHeader,
    UnitsAnswer,
    open_manifest,
)
from protocol.members import Member
from protocol.provenance import verify_chain
from protocol.wire import decode

FETCH_LIMIT_BYTES = 1 << 29
"""All bodies of one table: they are decrypted in memory."""


def anchored_listing(data: bytes, token: DatasetToken, owner: Member) -> Listing:
    """The listing in `data`, which must be the one on the chain."""
    listing = open_listing(data)
    if listing.digest() != token.record:
        raise VerificationError(
            "listing's digest on chain", token.record.hex(), listing.digest().hex()
        )
    if listing.owner != owner.node_key:
        raise VerificationError(
            "listing's owner", owner.node_key.hex(), listing.owner.hex()
        )
    if listing.units != token.units:
        raise VerificationError("units on chain", token.units, listing.units)
    return listing


def check_public(data: bytes, token: DatasetToken, owner: Member) -> ListingAnswer:
    """The public half of an answer, down to its provenance."""
    answer = decode(data, ListingAnswer, limit_bytes=ANSWER_LIMIT_BYTES)
    listing = anchored_listing(answer.listing, token, owner)
    verify_chain(
        answer.provenance, expected=listing.provenance, product=listing.manifest
    )
    return answer


def check_units(
    data: bytes, token: DatasetToken, owner: Member, *, wanted: int, granted: int
) -> tuple[Listing, Manifest, tuple[UnitHeader, ...]]:
    """An answer with keys, for exactly what was asked and is granted on chain."""
    answer = decode(data, UnitsAnswer, limit_bytes=ANSWER_LIMIT_BYTES)
    listing = anchored_listing(answer.listing, token, owner)
    manifest = open_manifest(answer.manifest, listing)
    indices = [one.index for one in answer.headers]
    if indices != sorted(set(indices)) or not indices:
        raise VerificationError("order of the headers")
    if not 0 <= indices[0] <= indices[-1] < listing.units:
        raise VerificationError("units of the headers", listing.units, indices[-1])
    bits = sum(1 << index for index in indices)
    if wanted and bits != wanted:
        raise VerificationError("units answered", f"{wanted:#x}", f"{bits:#x}")
    if bits & ~granted:
        # An owner's mistake is not ours to profit from.
        raise AccessError(
            f"the owner sent keys of units that no grant covers: {bits & ~granted:#x}",
            hint="tell the owner; nothing was read",
        )
    return listing, manifest, answer.headers


def open_units(
    blobs: Blobs,
    listing: Listing,
    manifest: Manifest,
    headers: Sequence[UnitHeader],
    *,
    secret_seal_key: bytes,
    sender: bytes,
) -> list[bytes]:
    """The plaintext of these units of a table, in memory."""
    require_table(listing)
    check_size(manifest, headers)
    plain: list[bytes] = []
    for one in headers:
        entry = manifest.entries[one.index]
        key = sealed.session_key(
            one.header, secret_seal_key=secret_seal_key, sender=sender
        )
        unit = bytearray()
        body.decrypt(blobs, entry, chunk_list(blobs, entry), key, unit.extend)
        plain.append(bytes(unit))
    return plain


def require_table(listing: Listing) -> None:
    """Raise `AccessError` unless the units put together are one table."""
    if not listing.table:
        raise AccessError(
            f"{listing.title!r} is not a table",
            hint="fetch its files into a folder",
        )


def check_size(manifest: Manifest, headers: Sequence[UnitHeader]) -> None:
    """A table is put together in memory."""
    size = sum(manifest.entries[one.index].length for one in headers)
    if size > FETCH_LIMIT_BYTES:
        raise AccessError(
            f"units have {size} bytes, limit is {FETCH_LIMIT_BYTES}",
            hint="fetch fewer units at a time, or the files into a folder",
        )


def as_csv(listing: Listing, units: Sequence[bytes]) -> bytes:
    """The rows of a table's units as one CSV, whatever the table's format."""
    columns = [column.name for column in listing.columns]
    if listing.parts[0].format == "parquet":
        return parquet.to_csv(units, columns)
    rows = table.join(units, columns)
    return table.write(rows.columns, rows.rows)


def as_table(listing: Listing, units: Sequence[bytes], suffix: str = "") -> bytes:
    """The rows of a table's units in the table's own format; as CSV if the suffix says so."""
    if listing.parts[0].format == "parquet" and suffix.lower() != ".csv":
        return parquet.join(units, [column.name for column in listing.columns])
    return as_csv(listing, units)


def require_format(listing: Listing, path: Path) -> None:
    """Raise `AccessError` if the file's name promises Parquet and its rows come as CSV."""
    if path.suffix.lower() == ".parquet" and listing.parts[0].format != "parquet":
        raise AccessError(
            f"{path.name} would hold CSV: that is how {listing.title!r} was published",
            hint="name a file that ends in .csv",
        )


def require_writable(path: Path) -> None:
    """Raise what `write_private` would, before work is done whose result it is to hold."""
    handle, name = _aside(path)
    os.close(handle)
    Path(name).unlink()


def write_private(path: Path, data: bytes) -> None:
    """`data` at `path` for its owner's eyes only, whole or not at all."""
    handle, name = _aside(path)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        with suppress(OSError):
            Path(name).unlink()
        raise _unwritable(path, error) from error


def _aside(path: Path) -> tuple[int, str]:
    """A new file beside `path`, open; renaming would put it over a device or a link as well."""
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise StorageError(f"{path} is not a regular file", hint="name another")
        # mkstemp makes the file with mode 0600 before the first byte is in it.
        return tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.")
    except OSError as error:
        raise _unwritable(path, error) from error
    except ValueError as error:
        raise StorageError("path holds a zero byte") from error


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {error.strerror}",
        hint="choose a folder that exists, is writable and has room",
    )


def refused(dataset: int, error: ProtocolError) -> AccessError:
    """What a proof that does not hold is to the operator."""
    return AccessError(
        f"answer for dataset {dataset} does not match the chain: {error}",
        hint="nothing was read; the owner must serve what it anchored",
    )
