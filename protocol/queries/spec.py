"""What may be asked: seven kinds of query, their cells, and how far one record reaches.

A record is a row.  Two tables are neighbours if one has one row more; `reach` is the largest
length (L2, squared) by which the vectors of two neighbours differ, and sets the noise.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Literal, get_args

import msgspec

from protocol.errors import MalformedMessageError
from protocol.queries.models import Fit, Linear, Model, RunState
from protocol.types import DIGEST_BYTES, Digest, digest
from protocol.wire import Message, encode

Kind = Literal[
    "count",
    "histogram",
    "quantiles",
    "correlation",
    "survival",
    "evaluation",
    "training",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

BINS_LIMIT = 4096
LEVELS_LIMIT = 256
DATASETS_LIMIT = 64
CONDITIONS_LIMIT = 8
COLUMNS_LIMIT = 16
PROBABILITIES_LIMIT = 32
TEXT_LIMIT = 256
SCALE = 256
"""Of a correlation: a value of the whole range is so many units of the grid."""
GRID = 1 << 14
"""Of a training: the longest gradient of a row is so many units of the grid."""
ROW = GRID // 4
"""Of a training: a row counts so much; less would drown in the noise of the gradient's grid,
and a quarter adds a thirtieth to the reach."""
MICRO = 1_000_000
SPEND_LEAST = 100
"""So that a budget is a bounded number of answers."""
SPEND_LIMIT = 100 * MICRO
"""A ρ of 100 is no privacy at all; more is a slip of the keyboard."""


class Condition(Message, frozen=True, tag="condition"):
    """Rows count only if the column holds exactly this text."""

    column: str
    value: str


class Named(Message, frozen=True, tag="named-dataset"):
    """A dataset, and which listing of it is meant."""

    dataset: int
    record: bytes


class Query(Message, frozen=True, tag="query"):
    """One question to some datasets; fields a kind has no use for are empty."""

    kind: Kind
    datasets: tuple[Named, ...]
    columns: tuple[str, ...]
    """Histogram, quantiles: one; correlation: two or more; survival: time and event."""
    spend: int
    """Privacy each dataset pays: zero-concentrated ρ, in millionths."""
    code: bytes
    """Digest of the program that is to answer."""
    nonce: bytes
    where: tuple[Condition, ...] = ()
    low: float = 0.0
    high: float = 0.0
    bins: int = 0
    """Equal parts of [low, high); values outside fall into the first or the last."""
    levels: tuple[str, ...] = ()
    """Histogram: of text instead of numbers; survival: groups, by a third column."""
    event: str = ""
    """Survival: what the event column holds where the event was seen."""
    probabilities: tuple[float, ...] = ()
    model: Model | None = None
    """Evaluation: what is scored; training: the weights this round begins with."""
    fit: Fit | None = None
    every: bool = False
    """Evaluation of a run's state: also on the rows that the run may have trained on."""

    def id(self) -> Digest:
        """Names the question, its masks and its charge."""
        return digest(encode(self))

    def first(self) -> "Query":
        """The first round of the same training; any other question is its own."""
        if self.fit is None or not isinstance(self.model, Linear):
            return self
        zeros = (0.0,) * len(self.model.weights)
        return msgspec.structs.replace(
            self,
            model=msgspec.structs.replace(self.model, weights=zeros),
            fit=msgspec.structs.replace(self.fit, number=0),
        )

    def charged(self) -> Digest:
        """Names what is paid for: a question, or all rounds of a training together."""
        return self.first().id()

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that a table must have, as far as the question says."""
        of_model = () if self.model is None else self.model.columns
        return (*self.columns, *(one.column for one in self.where), *of_model)

    @property
    def sigma2(self) -> Fraction:
        """Variance of each dataset's noise in each cell: reach / (2 ρ), exactly.

        The rounds of a training pay `spend` together, and an equal part each.
        """
        parts = 1 if self.fit is None else self.fit.rounds
        return Fraction(reach2(self) * parts * MICRO, 2 * self.spend)

    def check(self) -> None:
        """Raise `MalformedMessageError` for a question nobody can answer."""
        names = [one.dataset for one in self.datasets]
        _require(
            1 <= len(names) <= DATASETS_LIMIT and names == sorted(set(names)),
            f"{len(names)} datasets, needs 1 to {DATASETS_LIMIT} in order, none twice",
        )
        for one in self.datasets:
            _digest("record", one.record)
        _digest("code", self.code)
        _digest("nonce", self.nonce)
        _require(
            SPEND_LEAST <= self.spend <= SPEND_LIMIT,
            f"spend of {self.spend} millionths, needs {SPEND_LEAST} to {SPEND_LIMIT}",
        )
        texts = [*self.columns, *self.levels, self.event]
        texts += [text for one in self.where for text in (one.column, one.value)]
        if isinstance(self.model, Linear):
            texts += [*self.model.columns, self.model.yes]
        if isinstance(self.model, RunState):
            texts.append(self.model.answer)
        for text in texts:
            _require(
                len(text) <= TEXT_LIMIT,
                f"a name has {len(text)} characters, limit is {TEXT_LIMIT}",
            )
        _require(
            len(self.where) <= CONDITIONS_LIMIT,
            f"{len(self.where)} conditions, limit is {CONDITIONS_LIMIT}",
        )
        _require(
            len(set(self.levels)) == len(self.levels) <= LEVELS_LIMIT,
            f"{len(self.levels)} levels, limit is {LEVELS_LIMIT}, none twice",
        )
        self._check_columns()
        self._check_model()
        self._check_range()

    def _check_columns(self) -> None:
        at_least, at_most = {
            "count": (0, 0),
            "histogram": (1, 1),
            "quantiles": (1, 1),
            "correlation": (2, COLUMNS_LIMIT),
            "survival": (2 + bool(self.levels), 2 + bool(self.levels)),
        }.get(self.kind, (0, 0))
        _require(
            at_least <= len(self.columns) <= at_most
            and len(set(self.columns)) == len(self.columns),
            f"{self.kind} of {len(self.columns)} columns, needs {at_least} to {at_most}"
            " different ones",
        )
        _require(
            bool(self.event) == (self.kind == "survival"),
            f"{self.kind} with the event {self.event!r}",
        )
        _require(
            bool(self.probabilities) == (self.kind == "quantiles")
            and len(self.probabilities) <= PROBABILITIES_LIMIT
            and all(0 < p < 1 for p in self.probabilities),
            f"{self.kind} at {len(self.probabilities)} probabilities, each between 0 and 1",
        )
        _require(
            not self.levels or self.kind in {"histogram", "survival"},
            f"{self.kind} has no levels",
        )

    def _check_range(self) -> None:
        ranged = self.kind not in {"count", "training"} and not (
            self.kind == "histogram" and self.levels
        )
        finite = math.isfinite(self.low) and math.isfinite(self.high)
        _require(
            finite and (self.low < self.high if ranged else self.low == self.high == 0),
            f"{self.kind} between {self.low} and {self.high}",
        )
        binned = ranged and self.kind != "correlation"
        _require(
            (1 <= self.bins <= BINS_LIMIT if binned else self.bins == 0)
            and cells(self) <= BINS_LIMIT * 4,
            f"{self.kind} with {self.bins} bins, {cells(self)} cells in all,"
            f" limits are {BINS_LIMIT} and {BINS_LIMIT * 4}",
        )

    def _check_model(self) -> None:
        model, fit = self.model, self.fit
        if model is None or self.kind not in {"evaluation", "training"}:
            asked = self.kind in {"evaluation", "training"}
            bare = model is None and fit is None and not self.every
            _require(bare and not asked, f"{self.kind} with model {model}")
            return
        _require(not model.fault(), model.fault())
        _require((fit is not None) == (self.kind == "training"), f"{self.kind}, {fit}")
        _require(
            isinstance(model, Linear) or fit is None,
            "a training steps from weights, not from a run's state",
        )
        _require(
            not (self.every and isinstance(model, Linear)),
            "only a run's state tells rows it has trained on from others",
        )
        if fit is not None:
            _require(not fit.fault(), fit.fault())
            _require(
                fit.number > 0 or self.first() == self,
                "a training begins with weights of 0",
            )
        else:
            # So that an edge is at even odds, where an answer turns from no to yes.
            _require(
                self.low == -self.high and self.bins % 2 == 0,
                f"evaluation between {self.low} and {self.high} in {self.bins} bins,"
                " needs log-odds around 0 in an even number",
            )


def moments(columns: int) -> list[tuple[int, ...]]:
    """Of a correlation: the products that are summed; the empty one counts."""
    pairs = combinations_with_replacement(range(columns), 2)
    return [(), *((place,) for place in range(columns)), *pairs]


def cells(query: Query) -> int:
    """Length of the vector."""
    if query.kind == "count":
        return 1
    if query.kind == "correlation":
        return len(moments(len(query.columns)))
    if query.kind == "survival":
        return max(1, len(query.levels)) * curve_cells(query)
    if query.kind == "evaluation":
        return 2 * query.bins
    if query.kind == "training":
        assert isinstance(query.model, Linear)
        return 1 + len(query.model.weights)
    return len(query.levels) or query.bins


def curve_cells(query: Query) -> int:
    """Of one survival curve: events and losses in each bin, and whoever is there after."""
    return 2 * query.bins + 1


def reach2(query: Query) -> int:
    """How far one row moves the vector, squared."""
    if query.kind == "correlation":
        # Each product is at most SCALE after rounding; a row adds to all of them.
        return SCALE**2 * cells(query)
    if query.kind == "training":
        return GRID**2 + ROW**2
    return 1


def edges(query: Query) -> list[float]:
    """Where the bins begin, and the end of the last."""
    width = (query.high - query.low) / query.bins
    return [query.low + place * width for place in range(query.bins)] + [query.high]


def of_datasets(named: Sequence[tuple[int, bytes]]) -> tuple[Named, ...]:
    """In the order a query has them."""
    return tuple(Named(dataset, record) for dataset, record in sorted(named))


def _require(holds: bool, said: str) -> None:
    if not holds:
        raise MalformedMessageError(f"query: {said}")


def _digest(name: str, value: bytes) -> None:
    _require(
        len(value) == DIGEST_BYTES,
        f"{name} has {len(value)} bytes, needs {DIGEST_BYTES}",
    )
