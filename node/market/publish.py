"""From a plan to sealed units, listing, manifest and provenance, in one thread.

Nothing here waits for the network or the chain: the result is complete and signed, and
the service stores and anchors it.  What is made on the way is reported to `Journal`, so
that a crash costs no more than the last few chunks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Protocol

import msgspec

from node.market import DatasetError, body, privacy, sealed
from node.market.plan import WHOLE, Plan
from node.market.shelf import OwnDataset, chunk_list
from node.market.source import Stream
from node.market.table import read_table as read_table  # noqa: PLC0414 - the service's name for it
from node.ports.keys import Signer
from node.ports.storage import Blobs
from protocol import duo
from protocol.errors import MalformedMessageError
from protocol.listing import (
    Listing,
    check_licence,
    check_listing,
    check_text,
    open_listing,
    seal_listing,
)
from protocol.manifest import Chunk, Entry, Manifest, open_manifest, seal_manifest
from protocol.provenance import (
    Step,
    chain_digest,
    citation_digest,
    open_step,
    seal_step,
)
from protocol.types import Digest, PublicKey

TOOL = "rexis"
_GROUP = re.compile(r"[a-z][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class Description:
    """What the owner says of a dataset."""

    title: str
    licence: str
    duo: tuple[str, ...]
    source: str
    unit_by: str | None
    disease: str | None = None
    previous: bytes = b""
    """Digest of the listing this one replaces."""
    version: int = 1
    columns: tuple[str, ...] = ()
    """All that is published of one table; none: every column."""
    group: str = WHOLE
    """What these columns are called in public, beside the other groups of the same table."""

    def words(self) -> tuple[str | bytes | int | tuple[str, ...] | None, ...]:
        """Everything said, for the fingerprint; the columns chosen show in what is encrypted."""
        return (
            *(self.title, self.licence, self.duo, self.source, self.unit_by),
            *(self.disease, self.previous, self.version),
            *((self.group,) if self.group != WHOLE else ()),
        )

    def check(self) -> None:
        """Before a long computation, not after it."""
        privacy.check_text("the title", self.title)
        privacy.check_text("the source", self.source, dates=True)
        privacy.check_text("the group", self.group)
        if not _GROUP.fullmatch(self.group) or (
            self.group != WHOLE and not self.columns
        ):
            raise DatasetError(
                f"group {self.group[:40]!r} of {len(self.columns)} columns",
                hint="a lower-case word and the columns of it, such as vitals=age,lactate",
            )
        try:
            check_text("title", self.title)
            check_text("source", self.source)
            if self.unit_by is not None:
                check_text("unit column", self.unit_by)
            check_licence(self.licence)
            duo.check_codes(self.duo)
            duo.check_disease(self.duo, self.disease)
        except MalformedMessageError as error:
            raise DatasetError(
                str(error), hint="docs/data-steward.md, section 2, says what goes there"
            ) from error


class Journal(Protocol):
    """What is known of a publishing that is under way; called from its thread."""

    headers: tuple[bytes, ...]
    """The owner's header of each unit, kept before the first chunk was made."""

    def done(self, unit: int) -> Sequence[Chunk]:
        """Chunks of the unit that are durable, from the first on, without a gap."""

    def keep(self, unit: int, first: int, chunks: Sequence[Chunk]) -> None:
        """These are durable now, from number `first` on."""


@dataclass(frozen=True)
class Published:
    """All that is stored of a new dataset; the bodies are in `Blobs` already."""

    listing: Listing
    sealed_listing: bytes
    sealed_manifest: bytes
    provenance: tuple[bytes, ...]


def publish(
    plan: Plan,
    said: Description,
    journal: Journal,
    *,
    signer: Signer,
    blobs: Blobs,
    secret_seal_key: bytes,
    now: int,
) -> Published:
    """Encrypt and describe; every signature is made here."""
    manifest = _seal_units(plan, journal, blobs, secret_seal_key)
    step = _step(said, manifest, signer, now)
    listing = described(
        plan,
        said,
        manifest=manifest.root(),
        provenance=chain_digest([step]),
        owner=signer.public_key,
        now=now,
    )
    return _seal(listing, manifest, step, signer)


