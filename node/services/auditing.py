"""The verifier's work: follow anchored batches, replay, report.

The node draws receipts with its own coins after the batch is anchored, so a host cannot know
which will be looked at.  It needs the trunk (once), the boundary rows of the receipt, and
nothing else: no key, no record, no trust in whoever delivers the bytes.  What it finds is
signed, kept and announced; every node checks the signature before it lists a report.
"""

import secrets
from pathlib import Path
from typing import Any

import structlog
import trio

from node.errors import NodeError
from node.ports import (
    Announcement,
    Blobs,
    Chain,
    ChainEvent,
    Compute,
    Signer,
    Store,
    Transport,
)
from node.services.federation import Federation
from node.services.receipts import fetch_batch
from node.services.releases import Releases
from protocol import merkle
from protocol.errors import ProtocolError
from protocol.evaluation import AUDIT_TOPIC
from protocol.receipt import Audit, open_audit, open_receipt, seal_audit
from protocol.types import Digest, digest

_AUDITS, _CURSOR = "audits", "audit-cursor"
ROWS_LIMIT_BYTES = 256 << 20
FETCH_TIMEOUT_S = 120.0
RETRY_S = 2.0
TRIES = 10

log = structlog.get_logger()


class Audits:
    """Reports this node has made or heard, each under its verifier's signature."""

    def __init__(self, store: Store, federation: Federation) -> None:
        self._store = store
        self._federation = federation
        self._rows: dict[bytes, dict[str, Any]] = {}

    async def load(self) -> None:
        """What was known before the restart."""
        for _, sealed in await self._store.scan(_AUDITS):
            self._rows[digest(sealed)] = self._row(sealed)

    async def heard(self, said: Announcement) -> None:
        """A verifier reports."""
        member = self._federation.peer(said.origin)
        _, signer = open_audit(said.payload)
        if signer != member.node_key:
            raise ProtocolError(f"{member.name} announced a report it did not sign")

        await self.keep(said.payload)

    async def keep(self, sealed: bytes) -> None:
        """Durable when this returns."""
        key = digest(sealed)
        if key not in self._rows:
            await self._store.put(_AUDITS, key, sealed)
            self._rows[key] = self._row(sealed)
            await self._store.append_event("audit", self._rows[key])

    def rows(self) -> list[dict[str, Any]]:
        """For `audits.list`."""
        return list(self._rows.values())

    def _row(self, sealed: bytes) -> dict[str, Any]:
        audit, signer = open_audit(sealed)
        return {
            **audit.describe(),
            "host": self._federation.name_of(audit.host),
            "verifier": self._federation.name_of(signer),
        }


class Verifier:
    """Replays what was drawn."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        signer: Signer,
        chain: Chain,
        transport: Transport,
        federation: Federation,
        releases: Releases,
        audits: Audits,
        compute: Compute,
        folder: Path,
        rate: float,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._signer = signer
        self._chain = chain
        self._transport = transport
        self._federation = federation
        self._releases = releases
        self._audits = audits
        self._compute = compute
        self._folder = folder
        self._rate = rate

    async def run(self) -> None:
        """Follow the chain for ever, one batch after the other."""
        cursor = await self._store.get(_CURSOR, b"block")
        start = 0 if cursor is None else int.from_bytes(cursor, "big")
        async for event in self._chain.follow(start):
            if event.kind == "ReceiptsAnchored":
                await self._batch(event)
            await self._store.put(_CURSOR, b"block", event.block.to_bytes(8, "big"))

    async def _batch(self, event: ChainEvent) -> None:
        root, account = Digest(event.data["root"]), bytes(event.data["host"])
        host = self._federation.members.by_account(account)
        if host is None:
            log.warning("batch of a stranger", account=account.hex())
            return
        for attempt in range(TRIES):
            try:
                receipts = await fetch_batch(
                    self._transport, host.peer_id, root, FETCH_TIMEOUT_S
                )
                break
            except (NodeError, ProtocolError) as error:
                log.warning("batch not shown", host=host.name, reason=str(error))
                await trio.sleep(RETRY_S * (attempt + 1))
        else:
            await self._store.append_event(
                "audit.withheld", {"host": host.name, "batch": root.hex()}
            )
            return
        for index, sealed in enumerate(receipts):
            # Drawn now, after the anchor, from the operating system's coins.
            if secrets.randbelow(1 << 32) < self._rate * (1 << 32):
                proof = merkle.inclusion_proof(list(receipts), index)
                await self._one(host.peer_id, root, sealed, index, len(receipts), proof)

    async def _one(
        self,
        host: Any,
        root: Digest,
        sealed: bytes,
        index: int,
        size: int,
        proof: Any,
    ) -> None:
        try:
            receipt = open_receipt(sealed)
            trunk = await self._releases.fetch_blob(receipt.model_root)
            boundaries = Digest(receipt.boundaries)
            await self._transport.fetch(
                host,
                boundaries,
                limit_bytes=ROWS_LIMIT_BYTES,
                timeout_s=FETCH_TIMEOUT_S,
            )
            found = await self._compute.call(
                "audit.replay",
                {
                    "trunk": self._blobs.read(trunk, 0, self._blobs.size(trunk)),
                    "receipt": sealed,
                    "batch_root": root,
                    "index": index,
                    "size": size,
                    "proof": list(proof),
                    "boundaries": self._blobs.read(
                        boundaries, 0, self._blobs.size(boundaries)
                    ),
                },
            )
        except (NodeError, ProtocolError) as error:
            log.warning(
                "receipt not audited", receipt=digest(sealed).hex(), reason=str(error)
            )
            await self._store.append_event(
                "audit.withheld",
                {"receipt": digest(sealed).hex(), "reason": str(error)},
            )
            return
        audit = Audit.parse(found["audit"])
        report = seal_audit(self._signer.sign, self._signer.public_key, audit)
        await self._audits.keep(report)
        await self._transport.announce(AUDIT_TOPIC, report)
