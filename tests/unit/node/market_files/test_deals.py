"""Requests with a price: paid into escrow, decided, delivered, disputed, refunded."""

import json
from dataclasses import replace

import msgspec
import pytest
from deals_world import (
    HOUR,
    PRICE,
    RICH,
    TEXTS,
    ask,
    decide,
    later,
    rows,
    status,
)
from file_world import COIN, DAY, OTHER, OWNER, READER, VCF, paper, write

from node.errors import (
    AccessError,
    ChainDownError,
    ChainError,
    ContractRefusedError,
)
from node.market.offer import Offer
from node.ports.market import Decision
from protocol.deals import DEALS_PROTOCOL, Ballot, DeliveryQuery, KeyDigestQuery
from protocol.manifest import UnitsAnswer
from protocol.types import digest
from protocol.wire import decode, encode

# --- terms -------------------------------------------------------------------------


async def test_the_listings_codes_are_the_terms_on_the_chain(world, listed):
    (token,) = world.ledger.tokens
    assert token.terms.allowed == 0b01000
    assert token.terms.required == 1 << 6
    assert (token.price, token.terms.token, token.terms.max_days) == (PRICE, COIN, 100)
    shown = await world.reader.market.show(listed)
    assert shown["price"] == "250"
    assert shown["terms"]["allowed"] == ["DUO:0000007"]
    assert shown["terms"]["required"] == ["DUO:0000021"]
    assert shown["terms"]["committee"] == OWNER


async def test_publishing_again_on_other_terms_is_refused_and_changes_none(
    world, listed, tmp_path
):
    before = list(world.ledger.tokens)
    with pytest.raises(AccessError, match="listed on other terms: price 250"):
        await world.owner.market.publish(
            [tmp_path / "v"], *TEXTS, offered=Offer(1, COIN)
        )
    again = await world.owner.market.publish([tmp_path / "v"], *TEXTS)
    assert again["dataset"] == listed
    assert world.ledger.tokens == before
    changed = await world.owner.market.change(listed, Offer(price=300, max_days=10))
    assert (changed["price"], changed["terms"]["max_days"]) == ("300", 10)


@pytest.mark.parametrize(
    ("offer", "why"),
    [
        (Offer(5), "without its token"),
        (Offer(-1, COIN), "price -1"),
        (Offer(1 << 96, COIN), "needs between 0 and"),
        (Offer(max_days=0), "0 days"),
        (Offer(max_days=3651), "3651 days"),
    ],
)
async def test_terms_that_mean_nothing_are_refused_before_anything_is_encrypted(
    world, tmp_path, offer, why
):
    write(tmp_path / "v" / "a.vcf", VCF)
    with pytest.raises(AccessError, match=why):
        await world.owner.market.publish([tmp_path / "v"], *TEXTS, offered=offer)
    assert await world.owner.store.scan("market.draft") == []
    assert not world.ledger.tokens


# --- asking ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"purposes": ["DUO:0000006"]}, r"not for DUO:0000006 \(health"),
        ({"purposes": ["DUO:0000042"]}, "not for DUO:0000042"),
        ({"acknowledged": []}, r"acknowledge DUO:0000021 \(ethics"),
        ({"acknowledged": ["DUO:0000018"]}, "acknowledge DUO:0000021"),
        ({"max_price": 249}, "costs 250 of token 0x4d4d"),
        ({"days": 101}, "given for 1 to 100"),
        ({"units": [2]}, "units"),
    ],
)
async def test_a_request_outside_of_the_terms_is_refused_and_costs_nothing(
    world, listed, purse, changes, why
):
    with pytest.raises(AccessError, match=why):
        await ask(world, listed, **changes)
    assert purse(world.reader) == RICH
    assert world.rules.requests == []


async def test_the_chain_refuses_the_wrong_purpose_whatever_the_node_says(
    world, listed, monkeypatch
):
    monkeypatch.setattr("node.market.requests._purposes", lambda *_: 0b00100)
    with pytest.raises(ContractRefusedError, match="PurposeNotAllowed"):
        await ask(world, listed)


