"""The announcement log: what is new, what is refused, what is repaired."""

import nacl.signing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.envelope import seal
from protocol.errors import (
    GossipIgnore,
    GossipReject,
    LocalProtocolError,
    MalformedMessageError,
    SignatureError,
)
from protocol.gossip import (
    BATCH_LIMIT_BYTES,
    DOMAIN,
    FUTURE_LIMIT_MS,
    KEEP_BYTES,
    KEEP_NOTES,
    GossipLog,
    Known,
    Note,
    Pull,
)
from protocol.types import Millis, PublicKey
from protocol.wire import encode

START = Millis(1_000_000)
KEYS = [nacl.signing.SigningKey(bytes([n]) * 32) for n in range(4)]
NAMES = [PublicKey(bytes(key.verify_key)) for key in KEYS]


def signer(number):
    return lambda message: KEYS[number].sign(message).signature


def log(number, members=NAMES, start=START):
    return GossipLog(
        NAMES[number], signer(number), lambda key: key in members, Millis(start)
    )


def hear(receiver, sealed):
    heard = receiver.inspect(sealed, START)
    receiver.record(heard)
    return heard


def sealed_note(number, content=b"x", sender=1, topic=b"topic", domain=DOMAIN):
    payload = encode(Note(number, content))
    return seal(signer(sender), domain, NAMES[sender], topic, payload)


def test_a_message_is_new_exactly_once():
    a, b = log(0), log(1)
    sealed = b.announce("topic", b"content")
    heard = hear(a, sealed)
    assert (heard.sender, heard.topic, heard.content) == (NAMES[1], "topic", b"content")
    with pytest.raises(GossipIgnore, match="known already"):
        a.inspect(sealed, START)


def test_inspection_alone_does_not_make_a_message_known():
    a = log(0)
    sealed = sealed_note(START)
    assert a.inspect(sealed, START) == a.inspect(sealed, START)


def test_a_stranger_is_ignored_and_may_join_later():
    members = [NAMES[0]]
    a = log(0, members)
    sealed = sealed_note(START)
    with pytest.raises(GossipIgnore, match="not a member"):
        a.inspect(sealed, START)
    members.append(NAMES[1])
    hear(a, sealed)
    members.pop()
    a.forget_strangers()
    assert a.known() == Pull(())


@pytest.mark.parametrize(
    ("sealed", "error"),
    [
        (b"", MalformedMessageError),
        (b"\xff" * 50, MalformedMessageError),
        (bytes(100_000), MalformedMessageError),
        (sealed_note(START)[:-1] + b"\x00", SignatureError),
        (sealed_note(START, domain="round"), SignatureError),
        (sealed_note(-1), GossipReject),
        (sealed_note(START + FUTURE_LIMIT_MS + 1), GossipReject),
        (sealed_note(START, topic=b""), GossipReject),
        (sealed_note(START, topic=b"\xff"), GossipReject),
        (sealed_note(START, topic=b"t" * 257), GossipReject),
        (seal(signer(1), DOMAIN, NAMES[1], b"t", b"junk"), MalformedMessageError),
    ],
)
def test_bad_messages_are_refused_by_kind(sealed, error):
    a = log(0)
    with pytest.raises(error):
        a.inspect(sealed, START)
    assert a.known() == Pull(())


def test_a_member_cannot_say_two_things_under_one_number():
    a = log(0)
    hear(a, sealed_note(START, b"one"))
    with pytest.raises(GossipReject, match="two different contents"):
        a.inspect(sealed_note(START, b"two"), START)


def test_a_restarted_node_goes_on_above_the_numbers_of_its_earlier_life():
    old = log(0)
    last = [old.announce("topic", bytes([n])) for n in range(5)][-1]
    young = log(0, start=START - 50)  # its clock was set back
    with pytest.raises(GossipIgnore, match="our own"):
        young.inspect(last, START)
    b = log(1)
    hear(b, last)
    assert hear(b, young.announce("topic", b"new")).number == START + 5


def test_repair_brings_exactly_what_is_missing():
    a, b = log(0), log(1)
    sealed = [b.announce("topic", bytes([n])) for n in range(10)]
    for index in (0, 1, 5, 9):
        hear(a, sealed[index])
    batch = b.missing(a.known())
    assert batch.sealed == tuple(sealed[n] for n in (2, 3, 4, 6, 7, 8))
    for lost in batch.sealed:
        hear(a, lost)
    assert b.missing(a.known()).sealed == ()
    assert a.known() == b.known()


def test_repair_works_through_a_third_node():
    a, b, c = log(0), log(1), log(2)
    hear(c, b.announce("topic", b"content"))
    (relayed,) = c.missing(a.known()).sealed
    assert hear(a, relayed).sender == NAMES[1]


def test_a_long_repair_is_cut_and_continues():
    a, b = log(0), log(1)
    for _ in range(20):
        b.announce("topic", bytes(60_000))
    rounds = 0
    more = True
    while more:
        batch = b.missing(a.known())
        assert sum(map(len, batch.sealed)) <= BATCH_LIMIT_BYTES
        for sealed in batch.sealed:
            hear(a, sealed)
        more = batch.more
        rounds += 1
    assert rounds > 1
    assert a.known().known[0].runs == b.known().known[0].runs


def test_what_is_kept_is_bounded_in_number_and_bytes():
    a, b = log(0), log(1)
    first = b.announce("topic", b"first")
    for _ in range(KEEP_NOTES):
        hear(a, b.announce("topic", b"x"))
    with pytest.raises(GossipIgnore, match="known already"):
        b_latest = b.missing(Pull(())).sealed[-1]
        a.inspect(b_latest, START)
    hear(a, b.announce("topic", b"one more"))
    with pytest.raises(GossipIgnore, match="is below"):
        a.inspect(first, START)
    for _ in range(40):
        hear(a, b.announce("topic", bytes(60_000)))
    ((low, high),) = a.known().known[0].runs
    assert (high - low + 1) * 60_000 <= KEEP_BYTES


@pytest.mark.parametrize(
    ("topic", "content"),
    [("", b""), ("t" * 257, b""), ("topic", bytes(65_537))],
)
def test_our_own_mistakes_are_named_as_ours(topic, content):
    with pytest.raises(LocalProtocolError):
        log(0).announce(topic, content)


@given(
    st.sets(st.integers(0, 30)),
    st.sets(st.integers(0, 30)),
    st.integers(0, 10),
)
def test_two_logs_agree_after_one_exchange_each_way(left, right, shift):
    a, b = log(0), log(2)
    for receiver, numbers in ((a, left), (b, right)):
        for number in numbers:
            hear(receiver, sealed_note(number + shift))
    for asker, giver in ((a, b), (b, a)):
        for sealed in giver.missing(asker.known()).sealed:
            hear(asker, sealed)
    assert a.known() == b.known()


@given(st.lists(st.tuples(st.integers(-5, 40), st.integers(-5, 40)), max_size=6))
def test_any_claim_about_runs_is_answered_without_harm(runs):
    b = log(1)
    b.announce("topic", b"x")
    batch = b.missing(Pull((Known(NAMES[1], 0, tuple(runs)),)))
    assert len(batch.sealed) == 1
