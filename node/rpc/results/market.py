"""What is said of requests, cases and money."""

from typing import Annotated, Literal

from node.rpc.results.base import Account, Amount, Count, Digest, Result, said


class RequestRow(Result, frozen=True):
    request: Count
    dataset: Count
    owner: str
    grantee: str
    units: list[Count]
    purposes: list[str]
    acknowledged: list[str]
    days: Count
    price: Annotated[Amount, said("in escrow until it is decided")]
    token: Account | None
    status: Literal["open", "approved", "disputed", "paid", "refunded", "halved"]
    deadline: Annotated[
        Count,
        said("until when it may be answered; approved, until when disputed"),
    ]
    mine: Annotated[bool, said("this node asked")]
    signed: Annotated[
        Count | None, said("on deciding: members that agreed to this")
    ] = None
    threshold: Annotated[Count | None, said("and how many are needed")] = None
    case: Annotated[Count | None, said("on disputing: its number")] = None
    path: Annotated[str | None, said("and where the claim is")] = None


class RequestsList(Result, frozen=True):
    requests: list[RequestRow]


class CommitteesMake(Result, frozen=True):
    committee: Account
    seats: list[str]
    threshold: Count


class Score(Result, frozen=True):
    role: Literal["provider", "grantee", "host", "challenger"]
    score: Annotated[Count, said("0 to 100; a newcomer stands at 50")]
    cases: Annotated[Count, said("how many it rests on")]


class MarketScores(Result, frozen=True):
    member: str
    roles: list[Score]


class Purse(Result, frozen=True):
    token: Account
    balance: Amount
    held: Annotated[Amount, said("by the contracts, to be collected")]
    accepted: Annotated[bool, said("whether prices may be in it")]


class Rules(Result, frozen=True):
    answer_s: Annotated[Count, said("how long a request may wait for an answer")]
    dispute_s: Annotated[Count, said("how long a delivery may be disputed")]
    challenge_s: Count
    vote_s: Count
    unbonding_s: Count
    quorum: Annotated[Count, said("votes for one side that decide a case")]
    open_requests: Annotated[Count, said("that one member may have")]
    bond: Annotated[Amount, said("what it costs to open a case and be wrong")]
    bond_token: Account | None


class MarketShow(Result, frozen=True):
    account: Account
    purses: Annotated[list[Purse], said("of every token in which something is priced")]
    scores: MarketScores
    rules: Rules


class CaseRow(Result, frozen=True):
    case: Count
    about: Literal["delivery", "receipt"]
    request: Count | None
    plaintiff: str
    defendant: str
    closes: Annotated[Count, said("Unix seconds")]
    upholding: Count
    rejecting: Count
    quorum: Count
    outcome: Literal["pending", "upheld", "rejected", "undecided"]


class CasesList(Result, frozen=True):
    cases: list[CaseRow]


class CasesCheck(Result, frozen=True):
    case: Count
    request: Count
    committed: Annotated[Digest | None, said("what the approval committed to")]
    shown: Annotated[Digest | None, said("what the owner shows now")]
    sound: Annotated[
        bool, said("the same bytes, of this dataset, with a header for each unit")
    ]
    why: Annotated[str | None, said("why it is not sound")]


class MotionRow(Result, frozen=True):
    motion: Count
    text: Annotated[str, said("the call, in words")]
    yes: Count
    electorate: Annotated[Count, said("members when it was proposed")]
    opened: Count
    ready: Annotated[Count | None, said("when it may be carried out; null: not passed")]
    done: bool


class CouncilList(Result, frozen=True):
    motions: list[MotionRow]
