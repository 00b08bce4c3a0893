"""The next epoch that follows from wishes, and the proof that it began."""

import nacl.signing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.certificate import Certificate, Kind, Slot, Step, Vote, speak, value_name
from protocol.envelope import Envelope
from protocol.errors import GossipReject, SignatureError, VerificationError
from protocol.rounds.messages import Verdict
from protocol.rounds.policy import Epoch, Policy, Seat, Thresholds
from protocol.runs import Consent
from protocol.seating import (
    EXPOSE,
    IN,
    OUT,
    WISHES_AT_MOST,
    Change,
    Seating,
    Wish,
    open_wish,
    require_led,
    seal_wish,
)
from protocol.wire import decode, encode

SIGNING = {
    bytes(key.verify_key): key
    for key in (nacl.signing.SigningKey(bytes([i]) * 32) for i in range(1, 8))
}
KEYS = sorted(SIGNING)
RUN = b"r" * 32
POLICY = Policy(10)
FIRST = Epoch(RUN, 0, tuple(Seat(key, key, 7) for key in KEYS[:4]), POLICY)
CONSENTS = {key: Consent(RUN, i, 5 + i, key) for i, key in enumerate(KEYS)}


def sign(key):
    return lambda message: SIGNING[key].sign(message).signature


def seating():
    return Seating(RUN, FIRST.members)


def says(view, who, about, word):
    assert view.wish(who, Wish(RUN, view.serial(who, about), about, word))


def led(before, after, *, by=None, quorum=None, kind=Kind.VERDICT, slot_epoch=None):
    """A change under the signatures of `before`, or of others, as a round would make it."""
    verdict = Verdict(
        3, True, b"s" * 32, b"c" * 32, b"p" * 32, b"x" * 32, after.name(), 0b111, ()
    )
    value = encode(verdict)
    slot = Slot(RUN, slot_epoch or before.name(), 3, 0, kind, b"x" * 32)
    vote = Vote(slot, Step.PRECOMMIT, 0, value_name(value))
    votes = tuple(
        (place, decode(speak(sign(key), key, vote), Envelope).signature)
        for place, key in enumerate(by or before.members)
    )
    count = quorum or Thresholds(len(before.members)).quorum
    return Change(after, Certificate(slot, 0, value, votes[:count]))


def test_a_seat_is_given_where_a_quorum_wants_so_and_data_is_there():
    view, new = seating(), KEYS[4]
    assert view.next(FIRST, CONSENTS) is None
    assert view.needed == 3
    says(view, KEYS[5], new, IN)  # has no seat: counts for nothing
    for who in KEYS[:2]:
        says(view, who, new, IN)
        assert view.next(FIRST, CONSENTS) is None
    says(view, KEYS[2], new, IN)
    found = view.next(FIRST, CONSENTS)
    assert found.number == 1
    assert found.members == tuple(KEYS[:5])
    assert found.seats[:4] == FIRST.seats
    assert found.seats[4] == Seat(new, new, CONSENTS[new].samples)
    assert view.next(FIRST, {k: v for k, v in CONSENTS.items() if k != new}) is None
    says(view, KEYS[2], new, OUT)
    assert view.next(FIRST, CONSENTS) is None


def test_a_member_leaves_of_itself_and_is_dismissed_by_a_quorum_of_others():
    view = seating()
    says(view, KEYS[1], KEYS[1], OUT)
    assert view.next(FIRST, CONSENTS).members == (KEYS[0], *KEYS[2:4])
    view = seating()
    for who in KEYS[:2]:
        says(view, who, KEYS[3], OUT)
    assert view.next(FIRST, CONSENTS) is None
    says(view, KEYS[2], KEYS[3], OUT)
    assert view.next(FIRST, CONSENTS).members == tuple(KEYS[:3])


def test_a_quorum_of_others_decides_that_a_member_is_dismissed_and_need_not_be_hidden():
    view, gone = seating(), KEYS[3]
    says(view, gone, gone, EXPOSE)  # goes of itself, and decides nothing else
    says(view, KEYS[0], gone, EXPOSE)
    says(view, KEYS[1], gone, EXPOSE)
    says(view, KEYS[2], gone, OUT)
    assert view.next(FIRST, CONSENTS).members == tuple(KEYS[:3])
    assert view.wanting(gone, OUT) == tuple(KEYS[:3])
    assert view.exposed(FIRST) == frozenset()
    says(view, KEYS[2], gone, EXPOSE)
    assert view.exposed(FIRST) == {gone}
    says(view, KEYS[2], gone, OUT)
    assert view.exposed(FIRST) == frozenset()


