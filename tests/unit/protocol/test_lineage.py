"""Provenance graphs: every edge verified, every bent record a doubt and no edge."""

import dataclasses
import hashlib

import msgspec
import nacl.signing
import pytest

from protocol import lineage as ln
from protocol.certificate import Certificate, Kind, Slot, Vote, speak, value_name
from protocol.certificate import Step as VoteStep
from protocol.envelope import Envelope
from protocol.errors import ProtocolError, VerificationError
from protocol.evaluation import Release
from protocol.listing import Column, Listing, Part, seal_listing
from protocol.manifest import ListingAnswer
from protocol.members import Member, MemberSet
from protocol.provenance import (
    Step,
    chain_digest,
    citation_digest,
    open_step,
    seal_step,
)
from protocol.receipt import Order, batch_proof, batch_root, seal_order, seal_receipt
from protocol.rounds.messages import Verdict
from protocol.rounds.policy import Epoch, Policy, Seat
from protocol.runs import Consent, Proposal, seal_consent, seal_proposal
from protocol.seating import Change
from protocol.types import digest
from protocol.wire import decode, encode

NAMES = ("MN", "KY", "MS", "LAB")
KEYS = {n: nacl.signing.SigningKey(bytes([i]) * 32) for i, n in enumerate(NAMES, 1)}
PUBLIC = {name: bytes(key.verify_key) for name, key in KEYS.items()}
ACCOUNT = {name: bytes([i]) * 20 for i, name in enumerate(NAMES, 1)}


def hand(name):
    return lambda message: KEYS[name].sign(message).signature


def d(text):
    return hashlib.sha256(text.encode()).digest()


def step(name, activity, used, made):
    return Step(activity, tuple(sorted(used)), made, "rexis", "1", PUBLIC[name], 1)


def listed(name, title, version=1, previous=b""):
    manifest = d(f"manifest {title}")
    made = step(name, "encrypt", [citation_digest("a trial")], manifest)
    listing = Listing(
        title=title,
        licence="MIT",
        duo=("DUO:0000042",),
        disease=None,
        source="a trial",
        version=version,
        previous=previous,
        provenance=chain_digest([made]),
        parts=(Part("table", "csv", (Column("a", "text"),), (), None),),
        packed=False,
        units=2,
        rows=(None, None),
        manifest=manifest,
        owner=PUBLIC[name],
        created=0,
    )
    sealed = seal_listing(hand(name), PUBLIC[name], listing)
    steps = (seal_step(hand(name), PUBLIC[name], made),)
    return listing, ListingAnswer(sealed, steps)


CLINICS = NAMES[:3]
LISTED = {name: listed(name, f"table of {name}") for name in CLINICS}
RECORD = {name: one[0].digest() for name, one in LISTED.items()}
PROPOSAL = Proposal(
    "bleeding", b"{}", d("initial"), 2, tuple(sorted(PUBLIC[n] for n in CLINICS)), 0
)
RUN, STATES = PROPOSAL.id(), (d("state 0"), d("state 1"))
MODEL = d("model")


def consent(name, dataset):
    return seal_consent(hand(name), PUBLIC[name], Consent(RUN, dataset, 100, b"k" * 32))


def release(used=None, state=STATES[1]):
    used = [*RECORD.values(), PROPOSAL.initial] if used is None else used
    steps = (
        step("MN", "train", used, state),
        step("MN", "release", [state], MODEL),
    )
    return encode(
        Release(
            MODEL,
            d("blob"),
            10,
            RUN,
            state,
            (),
            (),
            tuple(seal_step(hand("MN"), PUBLIC["MN"], one) for one in steps),
        )
    )


def receipt():
    order = Order(MODEL, PUBLIC["KY"], bytes(16), (3, 2, 4), d("rows"))
    sealed = seal_order(hand("LAB"), PUBLIC["LAB"], order)
    return seal_receipt(hand("KY"), PUBLIC["KY"], sealed, [d("r1"), d("out")], 7)


RECEIPTS = (receipt(), b"another")
BATCH = batch_root(RECEIPTS)
RECORDS = ln.Records(
    listings=tuple(one[1] for one in LISTED.values()),
    proposals=(seal_proposal(hand("KY"), PUBLIC["KY"], PROPOSAL),),
    consents=tuple(consent(name, i) for i, name in enumerate(CLINICS)),
    releases=(release(),),
    receipts=(ln.PlacedReceipt(RECEIPTS[0], BATCH, batch_proof(RECEIPTS, 0)),),
)
FACTS = ln.Facts(
    members=MemberSet.of(
        [Member(PUBLIC[n], bytes(32), ACCOUNT[n], 15, n) for n in NAMES]
    ),
    tokens=tuple(
        ln.TokenFact(i, ACCOUNT[name], RECORD[name]) for i, name in enumerate(CLINICS)
    ),
    grants=(ln.GrantFact(5, 1, ACCOUNT["LAB"], 3, 99, False),),
    rounds=frozenset((RUN, number, state) for number, state in enumerate(STATES)),
    models={MODEL: digest(release())},
    batches=frozenset({BATCH}),
)


