"""Every number of a part is judged by what it is made of: wrong ones convict, right ones never."""

import random
from dataclasses import astuple, replace

import numpy as np
import pytest
from dispute_scenes import (
    CASE,
    HALF,
    LAYER,
    MADE,
    OF_BASES,
    SHORT,
    SIZES,
    STAKE,
    STYLES,
    TOKEN,
    UPHELD,
    convicted,
    drawn,
    numbers,
    outcome,
    refused,
    salting,
    small,
    there,
    told,
)

from ee.integer import known, ops, spec
from node.bench.disputes import BOND, LIAR, SALT, DisputeWorld, altered, flipped
from node.bench.machines import Revm
from protocol import dispute
from protocol.dispute import NO_LEAF, Part, Trace


def test_a_wrong_number_after_a_layer_costs_the_host_its_bond(world):
    world.boundaries[LAYER + 1] = altered(
        world.boundaries[LAYER + 1], (CASE, TOKEN, 3), -1
    )
    world.anchor(job=1)
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    # Nothing is set aside, so nobody can set it aside before somebody else.
    assert world.held() == {"host": 0, "watcher": 0, "all": 0, "stake": STAKE}
    proof, asks = world.play(number, claim, Trace(claim, SALT, world.entries(claim)))
    assert (asks, proof.part, proof.place) == (0, Part.AFTER, 3)
    roots = Trace(claim, SALT, world.entries(claim)).roots
    for place in (2, 4):
        right = world.prosecutor(claim).proof(
            Trace(claim, SALT, world.entries(claim)), Part.AFTER, 0, place, NO_LEAF
        )
        with refused("NotWrong"):
            world.prove(number, claim, roots, right)
    assert outcome(world.prove(number, claim, roots, proof)) == UPHELD
    assert world.held() == {
        "host": 0,
        "watcher": BOND + HALF,
        "all": HALF,
        "stake": STAKE - BOND,
    }
    assert world.evm.call("board", "tallyOf", LIAR)[0] == 1
    with refused("NotYourTurn"):
        world.prove(number, claim, roots, proof)


@pytest.mark.parametrize(
    ("part", "style"),
    [
        pytest.param(
            *(part, name),
            id=f"{part.name.lower()}-{name}",
            # What is no base and not made of one is made as in the other styles.
            marks=[pytest.mark.long]
            if there(Part.BASE, style) and part not in OF_BASES
            else [],
        )
        for part in MADE
        for name, style in STYLES.items()
        if there(part, style)
    ],
)
def test_a_wrong_number_of_any_part_is_shown_by_what_it_is_made_of(
    part, style, monkeypatch
):
    """Whatever is bent: a number, an exponent, the salt."""
    chance = random.Random(int(part))
    for causal in (True, False):
        world = drawn(7, causal=causal, style=STYLES[style])
        for job, how in enumerate(("number", "exponent", "salt")):
            world.anchor(job=job + 1)
            number, claim = world.accuse(0, chance.randrange(3), 9)
            entries = world.entries(claim)
            index = chance.randrange(len(entries[part]))
            leaf = entries[part][index]
            first_number = len(leaf) // 2 if part is Part.COLUMN else part in SHORT
            at = 0 if how == "exponent" else chance.randrange(first_number, len(leaf))
            bent = leaf if how == "salt" else flipped(leaf, at)
            with monkeypatch.context() as patch:
                if how == "salt":
                    patch.setattr(dispute, "leaf_salt", salting(part, index))
                host = told(world, claim, part, index, bent)
            asks = convicted(world, number, claim, host)
            leaves = len(entries[part])
            assert asks == 1 + (leaves > 1) + (leaves > 32)


