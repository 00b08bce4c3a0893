"""What a proof may be made of, what it costs, and that no bent one convicts an honest host."""

import random
from dataclasses import astuple, replace

import pytest
from dispute_scenes import (
    BERT,
    CASE,
    HALF,
    LAYER,
    STAKE,
    TOKEN,
    drawn,
    numbers,
    refused,
    small,
    there,
)
from eth_abi.exceptions import EncodingError

from ee import integer
from node.bench.disputes import (
    ACCOUNTS,
    HOUR_S,
    LIAR,
    OTHER,
    SALT,
    STOCK,
    WATCHER,
    first_proof,
)
from node.bench.federation import Reverted
from node.bench.machines import PyEvm
from node.verifier.dispute import FRAME_BYTES, TRANSACTION_LIMIT_BYTES, require_provable
from protocol import dispute
from protocol.boundary import boundary_root
from protocol.dispute import NO_LEAF, Channel, Game, Leaf, Part, SaltProof, Trace
from protocol.errors import MalformedMessageError


def test_the_contract_reads_receipt_and_model_as_the_protocol_does(world):
    config = world.trunk.config
    flags = config.causal + dispute.ROTARY + dispute.GATED
    if config.style == BERT:
        flags = dispute.CENTRED + dispute.POST + dispute.STOCK
    for layer, who in ((0, WATCHER), (1, OTHER)):
        _, claim = world.accuse(layer, 2, 6, by=who)
        cases, tokens, width = world.shape
        assert (claim.cases, claim.tokens, claim.width) == (cases, tokens, width)
        assert (claim.layer, claim.case_number, claim.token) == (layer, 2, 6)
        assert claim.model == world.model.root
        assert claim.layer_root == world.model.roots[layer]
        assert claim.tables == integer.header_parts(world.trunk.header)[1]
        assert (claim.bias, claim.multiplier) == (
            config.norm_bias,
            config.score_multiplier,
        )
        assert (claim.inner, claim.heads, claim.kv_heads, claim.head_dim) == (
            *(config.inner, config.heads, config.kv_heads, config.head_dim),
        )
        assert (claim.positions, claim.flags) == (config.tokens, flags)
        for root, boundary in ((claim.before, layer), (claim.afterwards, layer + 1)):
            rows = world.packed(boundary)
            assert root == boundary_root(rows, world.shape, boundary, SALT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "style"),
    [(Part.MIDDLE, STOCK), (Part.BASE, BERT)],
    ids=["output projection", "base"],
)
def test_the_first_proof_of_all_takes_at_most_400_000_gas(tmp_path, part, style):
    """Those that cost most at K = 768, before contracts that nobody has used."""
    machine = PyEvm(tmp_path)
    try:
        for name in (*ACCOUNTS, "owner"):
            machine.know(name)
        assert first_proof(machine, part, style) <= 400_000
    finally:
        machine.close()


@pytest.mark.slow
@pytest.mark.parametrize("style", [None, pytest.param(BERT, marks=pytest.mark.long)])
def test_no_bent_proof_convicts_an_honest_host(style):
    """Every part, true proofs first, then some bytes of them changed."""
    chance = random.Random(6)
    world = small(style=style)
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    entries = world.entries(claim)
    true = Trace(claim, SALT, entries)
    world.answer(number, true)
    prosecutor, tried = world.prosecutor(claim), 0
    before = prosecutor.before_row(TOKEN)
    for part in (one for one in Part if there(one, style)):
        for turn in range(100):
            index = 0
            if part is Part.AFTER:
                count, leaf = claim.width, NO_LEAF
            else:
                index = chance.randrange(len(entries[part]))
                leaf = true.leaf(part, index)
                count = numbers(part, leaf.entries, claim.tokens)
            place = chance.randrange(count)
            proof = prosecutor.proof(true, part, index, place, leaf)
            if turn % 10 == 9 and part is not Part.AFTER:
                about = (prosecutor.case_salt, before)
                proof = SaltProof(part, index, leaf, *about)
            about, roots = claim, true.roots
            tried += 1
            if turn:
                proof = _bend(proof, chance)
                about = _bend(claim, chance) if tried % 7 == 0 else claim
                roots = _bend(roots, chance) if tried % 11 == 0 else roots
            with pytest.raises((Reverted, EncodingError)) as caught:
                world.prove(number, about, roots, proof)
            if not turn:
                assert caught.value.name == "NotWrong"
    assert world.held()["stake"] == STAKE
    world.evm.move(HOUR_S + 1)
    world.evm.send(LIAR, "disputes", "close", number)
    assert world.held() == {"host": HALF, "watcher": 0, "all": HALF, "stake": STAKE}


