"""Receipts proved wrong to the contract, and hosts that cannot be."""

import random
from dataclasses import astuple, replace
from hashlib import sha256

import numpy as np
import pytest
from eth_abi.exceptions import EncodingError

from ee import integer
from ee.integer import (
    LLAMA,
    Gain,
    Header,
    IntegerTrunk,
    Layer,
    Matrix,
    Style,
    TrunkConfig,
    bounds,
    known,
    ops,
    spec,
)
from node.bench.disputes import (
    ACCOUNTS,
    BOND,
    HOUR_S,
    LIAR,
    OTHER,
    SALT,
    STOCK,
    WATCHER,
    DisputeWorld,
    altered,
    first_proof,
    flipped,
)
from node.bench.federation import Reverted, first
from node.bench.machines import PyEvm, Revm
from node.verifier.dispute import (
    FRAME_BYTES,
    TRANSACTION_LIMIT_BYTES,
    require_provable,
    trunk_of,
)
from protocol import dispute
from protocol.boundary import boundary_root
from protocol.dispute import (
    NO_LEAF,
    PARTS,
    Asked,
    Channel,
    Game,
    Leaf,
    Part,
    Proof,
    SaltProof,
    Trace,
)
from protocol.errors import MalformedMessageError

UPHELD, REJECTED = 1, 2
LAYER, CASE, TOKEN = 1, 0, 5
STAKE, HALF = 3 * BOND, BOND // 2
SHORT = {Part.NORM: 1, Part.MIXED_ROW: 1, Part.NORM2: 1, Part.WIDE: 2}
SIZES = {
    **SHORT,
    Part.BASE: 3,
    Part.BASE2: 3,
    Part.MIXED_TOP: 8,
    Part.PRODUCT: 8,
    Part.PRODUCT_TOP: 8,
}
MADE = list(Part)[:PARTS]


def refused(name: str) -> object:
    return pytest.raises(Reverted, match=rf"^{name}\(")


@pytest.fixture(
    params=["causal", "encoder", pytest.param("bert", marks=pytest.mark.long)]
)
def world(request) -> DisputeWorld:
    style = BERT if request.param == "bert" else None
    return small(causal=request.param == "causal", style=style)


def small(*, causal: bool = True, style: Style | None = None) -> DisputeWorld:
    if style is None:
        trunk = known.drawn_trunk(causal=causal)
    else:
        trunk = known.drawn_stock(style, causal=causal)
    made = DisputeWorld(Revm(), trunk, known.drawn_rows(trunk.config))
    made.anchor()
    return made


GPT = Style(centred=True, post=False, rotary=False, gated=False)
ESM = Style(centred=True, post=False, rotary=True, gated=False)
QWEN = Style(centred=False, post=False, rotary=True, gated=True)
BERT = Style(centred=True, post=True, rotary=False, gated=False)
LAST = Style(centred=False, post=True, rotary=True, gated=True)
"""Norms last, and all else as it is not in BERT."""
STYLES = {
    "plain": None,
    "gpt": GPT,
    "esm": ESM,
    "qwen": QWEN,
    "bert": BERT,
    "last": LAST,
}
"""Op-spec 1, and blocks of op-spec 2 that differ from it in everything they can."""


OF_BASES = (Part.BASE, Part.NORM, Part.MIDDLE, Part.BASE2, Part.NORM2)
"""Bases, and what is made of them."""


def there(part: Part, style: Style | None) -> bool:
    """Do blocks of this style have this part?"""
    style = style or LLAMA
    return {Part.UP: style.gated, Part.BASE: style.post, Part.BASE2: style.post}.get(
        part, True
    )


