"""How a dispute goes: what is asked for and shown, in what time, and who gets the stakes."""

from dataclasses import astuple, replace

import pytest
from dispute_scenes import (
    BERT,
    CASE,
    HALF,
    LAYER,
    MADE,
    REJECTED,
    STAKE,
    TOKEN,
    UPHELD,
    convicted,
    drawn,
    outcome,
    refused,
    small,
    there,
    told,
)

from node.bench.disputes import (
    BOND,
    HOUR_S,
    LIAR,
    OTHER,
    SALT,
    WATCHER,
    altered,
    flipped,
)
from node.bench.federation import first
from node.verifier.dispute import trunk_of
from protocol.dispute import Asked, Part, Trace


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