async def test_codes_that_are_none_are_refused(world, listed):
    with pytest.raises(ChainError, match="no purpose"):
        await ask(world, listed, purposes=["DUO:0000021"])
    with pytest.raises(ChainError, match="no modifier"):
        await ask(world, listed, acknowledged=["DUO:0000007"])
    with pytest.raises(AccessError, match="own"):
        await ask(world, listed, world.owner)


async def test_a_listing_that_changed_since_it_was_read_is_not_bought(
    world, listed, monkeypatch
):
    await world.reader.market.show(listed)
    real = world.ledger.tokens[0]

    async def stale(_):
        return real

    world.ledger.tokens[0] = replace(real, record=digest(b"swapped"))
    monkeypatch.setattr(world.reader.market._tools.chain, "datasets", None)
    monkeypatch.setattr(type(world.reader.market._tools), "token", lambda *_: stale(0))
    with pytest.raises(ContractRefusedError, match="StaleRecord"):
        await ask(world, listed)


# --- paid, approved, delivered -----------------------------------------------------


async def test_a_buyer_pays_is_approved_reads_accepts_and_the_owner_collects(
    world, listed, purse, tmp_path
):
    number = await ask(world, listed)
    assert purse(world.reader) == RICH - PRICE
    with pytest.raises(AccessError, match="no grant"):
        await world.reader.market.fetch(listed, None, tmp_path / "early")
    row = await decide(world).approve(number)
    assert (row["status"], row["signed"]) == ("approved", 1)
    with pytest.raises(AccessError, match="have not been read here"):
        await rows(world).accept(number)
    await world.reader.market.fetch(listed, None, tmp_path / "out")
    (grant,) = await world.owner.market.grants(listed)
    assert grant["purposes"] == ["DUO:0000007"]
    assert (await rows(world).accept(number))["status"] == "paid"
    collected = await world.owner.market.deals.collect(COIN)
    assert (collected["balance"], collected["held"]) == (str(PRICE), "0")
    scores = await world.reader.market.deals.scores(OWNER)
    assert scores["roles"][0] == {"role": "provider", "score": 66, "cases": 1}
    with pytest.raises(ContractRefusedError, match="NothingToCollect"):
        await world.reader.market.deals.collect(COIN)


async def test_keys_that_the_approval_did_not_commit_to_are_not_taken_for_it(
    world, listed, tmp_path
):
    number = await ask(world, listed)
    await decide(world).approve(number)
    await world.owner.store.delete(
        "market.keys", next(k for k, _ in await world.owner.store.scan("market.keys"))
    )
    await world.reader.market.fetch(listed, None, tmp_path / "out")
    with pytest.raises(AccessError, match="have not been read here"):
        await rows(world).accept(number)


async def test_the_message_is_made_once_and_destroyed_with_its_units(world, listed):
    number = await ask(world, listed)
    found = world.rules.requests[number]
    member = world.reader.member()
    messages = world.owner.market.deals._messages
    first = await messages.of(found, member)
    assert await messages.of(found, member) == first
    assert len(decode(first, UnitsAnswer).headers) == 2
    await world.owner.market.withdraw(listed, [1])
    assert await messages.shown(found) is None
    with pytest.raises(AccessError, match=r"units \[1\] of dataset 0 are withdrawn"):
        await decide(world).approve(number)


async def test_a_message_for_a_key_that_was_changed_is_made_again(world, listed):
    number = await ask(world, listed)
    found, member = world.rules.requests[number], world.reader.member()
    messages = world.owner.market.deals._messages
    first = await messages.of(found, member)
    other = msgspec.structs.replace(member, seal_key=world.other.seal_key)
    assert await messages.for_release(found, other, found.units) is None
    assert await messages.for_release(found, member, 1) is None
    assert await messages.for_release(found, member, found.units) == first
    assert await messages.of(found, other) != first


