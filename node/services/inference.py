"""Encrypted inference, the host's side: answer orders over keyed integers.

The host runs the integer trunk in its worker, keeps every boundary for the auditors, and signs
a receipt before it answers.  Who asks is `inference_asking`.
"""

import secrets

import structlog
import trio

from node.clock import now_s
from node.errors import AccessError, ComputeError
from node.ports.keys import Signer
from node.ports.storage import Blobs
from node.ports.transport import Transport
from node.services.faults import altered
from node.services.federation import Federation
from node.services.line import Line
from node.services.receipts import Receipts
from node.services.releases import Releases
from node.worker.client import WorkerClient, WorkerRefusedError
from protocol.boundary import Shape, boundary_root
from protocol.errors import VerificationError
from protocol.evaluation import (
    INFER_PROTOCOL,
    REQUEST_LIMIT_BYTES,
    InferAnswer,
    InferRequest,
)
from protocol.members import Member
from protocol.receipt import Order, open_order, seal_receipt
from protocol.types import Digest, PeerId, digest
from protocol.wire import decode, encode

log = structlog.get_logger()


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
        corrupt: int = 0,
    ) -> None:
        self._blobs = blobs
        self._signer = signer
        self._federation = federation
        self._releases = releases
        self._receipts = receipts
        self._socket = worker_socket
        self._corrupt = corrupt
        self._session: tuple[bytes, WorkerClient] | None = None
        self._line = Line(self._infer)
        transport.serve(INFER_PROTOCOL, self._serve, limit_bytes=REQUEST_LIMIT_BYTES)
        if corrupt:
            log.warning("this host will lie on purpose", answers=corrupt)

    async def _serve(self, peer: PeerId, payload: bytes) -> bytes:
        requester = self._federation.peer(peer)
        request = decode(payload, InferRequest, limit_bytes=REQUEST_LIMIT_BYTES)
        order, signer = open_order(request.order)
        self._check(order, signer, requester)
        self._receipts.require_room()
        await trio.to_thread.run_sync(_check_rows, order, request)
        return await self._answer(order, request, signer)

    def _check(self, order: Order, signer: bytes, requester: Member) -> None:
        me, name = self._signer.public_key, order.model_root.hex()[:16]
        if signer != requester.node_key:
            raise VerificationError(f"{requester.name} sent an order it did not sign")
        if order.host != me:
            raise VerificationError("order is for another host")
        release = self._releases.require_licence(order.model_root)
        if release.hosts and me not in release.hosts:
            raise AccessError(f"this node does not host {name}")
        if not any(sealed.node_key == signer for sealed in release.keys):
            raise AccessError(
                f"{requester.name} has no licence for {name}",
                hint="the releaser names who may ask",
            )

    async def _answer(
        self, order: Order, request: InferRequest, requester: bytes
    ) -> bytes:
        after = await self._line.ask(
            order.model_root, request.rows, order.shape, who=requester
        )
        if self._corrupt > 0:
            self._corrupt -= 1
            after = await self._lie(order, after)
        roots = await trio.to_thread.run_sync(_roots, after, order.shape, request.salt)
        sealed = seal_receipt(
            self._signer.sign,
            self._signer.public_key,
            request.order,
            roots,
            now_s(),
        )
        # The receipt's digest behind them makes a blob of its own for every receipt.  Rows that
        # are asked twice would be one blob, and gone for the later receipt when the earlier one
        # has been shown for long enough.
        own = b"".join([request.rows, *after, digest(sealed)])
        rows = await trio.to_thread.run_sync(self._blobs.put, own)
        await self._receipts.keep(sealed, request.salt, rows)
        return encode(InferAnswer(sealed, after[-1]))

    async def _lie(self, order: Order, after: list[bytes]) -> list[bytes]:
        """One number after a drawn layer, and an honest computation from there."""
        layer = secrets.randbelow(len(after))
        lie = altered(after[layer])
        log.warning("answer altered on purpose", layer=layer)
        rest = []
        if layer + 1 < len(after):
            rest = await self._line.ask(
                order.model_root, lie, order.shape, layer + 1, who=order.host
            )
        return [*after[:layer], lie, *rest]

    async def _infer(
        self, model_root: bytes, rows: bytes, shape: Shape, start: int
    ) -> list[bytes]:
        try:
            client = await self._client(model_root)
            return await trio.to_thread.run_sync(
                lambda: client.infer(rows, shape, start=start)
            )
        except WorkerRefusedError:
            raise  # rows of a wrong shape must not cost the next requester a reload
        except ComputeError as error:
            self.close()
            # What it says is for this node's operator: it names files of this machine.
            log.error("worker does not compute", reason=str(error))  # noqa: TRY400
            raise ComputeError(
                "the host's worker does not compute",
                hint="ask again in a moment, or ask another host",
            ) from error

    async def _client(self, model_root: bytes) -> WorkerClient:
        """A session of the worker with the trunk loaded; one trunk at a time."""
        if self._session is not None and self._session[0] == model_root:
            return self._session[1]
        self.close()
        trunk = await self._releases.trunk(model_root)
        client = await trio.to_thread.run_sync(WorkerClient, self._socket)
        try:
            root = await trio.to_thread.run_sync(client.load_integer, trunk)
            if root != model_root:
                raise ComputeError(
                    f"the trunk's bytes have root {root.hex()[:16]},"
                    f" the release says {model_root.hex()[:16]}"
                )
        except ComputeError:
            client.close()
            raise
        self._session = model_root, client
        return client

    def close(self) -> None:
        """Give the worker its memory back."""
        if self._session is not None:
            self._session[1].close()
            self._session = None


def _check_rows(order: Order, request: InferRequest) -> None:
    """The rows are the ordered ones; nobody can say later that others were sent."""
    root = boundary_root(request.rows, order.shape, 0, request.salt)
    if root != order.input_root:
        raise VerificationError("input root", order.input_root.hex(), root.hex())


def _roots(after: list[bytes], shape: Shape, salt: bytes) -> list[Digest]:
    return [
        boundary_root(rows, shape, index, salt) for index, rows in enumerate(after, 1)
    ]
