"""What proves an answer later: certificates of a requester, bundles for `rexis-verify`.

A requester keeps the receipt, the salt and both ends of every answer it got; once the host has
closed the batch it asks for the receipt's place in it and for the trunk, and then it can show a
regulator what was computed for it, years later and without the host.  A bundle is one
file that checks offline; it is written for receipts of this node in any role: it signed them,
it asked for them, or it found them wrong.
"""

from pathlib import Path
from typing import Any

import structlog
import trio

from node.clock import now_s
from node.errors import ChainError, NodeError, StorageError
from node.market.reader import write_private
from node.ports.chain import Chain
from node.ports.storage import Blobs, Store
from node.ports.transport import Transport
from node.services.federation import Federation
from node.services.receipts import Kept, Receipts, fetch_place
from node.services.releases import Releases
from node.verifier import bundle
from node.verifier.bundle import Bundle
from node.verifier.case import Case
from protocol import merkle
from protocol.boundary import case_roots, case_salt
from protocol.errors import ProtocolError
from protocol.evaluation import Place
from protocol.lineage import PlacedReceipt
from protocol.receipt import Receipt, open_receipt
from protocol.types import Digest, digest
from protocol.wire import Message, decode, encode

_CERTIFICATES, _PLACES = "certificates", "certificates-places"
_LATE = "certificates-late"
PLACE_TIMEOUT_S = 30.0
COMPLETE_EVERY_S = 10.0
"""Twice the age at which a host closes a batch."""
COMPLETE_AT_ONCE = 16
"""Certificates looked after in one turn, so that hosts that are away hold nobody up for long."""

LATE_AFTER_S = 3600
"""A batch is closed after seconds and anchored after blocks; whatever takes longer, nobody audits,
and its requester is to know."""

log = structlog.get_logger()


class Certificate(Message, frozen=True, tag="certificate"):
    """What a requester keeps of one answer."""

    receipt: bytes
    salt: bytes
    rows: bytes
    """Blob with the packed input rows and the packed output rows."""


