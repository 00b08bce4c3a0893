"""What may be asked of released models, inference, receipts and disputes."""

from typing import Annotated

from msgspec import Meta

from node.rpc.params.base import (
    NUMBER_LIMIT,
    Days,
    Model,
    Name,
    Params,
    Receipt,
    Run,
    a_path,
)
from protocol.runs import MEMBERS_AT_MOST


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
    path: Annotated[
        str, a_path("a CSV table with the columns the model was trained on")
    ]
    out: (
        Annotated[str, a_path("where the scores are written as well, mode 0600")] | None
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
    path: Annotated[str, a_path("where the audit bundle is written")]
    case: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=NUMBER_LIMIT,
                description="only this case of it, from 0, on the node that asked",
            ),
        ]
        | None
    ) = None
