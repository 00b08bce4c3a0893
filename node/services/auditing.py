"""The verifier's work: follow anchored batches, draw, have it replayed, tell everybody.

The node draws receipts, and the layer it looks at, with its own coins after the batch is
anchored, so a host cannot know what will be looked at.  It needs no key, no record and no
trust in whoever delivers the bytes.  What is found is signed, kept and announced; every node
checks the signature before it lists a report.

A batch waits in the store until it is done with, so neither a restart nor a host that does not
answer loses one: what could not be looked at is looked at again, by the same coins
(`pending`).  Every host has a line of its own, so one that stalls holds up nobody else's.
"""

import secrets
from collections import deque
from dataclasses import dataclass, field

import structlog
import trio

from node.clock import now_s
from node.errors import ContractRefusedError, NodeError
from node.ports.chain import Chain, ChainEvent
from node.ports.keys import Signer
from node.ports.storage import Store
from node.ports.transport import Transport
from node.services.disputing import Disputes
from node.services.federation import Federation
from node.services.pending import PASSED_OVER, WHOLE, Pending
from node.services.receipts import fetch_batch
from node.services.replaying import FETCH_TIMEOUT_S, RETRY_S, TRIES, Replayer, Subject
from node.services.reports import Audits
from protocol.audit import Audit, open_audit, seal_audit
from protocol.errors import ProtocolError
from protocol.evaluation import AUDIT_TOPIC
from protocol.members import Member
from protocol.receipt import batch_proof, open_receipt
from protocol.types import DIGEST_BYTES, Digest, digest

_CURSOR = "audit-cursor"
_BLOCK, _LAST = b"block", b"last"
BATCHES_AT_ONCE = 2
"""Of one host: one may be fetched while another is replayed."""
LOOK_EVERY_S = 60.0
"""How often it is seen whether a batch is to be looked at again."""
_COIN = 1 << 53

log = structlog.get_logger()


@dataclass
class _Line:
    """A host's batches that are still to be looked at."""

    batches: deque[bytes] = field(default_factory=deque)
    workers: int = 0


