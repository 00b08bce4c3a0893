"""Receipts of this host: kept, batched under a root, anchored, shown to auditors.

A receipt and the rows behind it are on disk before its answer leaves, so a host cannot answer
and later have nothing to show.  A batch is closed by count or by age; its root goes to the
outbox, and the list of its receipts can be asked for by any member, who checks it against
the root on the chain.  Rows are opened to auditors, and to the requester they belong to; each
opening is an event of its own (docs/verify.md §7 says what it tells).

What an auditor may still ask for is never deleted to make room.  A host that holds as many bytes
of rows as it may answers nobody until some of them are old enough.
"""

from typing import Any

import structlog
import trio

from node.clock import now_s
from node.errors import AccessError, StorageError
from node.ports.storage import Blobs, Store
from node.ports.transport import Transport
from node.services.federation import Federation
from node.services.outbox import Outbox
from protocol.boundary import SALT_BYTES
from protocol.errors import ProtocolError
from protocol.evaluation import (
    BATCH_LIMIT_BYTES,
    OPEN_PROTOCOL,
    PLACE_PROTOCOL,
    RECEIPTS_PROTOCOL,
    REQUEST_LIMIT_BYTES,
    SMALL_LIMIT_BYTES,
    BatchAnswer,
    BatchRequest,
    Opening,
    OpenRequest,
    Place,
    PlaceRequest,
)
from protocol.lineage import PlacedReceipt
from protocol.members import ROLE_AUDITOR
from protocol.merkle import leaf_digest
from protocol.receipt import ROWS_KEPT_S, Receipt, batch_proof, batch_root, open_receipt
from protocol.types import Digest, PeerId, digest
from protocol.wire import Message, decode, encode, require_length

_OPEN, _BATCHES = "receipts-open", "receipts-batches"
_ROWS, _SENT, _DUE = "receipts-rows", "receipts-sent", "receipts-due"
_WAITED, _DISPUTED = "receipts-waited", "receipts-disputed"
BATCH_COUNT = 64
BATCH_AGE_S = 5.0
TIDY_S = 3600.0
"""How often it is looked whether rows have been kept long enough."""
BATCH_BYTES = BATCH_LIMIT_BYTES - (1 << 16)
"""Leaves room for one more receipt of the largest kind."""

log = structlog.get_logger()


