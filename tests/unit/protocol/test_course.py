"""Before the first round: consents, and the numbers that follow from them."""

import math

import msgspec
import nacl.signing
import pytest

from protocol.course import (
    APPLICANTS_AT_MOST,
    Course,
    noise,
    outer,
    policy,
    require_budget,
    require_room,
    rounds_allowed,
    scales_bytes,
    velocities,
)
from protocol.errors import (
    GossipReject,
    LocalProtocolError,
    MalformedMessageError,
    SignatureError,
)
from protocol.runs import (
    Consent,
    Plan,
    Privacy,
    Proposal,
    Stance,
    Thin,
    canonical_plan,
    open_consent,
    open_proposal,
    open_stance,
    parse_plan,
    seal_consent,
    seal_proposal,
    seal_stance,
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


def test_momentum_is_what_it_is_used_as_and_runs_without_it_keep_their_names():
    made = msgspec.structs.replace(plan(), outer={"rate": 1, "momentum": 0.9})
    assert outer(made).momentum != 0.9  # no binary32 is
    assert outer(made).momentum == pytest.approx(0.9, abs=2**-25)
    assert scales_bytes(8193, 4097, made) == 4 * 8193 + 2
    for still in ({}, {"momentum": 0}, {"momentum": 1e-50}):
        without = msgspec.structs.replace(plan(), outer=still)
        assert velocities(8193, without) == 0
        assert scales_bytes(8193, 4097, without) == 2
    assert b'"outer":{}' in canonical_plan(plan())
    assert canonical_plan(parse_plan(canonical_plan(made))) == canonical_plan(made)


@pytest.mark.parametrize("one_in", [-1, 0, 1, 65])
def test_a_run_too_thin_is_refused_by_name(one_in):
    made = msgspec.structs.replace(plan(), thin=Thin(one_in))
    with pytest.raises(
        MalformedMessageError, match=f"one_in is {one_in}, need 2 to 64"
    ):
        policy(64, made)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rate": 0}, "outer.rate is 0.0, need more than 0, at most 2"),
        ({"rate": 2.5}, "outer.rate is 2.5"),
        ({"rate": math.nan}, "outer.rate is nan"),
        ({"momentum": 1.0}, "outer.momentum is 1.0, need at least 0 and, as binary32"),
        ({"momentum": 0.99999999}, "outer.momentum is 0.99999999, need"),
        ({"momentum": -0.1}, "outer.momentum is -0.1, need"),
        ({"momentum": 1e300}, "outer.momentum is 1e"),
        ({"momentum": math.nan}, "outer.momentum is nan"),
        ({"momentum": "0.9"}, r"outer: .*float.*momentum"),
        ({"momentum": True}, r"outer: .*float.*momentum"),
        ({"tolerance": -0.1}, "outer.tolerance is -0.1, need 0 to 1000"),
        ({"tolerance": math.inf}, "outer.tolerance is inf"),
        ({"rate": "fast"}, r"outer: .*float.*rate"),
        ({"speed": 1}, r"outer: .*speed"),
    ],
)
def test_a_step_out_of_range_is_refused_by_name(values, said):
    with pytest.raises(MalformedMessageError, match=said):
        policy(64, msgspec.structs.replace(plan(), outer=values))
    assert policy(64, msgspec.structs.replace(plan(), outer={"rate": 2})).length == 64


def test_over_thin_links_the_sum_is_of_fewer_entries():
    made = msgspec.structs.replace(plan(), thin=Thin(8))
    assert consented().epoch(65, made).policy.length == 9
    assert consented().epoch(65, plan()).policy.length == 65
    # Runs without it keep the names they had: the field is not in their text.
    assert b"thin" not in canonical_plan(plan())
    assert parse_plan(canonical_plan(made)) == made


def test_a_plan_may_do_without_sketches():
    assert policy(64, plan()).sketched
    assert not policy(64, plan(sketched=False)).sketched


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


@pytest.mark.parametrize("members", [3, 4, 5, 31, 32])
@pytest.mark.parametrize("bits", [16, 32])
def test_a_ring_too_small_for_its_members_is_refused_with_what_would_fit(members, bits):
    words = f"{members} entries of {bits} bits .* use input_bits of 2 to "
    with pytest.raises(MalformedMessageError, match=words) as told:
        require_room(members, plan(ring_bits=bits, input_bits=bits))
    most = int(str(told.value).rsplit(" ", 1)[1])
    require_room(members, plan(ring_bits=bits, input_bits=most))
    with pytest.raises(MalformedMessageError, match="input_bits of 2 to"):
        require_room(members, plan(ring_bits=bits, input_bits=most + 1))
    with pytest.raises(MalformedMessageError, match="with 1-bit entries"):
        require_room(members, plan(ring_bits=bits, input_bits=1))


def test_consent_is_once_for_one_run_and_with_samples():
    view = Course(PROPOSAL)
    good = Consent(view.run, 0, 5, SEAL)
    assert view.consent(MEMBERS[0], good)
    assert not view.consent(MEMBERS[0], good)
    for member, consent, words in (
        (MEMBERS[0], Consent(view.run, 1, 5, SEAL), "second"),
        (MEMBERS[1], Consent(bytes(32), 0, 5, SEAL), "another run"),
        (MEMBERS[1], Consent(view.run, 0, 0, SEAL), "0 samples"),
    ):
        with pytest.raises(GossipReject, match=words):
            view.consent(member, consent)


