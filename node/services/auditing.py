"""The verifier's work: follow anchored batches, replay, report.

The node draws receipts with its own coins after the batch is anchored, so a host cannot know
which will be looked at.  It needs the trunk (once), the input rows of the receipt, and nothing
else: no key, no record, no trust in whoever delivers the bytes.  What it finds is signed, kept
and announced; every node checks the signature before it lists a report.

A batch waits in the store until it is done with, so neither a restart nor a host that does not
answer loses one, and a host that stalls holds up nobody else's.
"""

import secrets
from pathlib import Path
from typing import Any

import structlog
import trio

from node.clock import now_s
from node.compute.state import write_file
from node.errors import NodeError
from node.ports import Announcement as Announced
from node.ports import Chain, ChainEvent, Compute, Signer, Store, Transport
from node.services.federation import Federation
from node.services.receipts import fetch_batch, fetch_rows
from node.services.releases import Releases
from protocol.audit import Audit, Fault, open_audit, seal_audit
from protocol.boundary import boundary_root
from protocol.errors import ProtocolError, VerificationError
from protocol.evaluation import AUDIT_TOPIC, Opening
from protocol.members import ROLE_AUDITOR, Member
from protocol.receipt import BatchProof, Receipt, batch_proof, open_receipt
from protocol.types import DIGEST_BYTES, Digest, digest
from protocol.wire import decode, encode

_AUDITS, _CURSOR, _PENDING = "audits", "audit-cursor", "audit-batches"
_BLOCK = b"block"
FETCH_TIMEOUT_S = 120.0
RETRY_S = 2.0
TRIES = 8
"""Two seconds, four, …: a host has a little more than a minute to show what it anchored."""
BATCHES_AT_ONCE = 32
_COIN = 1 << 53

log = structlog.get_logger()


class Audits:
    """Reports this node has made or heard, each under its verifier's signature."""

    def __init__(self, store: Store, federation: Federation) -> None:
        self._store = store
        self._federation = federation
        self._reports: dict[bytes, tuple[Audit, bytes]] = {}
        self._sealed: dict[tuple[bytes, bytes], bytes] = {}

    async def load(self) -> None:
        """What was known before the restart."""
        for key, sealed in await self._store.scan(_AUDITS):
            self._note(key, sealed)

    async def heard(self, said: Announced) -> None:
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
        """For `audits.list`."""
        return [self._row(*report) for report in self._reports.values()]

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


