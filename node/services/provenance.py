"""The provenance graph of what this node knows: gathered, verified, shown, written to a file.

Signed records come from the services that keep them, facts from the chain.  Nothing here
is believed: `protocol.lineage.build` verifies each edge again, every time it is asked.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import trio

from node.errors import AccessError
from node.market import provenance_export, provenance_picture
from node.market.reader import write_private
from node.ports.chain import Chain
from node.services.anchors import Anchors
from node.services.certificates import Certificates
from node.services.market import Market
from node.services.queries import Queries
from node.services.receipts import Receipts
from node.services.releases import Releases
from node.services.runs import Runs
from protocol import lineage_file
from protocol.errors import VerificationError
from protocol.lineage import Facts, PlacedReceipt, Records, build
from protocol.lineage_file import Seen
from protocol.lineage_graph import Direction, Graph
from protocol.types import digest
from protocol.wire import encode

SHOWN_LIMIT = 5000
"""Vertices of one answer: it must fit a line of the admin socket."""

Form = Literal["prov", "svg", "dot", "records", "lineage"]

_WHOLE = {"records", "lineage"}
"""Written whole whatever was asked about: a part of the records proves less than all of them."""


@dataclass(frozen=True)
class _Known:
    """All this node has, and the graph of all of it that verifies."""

    records: Records
    facts: Facts
    graph: Graph


class Provenance:
    """What came of what, as far as this node can verify it."""

    def __init__(
        self,
        *,
        chain: Chain,
        anchors: Anchors,
        market: Market,
        runs: Runs,
        releases: Releases,
        receipts: Receipts,
        certificates: Certificates,
        queries: Queries,
        where: tuple[int, str],
    ) -> None:
        """`where` are the chain's id and the address of the federation's registry."""
        self._chain = chain
        self._anchors = anchors
        self._market = market
        self._runs = runs
        self._releases = releases
        self._receipts = receipts
        self._certificates = certificates
        self._queries = queries
        self._where = where

    async def show(self, about: str | None, direction: Direction) -> dict[str, Any]:
        """The graph, or the part of it that `about` rests on or led to."""
        graph, start, _ = await self._graph(about, direction)
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
        """Write it: PROV-O, a picture, for Graphviz, or what it was made of."""
        graph, _, known = await self._graph(about, direction)
        if form in _WHOLE:
            graph = known.graph
        seen = await self._seen() if form == "lineage" else None

        def work() -> int:
            if seen is not None:
                data = lineage_file.write(known.records, known.facts, seen)
            else:
                data = _written(graph, known.records, form)
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
    ) -> tuple[Graph, str | None, "_Known"]:
        proposals, consents, changes = await self._runs.signed()
        records, facts = await self._market.lineage(
            self._anchors.events(),
            proposals=proposals,
            consents=consents,
            releases=self._releases.signed(),
            receipts=await self._all_receipts(),
            queries=await self._queries.signed(),
            changes=changes,
        )
        graph = await trio.to_thread.run_sync(build, records, facts)
        known = _Known(records, facts, graph)
        if about is None:
            return graph, None, known
        try:
            start = graph.named(about)
        except VerificationError as error:
            kinds = sorted({one.kind for one in graph.vertices.values()})
            raise AccessError(
                str(error),
                hint="name it as KIND:NUMBER or KIND:DIGEST, such as dataset:3; there "
                f"are {', '.join(kinds) or 'no things yet'}",
            ) from error
        return graph.around(start, direction), start, known

    async def _seen(self) -> Seen:
        head = await self._chain.head()
        chain_id, registry = self._where
        return Seen(chain_id, head.number, head.digest, registry)

    async def _all_receipts(self) -> list[PlacedReceipt]:
        """Those this node signed, and those it asked for, once each."""
        placed = await self._receipts.placed()
        known = {digest(one.sealed) for one in placed}
        asked = await self._certificates.placed()
        return placed + [one for one in asked if digest(one.sealed) not in known]


def _written(graph: Graph, records: Records, form: Form) -> bytes:
    if form == "records":
        return encode(records)
    if form == "svg":
        return provenance_picture.to_svg(graph).encode()
    if form == "dot":
        return provenance_export.to_dot(graph).encode()
    document = provenance_export.to_prov(graph)
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