class Verifier:
    """Audits what was drawn."""

    def __init__(
        self,
        *,
        store: Store,
        signer: Signer,
        chain: Chain,
        transport: Transport,
        federation: Federation,
        audits: Audits,
        replayer: Replayer,
        rate: float,
        full: float,
        disputes: Disputes | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        """`rate` is the share of receipts drawn, `full` the share of those replayed whole.

        With `disputes` a host that showed a wrong number is taken to the contract.
        """
        self._store = store
        self._signer = signer
        self._chain = chain
        self._transport = transport
        self._federation = federation
        self._audits = audits
        self._replayer = replayer
        self._rate = rate
        self._full = full
        self._disputes = disputes
        self._retry_s = retry_s
        self._pending = Pending(store)
        self._lines: dict[bytes, _Line] = {}
        self._queued: set[bytes] = set()

    async def run(self) -> None:
        """Follow the chain for ever."""
        async with trio.open_nursery() as nursery:
            for key in await self._pending.all():
                self._queue(key, nursery)
            nursery.start_soon(self._look_again, nursery)
            cursor = await self._store.get(_CURSOR, _BLOCK)
            start = 0 if cursor is None else int.from_bytes(cursor, "big")
            async for event in self._chain.follow(start):
                if event.kind == "ReceiptsAnchored":
                    await self._anchored(event, nursery)
                await self._store.put(_CURSOR, _BLOCK, event.block.to_bytes(8, "big"))

    async def _look_again(self, nursery: trio.Nursery) -> None:
        while True:
            await trio.sleep(LOOK_EVERY_S)
            for key in await self._pending.due():
                if key not in self._queued:
                    self._queue(key, nursery)

    async def _anchored(self, event: ChainEvent, nursery: trio.Nursery) -> None:
        """Note the batch, then see to it; a batch seen before the restart is done with."""
        key = bytes(event.data["host"]) + bytes(event.data["root"])
        place = event.block.to_bytes(8, "big") + event.index.to_bytes(4, "big")
        last = await self._store.get(_CURSOR, _LAST)
        if last is not None and place <= last:
            return
        await self._pending.note(key, place)
        await self._store.put(_CURSOR, _LAST, place)
        self._queue(key, nursery)

    def _queue(self, key: bytes, nursery: trio.Nursery) -> None:
        """Behind the other batches of its host; the store holds as many."""
        account = key[:-DIGEST_BYTES]
        line = self._lines.setdefault(account, _Line())
        line.batches.append(key)
        self._queued.add(key)
        if line.workers < BATCHES_AT_ONCE:
            line.workers += 1
            nursery.start_soon(self._work, line)

    async def _work(self, line: _Line) -> None:
        while line.batches:
            key = line.batches.popleft()
            if await self._batch(key) or not await self._pending.later(key):
                await self._pending.done(key)
            self._queued.discard(key)
        line.workers -= 1

    async def _batch(self, key: bytes) -> bool:
        """Whether nothing of a batch is left to look at."""
        account, root = key[:-DIGEST_BYTES], Digest(key[-DIGEST_BYTES:])
        host = await self._host(account, root)
        if host is None:
            return True
        receipts = await self._receipts(host, root)
        if receipts is None:
            return False
        done = True
        draws = await self._pending.draws(
            key, len(receipts), lambda index: self._toss(receipts[index])
        )
        for index, (sealed, draw) in enumerate(zip(receipts, draws, strict=True)):
            # A kill may have come between a report and its announcement.
            if self._report(sealed) is not None or draw != PASSED_OVER:
                proof = batch_proof(receipts, index)
                layer = None if draw < 0 else draw
                done &= await self._one(Subject(host, root, sealed, proof), layer)
        return done

    def _toss(self, sealed: bytes) -> int:
        """A layer, `WHOLE` or `PASSED_OVER`, by this node's own coins."""
        if not _drawn(self._rate):
            return PASSED_OVER
        layer = None if _drawn(self._full) else _layer(sealed)
        return WHOLE if layer is None else layer

    async def _one(self, subject: Subject, layer: int | None) -> bool:
        """Whether there is a report, or the host is free of showing what one needs."""
        report = self._report(subject.sealed)
        if report is None:
            audit = await self._replayer.audit(subject, layer)
            if audit is None:
                return open_receipt(subject.sealed).is_expired(now_s())
            report = seal_audit(self._signer.sign, self._signer.public_key, audit)
            await self._audits.keep(report)
        await self._transport.announce(AUDIT_TOPIC, report)
        # Of the report and not of this look at it: a kill may have come between the two.
        audit, _ = open_audit(report)
        if audit.fault is not None and audit.fault.entry is not None:
            await self._dispute(audit)
        return True

    def _report(self, sealed: bytes) -> bytes | None:
        """What this node said of a receipt."""
        return self._audits.by(self._signer.public_key, digest(sealed))

    async def _dispute(self, audit: Audit) -> None:
        """A dispute that cannot be opened (no bond, no chain) costs nothing but an event."""
        if self._disputes is None:
            return
        try:
            await self._disputes.open(audit.receipt)
        except (NodeError, ProtocolError) as error:
            if (
                isinstance(error, ContractRefusedError)
                and error.name == "AlreadyDisputed"
            ):
                return  # before a restart
            receipt = audit.receipt.hex()
            log.warning("not disputed", receipt=receipt, reason=str(error))
            await self._store.append_event(
                "dispute.refused", {"receipt": receipt, "reason": str(error)}
            )

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
        await self._store.append_event(
            "audit.withheld",
            {"host": host.name, "batch": root.hex(), "receipt": None, "reason": reason},
        )
        return None


def _drawn(share: float) -> bool:
    """True in `share` of all cases, by the operating system's coins."""
    return secrets.randbelow(_COIN) < share * _COIN


def _layer(sealed: bytes) -> int | None:
    """Any layer, the first among them; None for a leaf that is no receipt.

    What goes into the first layer is what the requester signed for in its order, so a host
    cannot have altered it, and altering what comes out is as likely seen as anywhere.
    """
    try:
        layers = open_receipt(sealed).layers
    except ProtocolError:
        return None
    return secrets.randbelow(layers)
