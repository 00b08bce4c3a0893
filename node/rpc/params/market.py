"""What may be asked of requests, committees, cases and the council."""

from typing import Annotated

from msgspec import Meta

from node.rpc.params.base import (
    DAYS_LIMIT,
    NUMBER_LIMIT,
    Address,
    Amount,
    Case,
    Code,
    Dataset,
    Name,
    Params,
    Request,
    Units,
    a_path,
)


class RequestsMake(Params, frozen=True):
    dataset: Dataset
    days: Annotated[
        int, Meta(ge=1, le=DAYS_LIMIT, description="from the approval until it ends")
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
        a_path("where the claim is written; its digest goes on the chain, so keep it"),
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
        str, a_path("what the finding rests on; its digest goes on the chain")
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
            Annotated[int, Meta(ge=0, le=NUMBER_LIMIT)],
        ],
        Meta(
            max_length=8,
            description="instead of a token: parameters and their new values, such as answer_s",
        ),
    ] = {}


class CouncilOne(Params, frozen=True):
    motion: Annotated[
        int, Meta(ge=0, le=NUMBER_LIMIT, description="the proposal's number")
    ]
