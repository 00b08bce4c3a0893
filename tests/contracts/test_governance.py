"""The council, the parameters it governs, committees, and who may not."""

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from node.adapters.deployment import DAY_S, NO_TOKEN, Settings
from node.bench.abi import compiled, encode
from node.bench.federation import Federation, Reverted, first
from node.bench.machines import Revm, account, key_of

OWNER = account("owner")
NAMES = ("a", "b", "c", "d")
A, B, C, D = (account(name) for name in NAMES)
STRANGER = account("s")
REASON = b"\x01" * 32
FREE = (0, NO_TOKEN, 0b111, 0b1, 365)
SCOPE = (0b11, 0b1, 0b1)


@pytest.fixture
def federation() -> Federation:
    made = Federation(Revm(), OWNER, Settings())
    for number, name in enumerate(NAMES):
        keys = (bytes([number + 1]) * 32, b"\x09" * 32)
        made.send(OWNER, "registry", "admit", *keys, account(name), 3, name)
    made.move(1)
    return made


def refused(name: str) -> object:
    return pytest.raises(Reverted, match=rf"^{name}\(")


def propose(federation: Federation, call: bytes, target: str = "parameters") -> int:
    at = federation.at[target]
    sent = federation.send(A, "council", "propose", at, call, REASON)
    return int(first(sent.events, "Proposed")["proposal"])


def values(**changes: int) -> tuple[int, ...]:
    return Settings(**changes).values()


def test_more_than_half_of_all_members_pass_a_proposal_and_less_do_not(federation):
    call = federation.encoded("parameters", "set", values(answer_s=3 * DAY_S))
    proposal = propose(federation, call)
    for who in (A, B):
        federation.send(who, "council", "vote", proposal)
    with refused("NotPassed"):
        federation.send(A, "council", "execute", proposal, call)
    sent = federation.send(C, "council", "vote", proposal)
    assert [event.name for event in sent.events] == ["VotedFor", "Passed"]
    with refused("NotReady"):
        federation.send(A, "council", "execute", proposal, call)
    federation.move(Settings().delay_s)
    with refused("AnotherCall"):
        federation.send(A, "council", "execute", proposal, call + b"\x00")
    federation.send(STRANGER, "council", "execute", proposal, call)
    assert federation.call("parameters", "values")[0] == 3 * DAY_S
    with refused("AlreadyDone"):
        federation.send(A, "council", "execute", proposal, call)


def test_members_vote_once_and_only_those_there_when_it_was_proposed(federation):
    proposal = propose(federation, b"")
    federation.send(A, "council", "vote", proposal)
    with refused("AlreadyVoted"):
        federation.send(A, "council", "vote", proposal)
    with refused("NotMember"):
        federation.send(STRANGER, "council", "vote", proposal)
    federation.move(1)
    keys = (b"\x0b" * 32, b"\x09" * 32)
    federation.send(OWNER, "registry", "admit", *keys, STRANGER, 1, "late")
    with refused("MemberTooNew"):
        federation.send(STRANGER, "council", "vote", proposal)
    federation.send(OWNER, "registry", "setRoles", B, 0)
    with refused("NotMember"):
        federation.send(B, "council", "vote", proposal)
    federation.send(OWNER, "registry", "setRoles", B, 1)
    with refused("MemberTooNew"):
        federation.send(B, "council", "vote", proposal)
    assert federation.call("council", "proposalOf", proposal)[4:6] == (4, 1)


def test_votes_and_proposals_have_an_end(federation):
    settings = Settings()
    late = propose(federation, b"")
    federation.move(settings.voting_period_s + 1)
    with refused("VotingOver"):
        federation.send(A, "council", "vote", late)
    passed = propose(federation, b"")
    for who in (A, B, C):
        federation.send(who, "council", "vote", passed)
    federation.move(settings.delay_s + 30 * DAY_S + 1)
    with refused("TooLate"):
        federation.send(A, "council", "execute", passed, b"")
    for number in (late + 7, 1 << 200):
        with refused("NoSuchProposal"):
            federation.send(A, "council", "vote", number)


