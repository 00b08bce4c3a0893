"""Audit reports this node has made or heard, each under its verifier's signature."""

from typing import Any

from node.ports import Announcement, Store
from node.services.federation import Federation
from protocol.audit import Audit, open_audit
from protocol.errors import ProtocolError
from protocol.members import ROLE_AUDITOR
from protocol.types import digest

_AUDITS = "audits"


class Audits:
    """Kept by the digest of the report; the first of a verifier on a receipt counts."""

    def __init__(self, store: Store, federation: Federation) -> None:
        self._store = store
        self._federation = federation
        self._reports: dict[bytes, tuple[Audit, bytes]] = {}
        self._sealed: dict[tuple[bytes, bytes], bytes] = {}

    async def load(self) -> None:
        """What was known before the restart."""
        for key, sealed in await self._store.scan(_AUDITS):
            self._note(key, sealed)

    async def heard(self, said: Announcement) -> None:
        """A verifier reports."""
        member = self._federation.peer(said.origin)
        _, signer = open_audit(said.payload)
        if signer != member.node_key:
            raise ProtocolError(f"{member.name} announced a report it did not sign")
        if not member.has(ROLE_AUDITOR):
            raise ProtocolError(f"{member.name} reports but is no auditor")
        await self.keep(said.payload)

    async def keep(self, sealed: bytes) -> None:
        """Durable when this returns."""
        key = digest(sealed)
        if key not in self._reports:
            await self._store.put(_AUDITS, key, sealed)
            self._note(key, sealed)
            await self._store.append_event("audit", self._row(*self._reports[key]))

    def by(self, signer: bytes, receipt: bytes) -> bytes | None:
        """The sealed report of one verifier on one receipt."""
        return self._sealed.get((signer, receipt))

    def rows(self) -> list[dict[str, Any]]:
        """For `audits.list`, in the order of their times."""
        found = [self._row(*report) for report in self._reports.values()]
        return sorted(found, key=lambda row: int(row["time"]))

    def _note(self, key: bytes, sealed: bytes) -> None:
        audit, signer = open_audit(sealed)
        self._reports[key] = audit, signer
        self._sealed.setdefault((signer, audit.receipt), sealed)

    def _row(self, audit: Audit, signer: bytes) -> dict[str, Any]:
        return {
            **audit.describe(),
            "host": self._federation.name_of(audit.host),
            "verifier": self._federation.name_of(signer),
        }