def drawn(seed: int, *, causal: bool, style: Style | None = None) -> DisputeWorld:
    """Rows that are cut into several blocks, trees of more than 32 leaves, every size of number."""
    chance = np.random.default_rng(seed)
    config = TrunkConfig(
        layers=1,
        width=int(chance.integers(3, 40)),
        inner=int(chance.integers(65, 200)),
        heads=6,
        kv_heads=3,
        head_dim=14 if style is None or style.rotary else 13,
        tokens=13,
        residual_bits=12,
        norm_bias=int(chance.choice([1, 403, 1 << 60])),
        score_multiplier=int(chance.choice([1, 2_470_374, 1 << 23])),
        causal=causal,
        op_spec=1 if style is None else 2,
        style=style or LLAMA,
    )
    matrices = {}
    for name, shape in config.matrix_shapes().items():
        limit = bounds.multiplier_limit(shape[1], wide=name == "down")
        matrices[name] = Matrix(
            chance.integers(-63, 64, shape, np.int8),
            chance.integers(0, limit + 1, shape[0], np.int32),
            # From numbers that all vanish to numbers that all stand at their limit.
            int(chance.integers(20, 50)),
            None if style is None else drawn_biases(chance, shape[0]),
        )
    gains = tuple(
        # From gains that leave nothing to gains with which all stands at its limit.
        Gain(*drawn_gains(chance, config.width), drawn_biases(chance, config.width, 23))
        for _ in range(config.norms)
    )
    unit = 1 << 14
    tables = chance.integers(-unit, unit + 1, (2, *config.table_shape))
    cos, sin = tables.astype(np.int16)
    own = None
    if style is not None:
        own = chance.integers(0, (1 << 16) + 1, spec.ACTIVATION_SIZE).astype(np.uint32)
    trunk = IntegerTrunk(Header(config, cos, sin, own), (Layer.of(matrices, gains),))
    integer.encode(trunk)  # refuses what the op-spec does not cover
    shape = (3, config.tokens, config.width)
    bits = chance.integers(0, 24, (3, config.tokens, 1))
    rows = chance.integers(-(1 << bits) + 1, 1 << bits, shape).astype(np.int32)
    rows[1, 2], rows[2, 3] = spec.RESIDUAL_LIMIT, -spec.RESIDUAL_LIMIT
    made = DisputeWorld(Revm(), trunk, rows)
    made.anchor()
    return made


def drawn_biases(chance, count, most=24):
    """Of every size, and of either sign."""
    bits = chance.integers(0, most, count)
    return chance.integers(-(1 << bits), 1 << bits).astype(np.int32)


def drawn_gains(chance, count):
    """Multipliers of every size, and how far they are shifted."""
    return drawn_biases(chance, count, 23), int(chance.integers(10, 40))


def outcome(sent) -> int:
    return first(sent.events, "DisputeClosed")["outcome"]


def numbers(part: Part, leaf: bytes, tokens: int) -> int:
    if part is Part.COLUMN:
        return tokens
    return (len(leaf) - (part in SHORT)) // SIZES.get(part, 4)


def told(world, claim, part, index, leaf) -> Trace:
    """The host's answer with one leaf of one part another."""
    entries = world.entries(claim)
    entries[part][index] = leaf
    return Trace(claim, SALT, entries)


def salting(part, index):
    """`leaf_salt` of a host that gives one leaf a salt nobody else can make."""

    def salt(own, claim, *place):
        made = true_salt(own, claim, *place)
        return flipped(made, 0) if place == (part, index) else made

    true_salt = dispute.leaf_salt
    return salt


def convicted(world, number, claim, host) -> int:
    """The contract takes the host's bond; how often it had to be asked."""
    proof, asks = world.play(number, claim, host)
    assert outcome(world.prove(number, claim, host.roots, proof)) == UPHELD
    return asks


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


