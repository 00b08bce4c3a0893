"""Encrypted inference, both sides of it.

The requester turns records into rows under the release key in its compute child and reads
scores out of the answer there; what travels is keyed integers under a signed order.  The host
runs the integer trunk in its worker, keeps every boundary for the auditors, and signs a
receipt before it answers.
"""

import csv
import io
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import trio

from node.clock import now_s
from node.errors import AccessError, ComputeError, TransportError
from node.market.works import Work
from node.ports import Blobs, Compute, Signer, Store, Transport
from node.services.certificates import Certificates
from node.services.faults import altered
from node.services.federation import Federation
from node.services.line import Line
from node.services.receipts import Receipts
from node.services.releases import Releases, Runs
from node.worker.client import WorkerClient, WorkerRefusedError
from protocol.boundary import ENTRY_BYTES, SALT_BYTES, Shape, boundary_root
from protocol.errors import VerificationError
from protocol.evaluation import (
    INFER_PROTOCOL,
    REQUEST_LIMIT_BYTES,
    InferAnswer,
    InferRequest,
    Release,
)
from protocol.members import Member
from protocol.receipt import (
    JOB_BYTES,
    Order,
    open_order,
    open_receipt,
    seal_order,
    seal_receipt,
)
from protocol.types import Digest, PeerId, digest
from protocol.wire import decode, encode

CASES_PER_REQUEST = 16
ROWS_LIMIT_BYTES = REQUEST_LIMIT_BYTES - (1 << 12)
"""Leaves room for the order and the salt around the rows."""
REQUEST_TIMEOUT_S = 120.0

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


