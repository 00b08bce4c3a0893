"""The course of a run: consents, attempts, and the one way a round can end."""

import msgspec
import nacl.signing
import pytest

from protocol.aggregate.messages import Claim, Upload, hear, say
from protocol.course import ATTEMPTS_AHEAD, Course, Final
from protocol.errors import GossipIgnore, GossipReject, LocalProtocolError
from protocol.runs import (
    Consent,
    Proposal,
    open_consent,
    open_proposal,
    seal_consent,
    seal_proposal,
)
from protocol.types import Digest, PublicKey

KEYS = {
    bytes(key.verify_key): key
    for key in (nacl.signing.SigningKey(bytes([i]) * 32) for i in range(1, 5))
}
MEMBERS = tuple(sorted(KEYS)[:3])
STRANGER = sorted(KEYS)[3]
PROPOSAL = Proposal("t", b"{}", bytes(32), 2, MEMBERS, 1)


def sign(member):
    return lambda message: KEYS[member].sign(message).signature


def course(samples=(10, 20, 30)):
    made = Course(PROPOSAL)
    for member, count in zip(MEMBERS, samples, strict=True):
        made.consent(member, Consent(made.run, 0, count))
    made.measure(64)
    return made


def claim(view, member, state, *, attempt=0, round_of=None):
    """What `member` would say, in the context that `round_of` is in."""
    said = Claim(state, bytes(32))
    return hear(
        say(sign(member), PublicKey(member), (round_of or view).attempt(attempt), said)
    )


def test_a_round_is_over_when_every_member_claims_the_same_state():
    view, state = course(), b"s" * 32
    for member in MEMBERS[:2]:
        view.hear(claim(view, member, state))
        assert view.agreed() is None
    view.hear(claim(view, MEMBERS[2], state))
    final = view.agreed()
    assert (final.round, final.attempt, final.state) == (0, 0, state)
    assert [hear(one).sender for one in final.claims] == list(MEMBERS)
    view.finish(final)
    assert (view.round, view.state, view.newest()) == (1, state, -1)


def test_one_other_state_or_attempt_or_context_is_no_end():
    other_weights = course(samples=(1, 1, 1))
    for odd in (
        {"state": b"x" * 32},
        {"state": b"s" * 32, "attempt": 1},
        {"state": b"s" * 32, "round_of": other_weights},
    ):
        view = course()
        for member in MEMBERS[:2]:
            view.hear(claim(view, member, b"s" * 32))
        view.hear(claim(view, MEMBERS[2], **odd))
        assert view.agreed() is None


def test_the_same_claim_twice_counts_once():
    view = course()
    for _ in range(3):
        view.hear(claim(view, MEMBERS[0], b"s" * 32))
    assert len(view.mail(0)) == 1
    assert view.agreed() is None


def test_two_different_uploads_are_both_kept_as_evidence_and_a_third_is_not():
    view = course()
    for number in range(3):
        body = Upload((bytes([number]) * 32,), bytes(32))
        view.hear(hear(say(sign(MEMBERS[0]), MEMBERS[0], view.attempt(0), body)))
    assert len(view.mail(0)) == 2


def test_strangers_are_refused_and_what_is_out_of_reach_is_ignored():
    view = course()
    with pytest.raises(GossipReject, match="not in the run"):
        view.hear(claim(view, STRANGER, b"s" * 32))
    view.hear(claim(view, MEMBERS[0], b"s" * 32, attempt=ATTEMPTS_AHEAD))
    with pytest.raises(GossipIgnore, match="attempt"):
        view.hear(claim(view, MEMBERS[0], b"s" * 32, attempt=3 * ATTEMPTS_AHEAD))


def test_a_message_for_the_next_round_waits_for_it():
    ahead = course()
    ahead.finish(Final(0, 0, Digest(b"s" * 32), ()))
    behind = course()
    behind.hear(claim(ahead, MEMBERS[0], b"t" * 32))
    assert behind.mail(0) == ()
    behind.finish(Final(0, 0, Digest(b"s" * 32), ()))
    assert len(behind.mail(0)) == 1
    over = Course(PROPOSAL)
    with pytest.raises(GossipIgnore):
        two = course()
        two.finish(Final(0, 0, Digest(b"s" * 32), ()))
        two.finish(Final(1, 0, Digest(b"s" * 32), ()))
        over.hear(
            hear(
                say(
                    sign(MEMBERS[0]),
                    MEMBERS[0],
                    _attempt_of_round(ahead, 2),
                    Claim(bytes(32), bytes(32)),
                )
            )
        )


def _attempt_of_round(view, number):
    return msgspec.structs.replace(view.attempt(0), round=number)


def test_who_speaks_in_a_later_attempt_of_a_final_round_is_shown_the_claims_once():
    view = course()
    late = claim(view, MEMBERS[0], b"x" * 32, attempt=1)
    history = claim(view, MEMBERS[1], b"s" * 32, attempt=0)
    view.finish(Final(0, 0, Digest(b"s" * 32), (b"proof",)))
    assert view.hear(history) is None
    assert view.hear(late).claims == (b"proof",)
    assert view.hear(late) is None


def test_consent_is_once_for_one_run_and_with_samples():
    view = Course(PROPOSAL)
    good = Consent(view.run, 0, 5)
    assert view.consent(MEMBERS[0], good)
    assert not view.consent(MEMBERS[0], good)
    for member, consent, words in (
        (MEMBERS[0], Consent(view.run, 1, 5), "second"),
        (STRANGER, good, "not in the run"),
        (MEMBERS[1], Consent(bytes(32), 0, 5), "another run"),
        (MEMBERS[1], Consent(view.run, 0, 0), "0 samples"),
    ):
        with pytest.raises(GossipReject, match=words):
            view.consent(member, consent)
    assert not view.ready
    with pytest.raises(LocalProtocolError, match="no round is open"):
        view.attempt(0)


def test_a_proposal_and_a_consent_carry_their_own_proof():
    sealed = seal_proposal(sign(MEMBERS[0]), PublicKey(MEMBERS[0]), PROPOSAL)
    assert open_proposal(sealed) == (PROPOSAL, MEMBERS[0])
    consent = Consent(PROPOSAL.id(), 7, 5)
    given = seal_consent(sign(MEMBERS[1]), PublicKey(MEMBERS[1]), consent)
    assert open_consent(given) == (consent, MEMBERS[1])
    for broken, opened in ((sealed, open_proposal), (given, open_consent)):
        with pytest.raises(Exception, match=r"signature|canonical|not a"):
            opened(broken[:-1] + bytes([broken[-1] ^ 1]))
    foreign = seal_proposal(sign(STRANGER), PublicKey(STRANGER), PROPOSAL)
    with pytest.raises(Exception, match="takes part"):
        open_proposal(foreign)
