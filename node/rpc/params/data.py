"""What may be asked of datasets and grants."""

from typing import Annotated

from msgspec import Meta

from node.rpc.params.base import (
    DAYS_LIMIT,
    NUMBER_LIMIT,
    Address,
    Amount,
    Code,
    Dataset,
    Days,
    Grant,
    Name,
    Params,
    Party,
    Units,
    a_digest,
    a_path,
)

# A command line is shorter than this; of more files, name their folder.
_PATHS_LIMIT = 1024


class DatasetsPublish(Params, frozen=True):
    paths: Annotated[
        list[Annotated[str, a_path("a file, or a folder of files")]],
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
                le=NUMBER_LIMIT,
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
        Meta(description=f"the longest a grant may last; left out: {DAYS_LIMIT}"),
    ] = None
    committee: Annotated[
        Party | None,
        Meta(
            description="who decides on access instead of the owner: a member, or the address "
            "of a committee; the owner then gives nothing by itself"
        ),
    ] = None


class DatasetsPreview(DatasetsPublish, frozen=True, kw_only=True):
    who: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=4096,
                description="whose unit is asked for: a value of the unit column, a DICOM "
                "patient, a folder or a file, as the owner's files name it",
            ),
        ]
        | None
    ) = None


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
            le=NUMBER_LIMIT,
            description="records that are shown, at least; suppressed counts are none",
        ),
    ] = 0


class DatasetsShow(Params, frozen=True):
    dataset: Dataset


class DatasetsFetch(Params, frozen=True):
    dataset: Dataset
    path: Annotated[
        str,
        a_path(
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
            a_digest(
                "an X25519 public key: write Crypt4GH files for it, decrypt nothing here"
            ),
        ]
        | None
    ) = None


class DatasetsRekey(Params, frozen=True):
    dataset: Dataset


class DatasetsWithdraw(Params, frozen=True):
    dataset: Dataset
    units: Units | None = None


class GrantsGive(Params, frozen=True):
    dataset: Dataset
    grantee: Name
    days: Annotated[
        int,
        Meta(ge=1, le=DAYS_LIMIT, description=f"until it ends, 1 to {DAYS_LIMIT}"),
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


class GrantsList(Params, frozen=True):
    dataset: Dataset


class GrantsRevoke(Params, frozen=True):
    grant: Grant
