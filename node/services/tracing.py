"""What a host shows an auditor without weights: the sums of one layer's matrices.

They are a layer computed again, so one is made at a time, whoever asks; rows are for auditors
and for the requester they belong to, like any opening (docs/verify.md §7).
"""

import trio

from node.errors import AccessError, StorageError
from node.ports.compute import Compute
from node.ports.storage import Store
from node.ports.transport import Transport
from node.services.federation import Federation
from node.services.receipts import Receipts
from node.services.releases import Releases
from protocol.evaluation import (
    SMALL_LIMIT_BYTES,
    TRACE_LIMIT_BYTES,
    TRACE_PROTOCOL,
    TraceAnswer,
    TraceRequest,
)
from protocol.members import ROLE_AUDITOR
from protocol.types import Digest, PeerId
from protocol.wire import decode, encode

_FRAME_BYTES = 1 << 10
"""Of an answer, beside rows and sums: its tag, its salt, a header of five bytes for each."""


class Traces:
    """Serves traces of this host's receipts."""

    def __init__(
        self,
        *,
        store: Store,
        transport: Transport,
        federation: Federation,
        receipts: Receipts,
        releases: Releases,
        compute: Compute,
    ) -> None:
        self._store = store
        self._federation = federation
        self._receipts = receipts
        self._releases = releases
        self._compute = compute
        self._one = trio.Semaphore(1)
        transport.serve(TRACE_PROTOCOL, self._serve, limit_bytes=SMALL_LIMIT_BYTES)

    async def _serve(self, peer: PeerId, payload: bytes) -> bytes:
        member = self._federation.peer(peer)
        request = decode(payload, TraceRequest, limit_bytes=SMALL_LIMIT_BYTES)
        request.check()
        receipt, kept = await self._receipts.kept(request.receipt)
        name = request.receipt.hex()[:16]
        if not member.has(ROLE_AUDITOR) and member.node_key != receipt.requester:
            raise AccessError(
                f"{member.name} may not open receipt {name}",
                hint="rows are for auditors, and for the requester they belong to",
            )
        if request.layer >= receipt.layers:
            raise StorageError(f"receipt {name} has {receipt.layers} layers")
        await self._store.append_event(
            "receipt.opened",
            {
                "receipt": request.receipt.hex(),
                "boundary": request.layer,
                "to": member.name,
            },
        )
        async with self._one:
            rows = await self._receipts.rows_at(receipt, kept, request.layer)
            found = await self._compute.call(
                "audit.trace",
                {
                    "model": str(
                        await self._releases.trunk_file(Digest(receipt.model_root))
                    ),
                    "layer": request.layer,
                    "rows": rows,
                    "shape": list(receipt.order.shape),
                    "limit_bytes": TRACE_LIMIT_BYTES - _FRAME_BYTES,
                },
            )
        return encode(TraceAnswer(kept.salt, rows, tuple(found["sums"])))
