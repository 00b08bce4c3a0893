"""Audit reports this node has made or heard, each under its verifier's signature."""

import heapq
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from node.ports.storage import Store
from node.ports.transport import Announcement
from node.services.federation import Federation
from protocol.audit import Audit, open_audit
from protocol.errors import ProtocolError
from protocol.members import ROLE_AUDITOR
from protocol.types import digest

_AUDITS = "audits"
_KEPT = 16_384
"""Reports of one verifier: a report every five minutes for two months, at 1.4 KiB of memory each."""

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

    Of each verifier `kept` stay, so that none can fill a disk with words about receipts that
    nobody gave.  What found no fault goes before what accuses, and the oldest of either first.
    """

    def __init__(
        self, store: Store, federation: Federation, *, kept: int = _KEPT
    ) -> None:
        self._store = store
        self._federation = federation
        self._kept = kept
        self._reports: dict[bytes, _Report] = {}
        self._about: defaultdict[tuple[bytes, bytes], set[bytes]] = defaultdict(set)
        self._by: defaultdict[bytes, list[tuple[bool, int, bytes]]] = defaultdict(list)
        """Of each verifier a heap: what goes next is its first."""

    async def load(self) -> None:
        """What was known before the restart, without what this version refuses."""
        gone = []
        for key, sealed in await self._store.scan(_AUDITS):
            try:
                gone += self._note(key, sealed)
            except ProtocolError as error:
                log.warning("report passed over", report=key.hex(), reason=str(error))
        if gone:
            await self._store.put_many([(_AUDITS, key, None) for key in gone])

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
        """Durable when this returns, if it is one of those that stay."""
        key = digest(sealed)
        if key in self._reports:
            return
        await self._store.put(_AUDITS, key, sealed)
        if key in self._reports:
            return  # heard from two members at once
        gone = self._note(key, sealed)
        if key not in gone:
            await self._store.append_event("audit", self._row(self._reports[key]))
        if gone:
            await self._store.put_many([(_AUDITS, each, None) for each in gone])

    def by(self, signer: bytes, receipt: bytes) -> bytes | None:
        """The sealed report of one verifier on one receipt."""
        keys = self._about.get((signer, receipt))
        return self._reports[min(keys, key=self._rank)].sealed if keys else None

    def rows(self) -> list[dict[str, Any]]:
        """For `audits.list`, in the order of their times."""
        found = [self._row(report) for report in self._reports.values()]
        return sorted(found, key=lambda row: int(row["time"]))

    def _note(self, key: bytes, sealed: bytes) -> list[bytes]:
        """The reports that went for this one; it may be the one that goes."""
        audit, signer = open_audit(sealed)
        self._reports[key] = _Report(audit, signer, sealed)
        self._about[signer, audit.receipt].add(key)
        heapq.heappush(self._by[signer], (audit.fault is not None, audit.time, key))
        return [*self._forgotten(signer)]

    def _forgotten(self, signer: bytes) -> Iterable[bytes]:
        while len(self._by[signer]) > self._kept:
            _, _, key = heapq.heappop(self._by[signer])
            about = signer, self._reports.pop(key).audit.receipt
            self._about[about].remove(key)
            if not self._about[about]:
                del self._about[about]
            yield key

    def _rank(self, key: bytes) -> tuple[int, bytes]:
        return self._reports[key].audit.time, key

    def _row(self, report: _Report) -> dict[str, Any]:
        return {
            **report.audit.describe(),
            "host": self._federation.name_of(report.audit.host),
            "verifier": self._federation.name_of(report.signer),
        }
