"""What a seat signs is what it reads, whatever the chain's server says of it."""

import pytest
from eth_account import Account
from eth_keys.constants import SECPK1_N
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.crypto import keccak
from evm_world import KEYS

from node.adapters.evm_chain import account_address
from node.adapters.evm_committees import EvmCommittees
from node.errors import AccessError, ChainError
from node.ports.market import Decision
from protocol.types import digest

DIGEST_CALL = "0x" + (
    function_signature_to_4byte_selector(
        "actDigest(address,bytes,uint256,uint40)"
    ).hex()
)
YES = Decision(3, digest(b"keys"), 0, 2_000_000_000)
NO = Decision(3, None, 0, 2_000_000_000)


@pytest.fixture
def seat(world):
    yield lambda name: EvmCommittees(world.chain(name))
    world.rpc.lies.clear()


@pytest.fixture
async def committee(seat):
    accounts = [account_address(KEYS[name]) for name in ("one", "two")]
    return await seat("owner").make(accounts, 2)


@pytest.mark.parametrize("decision", [YES, NO])
async def test_what_a_seat_signs_is_hashed_here_as_the_contract_does(
    seat, committee, decision
):
    """The control of the hash: the real contract gives the same, or nothing is signed."""
    signature = await seat("one").sign(committee, decision)
    found = await seat("owner").signer(committee, decision, signature)
    assert found == account_address(KEYS["one"])
    other = NO if decision is YES else YES
    found = await seat("owner").signer(committee, other, signature)
    assert found != account_address(KEYS["one"])


async def test_a_server_that_gives_another_digest_gets_no_signature(
    world, seat, committee, monkeypatch
):
    """It might be a transfer of all that the account has."""
    one = seat("one")
    signed = []
    for name in ("sign_message", "unsafe_sign_hash", "sign_transaction"):
        monkeypatch.setattr(
            type(one._link._signer), name, lambda *said: signed.append(said)
        )
    lie = keccak(text="send it all to me").hex()
    world.rpc.lies[DIGEST_CALL] = "0x" + lie
    with pytest.raises(ChainError, match="would have") as caught:
        await one.sign(committee, YES)
    assert lie in str(caught.value)
    assert "nothing was signed" in caught.value.hint()
    assert not signed


async def test_a_signature_that_the_contract_would_not_count_is_named(seat, committee):
    owner = seat("owner")
    good = await seat("one").sign(committee, YES)
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