# --- refunds -----------------------------------------------------------------------


async def test_a_refused_a_cancelled_and_an_expired_request_are_refunded(
    world, listed, purse
):
    refused = await ask(world, listed)
    assert (await decide(world).refuse(refused))["status"] == "refunded"
    cancelled = await ask(world, listed)
    with pytest.raises(AccessError, match="of another member"):
        await world.other.market.deals.requests.cancel(cancelled)
    assert (await rows(world).cancel(cancelled))["status"] == "refunded"
    expired = await ask(world, listed)
    await rows(world).close_due()
    assert await status(world, expired) == "open"
    later(world, 2 * HOUR)
    with pytest.raises(ContractRefusedError, match="TooLate"):
        await decide(world).approve(expired)
    await rows(world).close_due()
    assert await status(world, expired) == "refunded"
    await world.reader.market.deals.collect(COIN)
    assert purse(world.reader) == RICH
    assert await world.owner.market.grants(listed) == []


async def test_an_owner_is_paid_when_the_time_to_dispute_is_over(world, listed):
    number = await ask(world, listed)
    await decide(world).approve(number)
    owner = world.owner.market.deals.requests
    await owner.close_due()
    assert await status(world, number) == "approved"
    later(world, 2 * HOUR)
    await rows(world).close_due()  # it is not the reader's to close
    assert await status(world, number) == "approved"
    await owner.close_due()
    assert await status(world, number) == "paid"


# --- disputes ----------------------------------------------------------------------


async def test_auditors_decide_a_dispute_by_what_the_owner_can_show(
    world, listed, purse, tmp_path
):
    number = await ask(world, listed)
    await decide(world).approve(number)
    claim = tmp_path / "claim.json"
    row = await rows(world).dispute(number, "no key came", claim)
    assert (row["status"], row["case"]) == ("disputed", 0)
    said = json.loads(claim.read_text())
    assert said["reason"] == "no key came"
    assert said["received"] is False
    assert world.ledger.events[-1].data["claim"] == digest(claim.read_bytes())
    auditor = world.other.market.deals
    checked = await auditor.check_case(0)
    assert checked["sound"]
    assert checked["shown"] == checked["committed"] == said["committed"]
    for key, _ in await world.owner.store.scan("market.keys"):
        await world.owner.store.delete("market.keys", key)
    checked = await auditor.check_case(0)
    assert (checked["sound"], checked["shown"]) == (False, None)
    assert "no message" in checked["why"]
    report = write(tmp_path / "report.txt", "the owner shows nothing")
    voted = await auditor.vote(0, uphold=True, report=report)
    assert voted["upholding"] == 1
    with pytest.raises(ContractRefusedError, match="AlreadyVoted"):
        await auditor.vote(0, uphold=True, report=report)
    later(world, 15 * 86_400)
    assert (await auditor.close_case(0))["outcome"] == "undecided"
    assert await status(world, number) == "halved"
    await world.reader.market.deals.collect(COIN)
    assert purse(world.reader) == RICH - PRICE // 2


async def test_only_auditors_of_a_dispute_are_shown_a_message(world, listed):
    number = await ask(world, listed)
    await decide(world).approve(number)
    ask_for = encode(DeliveryQuery(number))
    with pytest.raises(AccessError, match="only auditors"):
        await decide(world).answer(world.other.peer_id, ask_for)
    assert DEALS_PROTOCOL in world.owner.transport._served


# --- committees --------------------------------------------------------------------


@pytest.fixture
async def seated(world, listed):
    """Owner and third node decide together."""
    made = await world.owner.market.deals.make_committee([OWNER, OTHER], 2)
    address = bytes.fromhex(made["committee"][2:])
    await world.owner.market.change(listed, Offer(committee=address))
    return address