def test_strangers_propose_nothing_and_a_target_is_a_contract(federation):
    with refused("NotMember"):
        federation.send(STRANGER, "council", "propose", A, b"", REASON)
    with refused("InvalidTarget"):
        federation.send(A, "council", "propose", STRANGER, b"", REASON)


def test_what_the_target_refuses_is_refused_with_its_reason(federation):
    call = federation.encoded("parameters", "set", values(quorum=0))
    proposal = propose(federation, call)
    for who in (A, B, C):
        federation.send(who, "council", "vote", proposal)
    federation.move(Settings().delay_s)
    with refused("OutOfBounds"):
        federation.send(A, "council", "execute", proposal, call)
    assert not federation.call("council", "proposalOf", proposal)[3]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"answer_s": 59}, "answerWindow"),
        ({"dispute_s": 366 * DAY_S}, "disputeWindow"),
        ({"challenge_s": 0}, "challengeWindow"),
        # Rows behind a receipt are kept for 90 days.
        ({"challenge_s": 60 * DAY_S + 1, "unbonding_s": 90 * DAY_S}, "challengeWindow"),
        ({"vote_s": 1}, "voteWindow"),
        # A host could be gone with its stake before the last case is over.
        ({"unbonding_s": 44 * DAY_S - 1}, "unbonding"),
        ({"quorum": 101}, "quorum"),
        ({"open_requests": 0}, "openRequests"),
    ],
)
def test_no_vote_passes_the_bounds(federation, changes, name):
    with refused("OutOfBounds") as caught:
        federation.deploy(
            "other", compiled("Parameters"), OWNER, Settings(**changes).values()
        )
    assert caught.value.values[0] == name


def test_only_the_council_changes_parameters(federation):
    for who in (OWNER, A, STRANGER):
        with refused("OwnableUnauthorizedAccount"):
            federation.send(who, "parameters", "set", values())
        with refused("OwnableUnauthorizedAccount"):
            federation.send(who, "parameters", "setToken", STRANGER, True)


def test_the_registry_can_be_handed_to_the_members(federation):
    federation.send(OWNER, "registry", "transferOwnership", federation.at["council"])
    accept = federation.encoded("registry", "acceptOwnership")
    proposal = propose(federation, accept, "registry")
    for who in (A, B, C):
        federation.send(who, "council", "vote", proposal)
    federation.move(Settings().delay_s)
    federation.send(A, "council", "execute", proposal, accept)
    assert federation.call("registry", "owner") == federation.at["council"]
    with refused("OwnableUnauthorizedAccount"):
        federation.send(OWNER, "registry", "setRoles", A, 0)
    for name in ("registry", "parameters"):
        call = federation.encoded(name, "renounceOwnership")
        with refused("NotRenounceable"):
            federation.send(A, name, "renounceOwnership")
        assert call


# --- committees --------------------------------------------------------------------


def committee(federation: Federation, threshold: int = 2) -> str:
    """Three people, two of whom decide; it decides on dataset 0 of A."""
    seats = [B, C, D]
    federation.send(A, "datasets", "list", REASON, 4, 0, FREE)
    federation.deploy("committee", compiled("Committee"), seats, threshold)
    federation.send(A, "datasets", "setCommittee", 0, federation.at["committee"])
    return federation.at["committee"]


def signatures(digest: bytes, *names: str) -> list[bytes]:
    """In the order of the signers' addresses."""
    signers = sorted(names, key=account)
    signed = (Account._sign_hash(digest, key_of(name)).signature for name in signers)
    return [bytes(one) for one in signed]


def order(federation: Federation, **changes: int) -> tuple:
    now = federation.now()
    fields = {"until": now + DAY_S, "version": 1, "issued": now, "deadline": now + 60}
    fields.update(changes)
    return (0, D, SCOPE, *fields.values())


