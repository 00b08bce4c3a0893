"""The rules of the Market port, on the contracts in an EVM and on the market in memory.

What a rule refuses in every combination is the state machine's affair (tests/contracts); here both
adapters say it through the port.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

import pytest
from chain_worlds import CHAIN_ID, anvil, devchain
from web3 import Web3

from node.adapters.deployment import Settings
from node.adapters.evm_chain import EvmChain, account_address, deploy
from node.adapters.evm_contracts import artifact, connect, fees
from node.adapters.evm_market import EvmMarket
from node.adapters.memory_chain import Ledger, MemoryChain
from node.adapters.memory_coins import Coins, Values
from node.adapters.memory_market import Market as Rules
from node.adapters.memory_market_port import MemoryMarket
from node.errors import ContractRefusedError
from node.ports.chain import Chain, Terms
from node.ports.market import Market, Outcome, RequestStatus
from protocol import merkle
from protocol.members import Member
from protocol.receipt import batch_root
from protocol.types import digest

ROLES = {"clinic": 1, "researcher": 2, "host": 4, "x": 8, "y": 8}
KEYS = {n: sha256(b"market test " + n.encode()).digest() for n in ("owner", *ROLES)}
ACCOUNTS = {name: account_address(key) for name, key in KEYS.items()}
RECORD, OTHER, KEY_DIGEST, CLAIM = (
    digest(name) for name in (b"record", b"other", b"keys", b"claim")
)
RICH, PRICE, BOND, HOUR_S = 10_000, 1_001, 50, 3_600
RECEIPTS = [b"receipt %d" % number for number in range(3)]


@dataclass
class World:
    """A federation with a priced dataset, two auditors and a coin that everybody has."""

    chain: Callable[[str], Chain]
    market: Callable[[str], Market]
    balance: Callable[[str], int]
    move: Callable[[int], None]
    token: bytes


@pytest.fixture(scope="module")
def devchain_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("devchain")
    with devchain(folder, ACCOUNTS.values(), "--allow-time-travel") as url:
        yield url


def settings(token: bytes) -> Settings:
    return Settings(
        token="0x" + token.hex(),
        voting_period_s=HOUR_S,
        delay_s=0,
        answer_s=HOUR_S,
        dispute_s=HOUR_S,
        challenge_s=HOUR_S,
        vote_s=HOUR_S,
        unbonding_s=2 * HOUR_S,
        open_requests=2,
        bond=BOND,
    )


async def in_memory() -> World:
    now = [1_800_000_000]
    ledger = Ledger(ACCOUNTS["owner"], clock=lambda: now[0])
    token, coins = bytes([9]) * 20, Coins()
    rules = Rules(ledger, coins, Values(*settings(token).values()), token)
    rules.accepted.add(token)
    for name in ROLES:
        coins.balances[token][ACCOUNTS[name]] = RICH

    def move(seconds: int) -> None:
        now[0] = ledger.head.time + seconds

    return World(
        lambda name: MemoryChain(ledger, ACCOUNTS[name]),
        lambda name: MemoryMarket(rules, ACCOUNTS[name]),
        lambda name: coins.balances[token][ACCOUNTS[name]],
        move,
        token,
    )


class Sender:
    """Plain transactions for what no port does: a coin, and the council's decisions."""

    def __init__(self, url: str) -> None:
        self.web3 = connect(url)

    def send(self, name: str, call: object) -> str | None:
        account = self.web3.eth.account.from_key(KEYS[name])
        nonce = self.web3.eth.get_transaction_count(account.address)
        fields = {"from": account.address, "nonce": nonce, "chainId": CHAIN_ID}
        built = call.build_transaction({**fields, **fees(self.web3)})
        signed = account.sign_transaction(built)
        hashed = self.web3.eth.send_raw_transaction(signed.raw_transaction)
        receipt = self.web3.eth.wait_for_transaction_receipt(hashed, 10, 0.01)
        assert receipt["status"] == 1
        return receipt["contractAddress"]

    def at(self, name: str, address: str) -> object:
        return self.web3.eth.contract(address, abi=artifact(name)["abi"]).functions

    def move(self, seconds: int) -> None:
        if "anvil" in self.web3.client_version:
            self.web3.provider.make_request("evm_increaseTime", [seconds])
            self.web3.provider.make_request("evm_mine", [])
        else:
            self.web3.provider.make_request("dev_move", [hex(seconds)])