def described(
    plan: Plan,
    said: Description,
    *,
    manifest: Digest,
    provenance: Digest,
    owner: PublicKey,
    now: int,
) -> Listing:
    """All that becomes public, or `DatasetError` for what no listing may say."""
    listing = Listing(
        title=said.title,
        licence=said.licence,
        duo=said.duo,
        disease=said.disease,
        source=said.source,
        version=said.version,
        previous=said.previous,
        provenance=provenance,
        parts=plan.parts,
        packed=plan.packed,
        units=len(plan.units),
        rows=plan.rows(),
        manifest=manifest,
        owner=owner,
        created=now,
    )
    try:
        check_listing(listing)
    except MalformedMessageError as error:
        raise DatasetError(
            str(error), hint="docs/data-steward.md, section 2, says what goes there"
        ) from error
    return listing


def rekeyed(
    before: OwnDataset,
    journal: Journal,
    *,
    signer: Signer,
    blobs: Blobs,
    secret_seal_key: bytes,
    now: int,
) -> Published:
    """The same dataset with ciphertext of its own under the journal's keys.

    The plaintext is what we hold sealed: the files it came from need not be there any more.
    A withdrawn unit keeps its entry, which nobody can open.
    """
    listing = open_listing(before.listing)
    manifest = open_manifest(before.manifest, listing)
    own = sealed.public_half(secret_seal_key)

    def opened(header: bytes) -> bytes:
        return sealed.session_key(header, secret_seal_key=secret_seal_key, sender=own)

    def anew(entry: Entry) -> Entry:
        index = entry.index
        if not before.headers[index]:
            return entry
        source = body.Opened(
            blobs, entry, chunk_list(blobs, entry), opened(before.headers[index])
        )

        def keep(first: int, chunks: Sequence[Chunk]) -> None:
            journal.keep(index, first, chunks)

        key, done = opened(journal.headers[index]), journal.done(index)
        return body.encrypt(source, index, key, blobs, done=done, keep=keep)

    made = Manifest(tuple(anew(entry) for entry in manifest.entries))
    step = Step(
        activity="rekey",
        used=(manifest.root(),),
        made=made.root(),
        tool=TOOL,
        version=_version(),
        agent=signer.public_key,
        at=now,
    )
    steps = [*(open_step(one) for one in before.provenance), step]
    renewed = msgspec.structs.replace(
        listing, manifest=made.root(), provenance=chain_digest(steps), created=now
    )
    found = _seal(renewed, made, step, signer)
    return replace(found, provenance=(*before.provenance, *found.provenance))


def _seal_units(
    plan: Plan, journal: Journal, blobs: Blobs, secret_seal_key: bytes
) -> Manifest:
    own = sealed.public_half(secret_seal_key)
    entries: list[Entry] = []
    for index, unit in enumerate(plan.units):
        key = sealed.session_key(
            journal.headers[index], secret_seal_key=secret_seal_key, sender=own
        )

        def keep(first: int, chunks: Sequence[Chunk], index: int = index) -> None:
            journal.keep(index, first, chunks)

        with Stream(unit.extents) as stream:
            done = journal.done(index)
            entries.append(
                body.encrypt(stream, index, key, blobs, done=done, keep=keep)
            )
    return Manifest(tuple(entries))


def _step(said: Description, manifest: Manifest, signer: Signer, now: int) -> Step:
    used: set[bytes] = {citation_digest(said.source)}
    if said.previous:
        used.add(said.previous)
    return Step(
        activity="encrypt",
        used=tuple(sorted(used)),
        made=manifest.root(),
        tool=TOOL,
        version=_version(),
        agent=signer.public_key,
        at=now,
    )


def _seal(
    listing: Listing, manifest: Manifest, step: Step, signer: Signer
) -> Published:
    sign, owner = signer.sign, signer.public_key
    return Published(
        listing,
        seal_listing(sign, owner, listing),
        seal_manifest(sign, owner, manifest),
        (seal_step(sign, owner, step),),
    )


def _version() -> str:
    try:
        return metadata.version(TOOL)
    except metadata.PackageNotFoundError:
        return "from source"
