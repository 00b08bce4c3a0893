"""The rules of the Chain port, on the contracts in an EVM and on the chain in memory."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import requests
import trio

from node.adapters.evm_chain import EvmChain, account_address, deploy
from node.adapters.memory_chain import Ledger, MemoryChain
from node.errors import ChainDownError, ChainError, ContractRefusedError
from node.ports import Chain, ChainEvent
from protocol.members import ROLE_DATA_PROVIDER, ROLE_RESEARCHER, Member
from protocol.types import Digest, digest

CHAIN_ID = 20261
CONFIRMATIONS = 2
KEYS = {
    name: sha256(b"test account " + name.encode()).digest()
    for name in ("owner", "clinic", "other", "researcher", "stranger")
}
ACCOUNTS = {name: account_address(key) for name, key in KEYS.items()}
RECORD, ROOT, RUN = digest(b"record"), digest(b"root"), digest(b"run")
FAR = 4_000_000_000


@dataclass(frozen=True)
class World:
    """A fresh federation without members."""

    chain: Callable[[str], Chain]


@contextmanager
def devchain(folder: Path) -> Iterator[str]:
    """A development chain in a process of its own, and its URL."""
    funds = [part for a in ACCOUNTS.values() for part in ("--fund", "0x" + a.hex())]
    command = [sys.executable, "-m", "node.devchain", "--port", "0"]
    where = ["--db", str(folder / "chain.sqlite"), "--chain-id", str(CHAIN_ID)]
    with subprocess.Popen(
        [*command, *where, *funds], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
        process.terminate()


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


def follow_blocks(url: str, stop: threading.Event) -> None:
    session, seen = requests.Session(), ""

    def ask(method: str, *params: str) -> str:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return str(session.post(url, json=body, timeout=10).json()["result"])

    while not stop.wait(0.005):
        if ask("eth_blockNumber") != seen:
            for _ in range(CONFIRMATIONS):
                ask("dev_fund", "0x" + ACCOUNTS["stranger"].hex(), "0x1")
            seen = ask("eth_blockNumber")


def on_evm(url: str, confirmations: int) -> World:
    contracts = deploy(url, CHAIN_ID, KEYS["owner"])
    return World(
        lambda name: EvmChain(
            url=url,
            chain_id=CHAIN_ID,
            contracts=contracts,
            account_key=KEYS[name],
            confirmations=confirmations,
            poll_s=0.01,
        )
    )


EVM = pytest.param("evm", marks=pytest.mark.slow)
EVM_CONFIRMED = pytest.param("evm-confirmed", marks=pytest.mark.slow)


@pytest.fixture(params=["memory", EVM, EVM_CONFIRMED])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "memory":
        ledger = Ledger(ACCOUNTS["owner"])
        return World(lambda name: MemoryChain(ledger, ACCOUNTS[name]))
    if request.param == "evm":
        return on_evm(request.getfixturevalue("devchain_url"), 0)
    return on_evm(request.getfixturevalue("busy_url"), CONFIRMATIONS)


# The few that also meet the real contracts in `make check`.
on_both = pytest.mark.parametrize(
    "world", ["memory", "evm", EVM_CONFIRMED], indirect=True
)


def member(who: str, **changes: object) -> Member:
    fields = {
        "node_key": digest(b"node " + who.encode()),
        "seal_key": digest(b"seal " + who.encode()),
        "account": ACCOUNTS[who],
        "roles": ROLE_DATA_PROVIDER,
        "name": who,
    }
    return Member(**{**fields, **changes})


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
    await owner.register(member("clinic", account=ACCOUNTS["other"]), 1)
    found = (await owner.members()).members
    assert [one.account for one in found] == [ACCOUNTS["other"]]
    await owner.register(member("stranger", account=ACCOUNTS["clinic"]), 1)


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


@on_both
async def test_a_grant_lives_until_its_dataset_owner_revokes_it(world):
    await admit(world, "clinic")
    await admit(world, "researcher", roles=ROLE_RESEARCHER)
    clinic = world.chain("clinic")
    dataset = await clinic.list_dataset(RECORD, 64, 0)
    units = 1 << 63 | 1
    assert await clinic.grant(dataset, ACCOUNTS["researcher"], units, FAR) == 0
    assert await clinic.grant(dataset, ACCOUNTS["researcher"], 2, FAR + 1) == 1
    await clinic.revoke(0)
    first, second = await world.chain("researcher").grants(dataset)
    assert (first.grant, first.dataset, first.units) == (0, dataset, units)
    assert (first.grantee, first.until) == (ACCOUNTS["researcher"], FAR)
    assert (first.revoked, second.revoked) == (True, False)
    with refused("AlreadyRevoked"):
        await clinic.revoke(0)


async def test_a_grant_needs_the_owner_a_member_real_units_and_a_future(world):
    await admit(world, "clinic", "other")
    clinic = world.chain("clinic")
    dataset, grantee = await clinic.list_dataset(RECORD, 4, 0), ACCOUNTS["other"]
    with refused("NotOwner"):
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
    await clinic.grant(dataset, grantee, 15, now + 3600)
    with refused("NotOwner"):
        await world.chain("other").revoke(0)
    with refused("NoSuchGrant"):
        await clinic.revoke(1)
    assert await clinic.grants(dataset + 1) == []


async def test_an_owner_that_left_may_revoke_and_not_grant(world):
    await admit(world, "clinic", "other")
    clinic = world.chain("clinic")
    dataset = await clinic.list_dataset(RECORD, 4, 0)
    await clinic.grant(dataset, ACCOUNTS["other"], 1, FAR)
    await world.chain("owner").register(member("clinic"), 0)
    with refused("NotMember"):
        await clinic.grant(dataset, ACCOUNTS["other"], 1, FAR)
    await clinic.revoke(0)
    assert (await clinic.grants(dataset))[0].revoked


@on_both
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


@on_both
async def test_following_gives_every_event_once_in_order_with_bytes(world):
    start = (await world.chain("owner").head()).number + 1
    await admit(world, "clinic")
    clinic = world.chain("clinic")
    dataset = await clinic.list_dataset(RECORD, 4, 9)
    grant = await clinic.grant(dataset, ACCOUNTS["clinic"], 5, FAR)
    await clinic.revoke(grant)
    await clinic.anchor_model(ROOT, RECORD)
    await clinic.anchor_round(RUN, 3, ROOT)
    await clinic.anchor_receipts(ROOT, 2)
    found = await collect(world.chain("stranger"), start, 7)
    me, one = ACCOUNTS["clinic"], member("clinic")
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
            {"dataset": 0, "owner": me, "record": RECORD, "units": 4, "price": 9},
        ),
        (
            "AccessGranted",
            {"grant": 0, "dataset": 0, "grantee": me, "units": 5, "until": FAR},
        ),
        ("AccessRevoked", {"grant": 0, "dataset": 0, "grantee": me}),
        ("ModelAnchored", {"account": me, "root": ROOT, "record": RECORD}),
        ("RoundAnchored", {"account": me, "run": RUN, "number": 3, "state": ROOT}),
        ("ReceiptsAnchored", {"batch": 0, "host": me, "root": ROOT, "count": 2}),
    ]
    places = [(event.block, event.index) for event in found]
    assert places == sorted(set(places))
    tail = await collect(clinic, found[5].block, 2)
    assert tail == found[5:]


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
