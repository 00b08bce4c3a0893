"""Data access committees as contracts, and the council, beside an `EvmChain`.

Their members sign off the chain, with the account that also sends their transactions.  So what
they sign is hashed here, from the act in its fields (EIP-712): a server of the chain that may
choose what is signed has the account.
"""

from collections.abc import Sequence
from typing import Any

from eth_account.messages import SignableMessage, encode_typed_data
from eth_keys.constants import SECPK1_N
from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_keys.exceptions import ValidationError as EthKeysError
from eth_utils.crypto import keccak

from node.adapters import evm_contracts
from node.adapters.evm_chain import EvmChain
from node.adapters.evm_contracts import guarded
from node.adapters.evm_rows import address
from node.errors import AccessError, ChainError
from node.ports.market import Decision, Seats

SIGNATURE_BYTES = 65
"""r, s and v, of which the last is one byte."""
_FIRST_V = 27
"""Ethereum counts the last byte from here, eth_keys from 0."""
# `Committee._ACT_TYPE`, and the domain its constructor names.
_ACT = [
    {"name": "target", "type": "address"},
    {"name": "call", "type": "bytes"},
    {"name": "nonce", "type": "uint256"},
    {"name": "deadline", "type": "uint40"},
]
_NAME, _VERSION = "Rexis committee", "1"


class EvmCommittees:
    """Through the account and the connection of `chain`."""

    def __init__(self, chain: EvmChain) -> None:
        self._chain, self._link = chain, chain.link

    async def make(self, accounts: Sequence[bytes], threshold: int) -> bytes:
        seats = [address(account) for account in accounts]
        at = await self._link.deploy("committee", seats, threshold)
        return bytes.fromhex(at[2:])

    async def seats(self, committee: bytes) -> Seats | None:
        at = address(committee)
        code = await self._link.read(
            "reading the committee", lambda: self._link.web3.eth.get_code(at)
        )
        if not evm_contracts.is_ours("committee", bytes(code)):
            return None
        accounts = await self._view(committee, "seats")
        return Seats(
            tuple(bytes.fromhex(one[2:]) for one in accounts),
            await self._view(committee, "threshold"),
            await self._view(committee, "acts"),
        )

    async def sign(self, committee: bytes, decision: Decision) -> bytes:
        """Refused if the contract would have something else signed."""
        act = await self._act(decision)
        typed = self._typed(committee, act, decision)
        asked = (*act, decision.nonce, decision.deadline)
        theirs = bytes(await self._view(committee, "actDigest", *asked))
        if theirs != digest_of(typed):
            raise ChainError(
                f"the committee 0x{committee.hex()} would have {theirs.hex()} signed,"
                f" the act is {digest_of(typed).hex()}",
                hint="nothing was signed; check chain.url and chain.chain_id",
            )
        return self._link.sign(typed)

    async def signer(
        self, committee: bytes, decision: Decision, signature: bytes
    ) -> bytes:
        typed = self._typed(committee, await self._act(decision), decision)
        return signer_of(typed, signature)

    async def decide(
        self, committee: bytes, decision: Decision, signatures: Sequence[bytes]
    ) -> None:
        contracts = {**await self._chain.discover(), "committee": self._at(committee)}
        await self._link.send(
            *(contracts, "committee", "act", *await self._act(decision)),
            *(decision.deadline, list(signatures)),
        )

    async def _act(self, decision: Decision) -> tuple[str, str]:
        """Target and call."""
        market = (await self._chain.discover())["market"]
        if decision.key_digest is None:
            call = market.encode_abi("reject", [decision.request])
        else:
            call = market.encode_abi("approve", [decision.request, decision.key_digest])
        return market.address, call

    def _typed(
        self, committee: bytes, act: tuple[str, str], decision: Decision
    ) -> SignableMessage:
        target, call = act
        return encode_typed_data(
            domain_data={
                "name": _NAME,
                "version": _VERSION,
                "chainId": self._link.chain_id,
                "verifyingContract": address(committee),
            },
            message_types={"Act": _ACT},
            message_data={
                "target": target,
                "call": call,
                "nonce": decision.nonce,
                "deadline": decision.deadline,
            },
        )

    def _at(self, committee: bytes) -> Any:
        return evm_contracts.contract(
            self._link.web3, "committee", "0x" + committee.hex()
        )

    async def _view(self, committee: bytes, function: str, *arguments: Any) -> Any:
        doing = f"committee.{function}"
        view = self._at(committee).functions[function]
        call = guarded(doing, lambda: view(*arguments))
        return await self._link.read(doing, call.call)


def digest_of(typed: SignableMessage) -> bytes:
    """What is signed of it."""
    return keccak(b"\x19" + typed.version + typed.header + typed.body)


def signer_of(typed: SignableMessage, signature: bytes) -> bytes:
    """Whose account signed; `AccessError` for what the contract would not count.

    The contract's rules are stricter than the curve's: of the two signatures that anybody can
    make of one it takes that with the low s.  Were the other counted here, a seat could have
    its committee's decision revert for ever.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise AccessError(
            f"a signature has {len(signature)} bytes, needs {SIGNATURE_BYTES}"
        )
    v, s = signature[-1], int.from_bytes(signature[32:64], "big")
    if v not in {_FIRST_V, _FIRST_V + 1}:
        raise AccessError(
            f"a signature ends in {v}, needs {_FIRST_V} or {_FIRST_V + 1}"
        )
    if s > SECPK1_N // 2:
        raise AccessError(f"a signature has s = {s:#x}, limit is {SECPK1_N // 2:#x}")
    try:
        one = Signature(signature[:-1] + bytes([v - _FIRST_V]))
        found = one.recover_public_key_from_msg_hash(digest_of(typed))
    except (BadSignature, EthKeysError) as error:
        raise AccessError(f"a signature is of no account: {error}") from error
    return bytes(found.to_canonical_address())
