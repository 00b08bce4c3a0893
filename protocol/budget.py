"""What a run has cost in privacy, and whether another round fits (docs/protocol.md §8.1).

One sum with noise is one Gaussian mechanism; `dp_accounting`, Google's library, composes them
(Rényi divergence).  Two guarantees are told apart, because they protect different people:

- *member*: what a sum says about whether a member took part at all;
- *record*: what it says about one patient's record of a member that did.  Changing one record
  may turn a clipped update into any other, so the same noise counts half.

Every sum that may have been opened counts, accepted or not.
"""

from dataclasses import dataclass
from functools import lru_cache

from protocol.errors import LocalProtocolError


@dataclass(frozen=True)
class Spent:
    """ε at the run's δ after a number of sums."""

    sums: int
    delta: float
    member: float
    record: float


@dataclass(frozen=True)
class Budget:
    """ε and δ that a run may use, on its records."""

    epsilon: float
    delta: float

    def check(self) -> None:
        """Raise `LocalProtocolError` unless ε > 0 and 0 < δ < 1."""
        if not self.epsilon > 0 or not 0 < self.delta < 1:
            raise LocalProtocolError(
                f"budget of epsilon {self.epsilon}, delta {self.delta}"
            )

    def spent(self, sums: int, multiplier: float) -> Spent:
        """After `sums` sums whose noise is `multiplier` times one member's reach."""
        self.check()
        return Spent(
            sums,
            self.delta,
            epsilon(sums, multiplier, self.delta),
            epsilon(sums, multiplier / 2, self.delta),
        )

    def allows(self, sums: int, multiplier: float) -> bool:
        """May there be `sums` sums in all?"""
        return self.spent(sums, multiplier).record <= self.epsilon

    def sums(self, multiplier: float, *, at_most: int = 1 << 20) -> int:
        """How many sums the budget is good for."""
        low, high = 0, at_most
        while low < high:
            middle = (low + high + 1) // 2
            if self.allows(middle, multiplier):
                low = middle
            else:
                high = middle - 1
        return low


@lru_cache(maxsize=4096)
def epsilon(sums: int, multiplier: float, delta: float) -> float:
    """ε of `sums` Gaussian mechanisms of one noise multiplier, at `delta`."""
    if sums < 0 or not multiplier > 0:
        raise LocalProtocolError(f"{sums} sums with a multiplier of {multiplier}")
    if sums == 0:
        return 0.0
    # Imported where it is needed: it brings scipy, and most runs have no budget.
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant()
    accountant.compose(dp_event.GaussianDpEvent(multiplier), sums)
    return float(accountant.get_epsilon(delta))
