"""What each method of the admin interface may be asked, with its bounds.

A field's description is its documentation (docs/rpc.md is made from it) and the hint a caller
reads when the value is refused.  Unknown fields are refused, so a misspelt option never
passes for its default.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

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
from protocol.queries.spec import TEXT_LIMIT as QUERY_TEXT_LIMIT
from protocol.runs import (
    MEMBERS_AT_LEAST,
    MEMBERS_AT_MOST,
    PROPOSAL_LIMIT_BYTES,
    ROUNDS_AT_MOST,
)

# SQLite and Solidity both go further; JSON readers in other languages do not.
_NUMBER_LIMIT = 2**53
# `Market.give` refuses more; ten years is longer than any data use agreement we know.
_DAYS_LIMIT = 3650
# A grant is a 64-bit map on the chain.
_UNITS_LIMIT = 64
EVENTS_LIMIT = 1000
# A command line is shorter than this; of more files, name their folder.
_PATHS_LIMIT = 1024
# Longer than a person waits, shorter than the server's patience with a silent program.
WAIT_LIMIT_S = 60.0

_PATH_PATTERN = r"^/[^\x00]*$"
_HEX_DIGITS = 64


def _digest(what: str) -> Meta:
    # The length as well: in a pattern, `$` lets a newline follow.
    return Meta(
        pattern="^[0-9a-f]*$",
        min_length=_HEX_DIGITS,
        max_length=_HEX_DIGITS,
        description=f"{what}, {_HEX_DIGITS} lower-case hex digits",
    )


Run = Annotated[str, _digest("the run's id")]
Model = Annotated[str, _digest("the model's root")]
Receipt = Annotated[str, _digest("the receipt's digest")]
Dataset = Annotated[
    int, Meta(ge=0, le=_NUMBER_LIMIT, description="the dataset's number on the chain")
]
Grant = Annotated[
    int, Meta(ge=0, le=_NUMBER_LIMIT, description="the grant's number on the chain")
]
Request = Annotated[
    int, Meta(ge=0, le=_NUMBER_LIMIT, description="the request's number on the chain")
]
Case = Annotated[
    int, Meta(ge=0, le=_NUMBER_LIMIT, description="the case's number on the chain")
]
# A string: a price goes to 2^96, and JSON readers in other languages to 2^53.
Amount = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]*$",
        min_length=1,
        max_length=29,
        description="a whole number in decimal digits",
    ),
]
Address = Annotated[
    str,
    Meta(
        pattern=r"^0x[0-9a-fA-F]*$",
        min_length=42,
        max_length=42,
        description="an account on the chain, 0x and 40 hex digits",
    ),
]
Party = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="a member's name, or an account on the chain",
    ),
]
Code = Annotated[
    str, Meta(pattern=r"^DUO:[0-9]*$", max_length=11, description="a DUO term")
]
Days = Annotated[int, Meta(ge=1, le=_DAYS_LIMIT)]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="a member's name in the registry, or its peer id",
    ),
]
Units = Annotated[
    list[Annotated[int, Meta(ge=0, lt=_UNITS_LIMIT)]],
    Meta(
        min_length=1,
        max_length=_UNITS_LIMIT,
        description=f"consent units by number, 0 to {_UNITS_LIMIT - 1}; left out: all",
    ),
]


def _path(description: str) -> Meta:
    return Meta(
        pattern=_PATH_PATTERN,
        max_length=4096,
        description=description + "; an absolute path on the daemon's machine",
    )


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all of them."""


class Nothing(Params, frozen=True):
    """No parameters."""