class Certificates:
    """Answers this node got, and the bundles it can write."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        chain: Chain,
        transport: Transport,
        federation: Federation,
        releases: Releases,
        receipts: Receipts,
        evidence: Path,
    ) -> None:
        """`evidence` is the folder where the verifier puts what it found."""
        self._store = store
        self._blobs = blobs
        self._chain = chain
        self._transport = transport
        self._federation = federation
        self._releases = releases
        self._receipts = receipts
        self._evidence = evidence
        self._turn = 0

    async def keep(
        self, sealed: bytes, salt: bytes, rows: bytes, output: bytes
    ) -> None:
        """Durable when this returns."""
        blob = await trio.to_thread.run_sync(self._blobs.put, rows + output)
        certificate = Certificate(sealed, salt, blob)
        await self._store.put(_CERTIFICATES, digest(sealed), encode(certificate))

    async def output(self, receipt: bytes) -> bytes:
        """The packed rows that came as this answer; they were checked when they came."""
        data = await self._store.get(_CERTIFICATES, receipt)
        if data is None:
            raise StorageError(f"no certificate of receipt {receipt.hex()[:16]} here")
        certificate = decode(data, Certificate)
        size = open_receipt(certificate.receipt).order.rows_bytes
        return await trio.to_thread.run_sync(
            self._blobs.read, Digest(certificate.rows), size, size
        )

    async def run(self) -> None:
        """Complete what was answered, for ever."""
        while True:
            await self.complete()
            await trio.sleep(COMPLETE_EVERY_S)

    async def complete(self) -> int:
        """Ask hosts for the places that are missing; how many came.

        A host that is away, or whose batch is not on the chain, is asked again in a later turn.
        Its word for the place is not enough: a batch that it never anchors is audited by nobody.
        """
        placed = {key for key, _ in await self._store.scan(_PLACES)}
        missing = [
            (key, decode(data, Certificate).receipt)
            for key, data in await self._store.scan(_CERTIFICATES)
            if key not in placed
        ]
        came = 0
        for _ in range(min(COMPLETE_AT_ONCE, len(missing))):
            self._turn += 1
            key, sealed = missing[self._turn % len(missing)]
            try:
                place = await self._asked(sealed)
                await self._require_anchored(sealed, place)
                await self._releases.trunk(open_receipt(sealed).model_root)
            except (NodeError, ProtocolError) as error:
                log.debug("certificate waits", receipt=key.hex(), reason=str(error))
                if not isinstance(error, ChainError):  # which is no word about the host
                    await self._late(key, sealed, str(error))
                continue
            await self._store.put(_PLACES, key, encode(place))
            came += 1
        return came

    async def _require_anchored(self, sealed: bytes, place: Place) -> None:
        host = self._federation.key(open_receipt(sealed).host)
        count = await self._chain.anchored_receipts(host.account, Digest(place.batch))
        if count != place.proof.size:
            raise StorageError(
                f"batch {place.batch.hex()[:16]} of {place.proof.size} receipts is not on the"
                f" chain by {host.name}: it has {count}",
                hint="wait until the host has anchored it; nobody could check it earlier",
            )

    async def _late(self, key: bytes, sealed: bytes, reason: str) -> None:
        """Say once that a receipt is not anchored long after it was signed."""
        receipt = open_receipt(sealed)
        if now_s() <= receipt.time + LATE_AFTER_S or await self._store.get(_LATE, key):
            return
        host = self._federation.name_of(receipt.host)
        log.warning("certificate late", receipt=key.hex(), host=host, reason=reason)
        about = {"receipt": key.hex(), "host": host, "reason": reason}
        await self._store.put_many(
            [(_LATE, key, b"1")], event=("certificate.late", about)
        )

    async def rows(self) -> list[dict[str, Any]]:
        """For `receipts.certificates`, in the order of their times."""
        places = dict(await self._store.scan(_PLACES))
        found = []
        for key, data in await self._store.scan(_CERTIFICATES):
            receipt = open_receipt(decode(data, Certificate).receipt)
            host = self._federation.members.by_key(receipt.host)
            place = decode(places[key], Place) if key in places else None
            found.append(
                {
                    "receipt": key.hex(),
                    "model": receipt.model_root.hex(),
                    "host": None if host is None else host.name,
                    "cases": receipt.order.shape[0],
                    "time": receipt.time,
                    "batch": None if place is None else place.batch.hex(),
                }
            )
        return sorted(found, key=lambda row: int(row["time"]))

    async def placed(self) -> list[PlacedReceipt]:
        """Every receipt this node has asked for, with its place once the chain has it."""
        places = dict(await self._store.scan(_PLACES))
        found = []
        for key, data in await self._store.scan(_CERTIFICATES):
            sealed = decode(data, Certificate).receipt
            place = decode(places[key], Place) if key in places else None
            found.append(
                PlacedReceipt(sealed, b"", None)
                if place is None
                else PlacedReceipt(sealed, place.batch, place.proof)
            )
        return found

    async def export(self, receipt: bytes, path: Path) -> dict[str, Any]:
        """Write the bundle of a receipt; what the verifier found wrong goes first."""
        found = self._evidence / f"{receipt.hex()}.bundle"
        if await trio.to_thread.run_sync(found.exists):
            data = await trio.to_thread.run_sync(found.read_bytes)
        else:
            data = await self._bundle(receipt)
        await trio.to_thread.run_sync(write_private, path, data)
        return {"path": str(path), "bytes": len(data)}

    async def _bundle(self, receipt: bytes) -> bytes:
        """The whole replay of one receipt: input rows and trunk."""
        stored = await self._store.get(_CERTIFICATES, receipt)
        if stored is not None:
            certificate = decode(stored, Certificate)
            sealed, salt = certificate.receipt, certificate.salt
            size = open_receipt(sealed).order.rows_bytes
            rows = await trio.to_thread.run_sync(
                self._blobs.read, Digest(certificate.rows), 0, size
            )
            place = await self._place(sealed)
        else:
            opened, kept = await self._signed(receipt)
            sealed, salt = kept.sealed, kept.salt
            rows = await self._receipts.rows_at(opened, kept, 0)
            place = await self._receipts.anchored_place(receipt)
        model = await self._releases.trunk(open_receipt(sealed).model_root)
        return await trio.to_thread.run_sync(
            bundle.write,
            Bundle(sealed, place.batch, place.proof, 0, salt, rows, b"", model),
        )

    async def _signed(self, receipt: bytes) -> tuple[Receipt, Kept]:
        try:
            return await self._receipts.kept(receipt)
        except StorageError as error:
            raise StorageError(
                f"this node has not signed receipt {receipt.hex()[:16]}, did not ask for it"
                " and found nothing wrong in it",
                hint="its host and its requester can write its file",
            ) from error

    async def disclose(self, receipt: bytes, case: int, path: Path) -> dict[str, Any]:
        """Write one case of an answer this node got, and nothing of the others."""
        stored = await self._store.get(_CERTIFICATES, receipt)
        if stored is None:
            raise StorageError(
                f"this node did not ask for receipt {receipt.hex()[:16]}",
                hint="only the requester can show one case; it keeps the certificate",
            )
        certificate = decode(stored, Certificate)
        sealed = certificate.receipt
        order = open_receipt(sealed).order
        if not 0 <= case < order.shape[0]:
            raise StorageError(
                f"receipt {receipt.hex()[:16]} has cases 0 to {order.shape[0] - 1},"
                f" not {case}"
            )
        ends = await trio.to_thread.run_sync(
            self._blobs.read, Digest(certificate.rows), 0, 2 * order.rows_bytes
        )
        place = await self._place(sealed)
        model = await self._releases.trunk(order.model_root)
        data = await trio.to_thread.run_sync(
            _shown, certificate, place, case, ends, model
        )
        await trio.to_thread.run_sync(write_private, path, data)
        return {"path": str(path), "bytes": len(data)}

    async def _place(self, sealed: bytes) -> Place:
        """Where a receipt stands on the chain; a file of one that does not would look complete."""
        kept = await self._store.get(_PLACES, digest(sealed))
        if kept is not None:
            return decode(kept, Place)
        place = await self._asked(sealed)
        await self._require_anchored(sealed, place)
        return place

    async def _asked(self, sealed: bytes) -> Place:
        host = self._federation.members.by_key(open_receipt(sealed).host)
        if host is None:
            raise StorageError("the host of this receipt is no member any more")
        return await fetch_place(self._transport, host.peer_id, sealed, PLACE_TIMEOUT_S)


def _shown(
    certificate: Certificate, place: Place, case: int, ends: bytes, model: bytes
) -> bytes:
    receipt = open_receipt(certificate.receipt)
    shape, size = receipt.order.shape, receipt.order.rows_bytes
    one = size // shape[0]
    parts = []
    for boundary, rows in ((0, ends[:size]), (receipt.layers, ends[size:])):
        roots = case_roots(rows, shape, boundary, certificate.salt)
        path = tuple(merkle.inclusion_proof(roots, case))
        parts.append((rows[case * one : (case + 1) * one], path))
    (rows, path), (output, output_path) = parts
    return encode(
        Case(
            receipt=certificate.receipt,
            batch=place.batch,
            proof=place.proof,
            case=case,
            salt=case_salt(certificate.salt, case),
            rows=rows,
            path=path,
            output=output,
            output_path=output_path,
            model=model,
        )
    )
