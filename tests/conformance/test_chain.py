"""The rules of the Chain port, on the contracts in an EVM and on the chain in memory."""

import threading
import time
from collections.abc import Iterator

import pytest
import trio
from chain_worlds import (
    ACCOUNTS,
    CHAIN_ID,
    CONFIRMATIONS,
    FAR,
    KEYS,
    RECORD,
    ROOT,
    RUN,
    World,
    anvil,
    devchain,
    follow_blocks,
    member,
    on_evm,
)

from node.adapters.evm_chain import EvmChain, deploy
from node.adapters.memory_chain import Ledger, MemoryChain
from node.errors import ChainDownError, ChainError, ContractRefusedError
from node.ports.chain import Chain, ChainEvent, Terms
from protocol.members import ROLE_DATA_PROVIDER, ROLE_RESEARCHER
from protocol.types import Digest, digest


@pytest.fixture(scope="session")
def devchain_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with devchain(tmp_path_factory.mktemp("devchain")) as url:
        yield url


@pytest.fixture(scope="session")
def busy_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A chain where others write too: every block is followed by a few more."""
    stop = threading.Event()
    with devchain(tmp_path_factory.mktemp("busy")) as url:
        thread = threading.Thread(target=follow_blocks, args=(url, stop))
        thread.start()
        yield url
        stop.set()
        thread.join()


@pytest.fixture(scope="session")
def anvil_url() -> Iterator[str]:
    with anvil() as url:
        yield url


EVM = pytest.param("evm", marks=pytest.mark.slow)
ANVIL = pytest.param("anvil", marks=pytest.mark.slow)
EVM_CONFIRMED = pytest.param("evm-confirmed", marks=pytest.mark.long)


@pytest.fixture(params=["memory", EVM, EVM_CONFIRMED, ANVIL])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "memory":
        ledger = Ledger(ACCOUNTS["owner"])
        return World(lambda name: MemoryChain(ledger, ACCOUNTS[name]))
    if request.param == "evm":
        return on_evm(request.getfixturevalue("devchain_url"), 0)
    if request.param == "anvil":
        return on_evm(request.getfixturevalue("anvil_url"), 0, tick_s=1.0)
    return on_evm(request.getfixturevalue("busy_url"), CONFIRMATIONS)


async def admit(world: World, *names: str, roles: int = ROLE_DATA_PROVIDER) -> None:
    owner = world.chain("owner")
    for name in names:
        await owner.register(member(name), roles)


async def collect(chain: Chain, from_block: int, count: int) -> list[ChainEvent]:
    found: list[ChainEvent] = []
    with trio.fail_after(20):
        async for event in chain.follow(from_block):
            found.append(event)
            if len(found) == count:
                break
    return found


def refused(name: str) -> object:
    return pytest.raises(ContractRefusedError, match=rf"refused: {name}\(")


async def test_a_registered_member_is_read_back_with_the_roles_it_was_given(world):
    await world.chain("owner").register(member("clinic"), ROLE_RESEARCHER)
    members = await world.chain("stranger").members()
    assert members.members == (member("clinic", roles=ROLE_RESEARCHER),)


async def test_roles_zero_ends_a_membership_and_a_second_registration_renews_it(world):
    owner = world.chain("owner")
    await admit(world, "clinic")
    await owner.register(member("clinic"), 0)
    assert (await owner.members()).members == ()
    with refused("NotMember"):
        await world.chain("clinic").anchor_model(ROOT, RECORD)
    await owner.register(member("clinic"), ROLE_RESEARCHER)
    found = (await owner.members()).members
    assert found == (member("clinic", roles=ROLE_RESEARCHER),)


async def test_the_registrar_cannot_take_over_an_account_or_a_key(world):
    """Grants are given to accounts, and keys are sealed to what the registry says."""
    owner = world.chain("owner")
    await admit(world, "clinic")
    for changes in ({"seal_key": RECORD}, {"node_key": ROOT, "seal_key": RECORD}):
        with refused("AccountTaken"):
            await owner.register(member("clinic", **changes), 1)
    with refused("KeyTaken"):
        await owner.register(member("clinic", account=ACCOUNTS["other"]), 1)
    await owner.register(member("clinic"), 0)
    with refused("AccountTaken"):
        await owner.register(member("other", account=ACCOUNTS["clinic"]), 1)
    with refused("KeyTaken"):
        await owner.register(member("clinic", account=ACCOUNTS["other"]), 1)


async def test_a_member_changes_its_own_keys_and_an_old_key_stays_taken(world):
    await admit(world, "clinic", "other")
    clinic, old = world.chain("clinic"), member("clinic")
    await clinic.rotate_keys(old.node_key, ROOT)
    await clinic.rotate_keys(RUN, RECORD)
    found = (await clinic.members()).by_account(ACCOUNTS["clinic"])
    assert found == member("clinic", node_key=RUN, seal_key=RECORD)
    for key in (old.node_key, member("other").node_key):
        with refused("KeyTaken"):
            await clinic.rotate_keys(key, RECORD)
    for keys in ((bytes(32), ROOT), (RUN, bytes(32)), (ROOT, bytes(32))):
        with refused("InvalidKey"):
            await clinic.rotate_keys(*keys)
    with refused("NotMember"):
        await world.chain("stranger").rotate_keys(ROOT, ROOT)
    await world.chain("owner").register(found, 0)
    with refused("NotMember"):
        await clinic.rotate_keys(ROOT, ROOT)


async def test_only_the_owner_registers_and_an_account_names_one_member(world):
    with refused("OwnableUnauthorizedAccount"):
        await world.chain("clinic").register(member("clinic"), 1)
    await admit(world, "clinic")
    with refused("AccountTaken"):
        await world.chain("owner").register(
            member("other", account=ACCOUNTS["clinic"]), 1
        )


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"node_key": bytes(32)}, "InvalidKey"),
        ({"seal_key": bytes(32)}, "InvalidKey"),
        ({"account": bytes(20)}, "InvalidAccount"),
        ({"name": ""}, "InvalidName"),
        ({"name": "é" * 33}, "InvalidName"),
    ],
)
async def test_a_member_that_cannot_be_is_refused(world, changes, error):
    with refused(error):
        await world.chain("owner").register(member("clinic", **changes), 1)


async def test_a_listed_dataset_is_a_token_that_everybody_reads(world):
    await admit(world, "clinic", "other")
    assert await world.chain("clinic").list_dataset(RECORD, 64, 7) == 0
    assert await world.chain("other").list_dataset(RECORD, 1, 0) == 1
    first, second = await world.chain("stranger").datasets()
    assert (first.dataset, first.owner, first.record) == (0, ACCOUNTS["clinic"], RECORD)
    assert (first.units, first.price, second.owner) == (64, 7, ACCOUNTS["other"])


async def test_only_data_providers_list_and_each_record_once(world):
    await admit(world, "researcher", roles=ROLE_RESEARCHER)
    await admit(world, "clinic")
    with refused("NotMember"):
        await world.chain("stranger").list_dataset(RECORD, 1, 0)
    with refused("MissingRole"):
        await world.chain("researcher").list_dataset(RECORD, 1, 0)
    await world.chain("clinic").list_dataset(RECORD, 1, 0)
    with refused("AlreadyListed"):
        await world.chain("clinic").list_dataset(RECORD, 2, 0)
    for units in (0, 65):
        with refused("InvalidUnits"):
            await world.chain("clinic").list_dataset(ROOT, units, 0)
    with refused("InvalidRecord"):
        await world.chain("clinic").list_dataset(Digest(bytes(32)), 1, 0)


async def test_a_grant_lives_until_it_is_revoked_and_may_be_given_again(world):
    await admit(world, "clinic", "other")
    await admit(world, "researcher", roles=ROLE_RESEARCHER)
    clinic, to = world.chain("clinic"), ACCOUNTS["researcher"]
    dataset = await clinic.list_dataset(RECORD, 64, 0)
    units = 1 << 63 | 1
    one = await clinic.grant(dataset, to, units, FAR)
    two = await clinic.grant(dataset, ACCOUNTS["other"], 2, FAR + 1)
    assert one != two
    await clinic.revoke(one)
    grants = {g.grant: g for g in await world.chain("researcher").grants(dataset)}
    first, second = grants[one], grants[two]
    assert (first.dataset, first.units, first.until) == (dataset, units, FAR)
    assert (first.grantee, second.grantee) == (to, ACCOUNTS["other"])
    assert (first.revoked, second.revoked) == (True, False)
    with refused("AlreadyRevoked"):
        await clinic.revoke(one)
    assert await clinic.grant(dataset, to, 4, FAR) == one
    again = {g.grant: g for g in await clinic.grants(dataset)}[one]
    assert (again.units, again.revoked) == (4, False)


async def test_giving_again_replaces_what_was_given(world):
    await admit(world, "clinic", "other")
    clinic, to = world.chain("clinic"), ACCOUNTS["other"]
    dataset = await clinic.list_dataset(RECORD, 8, 0)
    await clinic.grant(dataset, to, 0b11, FAR)
    await clinic.grant(dataset, to, 0b100, FAR - 1, purposes=2, acknowledged=9)
    (found,) = await clinic.grants(dataset)
    assert (found.units, found.until) == (0b100, FAR - 1)
    assert (found.purposes, found.acknowledged) == (2, 9)


async def test_a_grant_needs_the_owner_a_member_real_units_and_a_future(world):
    await admit(world, "clinic", "other")
    clinic = world.chain("clinic")
    dataset, grantee = await clinic.list_dataset(RECORD, 4, 0), ACCOUNTS["other"]
    with refused("NotCommittee"):
        await world.chain("other").grant(dataset, grantee, 1, FAR)
    with refused("NoSuchDataset"):
        await clinic.grant(dataset + 1, grantee, 1, FAR)
    with refused("NotMember"):
        await clinic.grant(dataset, ACCOUNTS["stranger"], 1, FAR)
    for units in (0, 16):
        with refused("InvalidUnits"):
            await clinic.grant(dataset, grantee, units, FAR)
    now = (await clinic.head()).time
    with refused("InvalidExpiry"):
        await clinic.grant(dataset, grantee, 1, now)
    one = await clinic.grant(dataset, grantee, 15, now + 3600)
    with refused("NotCommittee"):
        await world.chain("other").revoke(one)
    for nothing in (one + 1, one + (1 << 20), 7):
        with refused("NoSuchGrant"):
            await clinic.revoke(nothing)
    assert await clinic.grants(dataset + 1) == []


async def test_an_owner_that_left_may_revoke_and_not_grant(world):
    await admit(world, "clinic", "other")
    clinic = world.chain("clinic")
    dataset = await clinic.list_dataset(RECORD, 4, 0)
    one = await clinic.grant(dataset, ACCOUNTS["other"], 1, FAR)
    await world.chain("owner").register(member("clinic"), 0)
    assert (await clinic.grants(dataset))[0].revoked
    with refused("NotMember"):
        await clinic.grant(dataset, ACCOUNTS["other"], 1, FAR)
    await clinic.revoke(one)
    await world.chain("owner").register(member("clinic"), 1)
    assert (await clinic.grants(dataset))[0].revoked


async def test_a_membership_that_ends_takes_its_grants_with_it(world):
    await admit(world, "clinic", "other")
    clinic, to = world.chain("clinic"), ACCOUNTS["other"]
    dataset = await clinic.list_dataset(RECORD, 4, 0)
    await clinic.grant(dataset, to, 1, FAR)
    await world.tick()
    await world.chain("owner").register(member("other"), 0)
    assert (await clinic.grants(dataset))[0].revoked
    await world.chain("owner").register(member("other"), 1)
    assert (await clinic.grants(dataset))[0].revoked
    await clinic.grant(dataset, to, 1, FAR)
    assert not (await clinic.grants(dataset))[0].revoked


async def test_purposes_and_modifiers_are_those_of_the_terms(world):
    await admit(world, "clinic", "other")
    clinic, to = world.chain("clinic"), ACCOUNTS["other"]
    terms = Terms(allowed=0b110, required=0b1001, max_days=30, token=to)
    dataset = await clinic.list_dataset(RECORD, 4, 5, terms)
    (token,) = await clinic.datasets()
    assert (token.terms, token.price) == (terms, 5)
    now = (await clinic.head()).time
    with refused("PurposeNotAllowed"):
        await clinic.grant(dataset, to, 1, now + 60, purposes=0b1)
    with refused("PurposeNotAllowed"):
        await clinic.grant(dataset, to, 1, now + 60, purposes=0)
    with refused("NotAcknowledged"):
        await clinic.grant(dataset, to, 1, now + 60, acknowledged=0b1)
    with refused("InvalidExpiry"):
        await clinic.grant(dataset, to, 1, now + 31 * 86_400)
    await clinic.grant(dataset, to, 1, now + 86_400)
    (found,) = await clinic.grants(dataset)
    assert (found.purposes, found.acknowledged) == (0b110, 0b1001)
    for bad in (Terms(allowed=0), Terms(max_days=0)):
        with refused("InvalidTerms"):
            await clinic.set_terms(dataset, 0, bad)
        with refused("InvalidTerms"):
            await clinic.list_dataset(ROOT, 4, 0, bad)


async def test_narrower_terms_end_what_was_granted_on_wider_ones(world):
    await admit(world, "clinic", "other")
    clinic = world.chain("clinic")
    dataset = await clinic.list_dataset(RECORD, 4, 0)
    await clinic.grant(dataset, ACCOUNTS["other"], 1, FAR, purposes=0b11)
    await clinic.set_terms(dataset, 3, Terms(allowed=0b10))
    (found,) = await clinic.grants(dataset)
    assert (found.purposes, found.revoked) == (0b10, False)
    assert (await clinic.datasets())[0].price == 3
    await clinic.set_terms(dataset, 3, Terms(allowed=0b100))
    assert (await clinic.grants(dataset))[0].revoked
    await clinic.set_terms(dataset, 3, Terms(required=0b1))
    assert (await clinic.grants(dataset))[0].revoked
    await clinic.set_terms(dataset, 3, Terms())
    assert not (await clinic.grants(dataset))[0].revoked
    with refused("NotOwner"):
        await world.chain("other").set_terms(dataset, 0, Terms())


async def test_a_version_adds_units_and_never_takes_one_away(world):
    await admit(world, "clinic", "other")
    clinic = world.chain("clinic")
    dataset = await clinic.list_dataset(RECORD, 4, 0)
    await clinic.grant(dataset, ACCOUNTS["other"], 0b1000, FAR)
    await clinic.add_version(dataset, ROOT, 6, rekeyed=False)
    await clinic.add_version(dataset, RUN, 6, rekeyed=True)
    (token,) = await clinic.datasets()
    assert (token.record, token.units) == (RUN, 6)
    assert (token.version, token.key_epoch) == (3, 2)
    assert not (await clinic.grants(dataset))[0].revoked
    for units in (5, 65):
        with refused("InvalidUnits"):
            await clinic.add_version(dataset, RUN, units, rekeyed=False)
    with refused("InvalidRecord"):
        await clinic.add_version(dataset, Digest(bytes(32)), 6, rekeyed=False)
    with refused("NotOwner"):
        await world.chain("other").add_version(dataset, ROOT, 6, rekeyed=True)


async def test_a_committee_decides_instead_of_the_owner(world):
    await admit(world, "clinic", "other")
    await admit(world, "researcher", roles=ROLE_RESEARCHER)
    clinic, other = world.chain("clinic"), world.chain("other")
    dataset, to = await clinic.list_dataset(RECORD, 4, 0), ACCOUNTS["researcher"]
    await clinic.set_committee(dataset, ACCOUNTS["other"])
    assert (await clinic.datasets())[0].committee == ACCOUNTS["other"]
    with refused("NotCommittee"):
        await clinic.grant(dataset, to, 1, FAR)
    one = await other.grant(dataset, to, 1, FAR)
    await clinic.revoke(one)
    await other.grant(dataset, to, 1, FAR)
    await other.revoke(one)
    with refused("NotOwner"):
        await other.set_committee(dataset, ACCOUNTS["other"])
    with refused("InvalidCommittee"):
        await clinic.set_committee(dataset, bytes(20))
    await clinic.set_committee(dataset, ACCOUNTS["clinic"])
    await clinic.grant(dataset, to, 1, FAR)


async def test_what_is_withdrawn_is_withdrawn_for_everybody_and_for_ever(world):
    await admit(world, "clinic", "other")
    clinic, to = world.chain("clinic"), ACCOUNTS["other"]
    dataset = await clinic.list_dataset(RECORD, 4, 0)
    await clinic.grant(dataset, to, 0b1111, FAR)
    await clinic.withdraw_units(dataset, 0b0010)
    await clinic.withdraw_units(dataset, 0b1000)
    assert (await clinic.datasets())[0].withdrawn == 0b1010
    assert (await clinic.grants(dataset))[0].units == 0b0101
    with refused("InvalidUnits"):
        await clinic.grant(dataset, to, 0b0011, FAR)
    for units in (0, 0b10000):
        with refused("InvalidUnits"):
            await clinic.withdraw_units(dataset, units)
    for attempt in (
        world.chain("other").withdraw_units(dataset, 1),
        world.chain("other").withdraw_dataset(dataset),
    ):
        with refused("NotOwner"):
            await attempt
    await clinic.withdraw_dataset(dataset)
    assert not (await clinic.datasets())[0].open
    assert (await clinic.grants(dataset))[0].revoked
    for attempt in (
        clinic.grant(dataset, to, 1, FAR),
        clinic.add_version(dataset, ROOT, 4, rekeyed=True),
        clinic.set_terms(dataset, 0, Terms()),
        clinic.set_committee(dataset, to),
        clinic.withdraw_units(dataset, 1),
        clinic.withdraw_dataset(dataset),
    ):
        with refused("Withdrawn"):
            await attempt


async def test_anchors_are_members_own_and_never_replaced(world):
    await admit(world, "clinic", "other")
    clinic, other = world.chain("clinic"), world.chain("other")
    await clinic.anchor_model(ROOT, RECORD)
    await clinic.anchor_round(RUN, 0, ROOT)
    await clinic.anchor_round(RUN, 1, ROOT)
    assert await clinic.anchor_receipts(ROOT, 3) == 0
    for again in (
        clinic.anchor_model(ROOT, RECORD),
        clinic.anchor_round(RUN, 1, ROOT),
        clinic.anchor_receipts(ROOT, 3),
    ):
        with refused("AlreadyAnchored"):
            await again
    with refused("ConflictingAnchor"):
        await clinic.anchor_round(RUN, 1, RECORD)
    with refused("ConflictingAnchor"):
        await clinic.anchor_model(ROOT, RUN)
    await other.anchor_round(RUN, 1, RECORD)
    assert await other.anchor_receipts(ROOT, 1) == 1
    # Whoever reads it has to say whose, and sees it once it is final.
    for host, root, count in (
        ("clinic", ROOT, 3),
        ("other", ROOT, 1),
        ("clinic", RECORD, 0),
        ("owner", ROOT, 0),
    ):
        account = world.chain(host).account
        assert await world.chain("other").anchored_receipts(account, root) == count


async def test_strangers_and_empty_digests_are_not_anchored(world):
    await admit(world, "clinic")
    zero, clinic, stranger = (
        Digest(bytes(32)),
        world.chain("clinic"),
        world.chain("stranger"),
    )
    for attempt in (
        stranger.anchor_model(ROOT, RECORD),
        stranger.anchor_round(RUN, 1, ROOT),
        stranger.anchor_receipts(ROOT, 1),
    ):
        with refused("NotMember"):
            await attempt
    for attempt in (
        clinic.anchor_model(ROOT, zero),
        clinic.anchor_round(zero, 1, ROOT),
        clinic.anchor_receipts(zero, 1),
    ):
        with refused("InvalidDigest"):
            await attempt
    with refused("InvalidCount"):
        await clinic.anchor_receipts(ROOT, 0)


async def test_values_that_do_not_fit_are_chain_errors_before_anything_is_sent(world):
    await admit(world, "clinic")
    clinic = world.chain("clinic")
    for attempt in (
        lambda: clinic.anchor_model(Digest(b"short"), RECORD),
        lambda: clinic.anchor_round(RUN, -1, ROOT),
        lambda: clinic.anchor_round(RUN, 1 << 64, ROOT),
        lambda: clinic.anchor_receipts(ROOT, 1 << 32),
        lambda: clinic.list_dataset(RECORD, 256, 0),
        lambda: clinic.list_dataset(RECORD, 1, -1),
        lambda: clinic.grant(0, b"short", 1, FAR),
        lambda: clinic.grant(-1, ACCOUNTS["clinic"], 1, FAR),
    ):
        with pytest.raises(ChainError):
            await attempt()
    assert await clinic.datasets() == []


async def test_following_gives_every_event_once_in_order_with_bytes(world):
    start = (await world.chain("owner").head()).number + 1
    await admit(world, "clinic")
    clinic, me = world.chain("clinic"), ACCOUNTS["clinic"]
    dataset = await clinic.list_dataset(RECORD, 4, 9)
    grant = await clinic.grant(dataset, ACCOUNTS["clinic"], 5, FAR)
    await clinic.revoke(grant)
    await clinic.anchor_model(ROOT, RECORD)
    await clinic.anchor_round(RUN, 3, ROOT)
    await clinic.anchor_receipts(ROOT, 2)
    await clinic.rotate_keys(RUN, ROOT)
    await clinic.add_version(dataset, ROOT, 5, rekeyed=True)
    await clinic.set_terms(dataset, 1, Terms(2, 4, 8, me))
    await clinic.set_committee(dataset, ACCOUNTS["other"])
    await clinic.withdraw_units(dataset, 3)
    await clinic.withdraw_dataset(dataset)
    found = await collect(world.chain("stranger"), start, 13)
    one = member("clinic")
    open_terms = {"token": bytes(20), "allowed": 31, "required": 0, "maxDays": 65535}
    assert [(event.kind, dict(event.data)) for event in found] == [
        (
            "MemberSet",
            {
                "nodeKey": one.node_key,
                "sealKey": one.seal_key,
                "account": me,
                "roles": 1,
                "name": "clinic",
            },
        ),
        (
            "DatasetListed",
            {
                "dataset": 0,
                "owner": me,
                "record": RECORD,
                "units": 4,
                "price": 9,
                **open_terms,
            },
        ),
        (
            "AccessGranted",
            {
                "dataset": 0,
                "grantee": me,
                "units": 5,
                "purposes": 31,
                "acknowledged": 0,
                "until": FAR,
            },
        ),
        ("AccessRevoked", {"dataset": 0, "grantee": me}),
        ("ModelAnchored", {"account": me, "root": ROOT, "record": RECORD}),
        ("RoundAnchored", {"account": me, "run": RUN, "number": 3, "state": ROOT}),
        ("ReceiptsAnchored", {"batch": 0, "host": me, "root": ROOT, "count": 2}),
        (
            "KeysRotated",
            {"account": me, "nodeKey": RUN, "sealKey": ROOT, "keyEpoch": 1},
        ),
        (
            "DatasetVersion",
            {"dataset": 0, "version": 2, "record": ROOT, "units": 5, "keyEpoch": 2},
        ),
        (
            "TermsChanged",
            {
                "dataset": 0,
                "price": 1,
                "token": me,
                "allowed": 2,
                "required": 4,
                "maxDays": 8,
            },
        ),
        ("CommitteeChanged", {"dataset": 0, "committee": ACCOUNTS["other"]}),
        ("UnitsWithdrawn", {"dataset": 0, "units": 3}),
        ("DatasetWithdrawn", {"dataset": 0}),
    ]
    places = [(event.block, event.index) for event in found]
    assert places == sorted(set(places))
    tail = await collect(clinic, found[11].block, 2)
    assert tail == found[11:]


async def test_a_follower_hears_what_comes_later(world):
    await admit(world, "clinic")
    clinic, heard = world.chain("clinic"), []
    start = (await clinic.head()).number + 1
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            heard.extend(await collect(world.chain("other"), start, 3))

        nursery.start_soon(listen)
        for number in range(3):
            await trio.sleep(0.02)
            await clinic.anchor_round(RUN, number, ROOT)
    assert [event.data["number"] for event in heard] == [0, 1, 2]


async def test_many_sends_at_once_all_arrive(world):
    await admit(world, "clinic")
    clinic, batches = world.chain("clinic"), []

    async def send(number: int) -> None:
        batches.append(await clinic.anchor_receipts(digest(bytes([number])), 1))

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(send, number)
    assert sorted(batches) == list(range(12))


async def test_the_head_moves_with_every_change_and_with_time(world):
    owner = world.chain("owner")
    before = await owner.head()
    await admit(world, "clinic")
    after = await owner.head()
    assert after.number > before.number
    assert after.digest != before.digest
    assert len(after.digest) == 32
    assert after.time >= before.time
    assert after.time >= time.time() - 60


async def test_a_chain_that_is_down_is_said_to_be_down():
    chain = EvmChain(
        url="http://127.0.0.1:1",
        chain_id=CHAIN_ID,
        contracts=dict.fromkeys(("registry", "datasets", "anchors"), "0x" + "11" * 20),
        account_key=KEYS["clinic"],
    )
    with pytest.raises(ChainDownError, match="does not answer") as caught:
        await chain.check()
    assert caught.value.hint()


async def test_check_names_the_wrong_chain_and_the_missing_contract(devchain_url):
    contracts = deploy(devchain_url, CHAIN_ID, KEYS["owner"])

    def chain(chain_id: int, **changes: str) -> EvmChain:
        return EvmChain(
            url=devchain_url,
            chain_id=chain_id,
            contracts={**contracts, **changes},
            account_key=KEYS["clinic"],
        )

    await chain(CHAIN_ID).check()
    with pytest.raises(ChainError, match=f"chain id is {CHAIN_ID}, expected 1") as one:
        await chain(1).check()
    with pytest.raises(ChainError, match=r"no contract at .*\(anchors\)") as two:
        await chain(CHAIN_ID, anchors="0x" + "11" * 20).check()
    assert one.value.hint()
    assert two.value.hint()
    swapped = {"datasets": contracts["anchors"], "anchors": contracts["datasets"]}
    with pytest.raises(ChainError, match="is not the datasets that this version") as it:
        await chain(CHAIN_ID, **swapped).check()
    assert it.value.hint()
    another = deploy(devchain_url, CHAIN_ID, KEYS["other"])
    with pytest.raises(ChainError, match="anchors belongs to the registry at") as it:
        await chain(CHAIN_ID, anchors=another["anchors"]).check()
    assert it.value.hint()
    with pytest.raises(ChainError, match="address of datasets"):
        chain(CHAIN_ID, datasets="nowhere")
