"""Audit reports this node has made or heard, each under its verifier's signature."""

from dataclasses import dataclass
from typing import Any

import structlog

from node.ports import Announcement, Store
from node.services.federation import Federation
from protocol.audit import Audit, open_audit
from protocol.errors import ProtocolError
from protocol.members import ROLE_AUDITOR
from protocol.types import digest

_AUDITS = "audits"

log = structlog.get_logger()


@dataclass(frozen=True)
class _Report:
    audit: Audit
    signer: bytes
    sealed: bytes


class Audits:
    """Kept by the digest of the report; of several of a verifier on a receipt the first counts.

    The first by the second it was signed for, and of one second that with the smaller digest:
    both stand in the reports, so it is the same one in whatever order they come, on every node
    and after every restart.
    """

    def __init__(self, store: Store, federation: Federation) -> None:
        self._store = store
        self._federation = federation
        self._reports: dict[bytes, _Report] = {}
        self._first: dict[tuple[bytes, bytes], bytes] = {}

    async def load(self) -> None:
        """What was known before the restart, without what this version refuses."""
        for key, sealed in await self._store.scan(_AUDITS):
            try:
                self._note(key, sealed)
            except ProtocolError as error:
                log.warning("report passed over", report=key.hex(), reason=str(error))

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
            await self._store.append_event("audit", self._row(self._reports[key]))

    def by(self, signer: bytes, receipt: bytes) -> bytes | None:
        """The sealed report of one verifier on one receipt."""
        key = self._first.get((signer, receipt))
        return None if key is None else self._reports[key].sealed

    def rows(self) -> list[dict[str, Any]]:
        """For `audits.list`, in the order of their times."""
        found = [self._row(report) for report in self._reports.values()]
        return sorted(found, key=lambda row: int(row["time"]))

    def _note(self, key: bytes, sealed: bytes) -> None:
        audit, signer = open_audit(sealed)
        self._reports[key] = _Report(audit, signer, sealed)
        about = signer, audit.receipt
        held = self._first.setdefault(about, key)
        self._first[about] = min(held, key, key=self._rank)

    def _rank(self, key: bytes) -> tuple[int, bytes]:
        return self._reports[key].audit.time, key

    def _row(self, report: _Report) -> dict[str, Any]:
        return {
            **report.audit.describe(),
            "host": self._federation.name_of(report.audit.host),
            "verifier": self._federation.name_of(report.signer),
        }
