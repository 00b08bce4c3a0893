"""Encrypted inference, the requester's side: a table of records to scores.

The records become rows under the release key in the compute child, and the scores are read out
of the answers there; what travels is keyed integers under a signed order.  A long table is many
orders.  What was answered of one is kept, so a call that stops midway loses nothing: it gives
the scores there are, and the same call again asks for the others only.
"""

import csv
import io
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from node.clock import now_s
from node.errors import AccessError, NodeError, StorageError, TransportError
from node.market.works import Work
from node.ports.compute import Compute
from node.ports.keys import Signer
from node.ports.storage import Store
from node.ports.transport import Transport
from node.services.answered import Answered, key_of
from node.services.certificates import Certificates
from node.services.federation import Federation
from node.services.releases import Releases, Runs
from protocol.boundary import ENTRY_BYTES, SALT_BYTES, Shape, boundary_root
from protocol.errors import ProtocolError
from protocol.evaluation import (
    INFER_PROTOCOL,
    REQUEST_LIMIT_BYTES,
    InferAnswer,
    InferRequest,
    Release,
)
from protocol.members import Member
from protocol.receipt import JOB_BYTES, Order, open_receipt, seal_order
from protocol.types import Digest
from protocol.wire import decode, encode

CASES_PER_REQUEST = 16
ROWS_LIMIT_BYTES = REQUEST_LIMIT_BYTES - (1 << 12)
"""Leaves room for the order and the salt around the rows."""
REQUEST_TIMEOUT_S = 120.0


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
        self._answered = Answered(store)
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

        `work` counts the bytes of keyed rows that are answered.  A call that stops after its first
        answer says why in `stopped`, and has None for each record without one; before that it
        raises.  What an earlier call with the same records was answered is not asked again, and
        is read although the licence has ended meanwhile.
        """
        release = self._releases.get(model_root)
        member = self._host(release, host)
        common = self._common(release)
        encoded = await self._compute.call(
            "infer.encode", {**common, "records": records}
        )
        parts = [part for group in encoded["groups"] for part in _parts(group)]
        if work is not None:
            work.step("inferring", sum(len(part.rows) for part in parts))
        keys = await trio.to_thread.run_sync(_keys, model_root, member, parts)
        known = await self._answered.receipts(keys)
        if not known:
            self._releases.require_licence(model_root)
        told: dict[int, tuple[float, str | None]] = {}
        receipts: dict[str, None] = {}
        stopped: NodeError | ProtocolError | None = None
        for part, key in zip(parts, keys, strict=True):
            try:
                receipt, output = await self._part(
                    member, model_root, part, key, known.get(key)
                )
                told |= await self._read(common, part, output)
            except (NodeError, ProtocolError) as error:
                if not told:
                    raise
                stopped = error
                break
            receipts[receipt.hex()] = None
            if work is not None:
                work.add(len(part.rows))
        result = {"model": model_root.hex(), "host": host, "receipts": list(receipts)}
        asked = sum(len(part.places) for part in parts)
        await self._ended(result, keys, len(told), asked, stopped)
        found = [told.get(place, (None, None)) for place in range(asked)]
        classes = any(answer is not None for _, answer in found)
        return {
            **result,
            "scores": [score for score, _ in found],
            "answers": [answer for _, answer in found] if classes else [],
            "stopped": None if stopped is None else str(stopped),
            "hint": None if stopped is None else _go_on(stopped),
        }

    async def _part(
        self,
        member: Member,
        model_root: bytes,
        part: "_Part",
        key: Digest,
        known: Digest | None,
    ) -> tuple[Digest, bytes]:
        """The receipt and the output of one part, asked for if that was not done before."""
        if known is not None:
            # A certificate that is damaged is no reason not to ask again.
            with suppress(StorageError):
                return known, await self._certificates.output(known)
        self._releases.require_licence(model_root)
        receipt, output = await self._ask(member, model_root, part.rows, part.shape)
        await self._answered.note(key, receipt)
        return receipt, output

    async def _read(
        self, common: Mapping[str, Any], part: "_Part", output: bytes
    ) -> dict[int, tuple[float, str | None]]:
        """Record to score and, where there are classes, the one it is of."""
        read = await self._compute.call(
            "infer.read", {**common, "shape": list(part.shape), "rows": output}
        )
        answers = read["answers"] or [None] * len(part.places)
        pairs = zip(read["scores"], answers, strict=True)
        return dict(zip(part.places, pairs, strict=True))

    async def _ended(
        self,
        result: Mapping[str, Any],
        keys: Sequence[Digest],
        answered: int,
        asked: int,
        stopped: Exception | None,
    ) -> None:
        if stopped is None:
            await self._answered.forget(keys, {**result, "rows": asked})
            return
        about = {**result, "rows": answered, "of": asked, "reason": str(stopped)}
        await self._store.append_event("inference.stopped", about)

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


def _keys(model_root: bytes, host: Member, parts: Sequence[_Part]) -> list[Digest]:
    return [key_of(model_root, host.node_key, one.shape, one.rows) for one in parts]


def _go_on(stopped: NodeError | ProtocolError) -> str:
    own = stopped.hint() if isinstance(stopped, NodeError) else ""
    on = "the same call again asks this host for the other rows only"
    return f"{own}; {on}" if own else on


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