def test_enough_signatures_of_a_committee_give_access(federation):
    committee(federation)
    row = order(federation)
    digest = federation.call("datasets", "orderDigest", row)
    enough = encode(["bytes[]"], [signatures(digest, "b", "c")])
    federation.send(STRANGER, "datasets", "giveBySignature", row, enough)
    assert federation.call("datasets", "unitsFor", 0, D, 1) == 0b11
    with refused("StaleOrder"):
        federation.send(STRANGER, "datasets", "giveBySignature", row, enough)


@pytest.mark.parametrize(
    "names", [("b",), ("b", "b"), ("b", "a"), ("b", "s"), ("b", "c", "a"), ()]
)
def test_too_few_or_other_signatures_do_not(federation, names):
    committee(federation)
    row = order(federation)
    digest = federation.call("datasets", "orderDigest", row)
    given = encode(["bytes[]"], [signatures(digest, *names)])
    with refused("BadSignature"):
        federation.send(A, "datasets", "giveBySignature", row, given)


def test_signatures_count_in_order_and_over_this_order_only(federation):
    committee(federation)
    row = order(federation)
    digest = federation.call("datasets", "orderDigest", row)
    both = signatures(digest, "b", "c")
    for bad in (both[::-1], [both[0][:-1], both[1]], [b"", both[1]]):
        with refused("BadSignature"):
            federation.send(
                A, "datasets", "giveBySignature", row, encode(["bytes[]"], [bad])
            )
    other = order(federation, until=federation.now() + 2 * DAY_S)
    with refused("BadSignature"):
        federation.send(
            A, "datasets", "giveBySignature", other, encode(["bytes[]"], [both])
        )


def test_a_committee_acts_once_by_enough_signatures(federation):
    committee(federation)
    at, target = federation.at["committee"], federation.at["datasets"]
    until = federation.now() + DAY_S
    call = federation.encoded("datasets", "give", 0, D, SCOPE, until)
    deadline = federation.now() + 60
    digest = federation.call("committee", "actDigest", target, call, 0, deadline)
    domain = {
        "name": "Rexis committee",
        "version": "1",
        "chainId": 1,
        "verifyingContract": at,
    }
    types = {
        "Act": [
            {"name": "target", "type": "address"},
            {"name": "call", "type": "bytes"},
            {"name": "nonce", "type": "uint256"},
            {"name": "deadline", "type": "uint40"},
        ]
    }
    message = {"target": target, "call": call, "nonce": 0, "deadline": deadline}
    signable = encode_typed_data(domain, types, message)
    assert (
        Account.recover_message(signable, signature=signatures(digest, "b")[0]).lower()
        == B
    )
    with refused("NotEnoughSignatures"):
        federation.send(
            A, "committee", "act", target, call, deadline, signatures(digest, "b")
        )
    both = signatures(digest, "c", "d")
    federation.send(STRANGER, "committee", "act", target, call, deadline, both)
    assert federation.call("datasets", "unitsFor", 0, D, 1) == 0b11
    with refused("NotEnoughSignatures"):
        federation.send(STRANGER, "committee", "act", target, call, deadline, both)
    federation.move(61)
    with refused("ActExpired"):
        federation.send(STRANGER, "committee", "act", target, call, deadline, both)


@pytest.mark.parametrize(
    ("seats", "threshold", "name"),
    [
        ([], 0, "InvalidSeats"),
        ([A], 0, "InvalidSeats"),
        ([A], 2, "InvalidSeats"),
        ([A, A], 1, "InvalidSeat"),
        ([A, "0x" + "00" * 20], 1, "InvalidSeat"),
        (["0x" + bytes([n + 1] * 20).hex() for n in range(33)], 1, "InvalidSeats"),
    ],
)
def test_a_committee_that_cannot_decide_is_not_made(federation, seats, threshold, name):
    with refused(name):
        federation.deploy("committee", compiled("Committee"), seats, threshold)