class DatasetsPublish(Params, frozen=True):
    paths: Annotated[
        list[Annotated[str, _path("a file, or a folder of files")]],
        Meta(
            min_length=1,
            max_length=_PATHS_LIMIT,
            description=f"files and folders, 1 to {_PATHS_LIMIT} absolute paths on the "
            "daemon's machine",
        ),
    ]
    title: Annotated[
        str, Meta(min_length=1, max_length=2000, description="public, for ever")
    ]
    licence: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=200,
            description="one SPDX identifier, or LicenseRef-NAME for terms of your own",
        ),
    ]
    duo: Annotated[
        list[Annotated[str, Meta(max_length=32)]],
        Meta(
            min_length=1,
            max_length=32,
            description="Data Use Ontology codes: exactly one permission, any modifiers",
        ),
    ]
    source: Annotated[
        str,
        Meta(min_length=1, max_length=2000, description="where the data come from"),
    ]
    unit_by: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=256,
                description="what makes a consent unit: file, folder, patient (DICOM), or the "
                "column of one table that names the person; left out: folders if there are "
                "any, else files; of one table, blocks of neighbouring rows",
            ),
        ]
        | None
    ) = None
    disease: (
        Annotated[
            str,
            Meta(
                max_length=32,
                description="a MONDO term beside DUO:0000007; it becomes public",
            ),
        ]
        | None
    ) = None
    columns: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=256)]],
        Meta(
            max_length=1024,
            description="of one table, all that is published; left out: every column",
        ),
    ] = []
    group: (
        Annotated[
            str,
            Meta(
                max_length=40,
                description="what these columns are called in public, beside other groups of "
                "columns of the same table under the same title",
            ),
        ]
        | None
    ) = None
    replaces: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=_NUMBER_LIMIT,
                description="the dataset of this node that this is the next version of, "
                "under new keys",
            ),
        ]
        | None
    ) = None
    price: Annotated[
        Amount | None,
        Meta(
            description="what a request for access pays, in the token's smallest unit; left "
            "out: nothing"
        ),
    ] = None
    token: Annotated[
        Address | None,
        Meta(
            description="the ERC-20 of the price; the federation's council must accept it"
        ),
    ] = None
    max_days: Annotated[
        Days | None,
        Meta(description=f"the longest a grant may last; left out: {_DAYS_LIMIT}"),
    ] = None
    committee: Annotated[
        Party | None,
        Meta(
            description="who decides on access instead of the owner: a member, or the address "
            "of a committee; the owner then gives nothing by itself"
        ),
    ] = None


class DatasetsTerms(Params, frozen=True):
    dataset: Dataset
    price: Annotated[
        Amount | None,
        Meta(description="for requests from now on, in the token's smallest unit"),
    ] = None
    token: Annotated[Address | None, Meta(description="the ERC-20 of the price")] = None
    max_days: Annotated[
        Days | None, Meta(description="the longest that a new grant may last")
    ] = None
    committee: Annotated[
        Party | None,
        Meta(
            description="who decides on access from now on; a member or a committee's address"
        ),
    ] = None


class DatasetsSearch(Params, frozen=True):
    text: Annotated[
        str,
        Meta(
            max_length=1000,
            description="words that must all be there; the last may be a beginning",
        ),
    ] = ""
    purpose: (
        Annotated[
            str,
            Meta(
                pattern=r"^DUO:\d{7}$",
                max_length=11,
                description="a permission the study needs, such as DUO:0000007; broader ones "
                "match",
            ),
        ]
        | None
    ) = None
    commercial: Annotated[
        bool, Meta(description="leave out what forbids commercial use")
    ] = False
    format: (
        Annotated[
            str, Meta(max_length=32, description="of one part, such as csv or dicom")
        ]
        | None
    ) = None
    licence: (
        Annotated[str, Meta(max_length=200, description="exactly this licence")] | None
    ) = None
    disease: (
        Annotated[str, Meta(max_length=32, description="exactly this MONDO term")]
        | None
    ) = None
    columns: Annotated[
        list[Annotated[str, Meta(max_length=100)]],
        Meta(max_length=64, description="names that a column or field must have"),
    ] = []
    rows: Annotated[
        int,
        Meta(
            ge=0,
            le=_NUMBER_LIMIT,
            description="records that are shown, at least; suppressed counts are none",
        ),
    ] = 0


class DatasetsShow(Params, frozen=True):
    dataset: Dataset


class DatasetsFetch(Params, frozen=True):
    dataset: Dataset
    path: Annotated[
        str,
        _path(
            "where a table is written, mode 0600; of files, a folder that does not exist"
        ),
    ]
    owner: Annotated[
        Name | None,
        Meta(description="refuse unless this member owns it; left out: the chain says"),
    ] = None
    units: Units | None = None
    crypt4gh_key: (
        Annotated[
            str,
            _digest(
                "an X25519 public key: write Crypt4GH files for it, decrypt nothing here"
            ),
        ]
        | None
    ) = None


