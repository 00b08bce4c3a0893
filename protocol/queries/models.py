"""What a question may say of a model: weights over columns, or the name of a run's state.

Weights travel in the question, so that whoever answers knows what it scores or steps from.  A
state of a run is named by its root; whoever is in the run has it.
"""

import math

from protocol.types import DIGEST_BYTES
from protocol.wire import Message

FEATURES_LIMIT = 64
ROUNDS_LIMIT = 100
"""Each round divides the privacy that is paid by their number."""


class Feature(Message, frozen=True, tag="feature"):
    """A column of numbers; `low` becomes -1 and `high` 1, and what lies outside the nearer."""

    column: str
    low: float
    high: float


class Linear(Message, frozen=True, tag="linear-model"):
    """Log-odds that the column `label` holds the text `yes`."""

    features: tuple[Feature, ...]
    label: str
    yes: str
    weights: tuple[float, ...]
    """The intercept, then one for each feature."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What a table needs to have."""
        return (*(one.column for one in self.features), self.label)

    def fault(self) -> str:
        """Why nobody can use it; nothing if somebody can."""
        count = len(self.features)
        if not 1 <= count <= FEATURES_LIMIT:
            return f"a model of {count} features, needs 1 to {FEATURES_LIMIT}"
        if len(set(self.columns)) != count + 1:
            return "a model names a column twice"
        for one in self.features:
            width = one.high - one.low
            if not (width > 0 and math.isfinite(width)):
                return f"{one.column} between {one.low} and {one.high}"
        if len(self.weights) != count + 1 or not all(map(math.isfinite, self.weights)):
            return f"{len(self.weights)} weights, needs {count + 1} finite ones"
        return ""


class RunState(Message, frozen=True, tag="run-state"):
    """What a run came to, by the root its members signed."""

    run: bytes
    state: bytes
    answer: str = ""
    """Of a model that tells classes apart: the one that counts as yes, all others as no."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The run's model file names them, which a question does not carry."""
        return ()

    def fault(self) -> str:
        """As above."""
        if len(self.run) == len(self.state) == DIGEST_BYTES:
            return ""
        return f"a run and a state have {DIGEST_BYTES} bytes each"


class Fit(Message, frozen=True, tag="fit"):
    """One round of a training: all members' clipped gradients at the weights it carries."""

    rounds: int
    number: int
    """Of this round, from 0."""
    clip: float
    """Longest gradient of one row (L2); longer ones are shortened."""
    rate: float
    """Of a step along the mean gradient."""
    ridge: float
    """Pull of each weight towards 0."""

    def fault(self) -> str:
        """As above."""
        if not 1 <= self.rounds <= ROUNDS_LIMIT:
            return f"{self.rounds} rounds, needs 1 to {ROUNDS_LIMIT}"
        if not 0 <= self.number < self.rounds:
            return f"round {self.number} of {self.rounds}"
        for name, value, most in (("clip", self.clip, 100), ("rate", self.rate, 100)):
            if not 0 < value <= most:
                return f"a {name} of {value}, needs more than 0, at most {most}"
        return "" if 0 <= self.ridge <= 10 else f"a ridge of {self.ridge}, limit is 10"


Model = Linear | RunState
