"""What other programs rely on: signatures, standard interfaces, inclusion, scores."""

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from node.adapters.deployment import DAY_S, NO_TOKEN, Settings, create_address
from node.bench.abi import Abi, compiled
from node.bench.federation import Federation, Reverted
from node.bench.machines import Revm, account, key_of
from protocol import merkle
from protocol.receipt import batch_root

OWNER, CLINIC, READER, HOST = (
    account(n) for n in ("owner", "clinic", "reader", "host")
)
RECORD, DIGEST = b"\x05" * 32, b"\x06" * 32
SCOPE = (0b101, 0b11, 0b1)
PRICE = 1_000


@pytest.fixture
def federation() -> Federation:
    machine = Revm()
    coin_at = create_address(OWNER, machine.nonce(OWNER))
    machine.create(OWNER, compiled("DevCoin").bytecode)
    made = Federation(machine, OWNER, Settings(token=coin_at, bond=10))
    made.know("coin", compiled("DevCoin"), coin_at)
    for number, (name, roles) in enumerate(
        [("clinic", 1), ("reader", 2), ("host", 4), ("x", 8), ("y", 8)]
    ):
        keys = (bytes([number + 1]) * 32, b"\x09" * 32)
        made.send(OWNER, "registry", "admit", *keys, account(name), roles, name)
    terms = (0, NO_TOKEN, 0b111, 0b1, 30)
    made.send(CLINIC, "datasets", "list", RECORD, 8, 0, terms)
    return made


def refused(name: str) -> object:
    return pytest.raises(Reverted, match=rf"^{name}\(")


def give(federation: Federation, days: int = 1) -> int:
    until = federation.now() + days * DAY_S
    federation.send(CLINIC, "datasets", "give", 0, READER, SCOPE, until)
    return until


def test_an_order_is_signed_as_eip_712_says(federation):
    """With a library that knows nothing of our contract."""
    now = federation.now()
    scope = dict(zip(("units", "purposes", "acknowledged"), SCOPE, strict=True))
    message = {
        "dataset": 0,
        "grantee": READER,
        "scope": scope,
        "until": now + DAY_S,
        "version": 1,
        "issued": now,
        "deadline": now + 60,
    }
    domain = {
        "name": "Rexis datasets",
        "version": "1",
        "chainId": 1,
        "verifyingContract": federation.at["datasets"],
    }
    types = {
        "Scope": [
            {"name": "units", "type": "uint64"},
            {"name": "purposes", "type": "uint32"},
            {"name": "acknowledged", "type": "uint32"},
        ],
        "Order": [
            {"name": "dataset", "type": "uint256"},
            {"name": "grantee", "type": "address"},
            {"name": "scope", "type": "Scope"},
            {"name": "until", "type": "uint40"},
            {"name": "version", "type": "uint32"},
            {"name": "issued", "type": "uint40"},
            {"name": "deadline", "type": "uint40"},
        ],
    }
    signable = encode_typed_data(domain, types, message)
    signed = Account.from_key(key_of("clinic")).sign_message(signable)
    row = (0, READER, SCOPE, now + DAY_S, 1, now, now + 60)
    assert federation.call("datasets", "orderDigest", row) == signed.message_hash
    federation.send(HOST, "datasets", "giveBySignature", row, bytes(signed.signature))
    assert federation.call("datasets", "unitsFor", 0, READER, 0b11) == 0b101


def test_an_order_for_another_chain_or_contract_does_not_count(federation):
    now = federation.now()
    row = (0, READER, SCOPE, now + DAY_S, 1, now, now + 60)
    elsewhere = Federation(Revm(), HOST, Settings())
    assert elsewhere.at["datasets"] != federation.at["datasets"]
    digest = elsewhere.call("datasets", "orderDigest", row)
    signature = bytes(Account._sign_hash(digest, key_of("clinic")).signature)
    with refused("BadSignature"):
        federation.send(HOST, "datasets", "giveBySignature", row, signature)


