"""Graphs as PROV-O and as a picture: the same statements, well formed, nothing to run."""

import json
import xml.etree.ElementTree as ET

import pytest

from node.market import provenance_export as export
from protocol import lineage as ln

EVIL = '<script>alert("x")</script>&'


def graph(datasets=3):
    built = ln.Graph()
    for vertex in (
        ln.Vertex("urn:rexis:member:aa", "member", "MN"),
        ln.Vertex("urn:rexis:run:bb", "run", EVIL, (("rounds", 3),)),
        ln.Vertex("urn:rexis:model:cc", "model", "model cc", (("bytes", 10),)),
        *(
            ln.Vertex(f"urn:rexis:dataset:{i}", "dataset", f"table {i}")
            for i in range(datasets)
        ),
    ):
        built.vertices[vertex.id] = vertex
    for i in range(datasets):
        name = f"urn:rexis:dataset:{i}"
        built.edges += [
            ln.Edge("urn:rexis:run:bb", "prov:used", name, ln.BOTH),
            ln.Edge(name, "prov:wasAttributedTo", "urn:rexis:member:aa", ln.SIGNED),
        ]
    built.edges.append(
        ln.Edge(
            "urn:rexis:model:cc", "prov:wasGeneratedBy", "urn:rexis:run:bb", ln.ON_CHAIN
        )
    )
    built.doubts.append(ln.Doubt("receipt 1", "bent"))
    return built


def test_prov_has_every_relation_and_how_it_was_verified():
    document = export.to_prov(graph())
    nodes = {node["@id"]: node for node in document["@graph"]}
    run = nodes["urn:rexis:run:bb"]
    assert run["@type"] == ["prov:Activity", "rexis:run"]
    assert len(run["prov:used"]) == 3
    assert {one["rexis:proof"] for one in run["rexis:verified"]} == {ln.BOTH}
    assert nodes["urn:rexis:member:aa"]["@type"][0] == "prov:Agent"
    assert run["rexis:rounds"] == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_another_reader_finds_the_same_triples():
    import rdflib

    parsed = rdflib.Graph().parse(
        data=json.dumps(export.to_prov(graph())), format="json-ld"
    )
    prov = rdflib.Namespace("http://www.w3.org/ns/prov#")
    run = rdflib.URIRef("urn:rexis:run:bb")
    assert len(list(parsed.objects(run, prov.used))) == 3
    model = rdflib.URIRef("urn:rexis:model:cc")
    assert list(parsed.objects(model, prov.wasGeneratedBy)) == [run]
    assert len(list(parsed.subjects(rdflib.RDF.type, prov.Entity))) == 4


def test_the_picture_is_xml_without_anything_to_run():
    text = export.to_svg(graph())
    root = ET.fromstring(text)
    tags = {one.tag.rpartition("}")[2] for one in root.iter()}
    assert tags <= {"svg", "title", "rect", "path", "g", "text", "line"}
    assert EVIL not in text
    boxes = [one for one in root.iter() if one.tag.endswith("}g")]
    assert len(boxes) == 6
    paths = [one for one in root.iter() if one.tag.endswith("}path")]
    assert len(paths) == 7
    assert "1 records did not verify" in text


def test_a_large_graph_is_cut_and_says_so():
    text = export.to_svg(graph(100))
    ET.fromstring(text)
    assert f"{100 - export.ROWS_LIMIT} more not drawn" in text


def test_graphviz_has_every_edge_and_a_label_cannot_leave_its_quotes():
    made = graph()
    made.vertices["urn:rexis:dataset:0"] = ln.Vertex(
        "urn:rexis:dataset:0", "dataset", 'x"]; evil [label="\\" \n'
    )
    text = export.to_dot(made)
    assert text.count(" -> ") == 7
    assert text.count(f"\\n{ln.BOTH}") == 3
    assert 'x\\"]; evil [label=\\"\\\\\\" \\n' in text
    assert len(text.splitlines()) == 3 + 6 + 7 + 1


def test_an_empty_graph_is_still_a_picture():
    ET.fromstring(export.to_svg(ln.Graph()))
    assert export.to_prov(ln.Graph())["@graph"] == []