def test_evidence_of_another_place_is_none():
    """Leaves, rows, channels and angles that are true, and of another number."""
    world = small()
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    entries = world.entries(claim)
    true = Trace(claim, SALT, entries)
    world.answer(number, true)
    prosecutor = world.prosecutor(claim)

    def shown(part, index=0, place=0):
        return prosecutor.proof(true, part, index, place, true.leaf(part, index))

    def no(proof, *names):
        with pytest.raises(Reverted) as caught:
            world.prove(number, claim, true.roots, proof)
        assert caught.value.name in names

    query, score, middle = (
        shown(Part.QUERY),
        shown(Part.SCORE, 1, 2),
        shown(Part.MIDDLE),
    )
    for other in (shown(Part.QUERY, 0, 1), shown(Part.KEY), shown(Part.QUERY, 1)):
        no(replace(query, channel=other.channel), "NotInModel")
    layer = world.trunk.layers[0]
    opened = integer.open_channel(layer, 0, 0)
    foreign = Channel(opened.index, opened.size, opened.path, opened.leaf)
    no(replace(query, channel=foreign), "NotInModel")
    no(replace(query, channel=replace(query.channel, leaf=b"")), "NotInModel")
    for part in (Part.NORM2, Part.MIDDLE):
        no(replace(query, inputs=(true.leaf(part, 0),)), "AnotherRow")
    no(replace(query, inputs=(true.leaf(Part.NORM, 2),)), "AnotherRow")
    no(replace(query, inputs=()), "Missing")
    for tables in (score.tables[::-1], (score.tables[0],) * 2):
        no(replace(score, tables=tables), "NotInModel")
    no(replace(score, tables=score.tables[:1]), "Missing")
    no(replace(score, inputs=score.inputs[::-1]), "AnotherRow")
    no(replace(middle, boundary=prosecutor.before_row(TOKEN - 1)), "NotInReceipt")
    after = prosecutor.proof(true, Part.AFTER, 0, 0, NO_LEAF)
    no(replace(after, boundary=prosecutor.before_row(TOKEN)), "NotInReceipt")
    no(replace(after, index=1), "NoSuchEntry")
    # No root has this number: the index into them is refused, which has no name but the EVM's.
    with pytest.raises(Reverted, match=r"^0x4e487b71"):
        world.prove(number, claim, true.roots, replace(query, part=int(Part.AFTER) + 1))


def test_a_true_salt_convicts_nobody():
    world = small()
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    true = Trace(claim, SALT, world.entries(claim))
    world.answer(number, true)
    prosecutor = world.prosecutor(claim)
    leaf, before = true.leaf(Part.KEY, 3), prosecutor.before_row(TOKEN)
    about = (number, claim, true.roots)
    with refused("NotWrong"):
        world.prove(*about, SaltProof(Part.KEY, 3, leaf, prosecutor.case_salt, before))
    with refused("NotInReceipt"):
        world.prove(*about, SaltProof(Part.KEY, 3, leaf, bytes(32), before))
    with refused("AnotherRow"):
        world.prove(*about, SaltProof(Part.KEY, 4, leaf, prosecutor.case_salt, before))


def _bend(value, chance):
    """A copy with one leaf of it changed, whatever it is made of."""
    if isinstance(value, bytes):
        if not value or chance.random() < 0.1:
            return value + b"\x00"
        at = chance.randrange(len(value))
        flipped_ = value[at] ^ (1 << chance.randrange(8))
        return value[:at] + bytes([flipped_]) + value[at + 1 :]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return max(0, value + chance.choice((-1, 1)))
    if isinstance(value, tuple):
        if not value:
            return (bytes(32),)
        at = chance.randrange(len(value))
        return (*value[:at], _bend(value[at], chance), *value[at + 1 :])
    name = chance.choice(list(value.__dataclass_fields__))
    return replace(value, **{name: _bend(getattr(value, name), chance)})


def test_a_model_whose_proofs_fit_no_transaction_is_not_disputed():
    """The bound is that of the longest proof, with room for what is no row."""
    world = drawn(7, causal=False, style=BERT)
    number, claim = world.accuse(0, CASE, TOKEN)
    true = Trace(claim, SALT, world.entries(claim))
    config, prosecutor = world.trunk.config, world.prosecutor(claim)
    for part in (one for one in Part if there(one, BERT)):
        index = 0 if part is Part.AFTER else len(world.entries(claim)[part]) - 1
        leaf = NO_LEAF if part is Part.AFTER else true.leaf(part, index)
        proof = prosecutor.proof(true, part, index, 0, leaf)
        about = number, astuple(claim), true.roots, astuple(proof)
        call = world.evm.encoded("disputes", "prove", *about)
        rows = max(3 * config.inner, 2 * config.heads * config.head_dim)
        assert len(call) <= rows + 7 * config.width + FRAME_BYTES
    largest = (TRANSACTION_LIMIT_BYTES - FRAME_BYTES - 7 * 768) // 3
    require_provable(replace(config, width=768, inner=largest))
    with pytest.raises(integer.IntegerModelError, match="transaction takes 131072"):
        require_provable(replace(config, width=768, inner=largest + 1))
    with pytest.raises(integer.IntegerModelError, match="transaction takes 131072"):
        require_provable(replace(config, width=768, heads=1000, head_dim=100))


def test_every_place_has_a_hash_of_its_own():
    world = small()
    _, claim = world.accuse(LAYER, CASE, TOKEN)
    leaf = Leaf(bytes(32), world.entries(claim)[Part.NORM][0], ())
    digests = {
        one.digest(about, part, index)
        for one in (leaf, replace(leaf, entries=b""), replace(leaf, salt=SALT))
        for about in (claim, replace(claim, token=4), replace(claim, layer=0))
        for part in (0, 1)
        for index in (0, 1)
    }
    assert len(digests) == 36


def test_an_answer_has_all_parts():
    world = small()
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    entries = world.entries(claim)
    with pytest.raises(MalformedMessageError, match="17 parts, a layer has 18"):
        Trace(claim, SALT, entries[:-1])
    with pytest.raises(MalformedMessageError, match="17 roots, a layer has 18"):
        Game(number, b"", b"", b"", claim).answered([bytes(32)] * 17)
