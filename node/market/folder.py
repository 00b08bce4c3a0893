"""Decrypted units as files in a private folder, or sealed ones for the Crypt4GH tools.

A folder is filled beside its place and renamed into it when all is there, so a name
stands for everything that was asked or does not exist.  A tar is unpacked by our own
hand: its members are regular files below the unit's folder, and anything else a tar may
hold stops the reading.
"""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from node.errors import StorageError
from node.market import body, sealed
from node.market.kinds import is_gzipped
from node.market.shelf import chunk_list
from node.ports.storage import Blobs
from protocol.croissant import unit_suffix
from protocol.listing import Listing
from protocol.manifest import Entry, Manifest, UnitHeader

_COPY_BYTES = 1 << 20


def write_units(
    path: Path,
    blobs: Blobs,
    listing: Listing,
    manifest: Manifest,
    headers: Sequence[UnitHeader],
    *,
    secret_seal_key: bytes,
    sender: bytes,
) -> int:
    """The files of these units below `path`; returns their bytes."""
    size = 0
    with _filled(path) as folder:
        for one in headers:
            entry = manifest.entries[one.index]
            key = sealed.session_key(
                one.header, secret_seal_key=secret_seal_key, sender=sender
            )
            whole = folder / f"unit-{one.index:03d}{unit_suffix(listing)}"
            with _private(whole) as file:
                body.decrypt(blobs, entry, chunk_list(blobs, entry), key, file.write)
            size += _unpack(whole) if listing.packed else whole.stat().st_size
            if not listing.packed and is_gzipped(whole):
                # Its own name was never told, and tools go by the suffix.
                whole.rename(f"{whole}.gz")
    return size


def write_sealed(
    path: Path,
    blobs: Blobs,
    listing: Listing,
    manifest: Manifest,
    headers: Sequence[UnitHeader],
) -> int:
    """Complete Crypt4GH files below `path`, which whoever the headers are for opens."""
    size = 0
    with _filled(path) as folder:
        for one in headers:
            entry = manifest.entries[one.index]
            whole = folder / f"unit-{one.index:03d}{unit_suffix(listing)}.c4gh"
            with _private(whole) as file:
                file.write(one.header)
                for piece in _bodies(blobs, entry):
                    file.write(piece)
            size += whole.stat().st_size
    return size


def _bodies(blobs: Blobs, entry: Entry) -> Iterator[bytes]:
    chunks = chunk_list(blobs, entry)
    for number in range(len(chunks.chunks)):
        yield body.read_chunk(blobs, entry, chunks, number)


def require_free(path: Path) -> None:
    """Raise what filling a folder at `path` would, before work is done for it."""
    _aside(path).rmdir()


@contextmanager
def _filled(path: Path) -> Iterator[Path]:
    """A private folder that becomes `path` at the end, or leaves nothing."""
    aside = _aside(path)
    try:
        yield aside
        aside.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _aside(path: Path) -> Path:
    try:
        if path.exists() or path.is_symlink():
            raise StorageError(f"{path} exists", hint="name a folder that does not")
        # mkdtemp makes it with mode 0700.
        return Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:64]}."))
    except ValueError as error:
        raise StorageError("path holds a zero byte") from error
    except OSError as error:
        raise _unwritable(path, error) from error


@contextmanager
def _private(path: Path) -> Iterator[IO[bytes]]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(descriptor)


def _unpack(whole: Path) -> int:
    """The members of a unit's tar in a folder of its name; the tar goes."""
    size = 0
    base = whole.with_suffix("")
    try:
        with tarfile.open(whole, "r:") as tar:
            for member in tar:
                place = base / _safe(member)
                _make_folders(base, place.parent)
                source = tar.extractfile(member)
                if source is None:
                    raise _strange(member.name)
                with source, _private(place) as file:
                    shutil.copyfileobj(source, file, _COPY_BYTES)
                size += member.size
    except tarfile.TarError as error:
        raise StorageError(
            "a decrypted unit is not a tar",
            hint="the owner published data that do not fit their description",
        ) from error
    whole.unlink()
    return size


def _make_folders(base: Path, folder: Path) -> None:
    """`folder` and all between it and `base`, private; mkdir's own `parents` are not."""
    for one in (*reversed(folder.relative_to(base.parent).parents[:-1]), None):
        place = folder if one is None else base.parent / one
        place.mkdir(mode=0o700, exist_ok=True)


def _safe(member: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(member.name)
    outside = name.is_absolute() or ".." in name.parts or not name.parts
    if not member.isreg() or outside or "\x00" in member.name:
        raise _strange(member.name)
    return name


def _strange(name: str) -> StorageError:
    return StorageError(
        f"a decrypted unit holds {name[:80]!r}, which is no plain file below it",
        hint="nothing was kept; the owner's program is not ours, or is broken",
    )


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {error.strerror}",
        hint="choose a folder that exists, is writable and has room",
    )
