"""What may be asked of, and by, data that do not move."""

from typing import Annotated, Literal

from msgspec import Meta

from node.rpc.params.base import NUMBER_LIMIT, Dataset, Params, Run, a_digest, a_path
from protocol.queries.models import FEATURES_LIMIT, ROUNDS_LIMIT
from protocol.queries.spec import (
    BINS_LIMIT,
    COLUMNS_LIMIT,
    CONDITIONS_LIMIT,
    DATASETS_LIMIT,
    KINDS,
    LEVELS_LIMIT,
    MICRO,
    PROBABILITIES_LIMIT,
    SPEND_LEAST,
    SPEND_LIMIT,
)
from protocol.queries.spec import (
    TEXT_LIMIT as QUERY_TEXT_LIMIT,
)

QueryKind = Literal[
    "count",
    "histogram",
    "quantiles",
    "correlation",
    "survival",
    "evaluation",
    "training",
]
_Cells = Literal["count", "histogram", "quantiles", "correlation", "survival"]
_QueryText = Annotated[str, Meta(max_length=QUERY_TEXT_LIMIT)]
_FLOOR = 10


class QueriesAllow(Params, frozen=True):
    dataset: Dataset
    kinds: Annotated[
        list[QueryKind],
        Meta(min_length=1, max_length=len(KINDS), description="what it answers"),
    ]
    epsilon: Annotated[
        float,
        Meta(
            gt=0,
            le=1000,
            description="all answers together, for ever, tell of one row at most this",
        ),
    ]
    delta: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description="but for this chance; well below one over the number of rows",
        ),
    ] = 1e-6
    floor: Annotated[
        int,
        Meta(
            ge=0,
            le=NUMBER_LIMIT,
            description="a count below it is answered as 0, where it is answered alone",
        ),
    ] = _FLOOR


class QueriesStop(Params, frozen=True):
    dataset: Dataset


_Datasets = Annotated[
    list[Dataset],
    Meta(
        min_length=1,
        max_length=DATASETS_LIMIT,
        description=f"1 to {DATASETS_LIMIT}, of different owners",
    ),
]
_Where = Annotated[
    dict[str, _QueryText],
    Meta(
        max_length=CONDITIONS_LIMIT,
        description="only rows in which each column holds exactly this text",
    ),
]
_QueryPath = (
    Annotated[
        str, a_path("where question, answers and attestations are written as well")
    ]
    | None
)


def _rho(noise: str) -> Meta:
    return Meta(
        ge=SPEND_LEAST / MICRO,
        le=SPEND_LIMIT / MICRO,
        description=f"privacy that each dataset pays (zCDP); {noise}",
    )


class QueriesAsk(Params, frozen=True):
    kind: Annotated[_Cells, Meta(description="one of five kinds")]
    datasets: _Datasets
    rho: Annotated[
        float, _rho("noise has the variance 1/(2 rho) for all kinds but correlation")
    ]
    columns: Annotated[
        list[_QueryText],
        Meta(
            max_length=COLUMNS_LIMIT,
            description="histogram and quantiles: one; correlation: two or more; survival: "
            "time, event, and the group if there are levels",
        ),
    ] = []
    where: _Where = {}
    low: Annotated[float, Meta(description="where the values begin")] = 0.0
    high: Annotated[float, Meta(description="where they end")] = 0.0
    bins: Annotated[
        int,
        Meta(ge=0, le=BINS_LIMIT, description=f"equal parts, 0 to {BINS_LIMIT}"),
    ] = 0
    levels: Annotated[
        list[_QueryText],
        Meta(
            max_length=LEVELS_LIMIT,
            description="histogram: values of text; survival: groups, by the third column",
        ),
    ] = []
    event: Annotated[
        str,
        Meta(
            max_length=QUERY_TEXT_LIMIT,
            description="survival: what the event column holds where the event was seen",
        ),
    ] = ""
    probabilities: Annotated[
        list[float],
        Meta(max_length=PROBABILITIES_LIMIT, description="quantiles: such as 0.5"),
    ] = []
    path: _QueryPath = None


class QueryFeature(Params, frozen=True):
    column: _QueryText
    low: Annotated[float, Meta(description="what becomes -1")]
    high: Annotated[float, Meta(description="what becomes 1")]


_Features = Annotated[
    list[QueryFeature],
    Meta(
        min_length=1,
        max_length=FEATURES_LIMIT,
        description="column, low, high: numbers; what lies outside is the nearer end",
    ),
]
_Label = Annotated[
    str, Meta(max_length=QUERY_TEXT_LIMIT, description="column with the answer")
]
_Yes = Annotated[
    str,
    Meta(
        max_length=QUERY_TEXT_LIMIT, description="what it holds where the answer is yes"
    ),
]


class QueryModel(Params, frozen=True):
    features: _Features
    label: _Label
    yes: _Yes
    weights: Annotated[
        list[float],
        Meta(
            max_length=FEATURES_LIMIT + 1,
            description="of log-odds: the intercept, then one for each feature",
        ),
    ]


class QueriesEvaluate(Params, frozen=True):
    datasets: _Datasets
    rho: Annotated[float, _rho("noise has the variance 1/(2 rho) in each cell")]
    model: Annotated[
        QueryModel | None,
        Meta(
            description="features, label, yes, weights, as queries.train gave them; or"
        ),
    ] = None
    run: Run | None = None
    state: (
        Annotated[
            str, a_digest("root of the run's state; default: the newest known here")
        ]
        | None
    ) = None
    answer: Annotated[
        str,
        Meta(
            max_length=QUERY_TEXT_LIMIT,
            description="of a run that tells classes apart: the one that counts as yes",
        ),
    ] = ""
    every: Annotated[
        bool, Meta(description="of a run: also rows that it may have trained on")
    ] = False
    reach: Annotated[
        float,
        Meta(gt=0, le=100, description="log-odds beyond it count with the last bins"),
    ] = 4.0
    bins: Annotated[
        int, Meta(ge=2, le=BINS_LIMIT, description="of log-odds, an even number")
    ] = 32
    where: _Where = {}
    path: _QueryPath = None


class QueriesTrain(Params, frozen=True):
    datasets: _Datasets
    rho: Annotated[float, _rho("for all rounds together, before the first")]
    features: _Features
    label: _Label
    yes: _Yes
    rounds: Annotated[
        int,
        Meta(
            ge=1,
            le=ROUNDS_LIMIT,
            description="steps; each has the noise of its part of rho",
        ),
    ] = 20
    clip: Annotated[
        float, Meta(gt=0, le=100, description="longest gradient of one row (L2)")
    ] = 1.0
    rate: Annotated[
        float | None,
        Meta(
            description="of a step along the mean gradient; default: three quarters of the "
            "largest for which the stated noise is a bound"
        ),
    ] = None
    ridge: Annotated[
        float, Meta(ge=0, le=10, description="pull of each weight towards 0")
    ] = 0.001
    where: _Where = {}
    path: _QueryPath = None


_OpenQuestion = Annotated[
    str,
    Meta(
        pattern=r"^[0-9a-f]*$",
        min_length=8,
        max_length=64,
        description="the beginning of the question's id, as its error named it",
    ),
]


class QueriesResume(Params, frozen=True):
    query: _OpenQuestion
    path: _QueryPath = None


class QueriesForget(Params, frozen=True):
    query: _OpenQuestion