async def on_evm(url: str) -> World:
    sender = Sender(url)
    coin = artifact("coin")
    factory = sender.web3.eth.contract(abi=coin["abi"], bytecode=coin["bytecode"])
    token = sender.send("owner", factory.constructor())
    for name in ROLES:
        account = Web3.to_checksum_address(ACCOUNTS[name])
        sender.send("owner", sender.at("coin", token).mint(account, RICH))
    contracts = deploy(url, CHAIN_ID, KEYS["owner"], settings(bytes.fromhex(token[2:])))

    def chain(name: str) -> EvmChain:
        return EvmChain(
            url=url,
            chain_id=CHAIN_ID,
            contracts=contracts,
            account_key=KEYS[name],
            poll_s=0.01,
        )

    def balance(name: str) -> int:
        account = Web3.to_checksum_address(ACCOUNTS[name])
        return sender.at("coin", token).balanceOf(account).call()

    world = World(
        chain,
        lambda name: EvmMarket(chain(name)),
        balance,
        sender.move,
        bytes.fromhex(token[2:]),
    )
    await admit(world)
    sender.move(1)  # members vote on what is proposed after they came
    found = await chain("owner").discover()
    parameters = found["parameters"]
    call = parameters.encode_abi("setToken", [token, True])
    council = sender.at("council", parameters.functions.owner().call())
    reason = b"\x01" * 32
    sender.send("clinic", council.propose(parameters.address, call, reason))
    for name in ("clinic", "researcher", "host"):
        sender.send(name, council.vote(0))
    sender.send("clinic", council.execute(0, call))
    return world


async def admit(world: World) -> None:
    for number, (name, roles) in enumerate(ROLES.items()):
        member = Member(
            node_key=bytes([number + 1]) * 32,
            seal_key=b"\x0c" * 32,
            account=ACCOUNTS[name],
            roles=roles,
            name=name,
        )
        await world.chain("owner").register(member, roles)


@pytest.fixture(scope="module")
def anvil_url() -> Iterator[str]:
    with anvil(ACCOUNTS.values()) as url:
        yield url


EVM = pytest.param("devchain_url", marks=pytest.mark.slow)
ANVIL = pytest.param("anvil_url", marks=pytest.mark.slow)


@pytest.fixture(params=["memory", EVM, ANVIL])
async def world(request: pytest.FixtureRequest) -> World:
    if request.param == "memory":
        made = await in_memory()
        await admit(made)
    else:
        made = await on_evm(request.getfixturevalue(request.param))
    terms = Terms(allowed=0b11, required=0b1, max_days=30, token=made.token)
    await made.chain("clinic").list_dataset(RECORD, 8, PRICE, terms)
    made.move(1)
    return made


def refused(name: str) -> object:
    return pytest.raises(ContractRefusedError, match=rf"refused: {name}\(")


async def ask(world: World, price: int = PRICE) -> int:
    return await world.market("researcher").request(0, 0b11, 10, price)


async def status(world: World, request: int) -> RequestStatus:
    return (await world.market("host").requests())[request].status


async def test_a_request_that_is_approved_gives_access_and_pays_the_owner(world):
    request = await ask(world)
    (found,) = await world.market("clinic").requests()
    assert (found.request, found.dataset, found.grantee) == (
        0,
        0,
        ACCOUNTS["researcher"],
    )
    assert (found.units, found.purposes, found.acknowledged) == (0b11, 0b11, 0b1)
    assert (found.price, found.token, found.version) == (PRICE, world.token, 1)
    assert found.status is RequestStatus.OPEN
    assert world.balance("researcher") == RICH - PRICE
    await world.market("clinic").approve(request, KEY_DIGEST)
    (grant,) = await world.chain("clinic").grants(0)
    assert (grant.grantee, grant.units) == (ACCOUNTS["researcher"], 0b11)
    assert not grant.revoked
    await world.market("researcher").accept(request)
    assert await status(world, request) is RequestStatus.PAID
    await world.market("clinic").collect(world.token)
    assert world.balance("clinic") == RICH + PRICE
    scores = await world.market("host").scores(ACCOUNTS["clinic"])
    assert scores["provider"] == (66, 1)