def test_silence_loses_and_so_does_a_challenger_with_nothing_to_show(world):
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    with refused("StillTime"):
        world.evm.send(OTHER, "disputes", "close", number)
    world.evm.move(HOUR_S + 1)
    true = Trace(claim, SALT, world.entries(claim))
    with refused("MoveTooLate"):
        world.answer(number, true)
    sent = world.evm.send(OTHER, "disputes", "close", number)
    assert outcome(sent) == UPHELD
    held = {"host": 0, "watcher": BOND + HALF, "all": HALF, "stake": STAKE - BOND}
    assert world.held() == held
    # A host that answered and a challenger that then cannot show anything.
    number, claim = world.accuse(LAYER, CASE, TOKEN, by=OTHER)
    world.answer(number, true)
    world.evm.move(HOUR_S + 1)
    sent = world.evm.send(WATCHER, "disputes", "close", number)
    assert outcome(sent) == REJECTED
    assert world.held() == {**held, "host": HALF, "all": 2 * HALF}


def test_what_nobody_won_the_members_fetch_by_a_vote():
    world = small()
    number, _ = world.accuse(LAYER, CASE, TOKEN)
    world.evm.move(HOUR_S + 1)
    world.evm.send(OTHER, "disputes", "close", number)
    call = world.evm.encoded("board", "collect", world.coin)
    about = (world.evm.at["board"], call, bytes(31) + b"\x01")
    sent = world.evm.send(WATCHER, "council", "propose", *about)
    proposal = first(sent.events, "Proposed")["proposal"]
    for who in (WATCHER, OTHER):
        world.evm.send(who, "council", "vote", proposal)
    world.evm.move(3 * 24 * HOUR_S)
    world.evm.send(OTHER, "council", "execute", proposal, call)
    assert world.evm.call("coin", "balanceOf", world.evm.at["council"]) == HALF
    assert world.held()["all"] == 0


def test_disputes_that_lead_nowhere_keep_no_stake_from_anybody():
    """More of them than the host has bonds, none decided; the true one is paid all the same."""
    world = small()
    world.boundaries[LAYER + 1] = altered(world.boundaries[LAYER + 1], (CASE, TOKEN, 3))
    for job in range(1, 6):
        world.anchor(job=job)
        world.accuse(LAYER, CASE, TOKEN, by=OTHER)
    assert world.held()["stake"] == STAKE
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    true = Trace(claim, SALT, world.entries(claim))
    assert convicted(world, number, claim, true) == 0
    assert world.held()["watcher"] == BOND + HALF
    # And the stake does not leave meanwhile, however long ago it was asked back.
    world.evm.send(LIAR, "board", "unstake", STAKE - BOND)
    world.evm.move(46 * 24 * HOUR_S)
    with refused("CasesPending"):
        world.evm.send(LIAR, "board", "release")


