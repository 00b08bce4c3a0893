"""Receipts proved wrong to the contract, and hosts that cannot be."""

import random
from dataclasses import astuple, replace

import pytest
from eth_abi.exceptions import EncodingError

from ee.integer import known
from node.bench.disputes import (
    BOND,
    HOUR_S,
    LIAR,
    OTHER,
    SALT,
    WATCHER,
    DisputeWorld,
    altered,
    bent,
)
from node.bench.federation import Reverted, first
from node.bench.machines import Revm
from protocol.boundary import boundary_root
from protocol.dispute import NORMS, READS, WRITES, Game, Row

UPHELD, REJECTED, UNDECIDED = 1, 2, 3
LAYER, CASE, TOKEN = 1, 0, 5
STAKE = 3 * BOND


def refused(name: str) -> object:
    return pytest.raises(Reverted, match=rf"^{name}\(")


@pytest.fixture(params=[True, False], ids=["causal", "encoder"])
def world(request) -> DisputeWorld:
    return made(causal=request.param)


def made(*, causal: bool = True) -> DisputeWorld:
    trunk = known.drawn_trunk(causal=causal)
    return DisputeWorld(Revm(), trunk, known.drawn_rows(trunk.config))


def outcome(sent) -> int:
    return first(sent.events, "DisputeClosed")["outcome"]


def test_a_wrong_number_after_a_layer_costs_the_host_its_bond(world):
    world.boundaries[LAYER + 1] = altered(
        world.boundaries[LAYER + 1], (CASE, TOKEN, 3), -1
    )
    world.anchor()
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    assert world.held() == {"host": 0, "watcher": 0, "stake": STAKE - BOND}
    rows = world.trace(claim)
    hashes = world.answer(number, claim, rows)
    place = world.find(claim, rows)
    assert place == (6, 3)
    sent = world.prove(number, claim, hashes, world.proof_at(claim, rows, place))
    assert outcome(sent) == UPHELD
    assert world.held() == {"host": 0, "watcher": 2 * BOND, "stake": STAKE - BOND}
    assert world.evm.call("board", "tallyOf", LIAR)[0] == 1
    with refused("NotYourTurn"):
        world.evm.send(WATCHER, "disputes", "drop", number)


@pytest.mark.parametrize("matrix", range(6))
def test_a_wrong_number_of_any_matrix_is_shown_by_one_dot_product(matrix):
    world = made()
    world.anchor()
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    true = world.trace(claim)
    step = WRITES[matrix]
    rows = list(true)
    rows[step] = bent(rows[step], 2, -1)
    hashes = world.answer(number, claim, rows)
    game = Game(number, b"", b"", b"", claim)
    game.answered(hashes)
    assert game.unknown_step(true) == step
    shown = world.ask_and_show(number, claim, hashes, step, rows[step])
    game.row_shown(step, shown)
    assert game.unknown_step(true) is None
    assert game.rows(true) == rows
    place = world.find(claim, rows)
    assert place == (matrix, 2)
    sent = world.prove(number, claim, hashes, world.proof_at(claim, rows, place))
    assert outcome(sent) == UPHELD


@pytest.mark.parametrize("step", sorted(set(READS)))
def test_a_row_that_does_not_fit_what_follows_from_it_is_shown(step):
    """The host bends a matrix's input and leaves the output right, or cuts it short."""
    for short in (False, True):
        world = made()
        world.anchor()
        number, claim = world.accuse(LAYER, CASE, TOKEN)
        rows = world.trace(claim)
        size = 2 if step == 9 else 1
        rows[step] = (
            replace(rows[step], entries=rows[step].entries[:-size])
            if short
            else replace(rows[step], exponent=rows[step].exponent + 1)
        )
        hashes = world.answer(number, claim, rows)
        place = world.find(claim, rows)
        assert place is not None
        assert READS[place[0]] == step
        sent = world.prove(number, claim, hashes, world.proof_at(claim, rows, place))
        assert outcome(sent) == UPHELD