async def test_a_price_or_a_listing_that_changed_is_not_bought(world):
    clinic = world.chain("clinic")
    with refused("PriceAbove"):
        await ask(world, PRICE - 1)
    request = await ask(world)
    await clinic.add_version(0, OTHER, 8, rekeyed=True)
    with refused("StaleVersion"):
        await world.market("clinic").approve(request, KEY_DIGEST)
    await world.market("researcher").cancel(request)
    await world.market("researcher").collect(world.token)
    assert world.balance("researcher") == RICH


async def test_only_the_committee_answers_and_only_the_grantee_accepts(world):
    await world.chain("clinic").set_committee(0, ACCOUNTS["host"])
    request = await ask(world)
    for attempt in (
        lambda: world.market("clinic").approve(request, KEY_DIGEST),
        lambda: world.market("clinic").reject(request),
    ):
        with refused("NotCommittee"):
            await attempt()
    await world.market("host").approve(request, KEY_DIGEST)
    for attempt in (
        lambda: world.market("host").accept(request),
        lambda: world.market("clinic").dispute(request, CLAIM),
    ):
        with refused("NotGrantee"):
            await attempt()
    with refused("WrongStatus"):
        await world.market("researcher").cancel(request)
    with refused("NoSuchRequest"):
        await world.market("researcher").cancel(request + 1)


async def test_who_says_no_or_nothing_keeps_nothing(world):
    market = world.market("researcher")
    await world.market("clinic").reject(await ask(world))
    unanswered = await ask(world)
    with refused("TooEarly"):
        await market.close_request(unanswered)
    world.move(HOUR_S + 1)
    with refused("TooLate"):
        await world.market("clinic").approve(unanswered, KEY_DIGEST)
    await world.market("host").close_request(unanswered)
    await market.collect(world.token)
    assert world.balance("researcher") == RICH
    assert (await market.scores(ACCOUNTS["clinic"]))["provider"] == (33, 1)
    await ask(world)
    await ask(world)
    with refused("TooManyOpen"):
        await ask(world)


async def test_who_does_not_dispute_in_time_has_paid(world):
    request = await ask(world)
    await world.market("clinic").approve(request, KEY_DIGEST)
    with refused("TooEarly"):
        await world.market("clinic").close_request(request)
    world.move(HOUR_S + 1)
    with refused("TooLate"):
        await world.market("researcher").dispute(request, CLAIM)
    await world.market("clinic").close_request(request)
    assert await status(world, request) is RequestStatus.PAID


@pytest.mark.parametrize("uphold", [True, False])
async def test_auditors_decide_who_gets_the_price_and_the_bond(world, uphold):
    request = await ask(world)
    await world.market("clinic").approve(request, KEY_DIGEST)
    number = await world.market("researcher").dispute(request, CLAIM)
    (case,) = await world.market("x").cases()
    assert (case.case, case.delivery, case.subject) == (number, True, request)
    assert (case.bond, case.outcome) == (BOND, Outcome.PENDING)
    for who, error in (("clinic", "Partial"), ("host", "MissingRole")):
        with refused(error):
            await world.market(who).vote(number, CLAIM, uphold=True)
    await world.market("x").vote(number, CLAIM, uphold=uphold)
    with refused("AlreadyVoted"):
        await world.market("x").vote(number, CLAIM, uphold=uphold)
    await world.market("y").vote(number, CLAIM, uphold=uphold)
    (case,) = await world.market("x").cases()
    assert case.outcome is (Outcome.UPHELD if uphold else Outcome.REJECTED)
    winner = "researcher" if uphold else "clinic"
    await world.market(winner).collect(world.token)
    won = 0 if uphold else PRICE + BOND
    assert world.balance(winner) == RICH + won
    ended = RequestStatus.REFUNDED if uphold else RequestStatus.PAID
    assert await status(world, request) is ended