def test_what_is_asked_for_must_be_shown_in_time_and_as_it_was_hashed():
    world = drawn(7, causal=True)
    number, claim = world.accuse(0, CASE, TOKEN)
    true = Trace(claim, SALT, world.entries(claim))
    leaf, nodes = Asked(Part.SCORE, 0, 4), Asked(Part.KEY, 6, 0)
    with refused("NotYourTurn"):
        world.ask(number, claim, leaf)
    world.answer(number, true)
    with refused("NotYourTurn"):
        world.show(number, claim, true, leaf)
    with refused("NotYourTurn"):
        world.ask(number, claim, leaf, by=OTHER)
    with refused("AnotherClaim"):
        world.ask(number, replace(claim, tokens=9), leaf)
    # What does not exist cannot be shown, so it cannot be asked for.
    for part, level, index in (
        *((Part.SCORE, 0, 6), (Part.KEY, 0, 39), (Part.KEY, 5, 2), (Part.KEY, 26, 0)),
        (Part.MIDDLE, 0, 1),
    ):
        with refused("NoSuchNode"):
            world.ask(number, claim, Asked(part, level, index))
    with refused("NoSuchPart"):
        world.ask(number, claim, Asked(Part.AFTER, 0, 0))
    world.ask(number, claim, nodes)
    with refused("NotYourTurn"):
        world.show(number, claim, true, leaf)
    told_ = true.below(*astuple(nodes)), true.path(*astuple(nodes))
    about = ("disputes", "split", number, astuple(claim), true.roots)
    for below, path in (
        (told_[0][:-1], told_[1]),
        ((*told_[0][:-1], bytes(32)), told_[1]),
        (told_[0], (bytes(32),)),
        ((*told_[0], bytes(32)), told_[1]),
    ):
        with refused("Malformed"):
            world.evm.send(LIAR, *about, below, path)
    world.show(number, claim, true, nodes)
    for _ in range(4):
        world.ask(number, claim, nodes)
        world.show(number, claim, true, nodes)
    world.ask(number, claim, leaf)
    with refused("NotYourTurn"):
        world.show(number, claim, true, nodes)
    entries = world.entries(claim)
    entries[Part.SCORE][4] = flipped(entries[Part.SCORE][4], 3)
    with refused("AnotherClaim"):
        world.show(number, claim, Trace(claim, SALT, entries), leaf)
    shown = true.leaf(*astuple(leaf)[::2])
    about = ("disputes", "show", number, astuple(claim), true.roots)
    for wrong in (
        replace(shown, entries=entries[Part.SCORE][4]),
        true.leaf(Part.SCORE, 3),
        replace(shown, salt=bytes(32)),
    ):
        with refused("AnotherRow"):
            world.evm.send(LIAR, *about, astuple(wrong))
    world.show(number, claim, true, leaf)
    with refused("AskedEnough"):
        world.ask(number, claim, nodes)
    # A claim about fewer tokens would make another part's leaf of this one.
    about = (true, Part.NORM, 0, 0, true.leaf(Part.NORM, 0))
    proof = world.prosecutor(claim).proof(*about)
    for other in (replace(claim, bias=claim.bias + 1), replace(claim, tokens=9)):
        with refused("AnotherClaim"):
            world.prove(number, other, true.roots, proof)
    with refused("AnotherClaim"):
        world.prove(number, claim, true.roots[::-1], proof)
    world.evm.move(HOUR_S + 1)
    assert outcome(world.evm.send(OTHER, "disputes", "close", number)) == REJECTED


def test_one_leaf_is_all_that_a_challenger_sees():
    """What is shown stands on the chain for good; no more of it than one number needs."""
    world = drawn(7, causal=True)
    number, claim = world.accuse(0, CASE, TOKEN)
    true = Trace(claim, SALT, world.entries(claim))
    world.answer(number, true)
    leaf = Asked(Part.SCORE, 0, 4)
    world.ask(number, claim, leaf)
    world.show(number, claim, true, leaf)
    for another in (leaf, Asked(Part.NORM, 0, 0), Asked(Part.KEY, 6, 0)):
        with refused("AskedEnough"):
            world.ask(number, claim, another)


@pytest.mark.parametrize("part", MADE, ids=lambda part: part.name.lower())
def test_a_leaf_of_another_length_cannot_be_shown(part):
    """A host that hashed one is silent when it is asked, or loses to who guessed it."""
    world = drawn(7, causal=True, style=None if there(part, None) else BERT)
    for job, bent in enumerate((lambda leaf: leaf[:-1], lambda leaf: leaf + b"\x00")):
        for who in (WATCHER, OTHER):
            world.anchor(job=2 * job + (who == OTHER) + 1)
            number, claim = world.accuse(0, CASE, TOKEN, by=who)
            entries = world.entries(claim)
            index = len(entries[part]) - 1
            host = told(world, claim, part, index, bent(entries[part][index]))
            world.answer(number, host)
            if who == OTHER:
                leaf = host.leaf(part, index)
                prosecutor = world.prosecutor(claim)
                proof = prosecutor.against(prosecutor.trace(), part, index, leaf)
                sent = world.prove(number, claim, host.roots, proof, by=who)
            else:
                world.ask(number, claim, Asked(part, 0, index))
                with refused("Malformed"):
                    world.show(number, claim, host, Asked(part, 0, index))
                world.evm.move(HOUR_S + 1)
                sent = world.evm.send(OTHER, "disputes", "close", number)
            assert outcome(sent) == UPHELD


