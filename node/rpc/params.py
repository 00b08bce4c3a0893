"""What each method of the admin interface may be asked, with its bounds.

A field's description is its documentation (docs/rpc.md is made from it) and the hint a caller
reads when the value is refused.  Unknown fields are refused, so a misspelt option never
passes for its default.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

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


class DatasetsAdd(Params, frozen=True):
    path: Annotated[str, _path("a CSV table with a header row")]
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
        Meta(min_length=1, max_length=2000, description="where the table comes from"),
    ]
    unit_column: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=256,
                description="rows with one value of this column share a consent unit; "
                "left out: blocks of neighbouring rows",
            ),
        ]
        | None
    ) = None


class DatasetsShow(Params, frozen=True):
    dataset: Dataset


class DatasetsFetch(Params, frozen=True):
    dataset: Dataset
    path: Annotated[str, _path("where the rows are written, mode 0600")]
    owner: Annotated[
        Name | None,
        Meta(description="refuse unless this member owns it; left out: the chain says"),
    ] = None
    units: Units | None = None


class GrantsGive(Params, frozen=True):
    dataset: Dataset
    grantee: Name
    days: Annotated[
        int,
        Meta(ge=1, le=_DAYS_LIMIT, description=f"until it ends, 1 to {_DAYS_LIMIT}"),
    ]
    units: Units | None = None


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