@pytest.mark.parametrize("step", NORMS)
@pytest.mark.parametrize("how", ["entry", "exponent", "short", "long"])
@pytest.mark.parametrize("case", [0, 1, 2], ids=["ordinary", "at the limit", "tiny"])
def test_a_wrong_number_of_a_norm_is_shown_by_its_row(step, how, case):
    world = made()
    world.anchor()
    number, claim = world.accuse(LAYER, case, TOKEN)
    rows = world.trace(claim)
    assert world.find_norm(claim, rows) is None
    true = rows[step]
    rows[step] = {
        "entry": bent(true, 7, 1 if true.entries[7] != 127 else -1, size=1),
        "exponent": replace(true, exponent=true.exponent + 1),
        "short": replace(true, entries=true.entries[:-1]),
        "long": replace(true, entries=true.entries + b"\x00"),
    }[how]
    hashes = world.answer(number, claim, rows)
    place = world.find_norm(claim, rows)
    assert place == (step, 7 if how == "entry" else 0)
    proof = world.norm_at(claim, rows, place)
    with refused("AnotherRow"):
        world.prove_norm(number, claim, hashes, 6 - step, proof)
    sent = world.prove_norm(number, claim, hashes, step, proof)
    assert outcome(sent) == UPHELD


@pytest.mark.parametrize("case", [0, 1, 2], ids=["ordinary", "at the limit", "tiny"])
def test_no_number_of_a_true_norm_is_wrong_to_the_contract(case):
    world = made()
    world.anchor()
    number, claim = world.accuse(LAYER, case, TOKEN)
    rows = world.trace(claim)
    hashes = world.answer(number, claim, rows)
    for step in NORMS:
        for entry in range(world.shape[2]):
            proof = world.norm_at(claim, rows, (step, entry))
            with refused("NotWrong"):
                world.prove_norm(number, claim, hashes, step, proof)
        with refused("Malformed"):
            proof = world.norm_at(claim, rows, (step, world.shape[2]))
            world.prove_norm(number, claim, hashes, step, proof)
    with refused("NoSuchStep"):
        world.prove_norm(number, claim, hashes, 4, proof)


def test_silence_loses_and_so_does_a_challenger_with_nothing_to_show(world):
    world.anchor()
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    with refused("StillTime"):
        world.evm.send(OTHER, "disputes", "close", number)
    world.evm.move(HOUR_S + 1)
    rows = world.trace(claim)
    with refused("MoveTooLate"):
        world.answer(number, claim, rows)
    sent = world.evm.send(OTHER, "disputes", "close", number)
    assert outcome(sent) == UPHELD
    assert world.held() == {"host": 0, "watcher": 2 * BOND, "stake": STAKE - BOND}
    # A host that answered and a challenger that then cannot show anything.
    number, claim = world.accuse(LAYER, CASE, TOKEN, by=OTHER)
    world.answer(number, claim, rows)
    world.evm.move(HOUR_S + 1)
    sent = world.evm.send(WATCHER, "disputes", "close", number)
    assert outcome(sent) == REJECTED
    assert world.held() == {"host": BOND, "watcher": 2 * BOND, "stake": STAKE - BOND}


def test_a_row_that_is_asked_for_must_be_shown_in_time_and_as_it_was_hashed():
    world = made()
    world.anchor()
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    rows = world.trace(claim)
    hashes = world.answer(number, claim, rows)
    with refused("NoSuchStep"):
        world.evm.send(WATCHER, "disputes", "ask", number, 10)
    world.evm.send(WATCHER, "disputes", "ask", number, 4)
    about = (number, astuple(claim), hashes)
    with refused("AnotherRow"):
        world.evm.send(LIAR, "disputes", "show", *about, astuple(bent(rows[4], 0)))
    with refused("NotYourTurn"):
        world.answer(number, claim, rows)
    world.evm.send(LIAR, "disputes", "show", *about, astuple(rows[4]))
    with refused("AlreadyAsked"):
        world.evm.send(WATCHER, "disputes", "ask", number, 4)
    world.evm.send(WATCHER, "disputes", "ask", number, 5)
    world.evm.move(HOUR_S + 1)
    assert outcome(world.evm.send(OTHER, "disputes", "close", number)) == UPHELD


def test_who_leaves_takes_its_own(world):
    world.anchor()
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    with refused("NotYourTurn"):
        world.evm.send(WATCHER, "disputes", "drop", number)
    world.answer(number, claim, world.trace(claim))
    assert outcome(world.evm.send(WATCHER, "disputes", "drop", number)) == UNDECIDED
    assert world.held() == {"host": 0, "watcher": BOND, "stake": STAKE}