def test_a_host_that_does_not_show_what_it_is_asked_for_loses():
    world = small()
    number, claim = world.accuse(LAYER, CASE, TOKEN)
    world.answer(number, Trace(claim, SALT, world.entries(claim)))
    world.ask(number, claim, Asked(Part.SCORE, 0, 0))
    world.evm.move(HOUR_S + 1)
    assert outcome(world.evm.send(OTHER, "disputes", "close", number)) == UPHELD


def test_what_cannot_be_accused():
    world = small()
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
    trunk = trunk_of(world.model)
    for other in (
        replace(trunk, tables=bytes(32)),
        replace(trunk, layers=trunk.layers[:1]),
        replace(trunk, numbers=flipped(trunk.numbers, 44)),
    ):
        with refused("NotInModel"):
            world.accuse(LAYER, CASE, TOKEN, trunk=astuple(other))
    with refused("Malformed"):
        short = replace(trunk, numbers=trunk.numbers[:-1])
        world.accuse(LAYER, CASE, TOKEN, trunk=astuple(short))
    world.accuse(LAYER, CASE, TOKEN)
    with refused("AlreadyDisputed"):
        world.accuse(0, CASE, TOKEN)
    world.evm.move(31 * 24 * HOUR_S)
    with refused("WindowOver"):
        world.accuse(LAYER, CASE, TOKEN, by=OTHER)


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


QUICK = {
    "true answers": lambda _: test_no_number_of_a_true_answer_is_wrong_to_the_contract(
        small()
    ),
    "tables": lambda _: test_the_tables_of_the_contract_are_those_of_the_op_spec(),
    "other places": lambda _: test_evidence_of_another_place_is_none(),
    "limits": lambda _: test_what_rounds_to_128_is_127_to_the_contract_too(),
    "salts": lambda _: test_a_true_salt_convicts_nobody(),
    "asking": lambda _: (
        test_what_is_asked_for_must_be_shown_in_time_and_as_it_was_hashed()
    ),
    "one leaf": lambda _: test_one_leaf_is_all_that_a_challenger_sees(),
    "lengths": lambda _: test_a_leaf_of_another_length_cannot_be_shown(Part.SCORE),
    "silence": lambda _: (
        test_silence_loses_and_so_does_a_challenger_with_nothing_to_show(small())
    ),
    "accusing": lambda _: test_what_cannot_be_accused(),
    "other rules": lambda _: test_a_model_under_other_rules_is_not_judged_by_these(),
    "gains": lambda _: test_a_base_is_made_with_the_gain_of_its_place_and_norm(),
    "other activations": lambda _: test_an_activation_of_another_place_is_none(),
    "no such part": lambda _: (
        test_what_a_host_says_of_a_part_that_there_is_not_is_not_heard()
    ),
    "absent parts": lambda _: test_a_part_that_there_is_not_convicts_nobody(),
    "zero roots": lambda _: test_zero_is_no_root_that_everything_stands_under(),
    **{
        f"seed {seed} {style}": lambda _, seed=seed, style=style: (
            test_what_the_reference_computes_is_right_to_the_contract_and_nothing_beside_it(
                seed, style
            )
        )
        for seed in (0, 1, 2)
        for style in STYLES
    },
    **{
        f"wrong {part.name}": lambda patch, part=part: (
            test_a_wrong_number_of_any_part_is_shown_by_what_it_is_made_of(
                part, next(n for n in STYLES if there(part, STYLES[n])), patch
            )
        )
        for part in MADE
    },
}
"""What a broken judge must fail, the quickest first (`test_mutants`)."""
