"""Which contracts a federation deploys, in which order, and what each is told.

Four of them name one that comes later (`Datasets` its `Market`, `Market` its `Board`, `Board` its
`Disputes`, the `Parameters` their `Council`).  An address follows from the deployer and its nonce, so the plan
says it beforehand; nothing is set afterwards, and no contract has a setter that somebody could
use a second time.  `EvmChain.check` compares what came out with what was meant.
"""

from dataclasses import dataclass
from typing import Any

import rlp
from eth_utils.crypto import keccak

DAY_S = 86_400
NO_TOKEN = "0x" + "00" * 20

# In the order of deployment.
ARTIFACTS = {
    "registry": "Registry",
    "council": "Council",
    "parameters": "Parameters",
    "anchors": "Anchors",
    "datasets": "Datasets",
    "market": "Market",
    "board": "Board",
    "reputation": "Reputation",
    "judge": "Judge",
    "disputes": "Disputes",
}


@dataclass(frozen=True)
class Settings:
    """What a federation agrees on before it deploys; seconds, votes and token units.

    The council changes all but the first three later, within the bounds of the contract.
    """

    token: str = NO_TOKEN
    """The ERC-20 of bonds and stakes; the zero address: none are asked for."""
    voting_period_s: int = 14 * DAY_S
    delay_s: int = 2 * DAY_S
    answer_s: int = 30 * DAY_S
    dispute_s: int = 14 * DAY_S
    challenge_s: int = 30 * DAY_S
    vote_s: int = 14 * DAY_S
    move_s: int = 2 * DAY_S
    """For each move of a dispute; fixed at deployment like the first three."""
    unbonding_s: int = 45 * DAY_S
    quorum: int = 2
    open_requests: int = 20
    bond: int = 0

    def values(self) -> tuple[int, ...]:
        """`Parameters.Values`."""
        return (
            self.answer_s,
            self.dispute_s,
            self.challenge_s,
            self.vote_s,
            self.unbonding_s,
            self.quorum,
            self.open_requests,
            self.bond,
        )


def plan(
    deployer: str, nonce: int, settings: Settings
) -> list[tuple[str, str, tuple[Any, ...]]]:
    """Name, address and constructor arguments, in the order of deployment.

    `nonce` is the deployer's next one; every step takes one.
    """
    names = list(ARTIFACTS)
    at = {name: create_address(deployer, nonce + i) for i, name in enumerate(names)}
    told: dict[str, tuple[Any, ...]] = {
        "registry": (deployer,),
        "council": (at["registry"], settings.voting_period_s, settings.delay_s),
        "parameters": (at["council"], settings.values()),
        "anchors": (at["registry"],),
        "datasets": (at["registry"], at["market"]),
        "market": (at["registry"], at["datasets"], at["parameters"], at["board"]),
        "board": (
            *(at["registry"], at["parameters"], at["anchors"], at["market"]),
            *(at["disputes"], settings.token),
        ),
        "reputation": (at["market"], at["board"]),
        "judge": (),
        "disputes": (
            *(at["registry"], at["parameters"], at["anchors"], at["board"]),
            *(at["judge"], settings.move_s),
        ),
    }
    return [(name, at[name], told[name]) for name in names]


def create_address(deployer: str, nonce: int) -> str:
    """Where the deployer's contract with this nonce comes to stand."""
    digest = keccak(rlp.encode([bytes.fromhex(deployer[2:]), nonce]))
    return "0x" + digest[12:].hex()
