"""Which models the contract judges, and by which of its parts."""

from dataclasses import astuple, replace
from hashlib import sha256

import pytest
from dispute_scenes import (
    BERT,
    CASE,
    GPT,
    LAYER,
    QWEN,
    STYLES,
    TOKEN,
    UPHELD,
    convicted,
    drawn,
    outcome,
    refused,
    small,
)

from ee import integer
from node.bench.disputes import HOUR_S, LIAR, OTHER, SALT, flipped
from node.verifier.dispute import trunk_of
from protocol import dispute
from protocol.dispute import NO_LEAF, Asked, Leaf, Part, Proof, SaltProof, Trace


def test_a_model_under_other_rules_is_not_judged_by_these():
    world = small()
    trunk = trunk_of(world.model)
    other = replace(trunk, numbers=flipped(trunk.numbers, 0))
    header = sha256(other.numbers + other.tables).digest()
    named = b"".join((b"rexis-model-root-3", header, *other.layers))
    world.model_root = sha256(named).digest()
    world.anchor(job=1)
    with refused("AnotherOpSpec"):
        world.accuse(LAYER, CASE, TOKEN, trunk=astuple(other))


@pytest.mark.parametrize("style", [*STYLES.values()][1:], ids=[*STYLES][1:])
def test_the_contract_reads_what_a_stock_model_says_of_its_blocks(style):
    world = small(style=style)
    _, claim = world.accuse(LAYER, CASE, TOKEN)
    numbers, tables = integer.header_parts(world.trunk.header)
    flags = int.from_bytes(numbers[-4:], "little")
    assert claim.flags == flags + dispute.STOCK
    kinds = (dispute.CENTRED, dispute.POST, dispute.ROTARY, dispute.GATED)
    said = tuple(bool(claim.flags & kind) for kind in kinds)
    assert said == astuple(style)
    assert (claim.tables, claim.layer_root) == (tables, world.model.roots[LAYER])


def test_a_base_is_made_with_the_gain_of_its_place_and_norm():
    """Gains, rows and bases that are true, and of another number."""
    world = small(style=BERT)
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    true = Trace(claim, SALT, world.entries(claim))
    world.answer(number, true)
    prosecutor = world.prosecutor(claim)

    def shown(part, index=0, place=0):
        leaf = NO_LEAF if part is Part.AFTER else true.leaf(part, index)
        return prosecutor.proof(true, part, index, place, leaf)

    def no(proof, name):
        with refused(name):
            world.prove(number, claim, true.roots, proof)

    base, base2 = shown(Part.BASE, TOKEN, 3), shown(Part.BASE2, 0, 3)
    for proof, other in (
        (base, shown(Part.BASE, TOKEN, 4)),
        (base, base2),
        (base, shown(Part.AFTER, 0, 3)),
        (base2, base),
        (base2, shown(Part.MIDDLE, 0, 3)),
    ):
        no(replace(proof, channel=other.channel), "NotInModel")
    no(replace(base, boundary=prosecutor.before_row(TOKEN - 1)), "NotInReceipt")
    no(replace(base2, inputs=()), "Missing")
    no(replace(base2, inputs=(true.leaf(Part.BASE2, 0),)), "AnotherRow")
    middle, after = shown(Part.MIDDLE, 0, 3), shown(Part.AFTER, 0, 3)
    for proof, made_of in (
        (middle, true.leaf(Part.BASE, TOKEN - 1)),
        (middle, true.leaf(Part.BASE2, 0)),
        (after, true.leaf(Part.MIDDLE, 0)),
        (after, true.leaf(Part.BASE, TOKEN)),
    ):
        no(replace(proof, inputs=(proof.inputs[0], made_of)), "AnotherRow")
    for part, index in ((Part.NORM, TOKEN), (Part.NORM2, 0)):
        for made_of in (Part.MIDDLE, Part.MIXED_ROW):
            leaf = true.leaf(made_of, 0)
            no(replace(shown(part, index), inputs=(leaf,)), "AnotherRow")


