"""Blobs as files named by their SHA-256: written aside, synced, then renamed into place.

A name therefore exists only with its whole content behind it, whatever instant the
machine stopped at.  Leftovers of a crash lie in `tmp` until `tidy`, which only the daemon
that holds the home's lock may call: its child writes blobs into the same folder.

A blob that need not last lies in a folder of this start of the machine, and nothing is synced:
kill -9 leaves it whole, because the system's memory keeps what was written; after a power cut
nobody could say what is on the disk, and nobody looks there any more.
"""

import hashlib
import os
import secrets
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from node.disk import mapped, sync_folder, write_all
from node.errors import StorageError
from protocol.types import DIGEST_BYTES, Digest

_READ_BYTES = 1 << 18

_BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Another after every start of the machine (random(4))."""


class BlobDir:
    """A folder of blobs; implements `node.ports.storage.Blobs`."""

    def __init__(self, path: str | Path) -> None:
        self.root = Path(path)
        self._aside = self.root / "tmp"
        self._passing = self.root / "passing" / _BOOT.read_text("ascii").strip()
        with mapped(self.root):
            for folder in (self._aside, self._passing):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def tidy(self) -> None:
        """Remove what a crash left half written; nobody may be writing."""
        with mapped(self.root):
            for left in self._aside.iterdir():
                left.unlink()
            for folder in self._passing.parent.iterdir():
                if folder != self._passing:
                    shutil.rmtree(folder)

    def path(self, digest: Digest) -> Path:
        """Where the blob lies or would lie."""
        passing = self.place(digest, lasting=False)
        return passing if passing.is_file() else self.place(digest, lasting=True)

    def place(self, digest: Digest, *, lasting: bool) -> Path:
        """Where a blob is put that is to last, or is not."""
        if len(digest) != DIGEST_BYTES:
            raise StorageError(f"digest has {len(digest)} bytes, not {DIGEST_BYTES}")
        name = digest.hex()
        return self.root / name[:2] / name if lasting else self._passing / name

    def has(self, digest: Digest) -> bool:
        return self.path(digest).is_file()

    def size(self, digest: Digest) -> int:
        with mapped(digest):
            return self.path(digest).stat().st_size

    def read(self, digest: Digest, offset: int, length: int) -> bytes:
        """At most `length` bytes; less at the end of the blob."""
        if offset < 0 or length < 0:
            raise StorageError(f"cannot read {length} bytes from offset {offset}")
        with mapped(digest), self.path(digest).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def put(self, data: bytes | memoryview, *, lasting: bool = True) -> Digest:
        """Durable when this returns; a blob that is here already is not written again."""
        digest = Digest(hashlib.sha256(data).digest())
        here = self.place(digest, lasting=True).is_file()
        if not here and not (self.has(digest) and not lasting):
            with BlobFile(self, self.aside(), digest) as writer:
                writer.write(data)
                writer.commit(digest, lasting=lasting)
        return digest

    def batch(self) -> "BlobBatch":
        """For many that are to be durable at one moment."""
        return BlobBatch(self)

    def aside(self) -> Path:
        """A name that nobody else has, for what is being written."""
        return self._aside / secrets.token_hex(8)

    def writer(self) -> "BlobFile":
        """For content that arrives piece by piece."""
        return BlobFile(self, self.aside())

    def delete(self, digest: Digest) -> None:
        """Nothing happens if it is not here."""
        with mapped(digest):
            for lasting in (True, False):
                self.place(digest, lasting=lasting).unlink(missing_ok=True)

    def check(self, digest: Digest) -> None:
        """Read it all; `StorageError` if the disk gives back something else."""
        hasher = hashlib.sha256()
        with mapped(digest), self.path(digest).open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                hasher.update(chunk)
        if hasher.digest() != digest:
            raise StorageError(
                f"blob {digest.hex()} reads as {hasher.hexdigest()}",
                hint="the disk changed it; move the file away and fetch it again",
            )


class BlobFile:
    """One blob being written; leaving its context without a commit drops it."""

    def __init__(
        self, blobs: BlobDir, aside: Path, known: Digest | None = None
    ) -> None:
        """`known` is the digest of what will be written, where it has been taken."""
        self._blobs = blobs
        self._aside = aside
        self._hasher = hashlib.sha256()
        self._known = known
        with mapped(aside):
            self._file = aside.open("xb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def write(self, data: bytes | memoryview) -> None:
        if self._known is None:
            self._hasher.update(data)
        with mapped(self._aside):
            write_all(self._file.fileno(), data)

    def commit(self, digest: Digest, *, lasting: bool = True) -> None:
        """Into its place, if it is what was expected; durable when this returns."""
        found = self._known or self._hasher.digest()
        if found != digest:
            self.abort()
            raise StorageError(
                f"blob has digest {found.hex()}, not {digest.hex()}",
                hint="other bytes arrived than were announced; ask another peer",
            )
        place = self._blobs.place(digest, lasting=lasting)
        with mapped(digest):
            move_in(self._file.fileno(), self._aside, place, lasting=lasting)
            self._file.close()

    def abort(self) -> None:
        """Drop what was written; harmless after a commit."""
        with mapped(self._aside):
            try:
                self._file.close()
            finally:
                self._aside.unlink(missing_ok=True)


class BlobBatch:
    """Blobs that are named together: their folders are synced once, and not for each.

    Content is on the disk before anything has its name, as with one blob.  Leaving the context
    drops what was not committed.
    """

    def __init__(self, blobs: BlobDir) -> None:
        self._blobs = blobs
        self._written: dict[Digest, Path] = {}
        self._opened: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with mapped(self._blobs.root):
            for path in self._opened:
                path.unlink(missing_ok=True)

    def put(self, data: bytes | memoryview) -> Digest:
        """Its bytes are on the disk when this returns, under no name; from any thread."""
        digest = Digest(hashlib.sha256(data).digest())
        if not self._blobs.place(digest, lasting=True).is_file():
            aside = self._blobs.aside()
            self._opened.append(aside)
            with mapped(aside), aside.open("xb", buffering=0) as file:
                write_all(file.fileno(), data)
                os.fsync(file.fileno())
            self._written[digest] = aside
        return digest

    def commit(self) -> None:
        """All of them are here, durably, when this returns; nobody may be putting."""
        folders = set()
        with mapped(self._blobs.root):
            for digest, aside in self._written.items():
                place = self._blobs.place(digest, lasting=True)
                if not place.parent.is_dir():
                    place.parent.mkdir(mode=0o700, exist_ok=True)
                    folders.add(place.parent.parent)
                aside.replace(place)
                folders.add(place.parent)
            for folder in sorted(folders):
                sync_folder(folder)
        self._written.clear()


def move_in(file: int, aside: Path, place: Path, *, lasting: bool) -> None:
    """Give a written file its name; with `lasting`, both are on disk when this returns."""
    if lasting:
        os.fsync(file)
    if not place.parent.is_dir():
        place.parent.mkdir(mode=0o700, exist_ok=True)
        sync_folder(place.parent.parent)
    aside.replace(place)
    if lasting:
        sync_folder(place.parent)
