"""Receipts of this host: kept, batched under a root, anchored, shown to auditors.

A receipt and the rows behind it are on disk before its answer leaves, so a host cannot answer
and later have nothing to show.  A batch is closed by count or by age; its root goes to the
outbox, and the list of its receipts can be asked for by any member, who checks it against
the root on the chain.  Rows are opened to auditors, and to the requester they belong to; each
opening is an event of its own (docs/verify.md §7 says what it tells).
"""

from typing import Any

import structlog
import trio

from node.errors import AccessError, StorageError
from node.ports import Blobs, Store, Transport
from node.services.federation import Federation
from node.services.outbox import Outbox
from protocol.boundary import SALT_BYTES
from protocol.errors import ProtocolError
from protocol.evaluation import (
    BATCH_LIMIT_BYTES,
    OPEN_PROTOCOL,
    RECEIPTS_PROTOCOL,
    REQUEST_LIMIT_BYTES,
    SMALL_LIMIT_BYTES,
    BatchAnswer,
    BatchRequest,
    Opening,
    OpenRequest,
)
from protocol.members import ROLE_AUDITOR
from protocol.receipt import Receipt, batch_root, open_receipt
from protocol.types import Digest, PeerId
from protocol.wire import Message, decode, encode, require_length

_OPEN, _BATCHES = "receipts-open", "receipts-batches"
_ROWS, _SENT = "receipts-rows", "receipts-sent"
BATCH_COUNT = 64
BATCH_AGE_S = 5.0
BATCH_BYTES = BATCH_LIMIT_BYTES - (1 << 16)
"""Leaves room for one more receipt of the largest kind."""

log = structlog.get_logger()


class _Kept(Message, frozen=True, tag="kept"):
    """What an opening needs."""

    sealed: bytes
    salt: bytes
    rows: bytes
    """Blob with the packed rows of every boundary, one after the other."""