def test_what_a_host_says_of_a_part_that_there_is_not_is_not_heard():
    """A block that is not gated has no other number; whatever stands for it, nobody asks."""
    world = drawn(3, causal=True, style=GPT)
    number, claim = world.accuse(0, CASE, TOKEN)
    entries = world.entries(claim)
    entries[Part.UP] = [bytes(4)]
    entries[Part.WIDE][0] = flipped(entries[Part.WIDE][0], 0)
    host = Trace(claim, SALT, entries)
    assert host.roots[Part.UP] != bytes(32)
    assert convicted(world, number, claim, host) == 1
    number, claim = world.accuse(0, CASE, TOKEN, by=OTHER)
    world.answer(number, host)
    for part in (Part.UP, Part.BASE, Part.BASE2):
        with refused("NoSuchNode"):
            world.ask(number, claim, Asked(part, 0, 0), by=OTHER)


def test_a_part_that_there_is_not_convicts_nobody():
    """Its root is zero, and so is what a proof that fits no tree comes to."""
    world = drawn(3, causal=True, style=GPT)
    number, claim = world.accuse(0, CASE, TOKEN)
    true = Trace(claim, SALT, world.entries(claim))
    world.answer(number, true)
    prosecutor = world.prosecutor(claim)
    about = (prosecutor.case_salt, prosecutor.before_row(TOKEN))
    for part in (Part.UP, Part.BASE, Part.BASE2):
        assert true.roots[part] == bytes(32)
        for entries in (b"", bytes(4), bytes(256)):
            leaf = Leaf(bytes(32), entries, ())
            for proof in (
                Proof(int(part), 0, 0, leaf),
                SaltProof(part, 0, leaf, *about),
            ):
                with refused("AnotherRow"):
                    world.prove(number, claim, true.roots, proof)


def test_zero_is_no_root_that_everything_stands_under():
    """A host that answered it could show whatever it liked, and anchor receipts it has yet to write."""
    world = drawn(3, causal=True, style=GPT)
    number, claim = world.accuse(0, CASE, TOKEN)
    true = Trace(claim, SALT, world.entries(claim))
    roots = list(true.roots)
    roots[Part.KEY] = bytes(32)
    world.evm.send(LIAR, "disputes", "answer", number, roots)
    nodes, leaf = Asked(Part.KEY, 6, 0), Asked(Part.KEY, 0, 3)
    about = (number, astuple(claim), roots)
    world.ask(number, claim, nodes)
    below = true.below(*astuple(nodes))
    with refused("Malformed"):
        world.evm.send(LIAR, "disputes", "split", *about, below, (bytes(32),))
    world.evm.move(HOUR_S + 1)
    assert outcome(world.evm.send(OTHER, "disputes", "close", number)) == UPHELD
    number, claim = world.accuse(0, CASE, TOKEN, by=OTHER)
    world.evm.send(LIAR, "disputes", "answer", number, roots)
    world.ask(number, claim, leaf, by=OTHER)
    shown = astuple(replace(true.leaf(Part.KEY, 3), path=()))
    about = (number, astuple(claim), roots)
    with refused("AnotherRow"):
        world.evm.send(LIAR, "disputes", "show", *about, shown)
    any_ = (b"rexis-receipt-batch-1", (3).to_bytes(4, "big"), bytes(32))
    world.root = sha256(b"".join(any_)).digest()
    world.evm.send(LIAR, "anchors", "anchorReceipts", world.root, 3)
    with refused("NotIncluded"):
        world.accuse(0, CASE, TOKEN, path=())


def test_an_activation_of_another_place_is_none():
    world = drawn(3, causal=True, style=QWEN)
    number, claim = world.accuse(0, CASE, TOKEN)
    true = Trace(claim, SALT, world.entries(claim))
    world.answer(number, true)
    about = (true, Part.PRODUCT, 0, 3, true.leaf(Part.PRODUCT, 0))
    proof = world.prosecutor(claim).proof(*about)
    for tables, name in (
        ((integer.open_angles(world.trunk.header, 0),), "NotInModel"),
        ((integer.open_activation(world.trunk.header, 8192),), "NotInModel"),
        ((), "Missing"),
    ):
        with refused(name):
            world.prove(number, claim, true.roots, replace(proof, tables=tables))