def test_the_standard_views_say_what_the_grant_says(federation):
    until = give(federation)
    assert federation.call("datasets", "canRead", READER, 0)
    assert federation.call("datasets", "userExpires", 0, READER) == until
    assert federation.call("datasets", "hasAccess", 0, READER, 0b01)
    assert not federation.call("datasets", "hasAccess", 0, READER, 0b100)
    assert not federation.call("datasets", "canRead", HOST, 0)
    assert federation.call("datasets", "locked", 0)
    # ERC-165, ERC-721, ERC-5192
    for interface in ("01ffc9a7", "80ac58cd", "b45a3c0e"):
        known = bytes.fromhex(interface)
        assert federation.call("datasets", "supportsInterface", known)
    assert not federation.call("datasets", "supportsInterface", b"\xff" * 4)
    federation.move(DAY_S)
    assert not federation.call("datasets", "canRead", READER, 0)
    assert federation.call("datasets", "userExpires", 0, READER) == 0


@pytest.mark.parametrize("function", ["datasetOf", "unitsFor", "locked", "decides"])
def test_a_dataset_that_is_not_there_is_said_to_be_missing(federation, function):
    rest = {"unitsFor": (READER, 1), "decides": (READER,)}.get(function, ())
    with pytest.raises(Reverted, match=r"^(NoSuchDataset|ERC721NonexistentToken)\("):
        federation.call("datasets", function, 1, *rest)


def test_inclusion_is_that_of_the_protocol_for_every_shape_of_tree(federation):
    for size in (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17):
        leaves = [b"%d of %d" % (n, size) for n in range(size)]
        root = batch_root(leaves)
        federation.send(HOST, "anchors", "anchorReceipts", root, size)
        for index in range(size):
            proof = merkle.inclusion_proof(leaves, index)
            leaf = merkle.leaf_digest(leaves[index])

            def holds(leaf=leaf, index=index, proof=proof, root=root) -> bool:
                return federation.call(
                    "anchors", "includes", HOST, root, leaf, index, proof
                )

            assert holds()
            assert not holds(leaf=b"\x01" * 32)
            assert not holds(index=size)
            assert not holds(proof=[*proof, b"\x02" * 32])
            if size > 1:
                assert not holds(index=(index + 1) % size)
                assert not holds(proof=proof[:-1])
    assert not federation.call("anchors", "includes", CLINIC, root, leaf, 0, [])


def buy(federation: Federation) -> int:
    """A priced dataset asked for, with everything allowed; the request's number."""
    call = federation.encoded("parameters", "setToken", federation.at["coin"], True)
    federation.move(1)
    target = federation.at["parameters"]
    federation.send(CLINIC, "council", "propose", target, call, DIGEST)
    for who in ("clinic", "reader", "host"):
        federation.send(account(who), "council", "vote", 0)
    federation.move(Settings().delay_s)
    federation.send(CLINIC, "council", "execute", 0, call)
    terms = (PRICE, federation.at["coin"], 0b111, 0b1, 30)
    federation.send(CLINIC, "datasets", "list", DIGEST, 8, 1, terms)
    federation.send(OWNER, "coin", "mint", READER, 10 * PRICE)
    for spender in ("market", "board"):
        federation.send(READER, "coin", "approve", federation.at[spender], 10**30)
    wanted = (1, DIGEST, SCOPE, 30, PRICE, federation.at["coin"])
    federation.send(READER, "market", "request", wanted)
    return 0


def test_scores_follow_from_what_happened(federation):
    assert federation.call("reputation", "asProvider", CLINIC) == (50, 0)
    request = buy(federation)
    federation.send(CLINIC, "market", "approve", request, DIGEST)
    federation.send(READER, "market", "accept", request)
    assert federation.call("reputation", "asProvider", CLINIC) == (66, 1)
    assert federation.call("reputation", "asGrantee", READER) == (66, 1)
    federation.send(CLINIC, "market", "collect", federation.at["coin"])
    assert federation.call("coin", "balanceOf", CLINIC) == PRICE


