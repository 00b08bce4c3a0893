"""The demo's money: a coin of no value, so that one can see a bond change hands."""

from collections.abc import Mapping
from dataclasses import dataclass

from eth_account import Account

from node.adapters import evm_contracts
from node.adapters.deployment import Settings
from node.adapters.evm_chain import EvmChain
from node.adapters.evm_market import EvmMarket
from node.adapters.evm_rows import address

UNIT = 10**18
BOND, STAKE, PURSE = UNIT, 5 * UNIT, 10 * UNIT


@dataclass(frozen=True)
class Holdings:
    """What the board holds, in bonds."""

    challenger: float
    host: float
    """The host's free stake."""


def settings(url: str, owner_key: bytes) -> Settings:
    """Put the coin on the chain; what the federation then agrees on."""
    web3, account = evm_contracts.connect(url), Account.from_key(owner_key)
    nonce = web3.eth.get_transaction_count(account.address)
    coin = evm_contracts.deploy_one(web3, account, nonce, "coin", [])
    return Settings(token=coin.lower(), bond=BOND)


async def give(chain: EvmChain, coin: str) -> None:
    """Some coins for the account of `chain`, out of nothing."""
    contracts = {"coin": evm_contracts.contract(chain.link.web3, "coin", coin)}
    to = address(chain.account)
    await chain.link.send(contracts, "coin", "mint", to, PURSE)


async def stake(chain: EvmChain) -> None:
    """What a host answers with."""
    await EvmMarket(chain).stake(STAKE)


async def holdings(
    chain: EvmChain, coin: str, accounts: Mapping[str, bytes]
) -> Holdings:
    """What `accounts`' challenger may fetch and host has free."""
    board = (await chain.discover())["board"].functions
    host, challenger = (address(accounts[name]) for name in ("host", "challenger"))
    owed = board.credits(evm_contracts.checksummed(coin), challenger)
    free = board.stakeOf(host)
    return Holdings(
        challenger=await chain.link.read("board.credits", owed.call) / BOND,
        host=(await chain.link.read("board.stakeOf", free.call))[0] / BOND,
    )
