"""What is said of where things come from."""

from typing import Annotated, Any, Literal

from node.rpc.results.base import Count, Result, said


class Thing(Result, frozen=True):
    id: str
    kind: str
    label: str
    facts: dict[str, Any]


class Relation(Result, frozen=True):
    subject: Annotated[str, said("the later thing")]
    relation: Annotated[str, said("a property of PROV-O, or one of ours")]
    object: Annotated[str, said("the earlier thing")]
    proof: Annotated[
        Literal["signature", "chain", "signature and chain"], said("what it rests on")
    ]


class DoubtRow(Result, frozen=True):
    what: str
    why: str


class ProvenanceShow(Result, frozen=True):
    about: Annotated[str | None, said("the thing that was asked for")]
    things: list[Thing]
    relations: Annotated[list[Relation], said("every one was verified")]
    doubts: Annotated[list[DoubtRow], said("records that did not verify")]


class ProvenanceExport(Result, frozen=True):
    path: str
    bytes: Count
    things: Count
    relations: Count
    doubts: Count
