"""What may be asked of training runs."""

from typing import Annotated

from msgspec import Meta

from node.rpc.params.base import Dataset, Name, Params, Run, a_path
from protocol.runs import (
    MEMBERS_AT_LEAST,
    MEMBERS_AT_MOST,
    PROPOSAL_LIMIT_BYTES,
    ROUNDS_AT_MOST,
)


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
    path: Annotated[str, a_path("a CSV table as the run trains on")]


class RunsExport(Params, frozen=True):
    run: Run
    path: Annotated[str, a_path("a new folder for the checkpoint")]


class RoundsList(Params, frozen=True):
    run: Run