def ids(graph, kind):
    return {v.label for v in graph.vertices.values() if v.kind == kind}


def test_everything_that_is_true_is_in_the_graph_and_nothing_is_doubted():
    graph = ln.build(RECORDS, FACTS)
    assert graph.doubts == []
    kinds = [vertex.kind for vertex in graph.vertices.values()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "source": 1,
        "dataset": 3,
        "grant": 1,
        "run": 1,
        "state": 2,
        "model": 1,
        "receipt": 1,
        "answer": 1,
        "member": 4,
    }
    relations = {(e.subject.split(":")[2], e.relation) for e in graph.edges}
    assert ("answer", "prov:wasGeneratedBy") in relations
    assert ("state", "prov:wasDerivedFrom") in relations
    assert all(
        e.subject in graph.vertices and e.object in graph.vertices for e in graph.edges
    )


def test_back_from_an_answer_to_datasets_grants_and_members():
    graph = ln.build(RECORDS, FACTS)
    back = graph.back(ln.urn("answer", d("out")))
    assert ids(back, "dataset") == {f"table of {name}" for name in CLINICS}
    assert ids(back, "grant") == {"grant 5"}
    assert ids(back, "member") == set(NAMES)
    assert ids(back, "source") == {"a trial"}


def test_forward_from_one_dataset_to_all_that_used_it():
    graph = ln.build(RECORDS, FACTS)
    forward = graph.forward(ln.urn("dataset", RECORD["MS"]))
    assert ids(forward, "dataset") == {"table of MS"}
    assert ids(forward, "model") == {f"model {MODEL.hex()[:12]}"}
    assert ids(forward, "grant") == set()
    assert "LAB" in ids(forward, "member"), "who asked the model"
    granted = graph.forward(ln.urn("dataset", RECORD["KY"]))
    assert ids(granted, "grant") == {"grant 5"}


def test_back_and_forward_never_meet_except_at_the_start():
    graph = ln.build(RECORDS, FACTS)
    for start, vertex in graph.vertices.items():
        if vertex.kind == "member":
            continue
        back = graph._reached(start, lambda e: (e.subject, e.object))
        forward = graph._reached(start, lambda e: (e.object, e.subject))
        assert back & forward == {start}, "a cycle"


def test_things_are_found_by_the_beginning_of_their_digest():
    graph = ln.build(RECORDS, FACTS)
    assert graph.find(MODEL.hex()[:10]) == ln.urn("model", MODEL)
    assert graph.find("5") == ln.urn("grant", 5)
    assert graph.find(ln.urn("run", RUN)) == ln.urn("run", RUN)
    with pytest.raises(VerificationError, match="nothing that verifies is called 'zz'"):
        graph.find("urn:rexis:zz")
    with pytest.raises(VerificationError, match=r"\d+ things .* say more of it"):
        graph.find("urn:rexis:")
    with pytest.raises(VerificationError, match="not in what"):
        graph.back("urn:rexis:model:00")


def test_records_travel_and_build_the_same_graph():
    again = ln.open_records(encode(RECORDS))
    assert ln.build(again, FACTS) == ln.build(RECORDS, FACTS)
    with pytest.raises(ProtocolError):
        ln.open_records(encode(RECORDS)[:-1])


def replaced(base, **change):
    return msgspec.structs.replace(base, **change)


