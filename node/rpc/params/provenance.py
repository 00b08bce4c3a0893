"""What may be asked of where things come from."""

from typing import Annotated, Literal

from msgspec import Meta

from node.rpc.params.base import Params, a_path


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
    path: Annotated[str, a_path("where it is written, mode 0600")]
    form: Annotated[
        Literal["prov", "svg", "dot", "records", "lineage"],
        Meta(
            description="W3C PROV-O as JSON-LD, a picture, Graphviz, the signed records, or "
            "those with the chain's facts for `rexis-verify`"
        ),
    ]
