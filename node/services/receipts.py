"""Receipts of this host: kept, batched under a Merkle root, anchored, shown to auditors.

A receipt is on disk before its answer leaves, so a host cannot answer and later have no
receipt.  A batch is closed by count or by age; its root goes to the outbox, and the list of its
receipts can be asked for by any auditor, who checks it against the root on the chain.
"""

from typing import Any

import trio

from node.errors import StorageError
from node.ports import Store, Transport
from node.services.federation import Federation
from node.services.outbox import Outbox
from protocol import merkle
from protocol.errors import ProtocolError
from protocol.evaluation import (
    BATCH_LIMIT_BYTES,
    RECEIPTS_PROTOCOL,
    BatchAnswer,
    BatchRequest,
)
from protocol.types import DIGEST_BYTES, Digest, PeerId, digest
from protocol.wire import decode, encode, require_length

_OPEN, _BATCHES = "receipts-open", "receipts-batches"
BATCH_COUNT = 64
BATCH_AGE_S = 5.0


class Receipts:
    """What this host has signed."""

    def __init__(
        self, store: Store, outbox: Outbox, transport: Transport, federation: Federation
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._federation = federation
        self._open: list[bytes] = []
        self._batches: dict[bytes, tuple[bytes, ...]] = {}
        self._closing = trio.Lock()
        transport.serve(RECEIPTS_PROTOCOL, self._serve, limit_bytes=1 << 12)

    async def load(self) -> None:
        """What was kept before the restart."""
        self._open = [value for _, value in sorted(await self._store.scan(_OPEN))]
        for root, data in await self._store.scan(_BATCHES):
            answer = decode(data, BatchAnswer, limit_bytes=BATCH_LIMIT_BYTES)
            self._batches[root] = answer.receipts
            self._open = [one for one in self._open if one not in answer.receipts]

    async def keep(self, sealed: bytes) -> None:
        """Durable when this returns."""
        number = len(self._open) + sum(map(len, self._batches.values()))
        key = number.to_bytes(8, "big") + digest(sealed)
        await self._store.put(_OPEN, key, sealed)
        self._open.append(sealed)
        if len(self._open) >= BATCH_COUNT:
            await self.anchor()

    async def anchor(self) -> bytes | None:
        """Close the open batch; its root, or None where nothing waits."""
        async with self._closing:
            batch = tuple(self._open)
            if not batch:
                return None
            root = merkle.root(list(batch))
            if root not in self._batches:
                await self._store.put(_BATCHES, root, encode(BatchAnswer(batch)))
                await self._outbox.put("receipts", root, len(batch))
            self._batches[root] = batch
            self._open = self._open[len(batch) :]
            for key, value in await self._store.scan(_OPEN):
                if value in batch:
                    await self._store.delete(_OPEN, key)
            await self._store.append_event(
                "receipts.batch", {"root": root.hex(), "count": len(batch)}
            )
            return root

    async def run(self) -> None:
        """Close what has waited long enough."""
        while True:
            await trio.sleep(BATCH_AGE_S)
            await self.anchor()

    def rows(self) -> list[dict[str, Any]]:
        """For `receipts.list`."""
        rows = [
            {"receipt": digest(one).hex(), "batch": root.hex(), "anchored": True}
            for root, batch in self._batches.items()
            for one in batch
        ]
        return rows + [
            {"receipt": digest(one).hex(), "batch": None, "anchored": False}
            for one in self._open
        ]

    async def _serve(self, peer: PeerId, payload: bytes) -> bytes:
        self._federation.peer(peer)
        request = decode(payload, BatchRequest, limit_bytes=1 << 12)
        require_length("batch root", request.root, DIGEST_BYTES)
        batch = self._batches.get(request.root)
        if batch is None:
            raise StorageError(f"no batch {request.root.hex()[:16]} on this host")
        return encode(BatchAnswer(batch))


async def fetch_batch(
    transport: Transport, peer: PeerId, root: Digest, timeout_s: float
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
    if not answer.receipts or merkle.root(list(answer.receipts)) != root:
        raise ProtocolError(
            f"the host's list of {len(answer.receipts)} receipts does not have root {root.hex()[:16]}"
        )
    return answer.receipts
