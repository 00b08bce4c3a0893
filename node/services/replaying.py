"""One receipt, looked into: fetch what is needed, replay it in the compute child, report.

Four outcomes.  A report says that the replayed layers are right, or which one is not.
`audit.withheld` says that the host did not show what it had signed for, `audit.expired` that it
need not any more.  `audit.skipped` says
that this node lacked something, which is nobody's fault but its own.

A layer that is wrong is looked at again: its rows after are fetched, so that the report names
the number, and the whole receipt is replayed, so that it names the first wrong layer.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from node.clock import now_s
from node.compute.state import write_file
from node.errors import NodeError
from node.ports.compute import Compute
from node.ports.storage import Store
from node.ports.transport import Transport
from node.services.keyed import KeyedAudits
from node.services.receipts import fetch_rows
from node.services.releases import Releases
from protocol.audit import Audit, Fault
from protocol.boundary import boundary_root
from protocol.errors import ProtocolError, VerificationError
from protocol.evaluation import Opening
from protocol.members import Member
from protocol.receipt import BatchProof, Receipt, open_receipt
from protocol.types import DIGEST_BYTES, Digest, digest
from protocol.wire import decode, encode

FETCH_TIMEOUT_S = 120.0
RETRY_S = 2.0
TRIES = 8
"""Two seconds, four, …: a host has a little more than a minute to show what it anchored."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Subject:
    """A receipt as it was found in an anchored batch."""

    host: Member
    batch: Digest
    sealed: bytes
    proof: BatchProof


@dataclass(frozen=True)
class _Found:
    """A report, and the bundle behind it if it accuses."""

    audit: Audit
    evidence: bytes

    @property
    def names_number(self) -> bool:
        return self.audit.fault is not None and self.audit.fault.entry is not None


