"""The picture of a graph: well formed, nothing to run, and a person can follow each line."""

import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime

from node.market import provenance_picture as picture
from protocol import lineage as ln

EVIL = '<script>alert("x")</script>&'
SVG = "{http://www.w3.org/2000/svg}"


def graph(datasets=3):
    """A run over datasets, grants of the first, a question about each."""
    built = ln.Graph()
    until = int(datetime(2027, 3, 1, 12, tzinfo=UTC).timestamp())
    member = ln.Vertex("urn:rexis:member:aa", "member", "MN")
    run = ln.Vertex("urn:rexis:run:bb", "run", EVIL, (("rounds", 3),))
    found = [member, run, ln.Vertex("urn:rexis:model:cc", "model", "model cc")]
    for i in range(datasets):
        name = f"urn:rexis:dataset:{i}"
        facts = (("dataset", i), ("version", 2))
        found += [
            ln.Vertex(name, "dataset", f"table {i}", facts),
            ln.Vertex(f"urn:rexis:query:{i}", "query", "count of 1 dataset"),
        ]
        built.edges += [
            ln.Edge(run.id, "prov:used", name, ln.BOTH),
            ln.Edge(f"urn:rexis:query:{i}", "prov:used", name, ln.SIGNED),
            ln.Edge(name, "prov:wasAttributedTo", member.id, ln.SIGNED),
        ]
    for i, revoked in enumerate((0, 1)):
        grant = f"urn:rexis:grant:{i}"
        facts = (("revoked", revoked), ("units", 13), ("until", until))
        found.append(ln.Vertex(grant, "grant", f"grant {i}", facts))
        built.edges.append(
            ln.Edge(grant, "prov:wasDerivedFrom", "urn:rexis:dataset:0", ln.ON_CHAIN)
        )
    built.edges.append(
        ln.Edge("urn:rexis:model:cc", "prov:wasGeneratedBy", run.id, ln.ON_CHAIN)
    )
    built.edges.append(
        ln.Edge("urn:rexis:dataset:1", "prov:wasRevisionOf", found[3].id, ln.BOTH)
    )
    built.vertices.update({vertex.id: vertex for vertex in found})
    built.doubts.append(ln.Doubt("receipt 1", "bent"))
    return built


def boxes(root):
    """Each box by the first line of its tooltip's end: corner and size."""
    return [
        tuple(float(one.get(name)) for name in ("x", "y", "width", "height"))
        for one in root.iter(f"{SVG}rect")
        if one.get("x")
    ]


def points(path):
    """Some along a path of M, C and L."""
    said = re.findall(r"([MCL])([^MCLZ]*)", path)
    at = (0.0, 0.0)
    for letter, numbers in said:
        values = [float(one) for one in re.findall(r"-?[\d.]+", numbers)]
        ends = list(zip(values[::2], values[1::2], strict=True))
        if letter == "C":
            for step in range(21):
                t = step / 20
                parts = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
                corners = (at, *ends)
                yield tuple(
                    sum(p * c[axis] for p, c in zip(parts, corners, strict=True))
                    for axis in (0, 1)
                )
        elif letter == "L":
            for step in range(21):
                yield tuple(
                    a + (b - a) * step / 20 for a, b in zip(at, ends[0], strict=True)
                )
        at = ends[-1]


def inside(point, box):
    x, y, wide, high = box
    return x + 1 < point[0] < x + wide - 1 and y + 1 < point[1] < y + high - 1


def lines(root):
    return [one for one in root.iter(f"{SVG}path") if one.get("fill") == "none"]


def test_it_is_xml_without_anything_to_run():
    text = picture.to_svg(graph())
    root = ET.fromstring(text)
    tags = {one.tag.rpartition("}")[2] for one in root.iter()}
    assert tags <= {"svg", "title", "rect", "path", "g", "text", "line"}
    assert EVIL not in text
    assert len(boxes(root)) == 10  # each thing but the member
    assert len(lines(root)) == 10  # each relation but those to it
    assert "Left out for not verifying: 1." in text


def test_no_line_runs_through_a_box_or_out_of_the_picture():
    for datasets in (1, 3, 9):
        root = ET.fromstring(picture.to_svg(graph(datasets)))
        width, height = float(root.get("width")), float(root.get("height"))
        for line in lines(root):
            for point in points(line.get("d")):
                assert not any(inside(point, box) for box in boxes(root)), line.get("d")
                assert 0 <= point[0] <= width
                assert 0 <= point[1] <= height


def test_a_line_drawn_straight_would_run_through_a_box(monkeypatch):
    def straight(first, then, _number):
        (x, y), (to_x, to_y) = picture._ends(first)[1], picture._ends(then)[0]
        return f"M {x} {y} L {to_x} {to_y}"

    monkeypatch.setattr(picture, "_route", straight)
    root = ET.fromstring(picture.to_svg(graph(9)))
    assert any(
        inside(point, box)
        for line in lines(root)
        for point in points(line.get("d"))
        for box in boxes(root)
    )


def test_texts_stay_in_their_box():
    made = graph()
    name = "urn:rexis:dataset:2"
    facts = made.vertices[name].about
    made.vertices[name] = ln.Vertex(name, "dataset", "Seventeen words " * 17, facts)
    root = ET.fromstring(picture.to_svg(made))
    for group in root.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        for text in group.iter(f"{SVG}text") if rect is not None else ():
            assert len(text.text) <= 30
            bottom = float(rect.get("y")) + float(rect.get("height"))
            assert float(text.get("y")) < bottom - 4
    assert "……" not in picture.to_svg(made)


def test_a_box_says_what_one_asks_first():
    text = picture.to_svg(graph())
    for said in (
        *("dataset 2, version 2", "of MN", "13 units", "until 2027-03-01"),
        *("grant 0<", "grant 1, revoked<"),
    ):
        assert said in text
    assert "An arrow leads from what was there first" in text


def test_each_way_of_proof_has_a_look_of_its_own_without_colours():
    assert len({picture._DASH[proof] for proof in picture.STROKE}) == 3


def test_a_large_graph_is_cut_and_says_so():
    text = picture.to_svg(graph(100))
    ET.fromstring(text)
    assert f"Not drawn for want of room: {2 * (100 - picture.ROWS_LIMIT)}." in text


def test_a_member_that_took_part_in_nothing_is_a_box():
    made = ln.Graph()
    made.vertices["urn:rexis:member:aa"] = ln.Vertex(
        "urn:rexis:member:aa", "member", "MN"
    )
    assert len(boxes(ET.fromstring(picture.to_svg(made)))) == 1


def test_a_date_after_all_calendars_is_drawn():
    made = ln.Graph()
    facts = (("revoked", 0), ("units", 1), ("until", 1 << 63))
    made.vertices["g"] = ln.Vertex("g", "grant", "grant 1", facts)
    assert "until 9999-12-31" in picture.to_svg(made)


def test_an_empty_graph_is_still_a_picture():
    ET.fromstring(picture.to_svg(ln.Graph()))