async def test_without_a_quorum_the_price_is_halved_and_the_bond_goes_back(world):
    request = await ask(world)
    await world.market("clinic").approve(request, KEY_DIGEST)
    number = await world.market("researcher").dispute(request, CLAIM)
    await world.market("x").vote(number, CLAIM, uphold=True)
    with refused("CaseRuns"):
        await world.market("host").close_case(number)
    world.move(HOUR_S + 1)
    await world.market("host").close_case(number)
    assert await status(world, request) is RequestStatus.HALVED
    for name in ("researcher", "clinic"):
        await world.market(name).collect(world.token)
    half = PRICE // 2
    assert world.balance("clinic") == RICH + half
    assert world.balance("researcher") == RICH - half


async def test_a_receipt_found_wrong_costs_the_host_its_stake(world):
    root = batch_root(RECEIPTS)
    host = world.market("host")
    await host.stake(3 * BOND)
    await world.chain("host").anchor_receipts(root, len(RECEIPTS))
    proof = merkle.inclusion_proof(RECEIPTS, 1)

    async def challenge(index: int = 1, receipt: bytes = RECEIPTS[1]) -> int:
        return await world.market("researcher").challenge(
            ACCOUNTS["host"], root, receipt, index, proof, CLAIM
        )

    for bad in ({"index": 0}, {"receipt": b"another"}, {"index": 3}):
        with refused("NotIncluded"):
            await challenge(**bad)
    number = await challenge()
    with refused("AlreadyChallenged"):
        await challenge()
    (case,) = await host.cases()
    assert (case.delivery, case.taken, case.defendant) == (False, 0, ACCOUNTS["host"])
    for name in ("x", "y"):
        await world.market(name).vote(number, CLAIM, uphold=True)
    await world.market("researcher").collect(world.token)
    # Half of what the host lost; the other half is everybody's.
    assert world.balance("researcher") == RICH + BOND - BOND // 2
    assert (await host.cases())[0].taken == BOND
    scores = await host.scores(ACCOUNTS["host"])
    assert scores["host"] == (33, 1)
    with refused("StakeTooSmall"):
        await host.unstake(3 * BOND)


async def test_a_stake_leaves_only_when_nothing_can_be_held_against_it(world):
    host = world.market("host")
    await host.stake(BOND)
    with refused("NothingLeaves"):
        await host.release()
    await host.unstake(BOND)
    with refused("StillLiable"):
        await host.release()
    with refused("NothingToCollect"):
        await host.collect(world.token)
    world.move(2 * HOUR_S + 1)
    await host.release()
    await host.collect(world.token)
    assert world.balance("host") == RICH


async def test_who_follows_the_chain_hears_of_requests_and_cases(world):
    chain = world.chain("host")
    start = (await chain.head()).number + 1
    request = await ask(world)
    await world.market("clinic").approve(request, KEY_DIGEST)
    number = await world.market("researcher").dispute(request, CLAIM)
    for name in ("x", "y"):
        await world.market(name).vote(number, CLAIM, uphold=False)
    kinds, last = [], {}
    async for event in chain.follow(start):
        kinds.append(event.kind)
        last = dict(event.data)
        if event.kind == "RequestClosed":
            break
    assert kinds == [
        *("AccessRequested", "RequestApproved", "AccessGranted"),
        *("CaseOpened", "RequestDisputed", "Voted", "Voted", "CaseClosed"),
        "RequestClosed",
    ]
    assert last == {"request": request, "dataset": 0, "status": 4}


async def test_an_approvals_digest_a_purse_and_the_rules_can_be_read(world):
    researcher = world.market("researcher")
    request = await ask(world)
    assert await researcher.approval(request) is None
    other = await ask(world)
    await world.market("clinic").approve(request, KEY_DIGEST)
    assert await researcher.approval(request) == KEY_DIGEST
    assert await researcher.approval(other) is None
    await researcher.cancel(other)
    purse = await researcher.purse(world.token)
    assert (purse.balance, purse.held) == (RICH - 2 * PRICE, PRICE)
    rules = await researcher.rules()
    assert (rules.answer_s, rules.open_requests, rules.bond) == (HOUR_S, 2, BOND)
    assert rules.bond_token == world.token
    assert await researcher.accepts(world.token)
    assert not await researcher.accepts(bytes([1]) * 20)


async def test_a_request_names_the_listing_that_was_read(world):
    researcher = world.market("researcher")
    with refused("StaleRecord"):
        await researcher.request(0, 0b11, 10, PRICE, record=OTHER)
    assert await researcher.request(0, 0b11, 10, PRICE, record=RECORD) == 0
