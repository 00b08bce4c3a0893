"""Encrypted inference, both sides of it.

The requester turns records into rows under the release key in its compute child and reads
scores out of the answer there; what travels is keyed integers.  The host runs the integer
trunk in its worker, keeps every boundary for the auditors, and signs a receipt before it
answers.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import structlog
import trio

from node.errors import AccessError, ComputeError
from node.ports import Blobs, Compute, Progress, Signer, Store, Transport
from node.services.federation import Federation
from node.services.receipts import Receipts
from node.services.releases import Releases
from node.services.runs import Runs
from node.worker.client import WorkerClient
from protocol.evaluation import (
    INFER_PROTOCOL,
    REQUEST_LIMIT_BYTES,
    InferAnswer,
    InferRequest,
)
from protocol.members import ROLE_COMPUTE_HOST
from protocol.receipt import Receipt, open_receipt, seal_receipt
from protocol.types import PeerId, digest
from protocol.wire import decode, encode

ROWS_PER_REQUEST = 16
REQUEST_TIMEOUT_S = 120.0

log = structlog.get_logger()
Fault = Callable[[bytes], bytes]
"""Development only: what a lying host does to its packed rows."""


class Host:
    """Serves the integer trunks it was named a host of."""

    def __init__(
        self,
        *,
        blobs: Blobs,
        signer: Signer,
        transport: Transport,
        federation: Federation,
        releases: Releases,
        receipts: Receipts,
        worker_socket: str,
        fault: Fault | None = None,
    ) -> None:
        self._blobs = blobs
        self._signer = signer
        self._federation = federation
        self._releases = releases
        self._receipts = receipts
        self._socket = worker_socket
        self._fault = fault
        self._session: tuple[bytes, WorkerClient] | None = None
        self._one_at_a_time = trio.Lock()
        transport.serve(INFER_PROTOCOL, self._serve, limit_bytes=REQUEST_LIMIT_BYTES)

    async def _serve(self, peer: PeerId, payload: bytes) -> bytes:
        requester = self._federation.peer(peer)
        request = decode(payload, InferRequest, limit_bytes=REQUEST_LIMIT_BYTES)
        request.check()
        self._check_hosted(request.model_root)
        rows = np.frombuffer(request.rows, "<i4").reshape(request.shape)
        async with self._one_at_a_time:
            packed = await self._infer(request.model_root, rows)
        if self._fault is not None:
            packed = self._fault(packed)
        boundaries = await trio.to_thread.run_sync(self._blobs.put, packed)
        receipt = Receipt.of(
            model_root=request.model_root,
            host=self._signer.public_key,
            requester=requester.node_key,
            packed=packed,
            boundaries=boundaries,
            time=int(time.time()),
        )
        sealed = seal_receipt(self._signer.sign, receipt)
        await self._receipts.keep(sealed)
        return encode(InferAnswer(sealed, packed))

    def _check_hosted(self, model_root: bytes) -> None:
        release = self._releases.get(model_root)
        me = self._signer.public_key
        if release.hosts and me not in release.hosts:
            raise AccessError(f"this node does not host {model_root.hex()[:16]}")

    async def _infer(self, model_root: bytes, rows: Any) -> bytes:
        if self._session is None or self._session[0] != model_root:
            self.close()
            trunk = await self._releases.trunk(model_root)
            client = await trio.to_thread.run_sync(WorkerClient, self._socket)
            root = await trio.to_thread.run_sync(client.load_integer, trunk)
            if root != model_root:
                raise ComputeError(
                    f"the trunk's bytes have root {root.hex()[:16]}, the release says {model_root.hex()[:16]}"
                )
            self._session = model_root, client
        try:
            packed = await trio.to_thread.run_sync(self._session[1].infer, rows)
        except ComputeError:
            self.close()
            raise
        return bytes(packed)

    def close(self) -> None:
        """Give the worker its memory back."""
        if self._session is not None:
            self._session[1].close()
            self._session = None


class Requester:
    """Asks hosts about this node's own records."""

    def __init__(
        self,
        *,
        store: Store,
        transport: Transport,
        federation: Federation,
        releases: Releases,
        runs: Runs,
        compute: Compute,
    ) -> None:
        self._store = store
        self._transport = transport
        self._federation = federation
        self._releases = releases
        self._runs = runs
        self._compute = compute

    async def run(
        self,
        model_root: bytes,
        host: str,
        rows: bytes,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Scores for the records of a CSV file, and the digests of the receipts."""
        release = self._releases.get(model_root)
        member = self._federation.named(host)
        if not member.has(ROLE_COMPUTE_HOST):
            raise AccessError(f"{host} is not registered as a compute host")
        common = {
            "spec": self._runs.record(release.run).spec,
            "root": release.state_root,
            "seed": self._releases.key_seed(model_root),
        }
        encoded = await self._compute.call("infer.encode", {**common, "rows": rows})
        shape, data = tuple(encoded["shape"]), encoded["rows"]
        scores: list[float] = []
        receipts: list[str] = []
        for start in range(0, shape[0], ROWS_PER_REQUEST):
            count = min(ROWS_PER_REQUEST, shape[0] - start)
            part = (count, shape[1], shape[2])
            size = 4 * shape[1] * shape[2]
            request = InferRequest(
                model_root, part, data[start * size : (start + count) * size]
            )
            answer = await self._ask(member.peer_id, request)
            receipts.append(digest(answer.receipt).hex())
            read = await self._compute.call(
                "infer.read", {**common, "shape": part, "boundaries": answer.output}
            )
            scores += read["scores"]
            if progress is not None:
                progress({"done": start + count, "of": shape[0]})
        result = {"model": model_root.hex(), "host": host, "receipts": receipts}
        await self._store.append_event("inference", {**result, "rows": shape[0]})
        return {**result, "scores": scores}

    async def _ask(self, host: PeerId, request: InferRequest) -> InferAnswer:
        data = await self._transport.request(
            host,
            INFER_PROTOCOL,
            encode(request),
            timeout_s=REQUEST_TIMEOUT_S,
            limit_bytes=REQUEST_LIMIT_BYTES,
        )
        answer = decode(data, InferAnswer, limit_bytes=REQUEST_LIMIT_BYTES)
        receipt = open_receipt(answer.receipt)
        receipt.check_answer(
            host=self._federation.members.by_peer(host),
            request=request.rows,
            packed=answer.output,
        )
        return answer