async def test_a_committee_decides_with_enough_of_its_seats_and_not_before(
    world, listed, seated, tmp_path
):
    with pytest.raises(ContractRefusedError, match="NotCommittee"):
        await world.owner.market.give(listed, READER, None, 1)
    number = await ask(world, listed)
    row = await decide(world).approve(number)
    assert (row["status"], row["signed"], row["threshold"]) == ("open", 1, 2)
    again = await decide(world).approve(number)
    assert (again["status"], again["signed"]) == ("open", 1)
    row = await world.other.market.deals.decisions.approve(number)
    assert (row["status"], row["signed"]) == ("approved", 2)
    await world.reader.market.fetch(listed, None, tmp_path / "out")
    assert (await rows(world).accept(number))["status"] == "paid"


async def test_yes_and_no_are_counted_apart(world, listed, seated):
    number = await ask(world, listed)
    assert (await decide(world).approve(number))["status"] == "open"
    other = world.other.market.deals.decisions
    row = await other.refuse(number)
    assert (row["status"], row["signed"]) == ("open", 1)
    assert (await decide(world).refuse(number))["status"] == "refunded"


async def test_ballots_of_strangers_for_other_keys_or_another_act_are_refused(
    world, listed, seated
):
    number = await ask(world, listed)
    deadline = world.rules.requests[number].deadline
    answer, other = decide(world).answer, world.other

    def ballot(key, nonce=0, deadline=deadline, account=other.account):
        decision = Decision(number, key or None, nonce, deadline)
        signed = paper(account, seated, decision)
        return encode(Ballot(number, key, nonce, deadline, signed))

    with pytest.raises(AccessError, match="lab does not decide"):
        await answer(world.reader.peer_id, ballot(b""))
    with pytest.raises(AccessError, match="lab does not decide"):
        await answer(world.reader.peer_id, encode(KeyDigestQuery(number)))
    with pytest.raises(AccessError, match="other keys"):
        await answer(other.peer_id, ballot(digest(b"x")))
    with pytest.raises(AccessError, match="act 1 of the committee"):
        await answer(other.peer_id, ballot(b"", nonce=1))
    with pytest.raises(AccessError, match="act 0 of the committee"):
        await answer(other.peer_id, ballot(b"", deadline=DAY))
    with pytest.raises(AccessError, match="signed by another"):
        await answer(other.peer_id, ballot(b"", account=world.owner.account))
    assert await world.owner.store.scan("market.ballots") == []


async def test_another_member_decides_alone_where_it_is_named(world, listed):
    await world.owner.market.change(listed, Offer(committee=world.other.account))
    number = await ask(world, listed)
    with pytest.raises(AccessError, match="clinic does not decide"):
        await decide(world).approve(number)
    row = await world.other.market.deals.decisions.approve(number)
    assert row["status"] == "approved"


async def test_committees_that_mean_nothing_are_not_made(world):
    make = world.owner.market.deals.make_committee
    for seats, threshold in (([OWNER], 2), ([OWNER, OTHER], 0), ([OWNER, OWNER], 1)):
        with pytest.raises(AccessError):
            await make(seats, threshold)
    assert world.papers == {}


async def test_what_is_not_there_is_named(world, listed):
    deals = world.owner.market.deals
    for call in (
        lambda: deals.requests.row(5),
        lambda: deals.check_case(5),
        lambda: deals.close_case(5),
    ):
        with pytest.raises(AccessError, match="5 is not on the chain"):
            await call()
    shown = await deals.account()
    assert shown["rules"]["bond"] == "7"
    assert shown["purses"][0]["accepted"]


# --- what would come to nothing is said before it costs anything -------------------


async def test_a_request_for_less_than_one_has_is_refused_before_the_price_is_paid(
    world, listed, purse
):
    await world.owner.market.give(listed, READER, None, 60)
    for changes, why in (
        ({"days": 60, "units": [0]}, r"units \[1\] that this request leaves out"),
        ({"days": 30}, "60 days that this request leaves out"),
    ):
        with pytest.raises(AccessError, match=why):
            await ask(world, listed, **changes)
    assert purse(world.reader) == RICH
    number = await ask(world, listed, days=61)
    assert (await decide(world).approve(number))["status"] == "approved"