def test_who_is_not_named_asks_for_a_seat_and_completes_nothing():
    view = Course(PROPOSAL)
    for member in (*MEMBERS[:2], STRANGER):
        assert view.consent(member, Consent(view.run, 0, 5, SEAL))
    assert not view.complete
    assert STRANGER not in view.used
    assert view.consent(MEMBERS[2], Consent(view.run, 0, 5, SEAL))
    assert view.complete
    assert view.epoch(10, plan()).members == MEMBERS


def test_those_who_ask_for_seats_take_no_room_from_those_who_are_named():
    view = Course(PROPOSAL)
    asking = Consent(view.run, 0, 5, SEAL)
    for number in range(APPLICANTS_AT_MOST):
        assert view.consent(number.to_bytes(32, "big"), asking)
    with pytest.raises(GossipReject, match=f"limit is {APPLICANTS_AT_MOST}"):
        view.consent(STRANGER, asking)
    for member in MEMBERS:
        assert view.consent(member, asking)
    assert view.complete


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


def private(epsilon=8.0, multiplier=4.0, clip=1.0, delta=1e-5):
    budget = Privacy(clip, multiplier, epsilon, delta)
    return Plan(title="t", spec={}, task={}, train={}, privacy=budget)


def test_noise_follows_from_the_plan_and_lifts_the_rule_on_differences():
    made = consented(samples=(10, 20, 30))
    assert not made.epoch(64, plan()).policy.noised
    assert noise(made.epoch(64, plan()), plan()) is None
    epoch = made.epoch(64, private())
    assert epoch.policy.noised
    found = noise(epoch, private())
    # Three of three, none of which may lie; the heaviest weighs half as much again as the mean.
    assert (found.shares, found.largest_factor) == (3, 1.5)
    assert found.deviation == pytest.approx(4.0 * 1.5 / 3**0.5)


def test_a_plan_cannot_claim_noise_that_it_does_not_have():
    with pytest.raises(MalformedMessageError, match=r"sum\.noised is not one of"):
        policy(64, plan(noised=True))


def test_a_run_has_as_many_rounds_as_its_budget_is_good_for():
    proposal = Proposal("t", b"{}", bytes(32), 5, MEMBERS, 1)
    assert rounds_allowed(proposal, plan()) == 5
    assert rounds_allowed(proposal, private(epsilon=100.0)) == 5
    assert rounds_allowed(proposal, private(epsilon=3.5)) == 2
    require_budget(proposal, private(epsilon=3.5))
    with pytest.raises(MalformedMessageError, match=r"costs an epsilon of 2\.17"):
        require_budget(proposal, private(epsilon=2.0))


def test_a_plan_without_privacy_reads_as_it_did_before_there_was_any():
    assert b"privacy" not in canonical_plan(plan())
    assert parse_plan(canonical_plan(plan())) == plan()
    assert parse_plan(canonical_plan(private())) == private()


def stanced(made, *words, serial=1):
    for member, word in zip(made.proposal.members, words, strict=False):
        made.stance(member, Stance(made.run, serial, word))
    return made.standing


@pytest.mark.parametrize(
    ("words", "standing"),
    [
        ((), "go"),
        (("pause",), "go"),
        (("end",), "go"),
        (("pause", "pause"), "pause"),
        (("end", "pause"), "pause"),
        (("end", "end"), "end"),
        (("go", "go", "go", "go"), "go"),
    ],
)
def test_four_members_stand_still_where_two_hold(words, standing):
    four = Course(Proposal("t", b"{}", bytes(32), 2, tuple(sorted(KEYS)), 1))
    assert stanced(four, *words) == standing


def test_the_newest_stance_counts_and_an_end_is_final():
    made = Course(PROPOSAL)
    member = MEMBERS[0]
    assert stanced(made, "pause", serial=2) == "pause"
    assert not made.stance(member, Stance(made.run, 1, "go"))
    assert not made.stance(member, Stance(made.run, 2, "go"))
    assert made.stance(member, Stance(made.run, 3, "go"))
    assert made.standing == "go"
    assert stanced(made, "end", serial=4) == "end"
    assert not made.stance(member, Stance(made.run, 5, "go"))
    assert made.standing == "end"
    with pytest.raises(GossipReject, match="not in the run"):
        made.stance(STRANGER, Stance(made.run, 1, "end"))
    with pytest.raises(GossipReject, match="another run"):
        made.stance(member, Stance(bytes(32), 9, "end"))


def test_a_stance_is_whose_signature_it_bears():
    run, member = Course(PROPOSAL).run, PublicKey(MEMBERS[0])
    sealed = seal_stance(sign(member), member, Stance(run, 1, "pause"))
    assert open_stance(sealed) == (Stance(run, 1, "pause"), member)
    with pytest.raises(SignatureError):
        open_stance(seal_stance(sign(MEMBERS[1]), member, Stance(run, 1, "pause")))
    for odd in (Stance(run, 1, "stop"), Stance(run, 0, "go"), Stance(b"x", 1, "go")):
        with pytest.raises(MalformedMessageError):
            open_stance(seal_stance(sign(member), member, odd))
