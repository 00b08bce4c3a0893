"""A verified graph for other programs and for people: PROV-O as JSON-LD, and a picture.

Both say of each relation how it was verified; neither says anything that is not in the
graph.  The picture is plain SVG without script, link or font of its own, so that it can
be put into a report and opened anywhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from protocol.lineage_graph import BOTH, ON_CHAIN, SIGNED, Edge, Graph, Kind, Vertex

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
}


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
            **{f"rexis:{name}": value for name, value in vertex.about},
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


def to_dot(graph: Graph) -> str:
    """Graphviz: the whole graph, however large, each edge with how it was verified."""
    number = {one: f"n{place}" for place, one in enumerate(graph.vertices)}
    lines = ["digraph provenance {", "  rankdir=LR;", "  node [style=filled];"]
    for vertex in graph.vertices.values():
        shape = "oval" if _TYPES[vertex.kind] == "prov:Activity" else "box"
        label = _quoted(f"{vertex.kind}\n{vertex.label}")
        lines.append(
            f"  {number[vertex.id]} [label={label} tooltip={_quoted(vertex.id)} "
            f'shape={shape} fillcolor="{_FILL[vertex.kind]}"];'
        )
    for edge in graph.edges:
        said = _quoted(f"{edge.relation.partition(':')[2]}\n{edge.proof}")
        lines.append(
            f"  {number[edge.object]} -> {number[edge.subject]} [dir=back "
            f'label={said} color="{_STROKE[edge.proof]}"];'
        )
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    """A string of DOT; a label may come from a stranger's listing."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


# --- the picture ---------------------------------------------------------------

_LANES: Sequence[Kind] = (
    *(
        "source",
        "dataset",
        "grant",
        "run",
        "state",
        "model",
        "receipt",
        "query",
        "answer",
    ),
)
_FILL: Mapping[Kind, str] = {
    "source": "#e8e4d8",
    "dataset": "#cfe3f5",
    "grant": "#f7e3b5",
    "run": "#d9ecd0",
    "state": "#e3dff3",
    "model": "#cdbdf0",
    "receipt": "#f6d3cf",
    "query": "#d3ebe8",
    "answer": "#f3b9b2",
    "member": "#ffffff",
}
_STROKE = {SIGNED: "#6a6a6a", ON_CHAIN: "#b26b00", BOTH: "#1b6e3c"}
_BOX, _GAP, _LANE, _MARGIN = (190, 40), 22, 250, 40
_LABEL_CHARS = 26
ROWS_LIMIT = 24
"""Boxes of one lane; what is beyond is counted in one more box."""


def to_svg(graph: Graph) -> str:
    """Left to right from the source to the answer, members below."""
    lanes = _lanes(graph)
    places: dict[str, tuple[int, int]] = {}
    for column, lane in enumerate(lanes):
        for row, vertex in enumerate(lane):
            x = _MARGIN + column * _LANE
            places[vertex.id] = (x, _MARGIN + 30 + row * (_BOX[1] + _GAP))
    depth = max((len(lane) for lane in lanes), default=0)
    floor = _MARGIN + 60 + depth * (_BOX[1] + _GAP)
    members = [v for v in graph.vertices.values() if v.kind == "member"]
    per_row = max(1, len(lanes))
    for number, vertex in enumerate(sorted(members, key=lambda v: v.label)):
        row, column = divmod(number, per_row)
        y = floor + row * (_BOX[1] + _GAP)
        places[vertex.id] = (_MARGIN + column * _LANE, y)
    rows = -(-len(members) // per_row)
    width = 2 * _MARGIN + per_row * _LANE
    height = floor + rows * (_BOX[1] + _GAP) + 80
    hidden = [v for v in graph.vertices.values() if v.id not in places]
    parts = [
        _open_tag(width, height),
        "<title>Provenance</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        *(_line(edge, places) for edge in graph.edges),
        *(_box(graph.vertices[one], *place) for one, place in places.items()),
        *_legend(height - 60, len(hidden), len(graph.doubts)),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _open_tag(width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
    )


def _lanes(graph: Graph) -> list[list[Vertex]]:
    lanes = []
    for kind in _LANES:
        lane = [v for v in graph.vertices.values() if v.kind == kind]
        if lane:
            lanes.append(sorted(lane, key=lambda v: (v.label, v.id))[:ROWS_LIMIT])
    return lanes


def _line(edge: Edge, places: Mapping[str, tuple[int, int]]) -> str:
    if edge.subject not in places or edge.object not in places:
        return ""
    (x1, y1), (x2, y2) = places[edge.object], places[edge.subject]
    start: tuple[float, float]
    end: tuple[float, float]
    if x1 == x2:
        start, end = (x1 + _BOX[0] / 2, y1), (x2 + _BOX[0] / 2, y2 + _BOX[1])
        bend = f"C {start[0] + 60} {start[1]}, {end[0] + 60} {end[1]}"
    else:
        right = x1 < x2
        start = (x1 + _BOX[0] * right, y1 + _BOX[1] / 2)
        end = (x2 + _BOX[0] * (not right), y2 + _BOX[1] / 2)
        middle = (start[0] + end[0]) / 2
        bend = f"C {middle} {start[1]}, {middle} {end[1]}"
    said = f"{edge.relation.partition(':')[2]}: {edge.proof}"
    # Who took part is the background; what came of what is the story.
    party = edge.object.startswith("urn:rexis:member:")
    style = 'stroke-opacity="0.35" stroke-dasharray="4 3"' if party else ""
    return (
        f'<path d="M {start[0]} {start[1]} {bend}, {end[0]} {end[1]}" fill="none" '
        f'stroke="{_STROKE[edge.proof]}" {style}>'
        f"<title>{escape(said)}</title></path>"
    )


def _box(vertex: Vertex, x: int, y: int) -> str:
    label = vertex.label
    if len(label) > _LABEL_CHARS:
        label = label[: _LABEL_CHARS - 1] + "…"
    about = "; ".join(f"{name} {value}" for name, value in vertex.about)
    said = f"{vertex.label}\n{vertex.id}" + (f"\n{about}" if about else "")
    round_ = _BOX[1] / 2 if _TYPES[vertex.kind] == "prov:Activity" else 4
    return (
        f"<g><title>{escape(said)}</title>"
        f'<rect x="{x}" y="{y}" width="{_BOX[0]}" height="{_BOX[1]}" rx="{round_}" '
        f"fill={quoteattr(_FILL[vertex.kind])} "
        'stroke="#444"/>'
        f'<text x="{x + 10}" y="{y + 16}" fill="#666" font-size="10">'
        f"{escape(vertex.kind)}</text>"
        f'<text x="{x + 10}" y="{y + 31}">{escape(label)}</text></g>'
    )


def _legend(y: int, hidden: int, doubts: int) -> list[str]:
    lines = [
        f'<line x1="{_MARGIN + n * 200}" y1="{y}" x2="{_MARGIN + 30 + n * 200}" '
        f'y2="{y}" stroke="{colour}" stroke-width="2"/>'
        f'<text x="{_MARGIN + 38 + n * 200}" y="{y + 4}">{escape(proof)}</text>'
        for n, (proof, colour) in enumerate(_STROKE.items())
    ]
    said = f"{hidden} more not drawn; {doubts} records did not verify and are left out"
    return [*lines, f'<text x="{_MARGIN}" y="{y + 28}" fill="#666">{said}</text>']
