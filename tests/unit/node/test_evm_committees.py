"""What a seat signs is what it reads, whatever the chain's server says of it."""

import threading
from types import SimpleNamespace

import pytest
from eth_account import Account
from eth_keys.constants import SECPK1_N
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.crypto import keccak

from node.adapters.evm_chain import EvmChain, account_address, deploy
from node.adapters.evm_committees import EvmCommittees
from node.devchain.kv import SqliteKV
from node.devchain.ledger import Ledger
from node.devchain.methods import Methods
from node.devchain.server import Server
from node.errors import AccessError, ChainError
from node.ports import Decision
from protocol.types import digest

CHAIN_ID = 71
KEYS = {name: keccak(text=f"seat {name}") for name in ("owner", "one", "two")}
DIGEST_CALL = "0x" + (
    function_signature_to_4byte_selector(
        "actDigest(address,bytes,uint256,uint40)"
    ).hex()
)
YES = Decision(3, digest(b"keys"), 0, 2_000_000_000)
NO = Decision(3, None, 0, 2_000_000_000)


class Liar(Methods):
    """A chain's server that may answer another digest to sign."""

    digest: str | None = None

    def answer(self, request):
        asked = isinstance(request, dict) and request.get("method") == "eth_call"
        if self.digest and asked:
            call = request["params"][0]
            if (call.get("data") or call["input"]).startswith(DIGEST_CALL):
                return {"jsonrpc": "2.0", "id": request["id"], "result": self.digest}
        return super().answer(request)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    kv = SqliteKV(tmp_path_factory.mktemp("chain") / "chain.sqlite")
    methods = Liar(Ledger(kv, CHAIN_ID), kv)
    for key in KEYS.values():
        methods.fund_if_empty(account_address(key))
    server = Server(0, methods)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    contracts = deploy(server.url, CHAIN_ID, KEYS["owner"])

    def seat(name, chain_id=CHAIN_ID):
        return EvmCommittees(
            EvmChain(
                url=server.url,
                chain_id=chain_id,
                contracts=contracts,
                account_key=KEYS[name],
                poll_s=0.01,
            )
        )

    yield SimpleNamespace(methods=methods, seat=seat)
    server.shutdown()
    thread.join()
    server.server_close()
    kv.close()


@pytest.fixture
async def committee(world):
    accounts = [account_address(KEYS[name]) for name in ("one", "two")]
    yield await world.seat("owner").make(accounts, 2)
    world.methods.digest = None


@pytest.mark.parametrize("decision", [YES, NO])
async def test_what_a_seat_signs_is_hashed_here_as_the_contract_does(
    world, committee, decision
):
    """The control of the hash: the real contract gives the same, or nothing is signed."""
    signature = await world.seat("one").sign(committee, decision)
    found = await world.seat("owner").signer(committee, decision, signature)
    assert found == account_address(KEYS["one"])
    other = NO if decision is YES else YES
    found = await world.seat("owner").signer(committee, other, signature)
    assert found != account_address(KEYS["one"])


async def test_a_server_that_gives_another_digest_gets_no_signature(
    world, committee, monkeypatch
):
    """It might be a transfer of all that the account has."""
    seat = world.seat("one")
    signed = []
    for name in ("sign_message", "unsafe_sign_hash", "sign_transaction"):
        monkeypatch.setattr(
            type(seat._link._signer), name, lambda *said: signed.append(said)
        )
    world.methods.digest = "0x" + keccak(text="send it all to me").hex()
    with pytest.raises(ChainError, match="would have") as caught:
        await seat.sign(committee, YES)
    assert world.methods.digest[2:] in str(caught.value)
    assert "nothing was signed" in caught.value.hint()
    assert not signed


async def test_a_signature_that_the_contract_would_not_count_is_named(world, committee):
    owner = world.seat("owner")
    good = await world.seat("one").sign(committee, YES)
    r, s, v = good[:32], int.from_bytes(good[32:64], "big"), good[64]
    high = r + (SECPK1_N - s).to_bytes(32, "big") + bytes([55 - v])
    for bent, words in (
        (good[:-1], "has 64 bytes, needs 65"),
        (good + b"\0", "has 66 bytes, needs 65"),
        (b"", "has 0 bytes, needs 65"),
        (good[:-1] + bytes([v - 27]), f"ends in {v - 27}, needs 27 or 28"),
        (good[:-1] + b"\x1d", "ends in 29, needs 27 or 28"),
        (high, f"has s = {SECPK1_N - s:#x}"),
        (bytes(64) + b"\x1b", "of no account"),
        (b"\xff" * 32 + good[32:], "of no account"),
    ):
        with pytest.raises(AccessError, match=words):
            await owner.signer(committee, YES, bent)
    typed = owner._typed(committee, await owner._act(YES), YES)
    # The other signature is of the same account to everybody but the contract.
    assert Account.recover_message(typed, signature=high) == Account.recover_message(
        typed, signature=good
    )