def test_a_delivery_that_failed_is_paid_back_and_remembered(federation):
    request = buy(federation)
    federation.send(CLINIC, "market", "approve", request, DIGEST)
    federation.send(READER, "market", "dispute", request, DIGEST)
    for name in ("x", "y"):
        federation.send(account(name), "board", "vote", 0, True, DIGEST)
    for name in ("market", "board"):
        federation.send(READER, name, "collect", federation.at["coin"])
    assert federation.call("coin", "balanceOf", READER) == 10 * PRICE
    assert federation.call("reputation", "asProvider", CLINIC) == (33, 1)
    assert federation.call("reputation", "asGrantee", READER) == (50, 0)


def test_a_token_that_keeps_a_part_for_itself_is_refused(federation):
    """Even when the council was talked into accepting it."""
    buy(federation)
    # Returns true from transferFrom and moves nothing, like a fee of everything.
    thief = "6001600052" + "60206000f3"
    code = f"60{len(thief) // 2:02x}600c60003960{len(thief) // 2:02x}6000f3" + thief
    fake = federation.deploy("fake", Abi({"abi": [], "bytecode": "0x" + code}))
    call = federation.encoded("parameters", "setToken", fake, True)
    target = federation.at["parameters"]
    federation.send(CLINIC, "council", "propose", target, call, DIGEST)
    for who in ("clinic", "reader", "host"):
        federation.send(account(who), "council", "vote", 1)
    federation.move(Settings().delay_s)
    federation.send(CLINIC, "council", "execute", 1, call)
    terms = (PRICE, fake, 0b111, 0b1, 30)
    federation.send(CLINIC, "datasets", "list", RECORD, 8, 2, terms)
    wanted = (2, RECORD, SCOPE, 30, PRICE, fake)
    with refused("WrongAmount"):
        federation.send(READER, "market", "request", wanted)


def test_a_token_is_a_contract(federation):
    call = federation.encoded("parameters", "setToken", READER, True)
    federation.move(1)
    federation.send(
        CLINIC, "council", "propose", federation.at["parameters"], call, DIGEST
    )
    for who in ("clinic", "reader", "host"):
        federation.send(account(who), "council", "vote", 0)
    federation.move(Settings().delay_s)
    with refused("InvalidToken"):
        federation.send(CLINIC, "council", "execute", 0, call)


def test_no_contract_takes_ether(federation):
    for name, abi in federation._abis.items():
        payable = [
            f["name"] for f in abi.items if f.get("stateMutability") == "payable"
        ]
        assert payable == [], name


def test_a_federation_without_a_token_has_no_stakes_and_free_disputes():
    made = Federation(Revm(), OWNER, Settings(bond=10))
    for number, (name, roles) in enumerate(
        [("clinic", 1), ("reader", 2), ("x", 8), ("y", 8)]
    ):
        keys = (bytes([number + 1]) * 32, b"\x09" * 32)
        made.send(OWNER, "registry", "admit", *keys, account(name), roles, name)
    made.send(CLINIC, "datasets", "list", RECORD, 8, 0, (0, NO_TOKEN, 0b111, 0b1, 30))
    with refused("NoToken"):
        made.send(CLINIC, "board", "stake", 1)
    wanted = (0, RECORD, SCOPE, 30, 0, NO_TOKEN)
    made.send(READER, "market", "request", wanted)
    made.send(CLINIC, "market", "approve", 0, DIGEST)
    made.send(READER, "market", "dispute", 0, DIGEST)
    for name in ("x", "y"):
        made.send(account(name), "board", "vote", 0, False, DIGEST)
    assert made.call("market", "requestOf", 0)[1] == 4  # paid, with nothing
    assert made.call("reputation", "asGrantee", READER) == (66 - 16, 2)
