"""What is said of queries."""

from typing import Annotated, Any, Literal

from node.rpc.results.base import Count, Digest, Result, said


class QueryPolicy(Result, frozen=True):
    dataset: Count
    kinds: list[str]
    epsilon: Annotated[float, said("of all answers together, for ever")]
    delta: float
    floor: Count
    rho: Annotated[float, said("what the budget is worth as zCDP")]
    rho_left: float
    epsilon_spent: Annotated[float, said("at the same delta")]
    questions: Annotated[Count, said("that were charged")]


class QueryAllowed(QueryPolicy, frozen=True):
    same_rows: Annotated[
        list[Count],
        said(
            "other datasets of the same rows that answer as well: their budgets add up"
        ),
    ]


class OpenQuery(Result, frozen=True):
    query: Annotated[Digest, said("by which it is gone on with")]
    kind: str
    datasets: list[Count]
    begun: Annotated[Count, said("Unix seconds; since then somebody may have paid")]
    awaits: Annotated[
        Literal["answers", "votes", "shares"],
        said(
            "what the institutions have yet to send: noisy vectors; who is in the sum; what "
            "takes its masks off"
        ),
    ]
    running: Annotated[bool, said("this node is asking it now")]
    hint: Annotated[str, said("what to do about it")]


class QueriesList(Result, frozen=True):
    policies: Annotated[list[QueryPolicy], said("of datasets that answer")]
    open: Annotated[
        list[OpenQuery],
        said("questions of this node without a result yet, oldest first"),
    ]


class QueryAnswer(Result, frozen=True):
    dataset: Count
    owner: str
    record: Annotated[Digest, said("digest of the listing, as attested and on chain")]
    manifest: Annotated[Digest, said("root of the data, as attested and as listed")]


class QueriesAsk(Result, frozen=True):
    query: Annotated[Digest, said("names the question; every attestation binds it")]
    kind: str
    code: Annotated[Digest, said("of the program that answered, as attested")]
    answers: Annotated[list[QueryAnswer], said("every one was verified")]
    dropped: Annotated[
        list[str], said("institutions that were asked and are not in the sum")
    ]
    masked: Annotated[bool, said("only the sum could be read")]
    noise_sd: Annotated[float, said("standard deviation of one cell of the sum")]
    floor: Annotated[Count, said("smaller counts are null; a curve ends there")]
    result: Annotated[dict[str, Any], said("see docs/queries.md, by kind")]
    path: str | None


class FreedAnswer(Result, frozen=True):
    dataset: Count
    owner: str
    rho: Annotated[float, said("that it has paid, and that stays paid")]


class UnreachedOwner(Result, frozen=True):
    dataset: Count
    reason: str


class QueriesForget(Result, frozen=True):
    query: Digest
    kind: str
    freed: Annotated[
        list[FreedAnswer], said("they hold nothing of it, and never answer it again")
    ]
    unreached: Annotated[
        list[UnreachedOwner], said("they keep what they hold, which opens nothing")
    ]