class Verifier:
    """Replays what was drawn."""

    def __init__(
        self,
        *,
        store: Store,
        signer: Signer,
        chain: Chain,
        transport: Transport,
        federation: Federation,
        releases: Releases,
        audits: Audits,
        compute: Compute,
        evidence: Path,
        rate: float = 1.0,
        retry_s: float = RETRY_S,
    ) -> None:
        """`evidence` is the folder for bundles against hosts; `rate` the part drawn."""
        self._store = store
        self._signer = signer
        self._chain = chain
        self._transport = transport
        self._federation = federation
        self._releases = releases
        self._audits = audits
        self._compute = compute
        self._evidence = evidence
        self._rate = rate
        self._retry_s = retry_s
        self._slots = trio.Semaphore(BATCHES_AT_ONCE)

    async def run(self) -> None:
        """Follow the chain for ever."""
        async with trio.open_nursery() as nursery:
            for key, _ in await self._store.scan(_PENDING):
                await self._slots.acquire()
                nursery.start_soon(self._batch, key)
            cursor = await self._store.get(_CURSOR, _BLOCK)
            start = 0 if cursor is None else int.from_bytes(cursor, "big")
            async for event in self._chain.follow(start):
                if event.kind == "ReceiptsAnchored":
                    await self._anchored(event, nursery)
                await self._store.put(_CURSOR, _BLOCK, event.block.to_bytes(8, "big"))

    async def _anchored(self, event: ChainEvent, nursery: trio.Nursery) -> None:
        """Note the batch, then see to it; a batch seen before the restart is done with."""
        key = bytes(event.data["host"]) + bytes(event.data["root"])
        place = event.block.to_bytes(8, "big") + event.index.to_bytes(4, "big")
        last = await self._store.get(_CURSOR, _PENDING.encode())
        if last is not None and place <= last:
            return
        await self._store.put(_PENDING, key, place)
        await self._store.put(_CURSOR, _PENDING.encode(), place)
        await self._slots.acquire()
        nursery.start_soon(self._batch, key)

    async def _batch(self, key: bytes) -> None:
        try:
            account, root = key[:-DIGEST_BYTES], Digest(key[-DIGEST_BYTES:])
            host = await self._host(account, root)
            receipts = None if host is None else await self._receipts(host, root)
            if host is not None and receipts is not None:
                for index, sealed in enumerate(receipts):
                    # Drawn now, after the anchor, from the operating system's coins.
                    if secrets.randbelow(_COIN) < self._rate * _COIN:
                        proof = batch_proof(receipts, index)
                        await self._one(host, root, sealed, proof)
            await self._store.delete(_PENDING, key)
        finally:
            self._slots.release()

    async def _host(self, account: bytes, root: bytes) -> Member | None:
        """The member behind an account; it may be so new that the list lacks it."""
        for attempt in range(TRIES):
            host = self._federation.members.by_account(account)
            if host is not None:
                return host
            await trio.sleep(self._retry_s * (attempt + 1))
        await self._store.append_event(
            "audit.skipped",
            {"batch": root.hex(), "reason": f"account {account.hex()} is no member"},
        )
        return None

    async def _receipts(self, host: Member, root: Digest) -> tuple[bytes, ...] | None:
        reason = ""
        for attempt in range(TRIES):
            try:
                return await fetch_batch(
                    self._transport, host.peer_id, root, FETCH_TIMEOUT_S
                )
            except (NodeError, ProtocolError) as error:
                reason = str(error)
                log.warning("batch not shown", host=host.name, reason=reason)
                await trio.sleep(self._retry_s * (attempt + 1))
        await self._withheld(host, root, None, reason)
        return None

    async def _one(
        self, host: Member, root: Digest, sealed: bytes, proof: BatchProof
    ) -> None:
        name = digest(sealed)
        report = self._audits.by(self._signer.public_key, name)
        if report is None:
            audit = await self._audit(host, root, sealed, proof)
            if audit is None:
                return
            report = seal_audit(self._signer.sign, self._signer.public_key, audit)
            await self._audits.keep(report)
        await self._transport.announce(AUDIT_TOPIC, report)

    async def _audit(
        self, host: Member, root: Digest, sealed: bytes, proof: BatchProof
    ) -> Audit | None:
        """A report, or None where the host or this node could not show what is needed."""
        try:
            receipt = open_receipt(sealed)
            if receipt.host != host.node_key:
                raise VerificationError("receipt is by another host")
        except ProtocolError as error:
            # Anchored by the host's own account: it put its name to something that is
            # no receipt of its own.
            log.warning("batch holds no receipt", host=host.name, reason=str(error))
            model, fault = bytes(DIGEST_BYTES), Fault("receipt", 0)
            return self._report(host, root, digest(sealed), model, fault)
        about = {
            "receipt": sealed,
            "batch": root,
            "proof": encode(proof),
            "boundary": 0,
        }
        opening = await self._opening(host, root, receipt, 0)
        if opening is None:
            return None
        about |= {"salt": opening.salt, "rows": opening.rows}
        try:
            trunk = await self._releases.trunk_file(receipt.model_root)
            about["trunk"] = str(trunk)
            found = await self._compute.call("audit.replay", about)
            if found["fault"]:
                layer = decode(found["fault"], Fault).layer
                shown = await self._opening(host, root, receipt, layer + 1)
                if shown is not None:
                    about["committed"] = shown.rows
                    found = await self._compute.call("audit.replay", about)
        except (NodeError, ProtocolError) as error:
            log.warning("not audited", receipt=receipt.digest.hex(), reason=str(error))
            await self._store.append_event(
                "audit.skipped",
                {"receipt": receipt.digest.hex(), "reason": str(error)},
            )
            return None
        wrong = decode(found["fault"], Fault) if found["fault"] else None
        if found["evidence"]:
            await trio.to_thread.run_sync(
                _keep, self._evidence, receipt.digest, found["evidence"]
            )
        return self._report(
            host,
            root,
            receipt.digest,
            receipt.model_root,
            wrong,
            count=found["count"],
        )

    def _report(
        self,
        host: Member,
        root: bytes,
        receipt: bytes,
        model: bytes,
        fault: Fault | None,
        *,
        count: int = 0,
    ) -> Audit:
        return Audit(receipt, root, host.node_key, model, 0, count, fault, now_s())

    async def _opening(
        self, host: Member, root: Digest, receipt: Receipt, boundary: int
    ) -> Opening | None:
        """Rows that have the root the host signed, or an `audit.withheld` event."""
        reason = ""
        for attempt in range(TRIES):
            try:
                opening = await fetch_rows(
                    self._transport,
                    host.peer_id,
                    receipt.digest,
                    boundary,
                    FETCH_TIMEOUT_S,
                )
                await trio.to_thread.run_sync(_check, receipt, boundary, opening)
                return opening
            except (NodeError, ProtocolError) as error:
                reason = str(error)
                log.warning("rows not shown", host=host.name, reason=reason)
                await trio.sleep(self._retry_s * (attempt + 1))
        await self._withheld(host, root, receipt.digest, reason)
        return None

    async def _withheld(
        self, host: Member, root: bytes, receipt: bytes | None, reason: str
    ) -> None:
        await self._store.append_event(
            "audit.withheld",
            {
                "host": host.name,
                "batch": root.hex(),
                "receipt": None if receipt is None else receipt.hex(),
                "reason": reason,
            },
        )


def _check(receipt: Receipt, boundary: int, opening: Opening) -> None:
    root = boundary_root(opening.rows, receipt.order.shape, boundary, opening.salt)
    if root != receipt.roots[boundary]:
        raise VerificationError(
            f"root of the rows at boundary {boundary}",
            receipt.roots[boundary].hex(),
            root.hex(),
        )


def _keep(folder: Path, receipt: bytes, evidence: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / f"{receipt.hex()}.bundle", evidence)