def test_what_cannot_be_accused():
    world = made()
    world.anchor()
    with refused("NotIncluded"):
        world.accuse(LAYER, CASE, TOKEN, index=2)
    with refused("NotIncluded"):
        world.accuse(LAYER, CASE, TOKEN, receipt=world.sealed[:-1])
    with refused("NotIncluded"):
        world.accuse(LAYER, CASE, TOKEN, host=OTHER)
    with refused("Partial"):
        world.accuse(LAYER, CASE, TOKEN, by=LIAR)
    with refused("NotMember"):
        world.accuse(LAYER, CASE, TOKEN, by="0x" + "77" * 20)
    with refused("NoSuchLayer"):
        world.accuse(2, CASE, TOKEN)
    with refused("NoSuchRow"):
        world.accuse(LAYER, 3, TOKEN)
    with refused("NoSuchRow"):
        world.accuse(LAYER, CASE, 7)
    world.accuse(LAYER, CASE, TOKEN)
    with refused("AlreadyDisputed"):
        world.accuse(0, CASE, TOKEN)
    world.evm.move(31 * 24 * HOUR_S)
    with refused("WindowOver"):
        world.accuse(LAYER, CASE, TOKEN, by=OTHER)


def test_the_contract_reads_the_receipt_as_the_protocol_does(world):
    world.anchor(place=0, of=1)
    for layer, who in ((0, WATCHER), (1, OTHER)):
        _, claim = world.accuse(layer, 2, 6, by=who)
        cases, tokens, width = world.shape
        assert (claim.cases, claim.tokens, claim.width) == (cases, tokens, width)
        assert (claim.layer, claim.case, claim.token) == (layer, 2, 6)
        assert claim.model == world.model.root
        for root, boundary in ((claim.before, layer), (claim.afterwards, layer + 1)):
            rows = world.packed(boundary)
            assert root == boundary_root(rows, world.shape, boundary, SALT)


@pytest.mark.slow
def test_no_bent_proof_convicts_an_honest_host():
    """Every matrix, true proofs first, then some bytes of them changed."""
    chance = random.Random(6)
    world = made()
    world.anchor()
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    rows = world.trace(claim)
    hashes = world.answer(number, claim, rows)
    assert world.find(claim, rows) is None
    matrices = world.trunk.layers[LAYER].matrices()
    tried = 0
    for matrix in range(7):
        for _ in range(150):
            channel = chance.randrange(len(matrices[matrix].weight))
            proof = world.proof_at(claim, rows, (matrix, channel))
            true, about, told = tried % 150 == 0, claim, hashes
            tried += 1
            if not true:
                proof = _bend(proof, chance)
                about = _bend(claim, chance) if tried % 7 == 0 else claim
                told = _bend(hashes, chance) if tried % 11 == 0 else hashes
            with pytest.raises((Reverted, EncodingError)) as caught:
                world.prove(number, about, told, proof)
            if true:
                assert caught.value.name == "NotWrong"
    assert world.held()["stake"] == STAKE - BOND
    world.evm.move(HOUR_S + 1)
    world.evm.send(LIAR, "disputes", "close", number)
    assert world.held() == {"host": BOND, "watcher": 0, "stake": STAKE}


def _bend(value, chance):
    """A copy with one leaf of it changed, whatever it is made of."""
    if isinstance(value, bytes):
        if not value or chance.random() < 0.1:
            return value + b"\x00"
        at = chance.randrange(len(value))
        flipped = value[at] ^ (1 << chance.randrange(8))
        return value[:at] + bytes([flipped]) + value[at + 1 :]
    if isinstance(value, int):
        return max(0, value + chance.choice((-1, 1)))
    if isinstance(value, tuple):
        if not value:
            return (bytes(32),)
        at = chance.randrange(len(value))
        return (*value[:at], _bend(value[at], chance), *value[at + 1 :])
    name = chance.choice(list(value.__dataclass_fields__))
    return replace(value, **{name: _bend(getattr(value, name), chance)})


def test_a_bent_row_hash_is_another_row():
    world = made()
    world.anchor()
    _, claim = world.accuse(LAYER, CASE, TOKEN)
    row = world.trace(claim)[0]
    digests = {
        one.digest(step, about)
        for one in (row, bent(row, 0), Row(bytes(32), row.exponent, row.entries))
        for step in (0, 1)
        for about in (claim, replace(claim, token=4), replace(claim, layer=0))
    }
    assert len(digests) == 18