async def test_of_a_revoked_or_ended_grant_one_may_ask_for_less(world, listed):
    given = await world.owner.market.give(listed, READER, None, 60)
    await world.owner.market.revoke(given["grant"])
    await ask(world, listed, units=[0])
    await world.owner.market.give(listed, READER, None, 1)
    later(world, DAY + HOUR)
    await ask(world, listed, units=[0])


async def test_the_chain_too_refuses_an_approval_for_less(world, listed):
    number = await ask(world, listed, days=1)
    await world.owner.market.give(listed, READER, None, 60)
    with pytest.raises(ContractRefusedError, match="NarrowerThanGranted"):
        await decide(world).approve(number)


async def test_a_token_that_nobody_accepted_is_a_warning_to_the_owner_and_a_no_to_others(
    world, listed, purse
):
    shown = await world.owner.market.change(listed, Offer(token=b"\x99" * 20))
    (warning,) = shown["warnings"]
    assert "not accepted token 0x9999" in warning
    with pytest.raises(
        AccessError, match=r"0x9999.*, which the members have not accepted"
    ):
        await ask(world, listed)
    assert (await world.owner.market.change(listed, Offer(token=COIN)))[
        "warnings"
    ] == []
    await ask(world, listed)


async def test_an_address_that_is_no_token_does_not_hide_what_one_has(
    world, listed, monkeypatch
):
    await world.owner.market.change(listed, Offer(token=b"\x99" * 20))
    market = world.reader.market.deals._market
    real = market.purse

    async def purse(token):
        if token != COIN:
            raise ChainError("balanceOf: nothing answers there")
        return await real(token)

    monkeypatch.setattr(market, "purse", purse)
    account = await world.reader.market.deals.account()
    assert [one["token"] for one in account["purses"]] == ["0x" + COIN.hex()]

    async def down(_):
        raise ChainDownError("the chain does not answer")

    monkeypatch.setattr(market, "purse", down)
    with pytest.raises(ChainDownError):
        await world.reader.market.deals.account()


async def test_who_could_never_answer_is_not_put_in_charge(world, listed):
    class Said:
        price = token = max_days = None
        committee = "0x" + "99" * 20

    with pytest.raises(AccessError, match="neither a member nor a committee"):
        await world.owner.market.offer(Said)
    made = await world.owner.market.deals.make_committee([OWNER, OTHER], 2)
    for committee in (made["committee"], OTHER, "0x" + world.other.account.hex()):
        Said.committee = committee
        assert (await world.owner.market.offer(Said)).committee


async def test_a_grant_in_place_of_another_says_what_that_one_covered(world, listed):
    first = await world.owner.market.give(listed, READER, [0, 1], 30)
    assert first["replaced"] is None
    second = await world.owner.market.give(listed, READER, [1], 30)
    assert (second["units"], second["replaced"]) == ([1], [0, 1])
    await world.owner.market.revoke(second["grant"])
    third = await world.owner.market.give(listed, READER, [0], 30)
    assert third["replaced"] is None


async def test_an_owner_needs_no_grant_of_its_own(world, listed, tmp_path):
    with pytest.raises(AccessError, match=f"is this node, which owns dataset {listed}"):
        await world.owner.market.give(listed, OWNER, None, 30)
    with pytest.raises(AccessError, match="this node's own"):
        await world.owner.market.fetch(listed, None, tmp_path / "out")


async def test_a_claim_is_written_only_of_what_can_be_disputed(world, listed, tmp_path):
    number = await ask(world, listed)
    claim = tmp_path / "claim.json"
    with pytest.raises(AccessError, match=f"request {number} is open, not approved"):
        await rows(world).dispute(number, "nothing came", claim)
    assert not claim.exists()