class DatasetsWithdraw(Params, frozen=True):
    dataset: Dataset
    units: Units | None = None


class GrantsGive(Params, frozen=True):
    dataset: Dataset
    grantee: Name
    days: Annotated[
        int,
        Meta(ge=1, le=_DAYS_LIMIT, description=f"until it ends, 1 to {_DAYS_LIMIT}"),
    ]
    units: Units | None = None
    purposes: (
        Annotated[
            list[Code],
            Meta(
                min_length=1,
                max_length=5,
                description="for these purposes only; left out: all that the terms allow",
            ),
        ]
        | None
    ) = None


class RequestsMake(Params, frozen=True):
    dataset: Dataset
    days: Annotated[
        int, Meta(ge=1, le=_DAYS_LIMIT, description="from the approval until it ends")
    ]
    purposes: Annotated[
        list[Code],
        Meta(
            min_length=1,
            max_length=5,
            description="what the data are for: permission terms such as DUO:0000007",
        ),
    ]
    acknowledged: Annotated[
        list[Code],
        Meta(
            max_length=32,
            description="conditions (DUO modifiers) that you keep to; the terms say which "
            "must be",
        ),
    ] = []
    max_price: Annotated[
        Amount, Meta(description="the most it may cost, in the token's smallest unit")
    ] = "0"
    units: Units | None = None


class RequestsList(Params, frozen=True):
    dataset: Annotated[Dataset | None, Meta(description="of this dataset only")] = None


class RequestsOne(Params, frozen=True):
    request: Request


class RequestsDispute(Params, frozen=True):
    request: Request
    reason: Annotated[
        str,
        Meta(min_length=1, max_length=2000, description="what is wrong, for auditors"),
    ]
    path: Annotated[
        str,
        _path("where the claim is written; its digest goes on the chain, so keep it"),
    ]


class CommitteesMake(Params, frozen=True):
    seats: Annotated[
        list[Name],
        Meta(min_length=1, max_length=32, description="members that sit on it"),
    ]
    threshold: Annotated[
        int, Meta(ge=1, le=32, description="how many of them decide together")
    ]


class MarketScores(Params, frozen=True):
    member: Name


class MarketCollect(Params, frozen=True):
    token: Annotated[Address, Meta(description="the ERC-20 to fetch")]


class CasesOne(Params, frozen=True):
    case: Case


class CasesVote(Params, frozen=True):
    case: Case
    uphold: Annotated[
        bool, Meta(description="whether whoever opened the case is right")
    ]
    report: Annotated[
        str, _path("what the finding rests on; its digest goes on the chain")
    ]


class CouncilPropose(Params, frozen=True):
    token: Annotated[
        Address | None, Meta(description="an ERC-20, to take for prices")
    ] = None
    accepted: Annotated[bool, Meta(description="false: take the token no longer")] = (
        True
    )
    rules: Annotated[
        dict[
            Annotated[str, Meta(pattern=r"^[a-z_]{1,32}$")],
            Annotated[int, Meta(ge=0, le=_NUMBER_LIMIT)],
        ],
        Meta(
            max_length=8,
            description="instead of a token: parameters and their new values, such as answer_s",
        ),
    ] = {}


class CouncilOne(Params, frozen=True):
    motion: Annotated[
        int, Meta(ge=0, le=_NUMBER_LIMIT, description="the proposal's number")
    ]


class GrantsList(Params, frozen=True):
    dataset: Dataset


class GrantsRevoke(Params, frozen=True):
    grant: Grant


class RunsPropose(Params, frozen=True):
    plan: Annotated[
        str,
        Meta(
            min_length=2,
            max_length=PROPOSAL_LIMIT_BYTES,
            description="the model file's text: what to build, on which task, how to train",
        ),
    ]
    rounds: Annotated[
        int,
        Meta(ge=1, le=ROUNDS_AT_MOST, description=f"1 to {ROUNDS_AT_MOST}"),
    ]
    members: Annotated[
        list[Name],
        Meta(
            min_length=MEMBERS_AT_LEAST,
            max_length=MEMBERS_AT_MOST,
            description=f"who trains, {MEMBERS_AT_LEAST} to {MEMBERS_AT_MOST} names; fewer "
            "would see each other's updates in the sum",
        ),
    ]
    dataset: Annotated[
        Dataset, Meta(description="the dataset of this node that takes part")
    ]


