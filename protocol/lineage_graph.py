"""A provenance graph: things, how each came of others, and what proved it.

Every relation points from the later thing to the earlier one, hence the graph has no cycle, and
"back" and "forward" are its two directions.  What may be in it is `protocol.lineage`'s affair.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from protocol.errors import VerificationError

Kind = Literal[
    "source",
    "dataset",
    "grant",
    "run",
    "state",
    "model",
    "receipt",
    "query",
    "answer",
    "member",
]
Proof = Literal["signature", "chain", "signature and chain"]
Direction = Literal["back", "forward", "both"]
SIGNED: Proof = "signature"
ON_CHAIN: Proof = "chain"
BOTH: Proof = "signature and chain"


@dataclass(frozen=True)
class Vertex:
    """A thing, an activity or a party."""

    id: str
    kind: Kind
    label: str
    about: tuple[tuple[str, str | int], ...] = ()


@dataclass(frozen=True)
class Edge:
    """`subject` came about by way of `object`."""

    subject: str
    relation: str
    """A property of PROV-O, or one of ours."""
    object: str
    proof: Proof


@dataclass(frozen=True)
class Doubt:
    """A record that did not verify, and why."""

    what: str
    why: str


@dataclass
class Graph:
    """Vertices by id, edges in the order they were verified, and what was not."""

    vertices: dict[str, Vertex] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)

    def back(self, start: str) -> "Graph":
        """All that `start` rests on, and the grants of the datasets among it."""
        found = self._reached(start, lambda edge: (edge.subject, edge.object))
        datasets = {one for one in found if self.vertices[one].kind == "dataset"}
        grants = {
            edge.subject
            for edge in self.edges
            if edge.object in datasets and self.vertices[edge.subject].kind == "grant"
        }
        parties = {edge.object for edge in self.edges if edge.subject in grants}
        return self._part({*found, *grants, *parties})

    def forward(self, start: str) -> "Graph":
        """All that came of `start`, with the members that took part in it.

        Of a dataset also what came of it under the keys that it had before.
        """
        found = {
            one
            for begun in self._same_dataset(start)
            for one in self._reached(begun, lambda edge: (edge.object, edge.subject))
        }
        parties = {
            edge.object
            for edge in self.edges
            if edge.subject in found and self.vertices[edge.object].kind == "member"
        }
        return self._part({*found, *parties})

    def named(self, about: str) -> str:
        """The one vertex that a person means by `KIND:NAME`, an id, or a digest's beginning.

        A dataset goes by its number on the chain, too.
        """
        kind, colon, name = about.partition(":")
        if kind == "dataset" and name.isdecimal() and len(name) < 20:
            found = self._numbered(int(name))
            if found:
                return found[-1].id
        return self.find(f"urn:rexis:{about}" if colon and kind != "urn" else about)

    def _numbered(self, dataset: int) -> list[Vertex]:
        """The dataset of this number, under its first keys, its second, and so on."""
        found = [
            one
            for one in self.vertices.values()
            if one.kind == "dataset" and ("dataset", dataset) in one.about
        ]
        return sorted(found, key=lambda one: int(dict(one.about).get("keys", 1)))

    def _same_dataset(self, start: str) -> set[str]:
        about = dict(self.vertices[start].about)
        if self.vertices[start].kind != "dataset" or "dataset" not in about:
            return {start}
        return {one.id for one in self._numbered(int(about["dataset"]))}

    def around(self, start: str, direction: Direction) -> "Graph":
        """What `start` rests on, what came of it, or both."""
        if direction == "back":
            return self.back(start)
        if direction == "forward":
            return self.forward(start)
        back, on = self.back(start), self.forward(start)
        return Graph(
            {
                one: vertex
                for one, vertex in self.vertices.items()
                if one in back.vertices or one in on.vertices
            },
            [edge for edge in self.edges if edge in back.edges or edge in on.edges],
            list(self.doubts),
        )

    def find(self, text: str) -> str:
        """The one vertex whose id, or the digest in it, begins with `text`."""
        found = [
            one for one in self.vertices if text in {one, one.rpartition(":")[2]}
        ] or [
            one
            for one in self.vertices
            if one.startswith(text) or one.rpartition(":")[2].startswith(text)
        ]
        if len(found) != 1:
            called = f"called {text.removeprefix('urn:rexis:')[:80]!r}"
            raise VerificationError(
                f"{len(found)} things that verify are {called}; say more of it"
                if found
                else f"nothing that verifies is {called}"
            )
        return found[0]

    def _reached(self, start: str, ends: Callable[[Edge], tuple[str, str]]) -> set[str]:
        if start not in self.vertices:
            raise VerificationError(f"{start[:120]!r} is not in what could be verified")
        next_of: dict[str, list[str]] = {}
        for edge in self.edges:
            one, other = ends(edge)
            next_of.setdefault(one, []).append(other)
        found, queue = {start}, [start]
        while queue:
            for other in next_of.get(queue.pop(), []):
                if other not in found:
                    found.add(other)
                    queue.append(other)
        return found

    def _part(self, ids: Iterable[str]) -> "Graph":
        kept = set(ids)
        return Graph(
            {one: vertex for one, vertex in self.vertices.items() if one in kept},
            [e for e in self.edges if e.subject in kept and e.object in kept],
            list(self.doubts),
        )


def urn(kind: Kind, name: bytes | int) -> str:
    """How a vertex is called."""
    return f"urn:rexis:{kind}:{name.hex() if isinstance(name, bytes) else name}"
