"""How long a host keeps the rows behind a receipt."""

from types import SimpleNamespace

import nacl.signing
import pytest

from node.adapters.memory_store import MemoryBlobs, MemoryStore
from node.errors import StorageError
from node.services.receipts import Receipts
from protocol.merkle import leaf_digest
from protocol.receipt import ROWS_KEPT_S, Order, seal_order, seal_receipt
from protocol.types import digest

CLINIC, HOST = (nacl.signing.SigningKey(bytes([i]) * 32) for i in (1, 2))
MADE = 1_800_000_000
LATE = MADE + ROWS_KEPT_S + 1


class Outbox:
    """A chain that takes what it is told to."""

    def __init__(self):
        self.waiting = set()

    async def put(self, _kind, root, _count):
        self.waiting.add(root)

    async def unsent(self, _kind):
        return set(self.waiting)


class Kept:
    """A host with one receipt in a closed batch."""

    def __init__(self, limit_bytes=1 << 20):
        self.store, self.blobs, self.outbox = MemoryStore(), MemoryBlobs(), Outbox()
        self.receipts = Receipts(
            store=self.store,
            blobs=self.blobs,
            outbox=self.outbox,
            transport=SimpleNamespace(serve=lambda *_, **__: None),
            federation=None,
            limit_bytes=limit_bytes,
        )
        host, clinic = (bytes(one.verify_key) for one in (HOST, CLINIC))
        order = Order(bytes(32), host, bytes(16), (1, 1, 1), bytes(32))
        sealed = seal_order(lambda m: CLINIC.sign(m).signature, clinic, order)
        self.sealed = seal_receipt(
            lambda m: HOST.sign(m).signature, host, sealed, [bytes(32)], MADE
        )

    async def made(self):
        rows = self.blobs.put(b"rows")
        await self.receipts.keep(self.sealed, bytes(32), rows)
        self.root = await self.receipts.anchor()
        return self

    async def expired(self, now):
        return await self.receipts.expire(now) == 1


async def test_rows_go_after_their_time():
    host = await Kept().made()
    host.outbox.waiting.clear()
    assert not await host.expired(LATE - 1)
    assert await host.expired(LATE)
    assert not host.blobs.has(digest(b"rows"))


async def test_a_batch_that_waited_for_the_chain_is_kept_as_long_as_any_other():
    host = await Kept().made()
    # Two months without a chain; the window of challenges begins when it takes the batch.
    taken = MADE + 60 * 86_400
    assert not await host.expired(taken)
    host.outbox.waiting.clear()
    assert not await host.expired(LATE)
    assert not await host.expired(taken + ROWS_KEPT_S)
    assert await host.expired(taken + ROWS_KEPT_S + 1)
    assert await host.store.scan("receipts-waited") == []


@pytest.mark.parametrize("closed", [(7, 8), (8, 7)], ids=str)
async def test_what_is_disputed_is_kept_until_all_disputes_are_decided(closed):
    host = await Kept().made()
    host.outbox.waiting.clear()
    for dispute in (7, 8):
        await host.receipts.hold(dispute, leaf_digest(host.sealed))
    for dispute in closed:
        assert not await host.expired(10 * LATE)
        await host.receipts.let_go(dispute)
    assert await host.expired(LATE)


async def test_a_host_that_holds_all_it_may_answers_nobody_until_rows_have_gone():
    # One case of one token of one number has three bytes at each of its two boundaries.
    host = Kept(limit_bytes=6)
    host.receipts.require_room()
    await host.made()
    host.outbox.waiting.clear()
    with pytest.raises(StorageError, match="take 6 bytes here, limit is 6") as caught:
        host.receipts.require_room()
    assert "limits.receipt_bytes" in caught.value.hint()
    again = Kept(limit_bytes=6)
    again.receipts._store = host.store
    await again.receipts.load()  # a restart forgets nothing of it
    with pytest.raises(StorageError):
        again.receipts.require_room()
    assert await host.expired(LATE)
    host.receipts.require_room()
