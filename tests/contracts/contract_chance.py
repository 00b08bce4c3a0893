"""What is tried, drawn from a seed: mostly what may be done, and sometimes not."""

from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

from contract_world import NAMES, RICH

from node.adapters.memory_ledger import Scope
from node.ports.chain import Terms

Pick = Callable[[Random], Any]


def one_of(*choices: Any) -> Pick:
    return lambda chance: chance.choice(choices)


def between(lowest: int, highest: int) -> Pick:
    return lambda chance: chance.randint(lowest, highest)


def scopes(chance: Random) -> Scope:
    if chance.random() < 0.7:
        return Scope(chance.choice([1, 3, 7]), chance.choice([1, 3]), 3)
    return Scope(
        chance.choice([1, 2, 3, 15, 0, 1 << 63]),
        chance.choice([1, 2, 3, 0, 8]),
        chance.choice([0, 1, 3]),
    )


def terms(chance: Random) -> Terms:
    return Terms(
        allowed=chance.choice([3, 3, 3, 7, 2, 1, 0]),
        required=chance.choice([0, 0, 1, 3]),
        max_days=chance.choice([30, 30, 30, 2, 0]),
    )


actors = one_of(*NAMES)
prices = one_of(0, 100, 101, RICH + 1)
indices = between(0, 2)
often = one_of(True, True, True, True, True, False)
either = one_of(True, False)

Act = TypeVar("Act", bound=Callable[..., None])
ACTS: list[tuple[str, dict[str, Pick]]] = []


def act(weight: int, /, **arguments: Pick) -> Callable[[Act], Act]:
    """One thing that somebody may try, and where its arguments come from."""

    def register(function: Act) -> Act:
        ACTS.extend([(function.__name__, arguments)] * weight)
        return function

    return register
