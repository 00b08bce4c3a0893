"""The provenance graph of what this node knows: gathered, verified, shown, written to a file.

Signed records come from the services that keep them, facts from the chain.  Nothing here
is believed: `protocol.lineage.build` verifies each edge again, every time it is asked.
"""

import json
from collections import deque
from pathlib import Path
from typing import Any, Literal

import trio

from node.errors import AccessError
from node.market import provenance_export
from node.market.reader import write_private
from node.ports import Chain, ChainEvent
from node.services.certificates import Certificates
from node.services.market import Market
from node.services.receipts import Receipts
from node.services.releases import Releases
from node.services.runs import Runs
from protocol.errors import VerificationError
from protocol.lineage import Graph, PlacedReceipt, Records, build
from protocol.types import digest
from protocol.wire import encode

ANCHORS_LIMIT = 1 << 20
"""Anchors in memory, some 200 bytes each; of more the oldest are doubts."""
SHOWN_LIMIT = 5000
"""Vertices of one answer: it must fit a line of the admin socket."""

Direction = Literal["back", "forward", "both"]
Form = Literal["prov", "svg", "dot", "records"]

_ANCHORS = {"RoundAnchored", "ModelAnchored", "ReceiptsAnchored"}


class Provenance:
    """What came of what, as far as this node can verify it."""

    def __init__(
        self,
        *,
        chain: Chain,
        market: Market,
        runs: Runs,
        releases: Releases,
        receipts: Receipts,
        certificates: Certificates,
    ) -> None:
        self._chain = chain
        self._market = market
        self._runs = runs
        self._releases = releases
        self._receipts = receipts
        self._certificates = certificates
        self._anchors: deque[ChainEvent] = deque(maxlen=ANCHORS_LIMIT)

    async def run(self) -> None:
        """Follow the chain's anchors from its first block, for ever."""
        async for event in self._chain.follow(0):
            if event.kind in _ANCHORS:
                self._anchors.append(event)

    async def show(self, about: str | None, direction: Direction) -> dict[str, Any]:
        """The graph, or the part of it that `about` rests on or led to."""
        graph, _, start = await self._graph(about, direction)
        if len(graph.vertices) > SHOWN_LIMIT:
            raise AccessError(
                f"the graph has {len(graph.vertices)} things, limit is {SHOWN_LIMIT}",
                hint="name one of them, or export the graph to a file",
            )
        return {
            "about": start,
            "things": [
                {
                    "id": one.id,
                    "kind": one.kind,
                    "label": one.label,
                    "facts": dict(one.about),
                }
                for one in graph.vertices.values()
            ],
            "relations": [
                {
                    "subject": edge.subject,
                    "relation": edge.relation,
                    "object": edge.object,
                    "proof": edge.proof,
                }
                for edge in graph.edges
            ],
            "doubts": [{"what": one.what, "why": one.why} for one in graph.doubts],
        }

    async def export(
        self, about: str | None, direction: Direction, form: Form, path: Path
    ) -> dict[str, Any]:
        """Write it: PROV-O, a picture, a graph for Graphviz, or the signed records."""
        graph, records, _ = await self._graph(about, direction)

        def work() -> int:
            data = _written(graph, records, form)
            write_private(path, data)
            return len(data)

        size = await trio.to_thread.run_sync(work)
        return {
            "path": str(path),
            "bytes": size,
            "things": len(graph.vertices),
            "relations": len(graph.edges),
            "doubts": len(graph.doubts),
        }

    async def _graph(
        self, about: str | None, direction: Direction
    ) -> tuple[Graph, Records, str | None]:
        proposals, consents = await self._runs.signed()
        records, facts = await self._market.lineage(
            tuple(self._anchors),
            proposals=proposals,
            consents=consents,
            releases=self._releases.signed(),
            receipts=await self._all_receipts(),
        )
        graph = await trio.to_thread.run_sync(build, records, facts)
        if about is None:
            return graph, records, None
        start = _found(graph, about)
        if direction == "both":
            back, on = graph.back(start), graph.forward(start)
            kept = back.vertices.keys() | on.vertices.keys()
            both = Graph(
                {one: v for one, v in graph.vertices.items() if one in kept},
                [
                    edge
                    for edge in graph.edges
                    if edge in back.edges or edge in on.edges
                ],
                graph.doubts,
            )
            return both, records, start
        part = graph.back(start) if direction == "back" else graph.forward(start)
        return part, records, start

    async def _all_receipts(self) -> list[PlacedReceipt]:
        """Those this node signed, and those it asked for, once each."""
        placed = await self._receipts.placed()
        known = {digest(one.sealed) for one in placed}
        asked = await self._certificates.receipts()
        return placed + [
            PlacedReceipt(sealed, b"", None)
            for sealed in asked
            if digest(sealed) not in known
        ]


def _found(graph: Graph, about: str) -> str:
    """`KIND:NAME` is a thing of that kind; a dataset goes by its number on the chain too."""
    kind, colon, name = about.partition(":")
    if kind == "dataset" and name.isdecimal() and len(name) < 20:
        found = [
            one.id
            for one in graph.vertices.values()
            if one.kind == "dataset" and ("dataset", int(name)) in one.about
        ]
        if len(found) == 1:
            return found[0]
    try:
        if colon and kind != "urn":
            return graph.find(f"urn:rexis:{about}")
        return graph.find(about)
    except VerificationError as error:
        known = sorted({one.kind for one in graph.vertices.values()})
        raise AccessError(
            str(error),
            hint="name it as KIND:NUMBER or KIND:DIGEST, such as dataset:3; there are"
            f" {', '.join(known) or 'no things yet'}",
        ) from error


def _written(graph: Graph, records: Records, form: Form) -> bytes:
    if form == "records":
        return encode(records)
    if form == "svg":
        return provenance_export.to_svg(graph).encode()
    if form == "dot":
        return provenance_export.to_dot(graph).encode()
    document = provenance_export.to_prov(graph)
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