@pytest.mark.parametrize(
    ("seed", "style"),
    [
        pytest.param(
            *(seed, name),
            marks=[
                *([pytest.mark.slow] if seed else []),
                *(
                    [pytest.mark.long]
                    if seed > 2 or (seed and there(Part.BASE, style))
                    else []
                ),
            ],
        )
        for seed in range(10)
        for name, style in STYLES.items()
    ],
)
def test_what_the_reference_computes_is_right_to_the_contract_and_nothing_beside_it(
    seed, style
):
    """Numbers of every part of random models and rows, and each of them one bit off."""
    world = drawn(seed, causal=seed % 2 == 0, style=STYLES[style])
    chance = random.Random(seed)
    number, claim = world.accuse(0, chance.randrange(3), chance.randrange(13))
    entries = world.entries(claim)
    true = Trace(claim, SALT, entries)
    world.answer(number, true)
    prosecutor, judged = world.prosecutor(claim), 0
    made = [part for part in MADE if entries[part]]
    for part in made:
        for _ in range(12):
            index = chance.randrange(len(entries[part]))
            leaf = entries[part][index]
            place = chance.randrange(numbers(part, leaf, claim.tokens))
            proof = prosecutor.proof(true, part, index, place, true.leaf(part, index))
            with refused("NotWrong"):
                world.prove(number, claim, true.roots, proof)
            size = SIZES.get(part, 4)
            start = (part in SHORT) + size * place
            if part is Part.COLUMN:
                start, size = place + chance.choice((0, claim.tokens)), 1
            bent = flipped(leaf, start + size - 1)
            host = told(world, claim, part, index, bent)
            wrong = prosecutor.proof(true, part, index, place, host.leaf(part, index))
            about = (0, astuple(claim), host.roots, astuple(wrong))
            assert world.evm.call("judge", "wrong", *about)
            judged += 1
    for place in range(claim.width):
        proof = prosecutor.proof(true, Part.AFTER, 0, place, NO_LEAF)
        with refused("NotWrong"):
            world.prove(number, claim, true.roots, proof)
    assert judged == 12 * len(made)
    assert made == [part for part in MADE if there(part, STYLES[style])]


def test_no_number_of_a_true_answer_is_wrong_to_the_contract(world):
    """For ordinary rows, rows at the limit, and rows of zeros and ones."""
    for case in range(3):
        world.anchor(job=case + 1)
        number, claim = world.accuse(LAYER, case, TOKEN)
        entries = world.entries(claim)
        true = Trace(claim, SALT, entries)
        world.answer(number, true)
        for part in MADE:
            for index, leaf in enumerate(entries[part]):
                # A quarter of each leaf's numbers; the seeds above take others.
                count = numbers(part, leaf, claim.tokens)
                for place in range(min(case, count - 1), count, 4):
                    about = (true, part, index, place, true.leaf(part, index))
                    proof = world.prosecutor(claim).proof(*about)
                    with refused("NotWrong"):
                        world.prove(number, claim, true.roots, proof)
                with refused("NoSuchEntry"):
                    proof = replace(proof, place=count)
                    world.prove(number, claim, true.roots, proof)


def test_what_rounds_to_128_is_127_to_the_contract_too():
    """Rows whose norm has a 127: about half of these were 128 before they were limited."""
    trunk = known.drawn_trunk(causal=True)
    chance, shape = np.random.default_rng(1), (3, 7, 24)
    rows = []
    while len(rows) < 21:
        row = chance.integers(-(1 << 14), 1 << 14, (1, 24)).astype(np.int32)
        made = ops.rows(ops.norm(row, trunk.config.norm_bias), spec.ROW_BITS)
        if np.abs(made.q).max() == 127:
            rows.append(row)
    world = DisputeWorld(Revm(), trunk, np.concatenate(rows).reshape(shape))
    for case in range(3):
        world.anchor(job=case)
        number, claim = world.accuse(0, case, 6)
        true = Trace(claim, SALT, world.entries(claim))
        world.answer(number, true)
        for token in range(7):
            leaf = true.leaf(Part.NORM, token)
            entries = np.frombuffer(leaf.entries[1:], np.int8).astype(int)
            place = int(np.abs(entries).argmax())
            about = (true, Part.NORM, token, place, leaf)
            with refused("NotWrong"):
                world.prove(
                    number, claim, true.roots, world.prosecutor(claim).proof(*about)
                )


def test_the_tables_of_the_contract_are_those_of_the_op_spec():
    world = small()
    found = [world.evm.call("judge", "tables", t) for t in range(spec.TABLE_SIZE)]
    assert [one[0] for one in found] == spec.exp_table().tolist()
    assert [one[1] for one in found] == spec.sigmoid_table().tolist()
    for beyond in (spec.TABLE_SIZE, 1 << 30, 1 << 255):
        assert world.evm.call("judge", "tables", beyond) == (0, 1 << 16)
