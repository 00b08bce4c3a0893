"""Audits of the tier `freivalds`: a secret key for each layer, and no weights kept.

A key is made from a slice the first time its layer is drawn; the slice is checked against the
model root, read once and deleted.  Whatever goes wrong here ends in None, and the layer is
replayed from its weights: a check with a secret accuses nobody.  A file that is not the key this
node noted is made anew.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import structlog
import trio

from ee.integer.freivalds import error_bits
from node.errors import NodeError
from node.ports.compute import Compute
from node.ports.storage import Store
from node.ports.transport import Transport
from node.services.releases import Releases
from protocol.errors import ProtocolError
from protocol.evaluation import (
    TRACE_LIMIT_BYTES,
    TRACE_PROTOCOL,
    TraceAnswer,
    TraceRequest,
)
from protocol.receipt import BatchProof, Receipt
from protocol.types import PeerId
from protocol.wire import decode, encode

_KEYS = "audit-keys"
FETCH_TIMEOUT_S = 120.0

log = structlog.get_logger()


class KeyedAudits:
    """Looks into receipts without their model."""

    def __init__(
        self,
        *,
        store: Store,
        transport: Transport,
        releases: Releases,
        compute: Compute,
        folder: Path,
    ) -> None:
        """`folder` is for keys; only this node may read it."""
        self._store = store
        self._transport = transport
        self._releases = releases
        self._compute = compute
        self._folder = folder
        self._slices: WeakValueDictionary[bytes, trio.Lock] = WeakValueDictionary()

    def slice(self, model_root: bytes, layer: int) -> trio.Lock:
        """Held while that slice is on disk, which is deleted once it was read.

        One for each, so whoever is slow to give a slice holds up nobody who needs another.
        """
        return self._slices.setdefault(_named(model_root, layer), trio.Lock())

    async def passes(
        self,
        host: PeerId,
        receipt: Receipt,
        placed: tuple[bytes, bytes, BatchProof],
        layers: range,
    ) -> int | None:
        """Error bits if all `layers` pass; None, and an event, if they are to be replayed.

        `placed` is the sealed receipt, its batch and its place there.
        """
        cases, tokens, _ = receipt.order.shape
        try:
            for layer in layers:
                reason = await self._one(host, receipt, placed, layer)
                if reason:
                    break
            else:
                return error_bits(cases * tokens, len(layers))
        except (NodeError, ProtocolError) as error:
            reason = str(error)
        log.warning("no audit by key", receipt=receipt.digest.hex(), reason=reason)
        await self._store.append_event(
            "audit.escalated", {"receipt": receipt.digest.hex(), "reason": reason}
        )
        return None

    async def _one(
        self,
        host: PeerId,
        receipt: Receipt,
        placed: tuple[bytes, bytes, BatchProof],
        layer: int,
    ) -> str:
        sealed, batch, proof = placed
        model = receipt.model_root
        key = await self._key(model, layer)
        answer = decode(
            await self._transport.request(
                host,
                TRACE_PROTOCOL,
                encode(TraceRequest(receipt.digest, layer)),
                timeout_s=FETCH_TIMEOUT_S,
                limit_bytes=TRACE_LIMIT_BYTES,
            ),
            TraceAnswer,
            limit_bytes=TRACE_LIMIT_BYTES,
        )
        answer.check()
        about: dict[str, Any] = {
            "receipt": sealed,
            "batch": batch,
            "proof": encode(proof),
            "salt": answer.salt,
            "rows": answer.rows,
            "sums": list(answer.sums),
        }
        found = await self._checked(key, about)
        if found["stale"]:
            log.warning("audit key is made anew", model=model.hex(), layer=layer)
            await self._store.append_event(
                "audit.rekeyed", {"model": model.hex(), "layer": layer}
            )
            await self._store.delete(_KEYS, _named(model, layer))
            # What the host showed was shown before this key's secret was drawn.
            found = await self._checked(await self._key(model, layer), about)
        return (
            "audit key is not the one made here" if found["stale"] else found["reason"]
        )

    async def _checked(
        self, key: tuple[Path, bytes], about: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        path, digest = key
        return await self._compute.call(
            "audit.keyed", {**about, "key": str(path), "digest": digest}
        )

    async def _key(self, model_root: bytes, layer: int) -> tuple[Path, bytes]:
        """The key's file and the digest it had when it was made."""
        path = self._folder / f"{model_root.hex()}.{layer}.key"
        name = _named(model_root, layer)
        async with self.slice(model_root, layer):
            digest = await self._store.get(_KEYS, name)
            if digest is None or not await trio.Path(path).exists():
                source = await self._releases.slice_file(model_root, layer)
                about = {"slice": str(source), "model_root": model_root}
                made = await self._compute.call(
                    "audit.key", {**about, "out": str(path)}
                )
                digest = bytes(made["digest"])
                await self._store.put(_KEYS, name, digest)
                await trio.Path(source).unlink()
        return path, digest


def _named(model_root: bytes, layer: int) -> bytes:
    return model_root + layer.to_bytes(4, "big")