def bent(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def forged_listing():
    _, answer = listed("LAB", "table of MN")
    return replaced(RECORDS, listings=(*RECORDS.listings[1:], answer))


def consent_to_anothers_data():
    return replaced(RECORDS, consents=(consent("MN", 1), *RECORDS.consents[1:]))


@pytest.mark.parametrize(
    ("records", "doubted", "missing"),
    [
        (forged_listing(), "listing", ("run", "prov:used")),
        (
            replaced(
                RECORDS,
                listings=(
                    replaced(RECORDS.listings[0], provenance=()),
                    *RECORDS.listings[1:],
                ),
            ),
            "listing",
            None,
        ),
        (replaced(RECORDS, proposals=()), "consent", ("run", "prov:used")),
        (
            replaced(RECORDS, proposals=(bent(RECORDS.proposals[0]),)),
            "proposal",
            ("run", "rexis:proposedBy"),
        ),
        (consent_to_anothers_data(), "consent", None),
        (replaced(RECORDS, consents=()), "source", None),
        (
            replaced(RECORDS, releases=(release(used=[d("secret data")]),)),
            "release",
            ("model", "prov:wasDerivedFrom"),
        ),
        (replaced(RECORDS, releases=()), "receipt", ("answer", "prov:wasGeneratedBy")),
        (
            replaced(
                RECORDS,
                receipts=(replaced(RECORDS.receipts[0], sealed=bent(RECEIPTS[0])),),
            ),
            "receipt",
            ("receipt", "prov:used"),
        ),
        (
            replaced(
                RECORDS,
                receipts=(
                    replaced(RECORDS.receipts[0], proof=batch_proof(RECEIPTS, 1)),
                ),
            ),
            "receipt",
            ("receipt", "prov:used"),
        ),
    ],
)
def test_a_record_that_does_not_verify_is_a_doubt_and_no_edge(
    records, doubted, missing
):
    graph = ln.build(records, FACTS)
    assert any(doubt.what.startswith(doubted) for doubt in graph.doubts)
    full = ln.build(RECORDS, FACTS)
    assert set(graph.edges) < set(full.edges)
    if missing:
        kind, relation = missing
        lost = set(full.edges) - set(graph.edges)
        assert any(
            e.subject.startswith(f"urn:rexis:{kind}:") and e.relation == relation
            for e in lost
        )


def facts(**change):
    import dataclasses

    return dataclasses.replace(FACTS, **change)


@pytest.mark.parametrize(
    ("changed", "doubted"),
    [
        (facts(tokens=FACTS.tokens[1:]), "listing"),
        (
            facts(tokens=(ln.TokenFact(0, ACCOUNT["KY"], RECORD["MN"]),)),
            "listing",
        ),
        (facts(rounds=frozenset()), "release"),
        (facts(rounds=frozenset({(RUN, 1, d("other"))})), "release"),
        (facts(models={MODEL: d("other")}), "release"),
        (facts(models={}), "release"),
        (facts(batches=frozenset()), "receipt"),
        (facts(grants=(ln.GrantFact(5, 9, ACCOUNT["LAB"], 3, 99, False),)), "grant"),
        (facts(members=MemberSet.of([])), "listing"),
    ],
)
def test_what_the_chain_does_not_say_is_not_said(changed, doubted):
    graph = ln.build(RECORDS, changed)
    assert any(doubt.what.startswith(doubted) for doubt in graph.doubts)


def test_training_data_nobody_consented_to_is_named():
    data = release(used=[*RECORD.values(), PROPOSAL.initial, d("secret data")])
    changed = facts(models={MODEL: digest(data)})
    graph = ln.build(replaced(RECORDS, releases=(data,)), changed)
    (doubt,) = graph.doubts
    assert doubt.what == f"source {d('secret data').hex()}"
    assert "nobody consented" in doubt.why


def test_who_got_a_seat_later_is_in_the_graph_if_its_seat_is_shown():
    """LAB joined after the first round; without the proof its consent is nobody's."""
    _, answer = listed("LAB", "table of LAB")
    record = listed("LAB", "table of LAB")[0].digest()
    seats = [Seat(PUBLIC[n], b"k" * 32, 100) for n in NAMES]
    epoch = Epoch(RUN, 1, tuple(sorted(seats, key=lambda s: s.node_key)), Policy(10))
    late = replaced(
        RECORDS,
        listings=(*RECORDS.listings, answer),
        consents=(*RECORDS.consents, consent("LAB", 3)),
    )
    known = facts(tokens=(*FACTS.tokens, ln.TokenFact(3, ACCOUNT["LAB"], record)))
    used = ln.Edge(ln.urn("run", RUN), "prov:used", ln.urn("dataset", record), ln.BOTH)
    for changes, doubted in (
        ((), "consent"),
        ((change(epoch, CLINICS[:2]),), "change of members"),
        ((change(epoch, CLINICS),), None),
    ):
        graph = ln.build(replaced(late, changes=changes), known)
        assert (used in graph.edges) is (doubted is None)
        if doubted:
            assert any(doubt.what.startswith(doubted) for doubt in graph.doubts)


def change(epoch, signers):
    verdict = Verdict(
        *(0, True, STATES[0], d("c"), d("p"), d("x")), epoch.name(), 0b111, ()
    )
    slot = Slot(RUN, d("epoch 0"), 0, 0, Kind.VERDICT, d("x"))
    value = encode(verdict)
    vote = Vote(slot, VoteStep.PRECOMMIT, 0, value_name(value))
    names = {PUBLIC[name]: name for name in signers}
    votes = tuple(
        (place, decode(speak(hand(names[key]), key, vote), Envelope).signature)
        for place, key in enumerate(PROPOSAL.members)
        if key in names
    )
    return Change(epoch, Certificate(slot, 0, value, votes))


def test_a_receipt_that_is_not_anchored_yet_rests_on_its_signatures():
    placed = ln.PlacedReceipt(RECEIPTS[0], b"", None)
    graph = ln.build(replaced(RECORDS, receipts=(placed,)), FACTS)
    proofs = {e.proof for e in graph.edges if ":receipt:" in e.subject}
    assert proofs == {ln.SIGNED}


def test_versions_are_linked_if_they_are_the_same_owners():
    mine, answer = listed("MN", "next", 2, RECORD["MN"])
    theirs, stolen = listed("KY", "claimed", 2, RECORD["MN"])
    records = replaced(RECORDS, listings=(*RECORDS.listings, answer, stolen))
    changed = facts(
        tokens=(
            *FACTS.tokens,
            ln.TokenFact(7, ACCOUNT["MN"], mine.digest()),
            ln.TokenFact(8, ACCOUNT["KY"], theirs.digest()),
        )
    )
    graph = ln.build(records, changed)
    revisions = [e for e in graph.edges if e.relation == "prov:wasRevisionOf"]
    assert [e.subject for e in revisions] == [ln.urn("dataset", mine.digest())]
    assert [doubt.what for doubt in graph.doubts] == ["version 8"]


def rekeyed(name):
    """The same dataset under other keys: another manifest, and one step more."""
    listing, answer = LISTED[name]
    manifest = d(f"manifest of {name} anew")
    made = step(name, "rekey", [listing.manifest], manifest)
    steps = [*map(open_step, answer.provenance), made]
    new = msgspec.structs.replace(
        listing, manifest=manifest, provenance=chain_digest(steps), created=5
    )
    sealed = seal_listing(hand(name), PUBLIC[name], new)
    more = seal_step(hand(name), PUBLIC[name], made)
    return new.digest(), ListingAnswer(sealed, (*answer.provenance, more))


def test_what_was_trained_before_new_keys_still_rests_on_the_data_and_on_the_consent():
    record, answer = rekeyed("KY")
    before, after = (
        ln.TokenFact(1, ACCOUNT["KY"], one) for one in (RECORD["KY"], record)
    )
    tokens = (before, *(t for t in FACTS.tokens if t.dataset != 1), after)
    known = dataclasses.replace(FACTS, tokens=tokens)
    both = replaced(RECORDS, listings=(*RECORDS.listings, answer))
    graph = ln.build(both, known)
    assert graph.doubts == []
    new, old = graph.named("dataset:1"), ln.urn("dataset", RECORD["KY"])
    assert new == ln.urn("dataset", record)
    assert ln.Edge(new, "prov:wasRevisionOf", old, ln.BOTH) in graph.edges
    assert ln.Edge(ln.urn("grant", 5), "prov:wasDerivedFrom", new, ln.ON_CHAIN) in (
        graph.edges
    )
    (state,) = {
        e.subject
        for e in graph.edges
        if (e.relation, e.object) == ("prov:wasDerivedFrom", old)
    }
    assert state == ln.urn("state", STATES[1])
    model, run = ln.urn("model", MODEL), ln.urn("run", RUN)
    assert {old, new} <= graph.back(model).vertices.keys()
    assert {model, run, old} <= graph.forward(new).vertices.keys()
    # In whatever order the listings came; and not where the order of the chain is another.
    turned = replaced(both, listings=both.listings[::-1])
    assert set(ln.build(turned, known).edges) == set(graph.edges)
    swapped = dataclasses.replace(known, tokens=(after, *tokens[1:-1], before))
    assert ln.build(both, swapped).named("dataset:1") == old
    # Who lacks the old listing is told so; who knows no history has a listing of nobody's.
    lacking = tuple(one[1] for n, one in LISTED.items() if n != "KY")
    graph = ln.build(replaced(RECORDS, listings=(*lacking, answer)), known)
    assert [one.why for one in graph.doubts] == [
        "used in training under earlier keys, and that listing is not known"
    ]
    today = dataclasses.replace(known, tokens=tokens[1:])
    whys = {one.what.split()[0]: one.why for one in ln.build(both, today).doubts}
    assert set(whys) == {"listing", "source"}
    assert "nobody consented" in whys["source"]
    # Another's token is not this one's past.
    foreign = ln.TokenFact(1, ACCOUNT["MS"], RECORD["KY"])
    theirs = dataclasses.replace(known, tokens=(foreign, *tokens[1:]))
    assert any(one.what.startswith("listing") for one in ln.build(both, theirs).doubts)
