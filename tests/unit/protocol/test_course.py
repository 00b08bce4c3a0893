"""Before the first round: consents, and the numbers that follow from them."""

import nacl.signing
import pytest

from protocol.course import Course, policy
from protocol.errors import GossipReject, LocalProtocolError, MalformedMessageError
from protocol.runs import (
    Consent,
    Plan,
    Proposal,
    open_consent,
    open_proposal,
    seal_consent,
    seal_proposal,
)
from protocol.types import PublicKey

KEYS = {
    bytes(key.verify_key): key
    for key in (nacl.signing.SigningKey(bytes([i]) * 32) for i in range(1, 5))
}
MEMBERS = tuple(sorted(KEYS)[:3])
STRANGER = sorted(KEYS)[3]
PROPOSAL = Proposal("t", b"{}", bytes(32), 2, MEMBERS, 1)
SEAL = b"k" * 32


def sign(member):
    return lambda message: KEYS[member].sign(message).signature


def plan(**numbers):
    return Plan(title="t", spec={}, task={}, train={}, sum=numbers)


def consented(samples=(10, 20, 30)):
    made = Course(PROPOSAL)
    for member, count in zip(MEMBERS, samples, strict=True):
        made.consent(member, Consent(made.run, 0, count, SEAL))
    return made


def test_the_epoch_follows_from_the_consents_and_from_nothing_else():
    one, other = consented().epoch(64, plan()), consented().epoch(64, plan())
    assert one.name() == other.name()
    assert [seat.weight for seat in one.seats] == [10, 20, 30]
    assert one.members == MEMBERS
    for changed in (
        consented(samples=(11, 20, 30)).epoch(64, plan()),
        consented().epoch(65, plan()),
        consented().epoch(64, plan(view_ms=999)),
    ):
        assert changed.name() != one.name()


def test_no_epoch_before_the_last_consent():
    made = Course(PROPOSAL)
    made.consent(MEMBERS[0], Consent(made.run, 0, 5, SEAL))
    assert not made.complete
    with pytest.raises(LocalProtocolError, match="not every member"):
        made.epoch(64, plan())


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"patience": 5}, "sum.patience is not one of"),
        ({"view_ms": "soon"}, "Expected `int`"),
        ({"view_ms": 0}, "view_ms is 0"),
        ({"ring_bits": 17}, "ring of 17 bits"),
        ({"length": 5}, "sum.length is not one of"),
    ],
)
def test_numbers_of_a_plan_that_cannot_be_are_refused_by_name(numbers, words):
    with pytest.raises(MalformedMessageError, match=words):
        policy(64, plan(**numbers))


def test_consent_is_once_for_one_run_and_with_samples():
    view = Course(PROPOSAL)
    good = Consent(view.run, 0, 5, SEAL)
    assert view.consent(MEMBERS[0], good)
    assert not view.consent(MEMBERS[0], good)
    for member, consent, words in (
        (MEMBERS[0], Consent(view.run, 1, 5, SEAL), "second"),
        (STRANGER, good, "not in the run"),
        (MEMBERS[1], Consent(bytes(32), 0, 5, SEAL), "another run"),
        (MEMBERS[1], Consent(view.run, 0, 0, SEAL), "0 samples"),
    ):
        with pytest.raises(GossipReject, match=words):
            view.consent(member, consent)


def test_a_proposal_and_a_consent_carry_their_own_proof():
    sealed = seal_proposal(sign(MEMBERS[0]), PublicKey(MEMBERS[0]), PROPOSAL)
    assert open_proposal(sealed) == (PROPOSAL, MEMBERS[0])
    consent = Consent(PROPOSAL.id(), 7, 5, SEAL)
    given = seal_consent(sign(MEMBERS[1]), PublicKey(MEMBERS[1]), consent)
    assert open_consent(given) == (consent, MEMBERS[1])
    for broken, opened in ((sealed, open_proposal), (given, open_consent)):
        with pytest.raises(Exception, match=r"signature|canonical|not a"):
            opened(broken[:-1] + bytes([broken[-1] ^ 1]))
    foreign = seal_proposal(sign(STRANGER), PublicKey(STRANGER), PROPOSAL)
    with pytest.raises(MalformedMessageError, match="takes part"):
        open_proposal(foreign)
    short = seal_consent(
        sign(MEMBERS[1]), PublicKey(MEMBERS[1]), Consent(PROPOSAL.id(), 7, 5, b"k")
    )
    with pytest.raises(MalformedMessageError, match="seal key has 1 bytes"):
        open_consent(short)
