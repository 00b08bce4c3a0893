"""Answers in the provenance graph, at the asker and at an owner, and in `rexis-verify`."""

import dataclasses
import json

import msgspec
import pytest
from click.testing import CliRunner

from node.verifier.cli import cli
from protocol import lineage_file
from protocol.lineage import AskedQuery, GrantFact, TokenFact, build
from protocol.lineage_file import Seen
from protocol.lineage_graph import BOTH, SIGNED
from protocol.queries.bundle import Bundle
from protocol.queries.spec import MICRO
from protocol.wire import decode, encode

pytestmark = pytest.mark.slow
SEEN = Seen(31337, 9, bytes(32), "0x" + "00" * 20)


@pytest.fixture
async def asked(world, tmp_path):
    await world.allow()
    path = tmp_path / "answers"
    await world.lab.queries.ask("count", world.datasets, MICRO, path=path)
    return path


def two(token):
    return token.owner, token.record


def later(seen):
    return msgspec.structs.replace(seen, block=seen.block + 5)


async def lineage(site, world):
    for dataset in world.datasets:
        await site.market.listing(dataset)
    return await site.market.lineage((), queries=await site.queries.signed())


def verify(*words):
    """`rexis-verify` in this process: its status and its report."""
    done = CliRunner().invoke(cli, [*map(str, words), "--json"], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value, json.loads(done.output)


def relations(graph, kind):
    names = {one: vertex.label for one, vertex in graph.vertices.items()}
    return sorted(
        (edge.relation, names[edge.object], edge.proof)
        for edge in graph.edges
        if edge.subject.startswith(f"urn:rexis:{kind}:")
    )


async def test_an_answer_leads_back_to_datasets_members_and_asker(world, asked):
    graph = build(*await lineage(world.lab, world))
    assert graph.doubts == []
    owners = [("prov:wasAssociatedWith", f"site-{n}", SIGNED) for n in range(3)]
    assert relations(graph, "query") == [
        *[("prov:used", "Lung cancer", BOTH)] * 3,
        *owners,
        ("rexis:requestedBy", "site-3", SIGNED),
    ]
    assert relations(graph, "answer") == [
        ("prov:wasGeneratedBy", "count of 3 datasets", SIGNED)
    ]
    answer = next(one for one in graph.vertices if ":answer:" in one)
    back = graph.around(answer, "back")
    assert sum(v.kind == "dataset" for v in back.vertices.values()) == 3
    forward = graph.around(graph.named(f"dataset:{world.datasets[0]}"), "forward")
    assert answer in forward.vertices


async def test_an_answer_stands_after_the_data_have_new_keys(world, asked, tmp_path):
    """And what was spent on it stays spent: it is the same people's data."""
    owner, dataset = world.sites[0], world.datasets[0]
    await lineage(world.lab, world)
    before = await owner.queries.rows()
    await owner.market.rekey(dataset)
    assert await owner.queries.rows() == before
    for number in world.datasets:
        await world.lab.market.listing(number)
    signed = await world.lab.queries.signed()
    graph = build(*await world.lab.market.lineage(world.ledger.events, queries=signed))
    assert graph.doubts == []
    answer = next(one for one in graph.vertices if ":answer:" in one)
    forward = graph.forward(graph.named(f"dataset:{dataset}"))
    assert answer in forward.vertices
    # Offline as well, by the facts of the owner's own file.
    files = tmp_path / "theirs.lineage", tmp_path / "mine.lineage"
    for path, site in zip(files, (world.lab, owner), strict=True):
        known = await site.market.lineage(
            world.ledger.events, queries=await site.queries.signed()
        )
        path.write_bytes(lineage_file.write(*known, SEEN))
    about = "--about", f"dataset:{dataset}"
    status, report = verify("lineage", files[0], "--facts", files[1], *about)
    assert (status, report["doubts"]) == (0, [])
    # Who does not know what the chain had before cannot tell.
    graph = build(*await world.lab.market.lineage((), queries=signed))
    (doubt,) = graph.doubts
    assert f"the listing of dataset {dataset} is not the one that answered" in doubt.why
    again = tmp_path / "again"
    await world.lab.queries.ask("count", world.datasets, MICRO, path=again)
    assert again.exists()


async def test_an_owner_sees_what_its_dataset_was_used_for_and_no_more(world, asked):
    graph = build(*await lineage(world.sites[1], world))
    assert relations(graph, "query") == [
        ("prov:used", "Lung cancer", BOTH),
        ("prov:wasAssociatedWith", "site-1", SIGNED),
        ("rexis:requestedBy", "site-3", SIGNED),
    ]
    assert relations(graph, "answer") == []


async def test_a_word_of_another_or_about_other_data_is_a_doubt(world, asked):
    records, facts = await lineage(world.lab, world)
    (one,) = records.queries
    first, *rest = one.attestations
    bent = bytearray(first)
    bent[-1] ^= 1
    for attestations, why in (
        ((bytes(bent), *rest), "signature"),
        ((one.query, *rest), "domain"),
    ):
        changed = msgspec.structs.replace(
            records, queries=(AskedQuery(one.query, attestations),)
        )
        graph = build(changed, facts)
        (doubt,) = graph.doubts
        assert doubt.what.startswith("query ")
        assert why in doubt.why
        assert relations(graph, "query") == []
    # The chain says another owner: nothing of it stands.
    tokens = tuple(
        type(t)(t.dataset, facts.tokens[-1].owner, t.record) for t in facts.tokens
    )
    graph = build(records, type(facts)(facts.members, tokens))
    assert relations(graph, "answer") == []


async def test_a_lineage_and_answers_are_checked_offline(world, asked, tmp_path):
    records, facts = await lineage(world.lab, world)
    theirs, mine = tmp_path / "theirs.lineage", tmp_path / "mine.lineage"
    theirs.write_bytes(lineage_file.write(records, facts, SEEN))
    mine.write_bytes(lineage_file.write(*(await lineage(world.sites[0], world)), SEEN))

    status, report = verify("lineage", theirs, "--facts", mine, "--about", "dataset:0")
    assert (status, report["doubts"]) == (0, [])
    assert report["chain"]["by"] == "the trusted file"
    assert {one["relation"] for one in report["relations"]} >= {
        "prov:used",
        "prov:wasGeneratedBy",
    }
    status, report = verify("query", asked, "--facts", mine)
    assert report["owners_checked"]
    assert abs(report["result"]["count"] - 63) <= 6 * report["noise_sd"]

    # Facts that were made up are believed by nobody who brings others.
    forged = type(facts)(facts.members, facts.tokens[:1])
    theirs.write_bytes(lineage_file.write(records, forged, SEEN))
    assert verify("lineage", theirs)[0] == 1
    assert verify("lineage", theirs, "--facts", mine)[0] == 0
    # An invented fact is no part of the graph, and the file that has it does not pass.
    token = facts.tokens[0]
    for change, what in (
        (
            {"grants": (GrantFact(7, token.dataset, token.owner, 1, 9, False),)},
            "grant 7",
        ),
        ({"tokens": (*facts.tokens, TokenFact(99, *two(token)))}, "dataset 99"),
        ({"rounds": frozenset({(b"r" * 32, 3, b"s" * 32)})}, "round 3"),
        ({"models": {b"m" * 32: b"d" * 32}}, "model 6d6d"),
        ({"batches": frozenset({b"b" * 32})}, "batch 6262"),
    ):
        invented = dataclasses.replace(facts, **change)
        theirs.write_bytes(lineage_file.write(records, invented, SEEN))
        status, report = verify("lineage", theirs, "--facts", mine)
        assert (status, len(report["doubts"])) == (1, 1)
        assert report["doubts"][0]["what"].startswith(what)
        assert "block 9, has no such thing" in report["doubts"][0]["why"]
    theirs.write_bytes(lineage_file.write(records, facts, later(SEEN)))
    assert verify("lineage", theirs, "--facts", mine)[0] == 0

    theirs.write_bytes(lineage_file.write(records, forged, SEEN))
    mine.write_bytes(lineage_file.write(records, forged, SEEN))
    with pytest.raises(Exception, match="answered by another than its owner"):
        verify("query", asked, "--facts", mine)
    bundle = decode(asked.read_bytes(), Bundle)
    asked.write_bytes(encode(Bundle(bundle.query, bundle.answers[:2])))
    with pytest.raises(Exception, match="datasets that answered"):
        verify("query", asked)
    other = msgspec.structs.replace(SEEN, chain_id=1)
    mine.write_bytes(lineage_file.write(records, facts, other))
    with pytest.raises(Exception, match="chain of the two files"):
        verify("lineage", theirs, "--facts", mine)