class RunsJoin(Params, frozen=True):
    run: Run
    dataset: Annotated[
        Dataset, Meta(description="the dataset of this node that takes part")
    ]


class RunsShow(Params, frozen=True):
    run: Run


class RunsSteer(Params, frozen=True):
    run: Run


class RunsSeat(Params, frozen=True):
    run: Run
    member: Annotated[Name, Meta(description="whose seat it is about")]


class RunsDismiss(Params, frozen=True):
    run: Run
    member: Annotated[Name, Meta(description="whose seat it is about")]
    expose: Annotated[
        bool,
        Meta(
            description="go on without it also where what it sent in a rejected sum can be told"
        ),
    ] = False


class RunsScore(Params, frozen=True):
    run: Run
    path: Annotated[str, _path("a CSV table as the run trains on")]


class RunsExport(Params, frozen=True):
    run: Run
    path: Annotated[str, _path("a new folder for the checkpoint")]


class RoundsList(Params, frozen=True):
    run: Run


class ModelsRelease(Params, frozen=True):
    run: Run
    hosts: Annotated[
        list[Name],
        Meta(
            max_length=MEMBERS_AT_MOST,
            description="compute hosts that may serve it; an empty list: any",
        ),
    ]
    days: Annotated[
        Days | None,
        Meta(description="how long hosts answer; left out: for good"),
    ] = None


class ModelsShow(Params, frozen=True):
    model: Model


class InferenceRun(Params, frozen=True):
    model: Model
    host: Annotated[Name, Meta(description="the compute host that is to answer")]
    path: Annotated[str, _path("a CSV table with the columns the model was trained on")]
    out: (
        Annotated[str, _path("where the scores are written as well, mode 0600")] | None
    ) = None


class DisputesOpen(Params, frozen=True):
    receipt: Receipt


class ReceiptsAnchored(Params, frozen=True):
    host: Annotated[Name, Meta(description="whose batches")]
    begins: Annotated[
        str,
        Meta(
            pattern=r"^[0-9a-f]{0,64}$",
            description="how a root begins, in lower-case hex; left out: all of them",
        ),
    ] = ""


class ReceiptsExport(Params, frozen=True):
    receipt: Receipt
    path: Annotated[str, _path("where the audit bundle is written")]
    case: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=_NUMBER_LIMIT,
                description="only this case of it, from 0, on the node that asked",
            ),
        ]
        | None
    ) = None


class _About(Params, frozen=True):
    about: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=200,
                description="KIND:NUMBER, KIND:DIGEST or a digest's beginning, such as "
                "dataset:3; left out: everything",
            ),
        ]
        | None
    ) = None
    direction: Annotated[
        Literal["back", "forward", "both"],
        Meta(description="what it rests on, what came of it, or both"),
    ] = "both"


class ProvenanceShow(_About, frozen=True):
    pass


class ProvenanceExport(_About, frozen=True, kw_only=True):
    path: Annotated[str, _path("where it is written, mode 0600")]
    form: Annotated[
        Literal["prov", "svg", "dot", "records", "lineage"],
        Meta(
            description="W3C PROV-O as JSON-LD, a picture, Graphviz, the signed records, or "
            "those with the chain's facts for `rexis-verify`"
        ),
    ]


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
            le=_NUMBER_LIMIT,
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
        str, _path("where question, answers and attestations are written as well")
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
            str, _digest("root of the run's state; default: the newest known here")
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


class EventsList(Params, frozen=True):
    after: Annotated[
        int,
        Meta(ge=0, le=_NUMBER_LIMIT, description="events with a higher number only"),
    ] = 0
    limit: Annotated[
        int, Meta(ge=1, le=EVENTS_LIMIT, description=f"at most, 1 to {EVENTS_LIMIT}")
    ] = 100
    wait_s: Annotated[
        float,
        Meta(
            ge=0,
            le=WAIT_LIMIT_S,
            description="wait this long for the first one, if there is none yet, "
            f"0 to {WAIT_LIMIT_S:.0f} seconds",
        ),
    ] = 0.0