class Kept(Message, frozen=True, tag="kept"):
    """What an opening needs."""

    sealed: bytes
    salt: bytes
    rows: bytes
    """Blob with the packed rows of every boundary, one after the other; empty, like the
    salt, once they were deleted."""


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
        limit_bytes: int = 1 << 50,
    ) -> None:
        """`limit_bytes` is how much the rows behind receipts may take."""
        self._limit_bytes, self._held_bytes = limit_bytes, 0
        self._store = store
        self._blobs = blobs
        self._outbox = outbox
        self._federation = federation
        self._open: dict[bytes, bytes] = {}
        self._placed: dict[bytes, bytes] = {}
        self._next = 0
        self._closing = trio.Lock()
        self._keeping = trio.Lock()
        transport.serve(RECEIPTS_PROTOCOL, self._serve, limit_bytes=SMALL_LIMIT_BYTES)
        transport.serve(
            PLACE_PROTOCOL, self._serve_place, limit_bytes=SMALL_LIMIT_BYTES
        )
        transport.serve(OPEN_PROTOCOL, self._serve_rows, limit_bytes=SMALL_LIMIT_BYTES)

    async def load(self) -> None:
        """What was kept before the restart."""
        batched: set[bytes] = set()
        for root, data in await self._store.scan(_BATCHES):
            answer = decode(data, BatchAnswer, limit_bytes=BATCH_LIMIT_BYTES)
            batched.update(answer.receipts)
            self._placed |= dict.fromkeys(map(digest, answer.receipts), root)
            await self._outbox_once(root, len(answer.receipts))
        for _, held in await self._store.scan(_DUE):
            self._held_bytes += int.from_bytes(held, "big")
        self._next = len(batched)
        for key, sealed in sorted(await self._store.scan(_OPEN)):
            self._next = max(self._next, int.from_bytes(key, "big") + 1)
            # Stopped between storing a batch and clearing it away: it is anchored once.
            if sealed in batched:
                await self._store.delete(_OPEN, key)
            else:
                self._open[key] = sealed

    def require_room(self) -> None:
        """Refuse to answer while the rows behind earlier answers take all they may.

        What is in line when the limit is met is answered, so it is passed by that much.
        """
        if self._held_bytes >= self._limit_bytes:
            raise StorageError(
                f"rows for audits take {self._held_bytes} bytes here, limit is"
                f" {self._limit_bytes}",
                hint="ask another host; its operator may raise limits.receipt_bytes",
            )

    async def keep(self, sealed: bytes, salt: bytes, rows: Digest) -> None:
        """Durable when this returns; a receipt that is kept already stays where it stands.

        An order that comes twice in one second is answered with the same receipt, since nothing in
        it is drawn.
        """
        require_length("salt", salt, SALT_BYTES)
        receipt = open_receipt(sealed)
        async with self._keeping:
            if await self._store.get(_ROWS, receipt.digest) is not None:
                return
            key = self._next.to_bytes(8, "big")
            self._next += 1
            kept = encode(Kept(sealed, salt, rows))
            due = receipt.time.to_bytes(8, "big") + receipt.digest
            await self._store.put_many(
                [
                    (_ROWS, receipt.digest, kept),
                    (_DUE, due, receipt.kept_bytes.to_bytes(8, "big")),
                    (_OPEN, key, sealed),
                ]
            )
            self._open[key] = sealed
            self._held_bytes += receipt.kept_bytes
            size = sum(map(len, self._open.values()))
            if len(self._open) >= BATCH_COUNT or size >= BATCH_BYTES:
                await self.anchor()

    async def anchor(self) -> bytes | None:
        """Close the open batch; its root, or None where nothing waits."""
        async with self._closing:
            closing = dict(self._open)
            batch = tuple(closing.values())
            if not batch:
                return None
            root = batch_root(batch)
            await self._store.put(_BATCHES, root, encode(BatchAnswer(batch)))
            self._placed |= dict.fromkeys(map(digest, batch), root)
            await self._outbox_once(root, len(batch))
            for key in closing:
                await self._store.delete(_OPEN, key)
                del self._open[key]
            await self._store.append_event(
                "receipts.batch", {"root": root.hex(), "count": len(batch)}
            )
            return root

    async def run(self) -> None:
        """Close what has waited long enough, delete what was kept long enough."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tidy)
            while True:
                await trio.sleep(BATCH_AGE_S)
                await self.anchor()

    async def _tidy(self) -> None:
        while True:
            await self.expire(now_s())
            await trio.sleep(TIDY_S)

    async def expire(self, now: int) -> int:
        """Delete rows and salts that need not be shown after Unix second `now`; how many.

        What is in no batch, or in one that the chain has not taken, is kept: nobody could
        have looked at it.  A batch that waited for the chain is kept from then on for as long
        as any other, since its window of challenges begins then; what is disputed is kept
        until that is decided.
        """
        waited = await self._waited(now)
        disputed = {receipt for _, receipt in await self._store.scan(_DISPUTED)}
        gone = 0
        for key, _ in sorted(await self._store.scan(_DUE)):
            receipt, kept = await self.kept(key[8:])
            if not receipt.is_expired(now):
                break
            batch = self._placed.get(receipt.digest)
            if batch is None or batch in waited or receipt.digest in disputed:
                continue
            # The record goes first: a kill in between leaves a file, not a false promise.
            await self._store.put_many(
                [
                    (_ROWS, receipt.digest, encode(Kept(kept.sealed, b"", b""))),
                    (_DUE, key, None),
                ],
                event=("receipt.expired", {"receipt": receipt.digest.hex()}),
            )
            await trio.to_thread.run_sync(self._blobs.delete, Digest(kept.rows))
            self._held_bytes -= receipt.kept_bytes
            gone += 1
        return gone

    async def _waited(self, now: int) -> set[bytes]:
        """Batches that the chain has not taken, or took less than the rows' time ago."""
        found = set(await self._outbox.unsent("receipts"))
        for root in found:
            await self._store.put(_WAITED, root, now.to_bytes(8, "big"))
        for root, seen in await self._store.scan(_WAITED):
            if now <= int.from_bytes(seen, "big") + ROWS_KEPT_S:
                found.add(root)
            else:
                await self._store.delete(_WAITED, root)
        return found

    async def hold(self, dispute: int, leaf: bytes) -> None:
        """Keep the rows of the receipt that a dispute is about until `let_go`."""
        receipt, _ = await self.by_leaf(leaf)
        await self._store.put(_DISPUTED, dispute.to_bytes(8, "big"), receipt.digest)

    async def let_go(self, dispute: int) -> None:
        """The dispute is over."""
        await self._store.delete(_DISPUTED, dispute.to_bytes(8, "big"))

    async def rows(self) -> list[dict[str, Any]]:
        """For `receipts.list`; what is in no batch yet waits for the next."""
        unsent = await self._outbox.unsent("receipts")
        waiting = dict.fromkeys(map(digest, self._open.values()))
        return [
            {
                "receipt": receipt.hex(),
                "batch": None if batch is None else batch.hex(),
                "anchored": batch is not None and batch not in unsent,
            }
            for receipt, batch in [*self._placed.items(), *waiting.items()]
        ]

    async def kept(self, receipt: bytes) -> tuple[Receipt, Kept]:
        """A receipt of this host and where its rows lie."""
        data = await self._store.get(_ROWS, receipt)
        if data is None:
            raise StorageError(f"no receipt {receipt.hex()[:16]} on this host")
        kept = decode(data, Kept, limit_bytes=BATCH_LIMIT_BYTES)
        return open_receipt(kept.sealed), kept

    async def by_leaf(self, leaf: bytes) -> tuple[Receipt, Kept]:
        """The receipt that stands in a batch under this leaf hash."""
        for receipt in self._placed:
            found, kept = await self.kept(receipt)
            if leaf_digest(kept.sealed) == leaf:
                return found, kept
        raise StorageError(f"no receipt with leaf {leaf.hex()[:16]} on this host")

    async def rows_at(self, receipt: Receipt, kept: Kept, boundary: int) -> bytes:
        """Packed rows at one boundary."""
        if not kept.rows:
            raise StorageError(
                f"rows of receipt {receipt.digest.hex()[:16]} were deleted after"
                f" {ROWS_KEPT_S // 86_400} days",
                hint="audit a receipt while its host must keep them",
            )
        size = receipt.order.rows_bytes
        return await trio.to_thread.run_sync(
            self._blobs.read, Digest(kept.rows), boundary * size, size
        )

    async def place(self, receipt: bytes) -> Place:
        """The batch of a receipt and its proof."""
        batch = self._placed.get(receipt)
        data = None if batch is None else await self._store.get(_BATCHES, batch)
        if batch is None or data is None:
            raise StorageError(
                f"receipt {receipt.hex()[:16]} is in no batch yet",
                hint="its host closes a batch after a few seconds, or by `rexis receipt anchor`",
            )
        receipts = decode(data, BatchAnswer, limit_bytes=BATCH_LIMIT_BYTES).receipts
        index = next(i for i, one in enumerate(receipts) if digest(one) == receipt)
        return Place(batch, batch_proof(receipts, index))

    async def anchored_place(self, receipt: bytes) -> Place:
        """The same, once the chain has taken the batch."""
        place = await self.place(receipt)
        if place.batch in await self._outbox.unsent("receipts"):
            raise StorageError(
                f"batch {place.batch.hex()[:16]} waits for the chain",
                hint="`rexis receipt list` says when it is anchored",
            )
        return place

    async def placed(self) -> list[PlacedReceipt]:
        """All receipts of this host, each with its place once its batch is closed."""
        found = [PlacedReceipt(sealed, b"", None) for sealed in self._open.values()]
        for root, data in await self._store.scan(_BATCHES):
            batch = decode(data, BatchAnswer, limit_bytes=BATCH_LIMIT_BYTES).receipts
            found += [
                PlacedReceipt(sealed, root, batch_proof(batch, index))
                for index, sealed in enumerate(batch)
            ]
        return found

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
        receipt, kept = await self.kept(request.receipt)
        name = request.receipt.hex()[:16]
        if not member.has(ROLE_AUDITOR) and member.node_key != receipt.requester:
            raise AccessError(
                f"{member.name} may not open receipt {name}",
                hint="rows are for auditors, and for the requester they belong to",
            )
        if request.boundary > receipt.layers:
            raise StorageError(f"receipt {name} has {receipt.layers} layers")
        await self._store.append_event(
            "receipt.opened",
            {
                "receipt": request.receipt.hex(),
                "boundary": request.boundary,
                "to": member.name,
            },
        )
        rows = await self.rows_at(receipt, kept, request.boundary)
        return encode(Opening(kept.salt, rows))

    async def _serve_place(self, peer: PeerId, payload: bytes) -> bytes:
        self._federation.peer(peer)
        request = decode(payload, PlaceRequest, limit_bytes=SMALL_LIMIT_BYTES)
        request.check()
        return encode(await self.place(request.receipt))


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


async def fetch_place(
    transport: Transport, peer: PeerId, sealed: bytes, timeout_s: float
) -> Place:
    """Where a host says it anchored a receipt; the proof is checked, the chain is not."""
    place = decode(
        await transport.request(
            peer,
            PLACE_PROTOCOL,
            encode(PlaceRequest(digest(sealed))),
            timeout_s=timeout_s,
            limit_bytes=SMALL_LIMIT_BYTES,
        ),
        Place,
    )
    place.proof.verify(place.batch, sealed)
    return place
