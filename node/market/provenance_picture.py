"""A verified graph as a picture: plain SVG, so that it can be put into a report and opened anywhere.

Left to right from the source to the answer, one lane for each kind.  A line never runs through a
box: where it passes a lane it keeps to the gap between two rows.  Members are written into the
boxes in which they took part; with lines of their own a graph of ten datasets could not be read.
How a statement was verified is told by colour and by dashes, for who sees no colours.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from xml.sax.saxutils import escape

from protocol.lineage_graph import (
    BOTH,
    ON_CHAIN,
    SIGNED,
    Edge,
    Graph,
    Kind,
    Proof,
    Vertex,
)

_LANES: Sequence[Kind] = (
    *("source", "dataset", "grant", "run", "state"),
    *("model", "receipt", "query", "answer", "member"),
)
ACTIVITIES = frozenset({"run", "receipt", "query"})
FILL: Mapping[Kind, str] = {
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
STROKE: Mapping[Proof, str] = {SIGNED: "#5a5a5a", ON_CHAIN: "#9a5b00", BOTH: "#1b6e3c"}
_DASH: Mapping[Proof, str] = {SIGNED: "2 3", ON_CHAIN: "7 3", BOTH: "none"}
_PART: Mapping[str, str] = {
    "prov:wasAttributedTo": "of",
    "rexis:grantedTo": "to",
    "rexis:proposedBy": "proposed by",
    "rexis:requestedBy": "asked by",
    "prov:wasAssociatedWith": "by",
}
_WIDE, _HIGH = 216, 96
_GAP, _GUTTER, _MARGIN = 26, 64, 32
_ARROW = 7
_CHARS, _LABEL_LINES = 29, 2
ROWS_LIMIT = 24
"""Boxes of one lane; what is beyond is counted below the picture."""
_LAST_S = 253_402_300_799
"""The last second of the year 9999, the last that has a date."""

Place = tuple[int, int]
"""Lane and row."""


def to_svg(graph: Graph) -> str:
    """The picture; what it leaves out for want of room it counts."""
    lanes = _lanes(graph)
    places = {
        vertex.id: (column, row)
        for column, lane in enumerate(lanes)
        for row, vertex in enumerate(lane[:ROWS_LIMIT])
    }
    depth = max((min(len(lane), ROWS_LIMIT) for lane in lanes), default=0)
    floor = _MARGIN + depth * (_HIGH + _GAP) + _GAP
    width = 2 * _MARGIN + max(3, len(lanes)) * (_WIDE + _GUTTER)
    height = floor + 92
    hidden = sum(max(0, len(lane) - ROWS_LIMIT) for lane in lanes)
    drawn = [e for e in graph.edges if e.subject in places and e.object in places]
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
        ),
        "<title>Provenance</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        *(_line(edge, places, number) for number, edge in enumerate(drawn)),
        *(_box(graph, one, *_corner(place)) for one, place in places.items()),
        *_legend(floor, hidden, len(graph.doubts)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def moment(seconds: int) -> datetime:
    """Seconds since 1970 as a date; the chain may say more of them than there are dates for."""
    return datetime.fromtimestamp(min(seconds, _LAST_S), UTC)


# --- where things stand -----------------------------------------------------------


def _lanes(graph: Graph) -> list[list[Vertex]]:
    """The kinds there are; of each, what came of neighbours stands beside neighbours."""
    took_part = {edge.object for edge in graph.edges}
    rows: dict[str, float] = {}
    lanes = []
    for kind in _LANES:
        lane = [
            vertex
            for vertex in graph.vertices.values()
            if vertex.kind == kind and not (kind == "member" and vertex.id in took_part)
        ]
        if not lane:
            continue
        beside = {one.id: _mean(graph, one, rows) for one in lane}
        lane.sort(key=lambda one: (beside[one.id], _rank(one)))
        rows.update({vertex.id: float(row) for row, vertex in enumerate(lane)})
        lanes.append(lane)
    return lanes


def _mean(graph: Graph, vertex: Vertex, rows: Mapping[str, float]) -> float:
    """The mean row of what `vertex` came of, in the lanes that are placed."""
    found = [
        rows[edge.object]
        for edge in graph.edges
        if edge.subject == vertex.id and edge.object in rows
    ]
    return sum(found) / len(found) if found else 0.0


def _rank(vertex: Vertex) -> tuple[int, str, str]:
    number = dict(vertex.about).get("dataset", 0)
    return int(number), vertex.label, vertex.id


def _corner(place: Place) -> tuple[int, int]:
    column, row = place
    return _MARGIN + column * (_WIDE + _GUTTER), _MARGIN + row * (_HIGH + _GAP)


# --- lines ------------------------------------------------------------------------


def _line(edge: Edge, places: Mapping[str, Place], number: int) -> str:
    """From what was there first to what came of it, with its arrow."""
    first, then = places[edge.object], places[edge.subject]
    said = f"{edge.relation.partition(':')[2]}: {edge.proof}"
    colour = STROKE[edge.proof]
    x, y = _ends(then)[first[0] == then[0]]
    # At the right side of a box where both stand in one lane, else at the left.
    back = _ARROW if first[0] == then[0] else -_ARROW
    return (
        f"<g><title>{escape(said)}</title>"
        f'<path d="{_route(first, then, number)}" fill="none" stroke="{colour}" '
        f'stroke-width="1.4" stroke-dasharray="{_DASH[edge.proof]}"/>'
        f'<path d="M {x} {y} L {x + back} {y - 4} L {x + back} {y + 4} Z" '
        f'fill="{colour}"/></g>'
    )


def _ends(place: Place) -> tuple[tuple[int, int], tuple[int, int]]:
    """The middles of a box's left and right side."""
    x, y = _corner(place)
    return (x, y + _HIGH // 2), (x + _WIDE, y + _HIGH // 2)


def _route(first: Place, then: Place, number: int) -> str:
    """Curves in the gutters, straight through the gaps of the lanes in between."""
    x, y = _ends(first)[1]
    path = f"M {x} {y}"
    if first[0] == then[0]:
        (end_x, end_y), out = _ends(then)[1], x + _GUTTER // 2
        return f"{path} C {out} {y}, {out} {end_y}, {end_x + _ARROW} {end_y}"
    end_x, end_y = _ends(then)[0]
    # Lines that share a gap lie a little apart.
    apart = (number % 5 - 2) * 4
    lanes = then[0] - first[0]
    for step, column in enumerate(range(first[0] + 1, then[0]), start=1):
        wanted = y + (end_y - y) * step / lanes
        gap = round((wanted - _MARGIN + _GAP / 2) / (_HIGH + _GAP))
        level = _MARGIN + gap * (_HIGH + _GAP) - _GAP // 2 + apart
        left, _ = _corner((column, 0))
        path += f"{_curve((x, y), (left, level))} L {left + _WIDE} {level}"
        x, y = left + _WIDE, level
    return path + _curve((x, y), (end_x - _ARROW, end_y))


def _curve(start: tuple[int, int], end: tuple[int, int]) -> str:
    middle = (start[0] + end[0]) // 2
    return f" C {middle} {start[1]}, {middle} {end[1]}, {end[0]} {end[1]}"


# --- boxes ------------------------------------------------------------------------


def _box(graph: Graph, name: str, x: int, y: int) -> str:
    vertex = graph.vertices[name]
    about = "; ".join(f"{key} {value}" for key, value in vertex.about)
    said = "\n".join(filter(None, (vertex.label, vertex.id, about)))
    ended = bool(dict(vertex.about).get("revoked"))
    return "".join(
        [
            f"<g><title>{escape(said)}</title>",
            (
                f'<rect x="{x}" y="{y}" width="{_WIDE}" height="{_HIGH}" '
                f'rx="{22 if vertex.kind in ACTIVITIES else 4}" '
                f'fill="{"#fff" if ended else FILL[vertex.kind]}" stroke="#444" '
                f'stroke-dasharray="{"5 4" if ended else "none"}"/>'
            ),
            _text(x + 12, y + 18, _heading(vertex), 'fill="#444" font-size="10"'),
            *(
                _text(x + 12, y + 35 + 15 * line, text)
                for line, text in enumerate(_label(vertex))
            ),
            *_parties(graph, vertex, x + 12, y + 69),
            "</g>",
        ]
    )


def _text(x: int, y: int, said: str, style: str = "") -> str:
    return f'<text x="{x}" y="{y}" {style}>{escape(said)}</text>'


def _heading(vertex: Vertex) -> str:
    about = dict(vertex.about)
    if vertex.kind == "dataset" and "dataset" in about:
        return f"dataset {about['dataset']}, version {about.get('version', 1)}"
    if vertex.kind in {"run", "query"}:
        return f"{vertex.kind} {vertex.id.rpartition(':')[2][:12]}"
    if vertex.kind == "grant":
        return f"{vertex.label}, revoked" if about.get("revoked") else vertex.label
    return "inference" if vertex.kind == "receipt" else vertex.kind


def _label(vertex: Vertex) -> list[str]:
    about = dict(vertex.about)
    if vertex.kind == "grant" and "until" in about:
        last = moment(int(about["until"]))
        units = about["units"]
        return [
            f"{units} unit{'' if units == 1 else 's'}",
            f"until {last:%Y-%m-%d}",
        ]
    lines = textwrap.wrap(vertex.label, _CHARS) or [""]
    if len(lines) > _LABEL_LINES:
        last_line = lines[_LABEL_LINES - 1]
        lines[_LABEL_LINES - 1] = last_line[: _CHARS - 1].rstrip(" ,.;") + "…"
    return lines[:_LABEL_LINES]


def _cut(text: str) -> str:
    return text if len(text) <= _CHARS else text[: _CHARS - 1] + "…"


def _parties(graph: Graph, vertex: Vertex, x: int, y: int) -> Iterable[str]:
    """Who took part and how, each after a sample of the line that says how it was verified."""
    found: dict[tuple[str, Proof], list[str]] = {}
    for edge in graph.edges:
        other = graph.vertices.get(edge.object)
        if edge.subject == vertex.id and other is not None and other.kind == "member":
            found.setdefault((edge.relation, edge.proof), []).append(other.label)
    for line, ((relation, proof), names) in enumerate(found.items()):
        level = y + 14 * line
        word = _PART.get(relation, relation.partition(":")[2])
        said = f"{word} {', '.join(names)}"
        yield (
            f"<g><title>{escape(f'{said}: {proof}')}</title>"
            f"{_sample(x, level - 4, 18, proof)}"
            f"{_text(x + 24, level, _cut(said), _SMALL)}</g>"
        )


_SMALL = 'font-size="11"'


def _sample(x: int, y: int, length: int, proof: Proof) -> str:
    return (
        f'<line x1="{x}" y1="{y}" x2="{x + length}" y2="{y}" stroke="{STROKE[proof]}" '
        f'stroke-width="2" stroke-dasharray="{_DASH[proof]}"/>'
    )


def _legend(y: int, hidden: int, doubts: int) -> Iterable[str]:
    yield _text(_MARGIN, y, "verified by", 'fill="#444"')
    for place, proof in enumerate(STROKE):
        x = _MARGIN + 90 + place * 190
        yield _sample(x, y - 4, 30, proof)
        yield _text(x + 38, y, proof)
    yield _text(
        _MARGIN,
        y + 24,
        "An arrow leads from what was there first to what came of it. A rounded box is "
        "something that was done.",
        'fill="#444"',
    )
    said = [f"Not drawn for want of room: {hidden}."] if hidden else []
    if doubts:
        said.append(f"Left out for not verifying: {doubts}.")
    yield _text(
        _MARGIN, y + 48, " ".join(said) or "Nothing is left out.", 'fill="#444"'
    )