class Requester:
    """Asks hosts about this node's own records."""

    def __init__(
        self,
        *,
        store: Store,
        signer: Signer,
        transport: Transport,
        federation: Federation,
        releases: Releases,
        certificates: Certificates,
        runs: Runs,
        compute: Compute,
        states: Path,
        models: Path,
    ) -> None:
        """`states` holds training states by root, `models` bases by name."""
        self._store = store
        self._signer = signer
        self._transport = transport
        self._federation = federation
        self._releases = releases
        self._certificates = certificates
        self._runs = runs
        self._compute = compute
        self._states = states
        self._models = models

    async def run(
        self,
        model_root: bytes,
        host: str,
        records: bytes,
        work: Work | None = None,
    ) -> dict[str, Any]:
        """Scores for the records of a CSV file, and the digests of the receipts.

        `work` counts the bytes of keyed rows that are answered.
        """
        release = self._releases.require_licence(model_root)
        member = self._host(release, host)
        common = self._common(release)
        encoded = await self._compute.call(
            "infer.encode", {**common, "records": records}
        )
        parts = [part for group in encoded["groups"] for part in _parts(group)]
        cases = sum(len(part.places) for part in parts)
        if work is not None:
            work.step("inferring", sum(len(part.rows) for part in parts))
        told: dict[int, tuple[float, str | None]] = {}
        receipts: list[str] = []
        for part in parts:
            receipt, output = await self._ask(member, model_root, part.rows, part.shape)
            receipts.append(receipt.hex())
            read = await self._compute.call(
                "infer.read", {**common, "shape": list(part.shape), "rows": output}
            )
            answers = read["answers"] or [None] * len(part.places)
            pairs = zip(read["scores"], answers, strict=True)
            told |= zip(part.places, pairs, strict=True)
            if work is not None:
                work.add(len(part.rows))
        result = {"model": model_root.hex(), "host": host, "receipts": receipts}
        await self._store.append_event("inference", {**result, "rows": cases})
        found = [told[place] for place in range(cases)]
        return {
            **result,
            "scores": [score for score, _ in found],
            "answers": [answer for _, answer in found if answer is not None],
        }

    def _host(self, release: Release, name: str) -> Member:
        """Who is asked; that it would refuse is said here, with who would not."""
        member = self._federation.named_host(name)
        others = [h for h in release.hosts if h != self._signer.public_key]
        named = ", ".join(map(self._federation.name_of, others)) or "none but this node"
        hint = f"its hosts are: {named}" if release.hosts else "name another host"
        if release.hosts and member.node_key not in release.hosts:
            raise AccessError(
                f"{name} does not host {release.model_root.hex()[:16]}", hint=hint
            )
        if member.node_key == self._signer.public_key:
            raise AccessError(f"{name} is this node; it asks others", hint=hint)
        return member

    def _common(self, release: Release) -> Mapping[str, Any]:
        return {
            "spec": self._runs.record(release.run).spec,
            "root": release.state_root,
            "seed": self._releases.key_seed(release.model_root),
            "folder": str(self._states),
            "models": str(self._models),
        }

    async def _ask(
        self, host: Member, model_root: bytes, rows: bytes, shape: Shape
    ) -> tuple[Digest, bytes]:
        """One order; the receipt's digest and the output, checked and kept."""
        salt = secrets.token_bytes(SALT_BYTES)
        root = await trio.to_thread.run_sync(boundary_root, rows, shape, 0, salt)
        job = secrets.token_bytes(JOB_BYTES)
        sealed = seal_order(
            self._signer.sign,
            self._signer.public_key,
            Order(model_root, host.node_key, job, shape, root),
        )
        data = await self._requested(host, encode(InferRequest(sealed, salt, rows)))
        answer = decode(data, InferAnswer, limit_bytes=REQUEST_LIMIT_BYTES)
        receipt = open_receipt(answer.receipt)
        receipt.check_time(now_s())
        await trio.to_thread.run_sync(receipt.check_answer, sealed, answer.output, salt)
        await self._certificates.keep(answer.receipt, salt, rows, answer.output)
        return receipt.digest, answer.output

    async def _requested(self, host: Member, request: bytes) -> bytes:
        """The host's answer; a refusal says whose it is, since it speaks of itself."""
        try:
            return await self._transport.request(
                host.peer_id,
                INFER_PROTOCOL,
                request,
                timeout_s=REQUEST_TIMEOUT_S,
                limit_bytes=REQUEST_LIMIT_BYTES,
            )
        except AccessError as error:
            raise AccessError(f"{host.name}: {error}", hint=error.hint()) from error
        except TransportError as error:
            raise TransportError(f"{host.name}: {error}", hint=error.hint()) from error


@dataclass(frozen=True)
class _Part:
    """Cases that go in one order."""

    places: list[int]
    """Which records they are."""
    shape: Shape
    rows: bytes


def _parts(group: Mapping[str, Any]) -> Iterator[_Part]:
    """A group of `infer.encode`, cut to what a request holds."""
    cases, tokens, width = group["shape"]
    size = ENTRY_BYTES * tokens * width
    step = max(1, min(CASES_PER_REQUEST, ROWS_LIMIT_BYTES // size))
    for start in range(0, cases, step):
        stop = min(start + step, cases)
        yield _Part(
            group["places"][start:stop],
            (stop - start, tokens, width),
            group["rows"][start * size : stop * size],
        )


def score_file(found: Mapping[str, Any]) -> bytes:
    """What `Requester.run` found, as CSV: a score a row, and the class it is of."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [found["scores"]]
    if found["answers"]:
        columns.append(found["answers"])
    writer.writerow(["score", "class"][: len(columns)])
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue().encode()


def _check_rows(order: Order, request: InferRequest) -> None:
    """The rows are the ordered ones; nobody can say later that others were sent."""
    root = boundary_root(request.rows, order.shape, 0, request.salt)
    if root != order.input_root:
        raise VerificationError("input root", order.input_root.hex(), root.hex())


def _roots(after: list[bytes], shape: Shape, salt: bytes) -> list[Digest]:
    return [
        boundary_root(rows, shape, index, salt) for index, rows in enumerate(after, 1)
    ]
