"""Graphs as PROV-O and for Graphviz: the same statements, well formed."""

import json
from datetime import UTC, datetime

import pytest

from node.market import provenance_export as export
from protocol import lineage as ln

GRANT = (("revoked", 1), ("units", 2), ("until", 1_796_169_231))
EVIL = '<script>alert("x")</script>&'


def graph(datasets=3):
    built = ln.Graph()
    for vertex in (
        ln.Vertex("urn:rexis:member:aa", "member", "MN"),
        ln.Vertex("urn:rexis:run:bb", "run", EVIL, (("rounds", 3),)),
        ln.Vertex("urn:rexis:model:cc", "model", "model cc", (("bytes", 10),)),
        ln.Vertex("urn:rexis:grant:7", "grant", "grant 7", GRANT),
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
    assert len(list(parsed.subjects(rdflib.RDF.type, prov.Entity))) == 5
    grant = rdflib.URIRef("urn:rexis:grant:7")
    (until,) = parsed.objects(grant, rdflib.URIRef("urn:rexis:term:until"))
    assert until.toPython() == datetime(2026, 12, 1, 23, 53, 51, tzinfo=UTC)
    (revoked,) = parsed.objects(grant, rdflib.URIRef("urn:rexis:term:revoked"))
    assert revoked.toPython() is True


def test_graphviz_has_every_edge_and_a_label_cannot_leave_its_quotes():
    made = graph()
    made.vertices["urn:rexis:dataset:0"] = ln.Vertex(
        "urn:rexis:dataset:0", "dataset", 'x"]; evil [label="\\" \n'
    )
    text = export.to_dot(made)
    assert text.count(" -> ") == 7
    assert text.count(f"\\n{ln.BOTH}") == 3
    assert 'x\\"]; evil [label=\\"\\\\\\" \\n' in text
    assert len(text.splitlines()) == 3 + 7 + 7 + 1


def test_an_empty_graph_is_still_a_document():
    assert export.to_prov(ln.Graph())["@graph"] == []
