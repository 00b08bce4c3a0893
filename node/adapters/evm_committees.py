"""Data access committees as contracts, and the council, beside an `EvmChain`.

Their members sign off the chain; what they sign is the digest the contract itself computes, so
nothing here can make them agree to another act than the contract would do.
"""

from collections.abc import Sequence
from typing import Any

from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_keys.exceptions import ValidationError as EthKeysError

from node.adapters import evm_contracts
from node.adapters.evm_chain import EvmChain
from node.adapters.evm_contracts import guarded
from node.adapters.evm_rows import address
from node.errors import AccessError
from node.ports import Decision, Seats


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
        return self._link.sign_hash(await self._digest(committee, decision))

    async def signer(
        self, committee: bytes, decision: Decision, signature: bytes
    ) -> bytes:
        digest = await self._digest(committee, decision)
        try:
            # Ethereum counts the last byte from 27, eth_keys from 0.
            one = Signature(signature[:-1] + bytes([signature[-1] - 27]))
            found = one.recover_public_key_from_msg_hash(digest)
        except (ValueError, IndexError, BadSignature, EthKeysError) as error:
            raise AccessError("the committee's signature is none") from error
        return bytes(found.to_canonical_address())

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

    async def _digest(self, committee: bytes, decision: Decision) -> bytes:
        asked = (*await self._act(decision), decision.nonce, decision.deadline)
        return bytes(await self._view(committee, "actDigest", *asked))

    def _at(self, committee: bytes) -> Any:
        return evm_contracts.contract(
            self._link.web3, "committee", "0x" + committee.hex()
        )

    async def _view(self, committee: bytes, function: str, *arguments: Any) -> Any:
        doing = f"committee.{function}"
        view = self._at(committee).functions[function]
        call = guarded(doing, lambda: view(*arguments))
        return await self._link.read(doing, call.call)