def test_nobody_leaves_a_run_of_three_but_one_may_take_a_seat_over():
    few = Epoch(RUN, 0, FIRST.seats[:3], POLICY)
    view = Seating(RUN, few.members)
    says(view, KEYS[0], KEYS[0], OUT)
    assert view.next(few, CONSENTS) is None
    for who in KEYS[:3]:
        says(view, who, KEYS[4], IN)
    assert view.next(few, CONSENTS).members == (KEYS[1], KEYS[2], KEYS[4])


@given(st.permutations(range(6)))
def test_the_order_of_statements_does_not_matter(order):
    wishes = [
        (KEYS[0], Wish(RUN, 1, KEYS[4], IN)),
        (KEYS[1], Wish(RUN, 1, KEYS[4], IN)),
        (KEYS[2], Wish(RUN, 2, KEYS[4], IN)),
        (KEYS[2], Wish(RUN, 1, KEYS[4], OUT)),
        (KEYS[3], Wish(RUN, 1, KEYS[3], OUT)),
        (KEYS[3], Wish(RUN, 2, KEYS[4], OUT)),
    ]
    view = seating()
    for at in order:
        view.wish(*wishes[at])
    assert view.next(FIRST, CONSENTS).members == (*KEYS[:3], KEYS[4])


def test_a_change_is_what_a_quorum_before_it_decided():
    view, after = seating(), Epoch(RUN, 1, FIRST.seats[:3], POLICY)
    good = led(FIRST, after)
    assert view.follows(good)
    assert view.take(good)
    assert view.members == tuple(KEYS[:3])
    assert view.ever == frozenset(KEYS[:4])
    assert not view.follows(good)
    second = Epoch(RUN, 2, (*after.seats, Seat(KEYS[5], KEYS[5], 1)), POLICY)
    # By those who have a seat now, not by those who had one.
    with pytest.raises(VerificationError, match="epoch that decided"):
        view.follows(led(FIRST, second))
    with pytest.raises(VerificationError, match="signature of voter"):
        view.follows(led(after, second, by=KEYS[1:4]))
    assert view.follows(led(after, second))
    # Whoever left does not come back.
    for who in KEYS[:3]:
        says(view, who, KEYS[3], IN)
    assert view.next(after, CONSENTS) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quorum": 2}, "certificate votes"),
        ({"by": KEYS[1:5]}, "signature of voter"),
        ({"kind": Kind.OPEN}, "no verdict"),
    ],
)
def test_a_change_that_was_not_decided_is_refused(change, words):
    after = Epoch(RUN, 1, FIRST.seats[:3], POLICY)
    with pytest.raises(VerificationError, match=words):
        require_led(FIRST.members, led(FIRST, after, **change))


def test_a_verdict_shows_no_other_epoch_and_not_its_own():
    after = Epoch(RUN, 1, FIRST.seats[:3], POLICY)
    other = Epoch(RUN, 1, FIRST.seats[1:], POLICY)
    shown = Change(other, led(FIRST, after).certificate)
    with pytest.raises(VerificationError, match="leads to"):
        require_led(FIRST.members, shown)
    with pytest.raises(VerificationError, match="leads to"):
        require_led(FIRST.members, led(FIRST, after, slot_epoch=after.name()))


def test_a_wish_carries_its_own_proof_and_wishes_are_bounded():
    wish = Wish(RUN, 1, KEYS[4], IN)
    sealed = seal_wish(sign(KEYS[0]), KEYS[0], wish)
    assert open_wish(sealed) == (wish, KEYS[0])
    with pytest.raises(SignatureError):
        open_wish(seal_wish(sign(KEYS[1]), KEYS[0], wish))
    view = seating()
    for i in range(WISHES_AT_MOST):
        view.wish(KEYS[0], Wish(RUN, 1, i.to_bytes(32, "big"), IN))
    with pytest.raises(GossipReject, match="limit is"):
        view.wish(KEYS[0], wish)
    assert view.wish(KEYS[0], Wish(RUN, 2, bytes(32), OUT))
    with pytest.raises(GossipReject, match="another run"):
        view.wish(KEYS[0], Wish(bytes(32), 9, bytes(32), OUT))