class Receipts:
    """What this host has signed."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: Blobs,
        outbox: Outbox,
        transport: Transport,
        federation: Federation,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._outbox = outbox
        self._federation = federation
        self._open: dict[bytes, tuple[Receipt, bytes]] = {}
        self._next = 0
        self._closing = trio.Lock()
        transport.serve(RECEIPTS_PROTOCOL, self._serve, limit_bytes=SMALL_LIMIT_BYTES)
        transport.serve(OPEN_PROTOCOL, self._serve_rows, limit_bytes=SMALL_LIMIT_BYTES)

    async def load(self) -> None:
        """What was kept before the restart."""
        batched: set[bytes] = set()
        for root, data in await self._store.scan(_BATCHES):
            answer = decode(data, BatchAnswer, limit_bytes=BATCH_LIMIT_BYTES)
            batched.update(answer.receipts)
            await self._outbox_once(root, len(answer.receipts))
        self._next = len(batched)
        for key, sealed in sorted(await self._store.scan(_OPEN)):
            self._next = max(self._next, int.from_bytes(key, "big") + 1)
            # Stopped between storing a batch and clearing it away: it is anchored once.
            if sealed in batched:
                await self._store.delete(_OPEN, key)
            else:
                self._open[key] = open_receipt(sealed), sealed

    async def keep(self, sealed: bytes, salt: bytes, rows: Digest) -> None:
        """Durable when this returns."""
        require_length("salt", salt, SALT_BYTES)
        receipt = open_receipt(sealed)
        kept = _Kept(sealed, salt, rows)
        await self._store.put(_ROWS, receipt.digest, encode(kept))
        key = self._next.to_bytes(8, "big")
        self._next += 1
        await self._store.put(_OPEN, key, sealed)
        self._open[key] = receipt, sealed
        size = sum(len(one) for _, one in self._open.values())
        if len(self._open) >= BATCH_COUNT or size >= BATCH_BYTES:
            await self.anchor()

    async def anchor(self) -> bytes | None:
        """Close the open batch; its root, or None where nothing waits."""
        async with self._closing:
            closing = dict(self._open)
            batch = tuple(sealed for _, sealed in closing.values())
            if not batch:
                return None
            root = batch_root(batch)
            await self._store.put(_BATCHES, root, encode(BatchAnswer(batch)))
            await self._outbox_once(root, len(batch))
            for key in closing:
                await self._store.delete(_OPEN, key)
                del self._open[key]
            await self._store.append_event(
                "receipts.batch", {"root": root.hex(), "count": len(batch)}
            )
            return root

    async def run(self) -> None:
        """Close what has waited long enough."""
        while True:
            await trio.sleep(BATCH_AGE_S)
            await self.anchor()

    async def rows(self) -> list[dict[str, Any]]:
        """For `receipts.list`; what is not in a batch yet has none."""
        listed = [self._row(one, None) for one, _ in self._open.values()]
        for root, data in await self._store.scan(_BATCHES):
            answer = decode(data, BatchAnswer, limit_bytes=BATCH_LIMIT_BYTES)
            listed += [self._row(open_receipt(one), root) for one in answer.receipts]
        return sorted(listed, key=lambda row: (row["time"], row["receipt"]))

    def _row(self, receipt: Receipt, batch: bytes | None) -> dict[str, Any]:
        return {
            "receipt": receipt.digest.hex(),
            "batch": None if batch is None else batch.hex(),
            "model": receipt.model_root.hex(),
            "requester": self._federation.name_of(receipt.requester),
            "cases": receipt.order.shape[0],
            "time": receipt.time,
        }

    async def _outbox_once(self, root: bytes, count: int) -> None:
        """The mark follows the entry: after a crash an anchor is sent twice, never not."""
        if await self._store.get(_SENT, root) is None:
            await self._outbox.put("receipts", root, count)
            await self._store.put(_SENT, root, b"")

    async def _serve(self, peer: PeerId, payload: bytes) -> bytes:
        self._federation.peer(peer)
        request = decode(payload, BatchRequest, limit_bytes=SMALL_LIMIT_BYTES)
        request.check()
        batch = await self._store.get(_BATCHES, request.root)
        if batch is None:
            raise StorageError(f"no batch {request.root.hex()[:16]} on this host")
        return batch

    async def _serve_rows(self, peer: PeerId, payload: bytes) -> bytes:
        member = self._federation.peer(peer)
        request = decode(payload, OpenRequest, limit_bytes=SMALL_LIMIT_BYTES)
        request.check()
        name = request.receipt.hex()[:16]
        data = await self._store.get(_ROWS, request.receipt)
        if data is None:
            raise StorageError(f"no rows of receipt {name} on this host")
        kept = decode(data, _Kept, limit_bytes=BATCH_LIMIT_BYTES)
        receipt = open_receipt(kept.sealed)
        if not member.has(ROLE_AUDITOR) and member.node_key != receipt.requester:
            raise AccessError(
                f"{member.name} may not open receipt {name}",
                hint="rows are for auditors, and for the requester they belong to",
            )
        if request.boundary > receipt.layers:
            raise StorageError(f"receipt {name} has {receipt.layers} layers")
        size = receipt.order.rows_bytes
        await self._store.append_event(
            "receipt.opened",
            {
                "receipt": request.receipt.hex(),
                "boundary": request.boundary,
                "to": member.name,
            },
        )
        rows = await trio.to_thread.run_sync(
            self._blobs.read, Digest(kept.rows), request.boundary * size, size
        )
        return encode(Opening(kept.salt, rows))


async def fetch_batch(
    transport: Transport, peer: PeerId, root: bytes, timeout_s: float
) -> tuple[bytes, ...]:
    """A host's receipts under `root`; refuses a list with another root."""
    answer = decode(
        await transport.request(
            peer,
            RECEIPTS_PROTOCOL,
            encode(BatchRequest(root)),
            timeout_s=timeout_s,
            limit_bytes=BATCH_LIMIT_BYTES,
        ),
        BatchAnswer,
        limit_bytes=BATCH_LIMIT_BYTES,
    )
    answer.check()
    if batch_root(answer.receipts) != root:
        raise ProtocolError(
            f"the host's list of {len(answer.receipts)} receipts does not have root"
            f" {root.hex()[:16]}"
        )
    return answer.receipts


async def fetch_rows(
    transport: Transport, peer: PeerId, receipt: Digest, boundary: int, timeout_s: float
) -> Opening:
    """The rows at one boundary, as the host shows them; not yet compared with any root."""
    opening = decode(
        await transport.request(
            peer,
            OPEN_PROTOCOL,
            encode(OpenRequest(receipt, boundary)),
            timeout_s=timeout_s,
            limit_bytes=REQUEST_LIMIT_BYTES,
        ),
        Opening,
        limit_bytes=REQUEST_LIMIT_BYTES,
    )
    opening.check()
    return opening
