"""A verified graph for other programs: PROV-O as JSON-LD, and Graphviz.

Both say of each relation how it was verified; neither says anything that is not in the graph.
"""

from collections.abc import Mapping
from typing import Any

from node.market.provenance_picture import ACTIVITIES, FILL, STROKE, moment
from protocol.lineage_graph import Graph, Kind

_TYPES: Mapping[Kind, str] = {
    "source": "prov:Entity",
    "dataset": "prov:Entity",
    "grant": "prov:Entity",
    "run": "prov:Activity",
    "state": "prov:Entity",
    "model": "prov:Entity",
    "receipt": "prov:Activity",
    "query": "prov:Activity",
    "answer": "prov:Entity",
    "member": "prov:Agent",
}
_CONTEXT = {
    "prov": "http://www.w3.org/ns/prov#",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "rexis": "urn:rexis:term:",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}
_TIMES = {"time", "until"}


def to_prov(graph: Graph) -> dict[str, Any]:
    """PROV-O as JSON-LD 1.1.

    A relation stands as PROV has it, and again under `rexis:verified` with its proof,
    since PROV has no word for how a statement was checked.
    """
    nodes: dict[str, dict[str, Any]] = {
        vertex.id: {
            "@id": vertex.id,
            "@type": [_TYPES[vertex.kind], f"rexis:{vertex.kind}"],
            "rdfs:label": vertex.label,
            **{f"rexis:{name}": _literal(name, value) for name, value in vertex.about},
        }
        for vertex in graph.vertices.values()
    }
    for edge in graph.edges:
        node = nodes[edge.subject]
        node.setdefault(edge.relation, []).append({"@id": edge.object})
        node.setdefault("rexis:verified", []).append(
            {
                "rexis:relation": {"@id": edge.relation},
                "rexis:object": {"@id": edge.object},
                "rexis:proof": edge.proof,
            }
        )
    return {"@context": _CONTEXT, "@graph": list(nodes.values())}


def _literal(name: str, value: str | int) -> object:
    """A time as other readers of RDF have it, and not as seconds since 1970."""
    if name in _TIMES:
        said = moment(int(value)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"@type": "xsd:dateTime", "@value": said}
    return bool(value) if name == "revoked" else value


def to_dot(graph: Graph) -> str:
    """Graphviz: the whole graph, however large, each edge with how it was verified."""
    number = {one: f"n{place}" for place, one in enumerate(graph.vertices)}
    lines = ["digraph provenance {", "  rankdir=LR;", "  node [style=filled];"]
    for vertex in graph.vertices.values():
        shape = "oval" if vertex.kind in ACTIVITIES else "box"
        label = _quoted(f"{vertex.kind}\n{vertex.label}")
        lines.append(
            f"  {number[vertex.id]} [label={label} tooltip={_quoted(vertex.id)} "
            f'shape={shape} fillcolor="{FILL[vertex.kind]}"];'
        )
    for edge in graph.edges:
        said = _quoted(f"{edge.relation.partition(':')[2]}\n{edge.proof}")
        lines.append(
            f"  {number[edge.object]} -> {number[edge.subject]} [dir=back "
            f'label={said} color="{STROKE[edge.proof]}"];'
        )
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    """A string of DOT; a label may come from a stranger's listing."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
