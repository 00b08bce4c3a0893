"""Coins, and what a contract holds for whom, in plain Python (`contracts/src/Credits.sol`).

That their owner allowed the contracts to take coins is taken for granted.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from node.adapters.chain_errors import refused

NO_TOKEN = bytes(20)


@dataclass(frozen=True)
class Values:
    """`Parameters.Values`."""

    answer_s: int
    dispute_s: int
    challenge_s: int
    vote_s: int
    unbonding_s: int
    quorum: int
    open_requests: int
    bond: int


@dataclass
class Coins:
    """Every ERC-20 there is: balances, and what a contract holds for whom."""

    balances: dict[bytes, Counter[bytes]] = field(
        default_factory=lambda: defaultdict(Counter)
    )

    def take(self, doing: str, token: bytes, account: bytes, amount: int) -> None:
        if amount == 0:
            return
        held = self.balances[token][account]
        if held < amount:
            raise refused(doing, "ERC20InsufficientBalance", balance=held)
        self.balances[token][account] -= amount


class Credits:
    """`Credits`: what is held for somebody, who fetches it."""

    def __init__(self, coins: Coins) -> None:
        self.coins = coins
        self.credits: Counter[tuple[bytes, bytes]] = Counter()
        self.bonds: Counter[tuple[bytes, bytes]] = Counter()
        """Of cases that are not decided."""

    def collect(self, by: bytes, token: bytes) -> int:
        amount = self.credits.pop((token, by), 0)
        if amount == 0:
            raise refused("collect", "NothingToCollect", token=token, account=by)
        self.coins.balances[token][by] += amount
        return amount

    def credit(self, token: bytes, account: bytes, amount: int) -> None:
        if amount:
            self.credits[token, account] += amount

    def hold(self, doing: str, token: bytes, account: bytes, bond: int) -> None:
        self.coins.take(doing, token, account, bond)
        self.bonds[token, account] += bond

    def let(self, token: bytes, account: bytes, bond: int) -> None:
        self.bonds[token, account] -= bond