class Replayer:
    """Looks into receipts."""

    def __init__(
        self,
        *,
        store: Store,
        transport: Transport,
        releases: Releases,
        compute: Compute,
        evidence: Path,
        keyed: KeyedAudits | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        """`evidence` is the folder for bundles against hosts.

        With `keyed` a receipt is looked at without its weights first, and replayed only if
        that finds something.
        """
        self._store = store
        self._transport = transport
        self._releases = releases
        self._compute = compute
        self._evidence = evidence
        self._keyed = keyed
        self._retry_s = retry_s

    async def audit(self, subject: Subject, layer: int | None) -> Audit | None:
        """Replay one `layer` of a receipt, or all of them; None where nothing was found."""
        try:
            receipt = open_receipt(subject.sealed)
            if receipt.host != subject.host.node_key:
                raise VerificationError("receipt is by another host")
        except ProtocolError as error:
            # Anchored by the host's own account: it put its name to something that is
            # no receipt of its own.
            log.warning(
                "batch holds no receipt", host=subject.host.name, reason=str(error)
            )
            return _report(subject, bytes(DIGEST_BYTES), Fault("receipt", 0))
        layers = range(receipt.layers) if layer is None else range(layer, layer + 1)
        bits = await self._by_key(subject, receipt, layers)
        if bits is not None:
            made = _report(
                *(subject, receipt.model_root, None),
                first=layers.start,
                count=len(layers),
            )
            return msgspec.structs.replace(made, tier="freivalds", error_bits=bits)
        try:
            found = await self._replayed(subject, receipt, layer)
            if found is not None and found.audit.fault and layer is not None:
                found = await self._escalated(subject, receipt, found)
        except (NodeError, ProtocolError) as error:
            found = await self._misfit(subject, receipt, layer)
            if found is None:
                await self._skipped(receipt, error)
        if found is None:
            return None
        if found.audit.fault is not None:
            await trio.to_thread.run_sync(
                _keep, self._evidence, receipt.digest, found.evidence
            )
        return found.audit

    async def _escalated(
        self, subject: Subject, receipt: Receipt, found: "_Found"
    ) -> "_Found":
        """The whole receipt, to name the first wrong layer; `found` where that shows less.

        Nothing is lost if the host will not show more: one wrong layer is proof.
        """
        try:
            whole = await self._replayed(subject, receipt, None)
        except (NodeError, ProtocolError) as error:
            log.warning(
                "not escalated", receipt=receipt.digest.hex(), reason=str(error)
            )
            return found
        if whole is None or (found.names_number and not whole.names_number):
            return found
        return whole

    async def _misfit(
        self, subject: Subject, receipt: Receipt, layer: int | None
    ) -> "_Found | None":
        """Whether the layer that could not be looked at is one that the model lacks.

        A receipt says itself how many layers it is of.  Were those beyond the model's passed over,
        a host would sign for a thousand and lie in peace; every model has a first layer, and that
        says how many there are.
        """
        if not layer:
            return None
        try:
            found = await self._replayed(subject, receipt, 0)
        except (NodeError, ProtocolError):
            return None
        return found if found is not None and found.audit.fault else None

    async def _skipped(self, receipt: Receipt, error: Exception) -> None:
        log.warning("not audited", receipt=receipt.digest.hex(), reason=str(error))
        await self._store.append_event(
            "audit.skipped", {"receipt": receipt.digest.hex(), "reason": str(error)}
        )

    async def _by_key(
        self, subject: Subject, receipt: Receipt, layers: range
    ) -> int | None:
        if self._keyed is None:
            return None
        placed = subject.sealed, subject.batch, subject.proof
        return await self._keyed.passes(subject.host.peer_id, receipt, placed, layers)

    async def _replayed(
        self, subject: Subject, receipt: Receipt, layer: int | None
    ) -> "_Found | None":
        first = 0 if layer is None else layer
        opening = await self._opening(subject, receipt, first)
        if opening is None:
            return None
        root = receipt.model_root
        about: dict[str, Any] = {
            "receipt": subject.sealed,
            "batch": subject.batch,
            "proof": encode(subject.proof),
            "boundary": first,
            "salt": opening.salt,
            "rows": opening.rows,
        }
        found = await self._computed(root, layer, about)
        fault = decode(found["fault"], Fault) if found["fault"] else None
        if fault is not None and fault.kind == "layer":
            shown = await self._opening(subject, receipt, fault.layer + 1)
            if shown is not None:
                about["committed"] = shown.rows
                found = await self._computed(root, layer, about)
                fault = decode(found["fault"], Fault)
        made = _report(subject, root, fault, first=first, count=found["count"])
        # Without the host's own rows too: they name the number, the root convicts.
        return _Found(made, found["evidence"])

    async def _computed(
        self, root: bytes, layer: int | None, about: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """The replay itself, with the weights; no host is waited for while it has a slice."""
        if layer is None:
            model = await self._releases.trunk_file(root)
            return await self._compute.call(
                "audit.replay", {**about, "model": str(model)}
            )
        keyed = self._keyed
        async with nullcontext() if keyed is None else keyed.slice(root, layer):
            model = await self._releases.slice_file(root, layer)
            return await self._compute.call(
                "audit.replay", {**about, "model": str(model)}
            )

    async def _opening(
        self, subject: Subject, receipt: Receipt, boundary: int
    ) -> Opening | None:
        """Rows that have the root the host signed, or an `audit.withheld` event."""
        reason = ""
        for attempt in range(TRIES):
            try:
                opening = await fetch_rows(
                    self._transport,
                    subject.host.peer_id,
                    receipt.digest,
                    boundary,
                    FETCH_TIMEOUT_S,
                )
                await trio.to_thread.run_sync(_check, receipt, boundary, opening)
                return opening
            except (NodeError, ProtocolError) as error:
                reason = str(error)
                log.warning("rows not shown", host=subject.host.name, reason=reason)
                if receipt.is_expired(now_s()):
                    break
                await trio.sleep(self._retry_s * (attempt + 1))
        expired = receipt.is_expired(now_s())
        await self._store.append_event(
            "audit.expired" if expired else "audit.withheld",
            {
                "host": subject.host.name,
                "batch": subject.batch.hex(),
                "receipt": receipt.digest.hex(),
                "reason": reason,
            },
        )
        return None


def _report(
    subject: Subject,
    model_root: bytes,
    fault: Fault | None,
    *,
    first: int = 0,
    count: int = 0,
) -> Audit:
    return Audit(
        receipt=digest(subject.sealed),
        batch=subject.batch,
        host=subject.host.node_key,
        model_root=model_root,
        first=first,
        count=count,
        fault=fault,
        time=now_s(),
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
