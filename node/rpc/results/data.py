"""What is said of datasets and grants."""

from typing import Annotated, Any, Literal

from node.rpc.results.base import Account, Amount, Count, Digest, Result, said


class Terms(Result, frozen=True):
    token: Annotated[Account | None, said("the ERC-20 of the price")]
    max_days: Annotated[Count, said("the longest that a grant may last")]
    allowed: Annotated[list[str], said("purposes that can be granted, as DUO terms")]
    required: Annotated[list[str], said("conditions that must be acknowledged")]
    committee: Annotated[str, said("who decides: a member's name, or an account")]


class DatasetRow(Result, frozen=True, kw_only=True):
    dataset: Count
    title: Annotated[str | None, said("null while the owner has not been asked")]
    owner: Annotated[str, said("name, or account of somebody who is no member")]
    owner_peer: str | None
    mine: bool
    units: Annotated[Count, said("number of consent units")]
    withdrawn: Annotated[list[Count], said("of them, those that nobody reads any more")]
    price: Annotated[Amount, said("of a request, in the token's smallest unit")]
    terms: Annotated[Terms, said("what the chain holds requests and grants against")]
    record: Annotated[Digest, said("digest of the listing, as the chain has it")]
    group: Annotated[
        str | None, said("of a table published in groups of columns, which this is")
    ] = None
    replaced_by: Annotated[
        Count | None,
        said("the dataset that its owner lists as its next version, if known here"),
    ] = None
    keys: Annotated[
        Count, said("under which keys it is: 1 for the first, 2 after `datasets.rekey`")
    ] = 1
    as_of: Annotated[
        Count | None,
        said("Unix seconds of when the chain said so, while it does not answer"),
    ] = None


class DatasetsList(Result, frozen=True):
    datasets: list[DatasetRow]


class Column(Result, frozen=True):
    name: str
    kind: str


class Part(Result, frozen=True):
    name: str
    format: str
    columns: list[Column]
    details: Annotated[list[str], said("facts of the format, such as a modality")]
    records: Annotated[
        Count | None, said("rows or files; null where it would tell too much")
    ]


class Described(Result, frozen=True):
    """What a listing says before it is made."""

    licence: str
    duo: list[str]
    source: str
    columns: list[Column]
    rows: Annotated[list[Count | None], said("of each unit; null where fewer than ten")]
    disease: Annotated[str | None, said("a MONDO term, where one is public")] = None
    version: Count = 1
    previous: Annotated[
        Digest | None, said("record of the version before this one")
    ] = None
    parts: Annotated[list[Part], said("records of one format each")] = []
    packed: Annotated[bool, said("a unit is a tar of files")] = False


class Listing(Described, frozen=True, kw_only=True):
    created: Annotated[Count, said("Unix seconds")]
    manifest: Digest
    provenance: Digest
    croissant: Annotated[dict[str, Any], said("the same facts as Croissant JSON-LD")]


class Held(Result, frozen=True):
    unit: Count
    records: Annotated[Count, said("rows or files, however few: to its owner alone")]
    names: Annotated[
        list[str], said("the first of what is in it, as the owner's files name it")
    ]
    named: Annotated[Count, said("how many there are")]


class DatasetsPreview(Described, frozen=True, kw_only=True):
    title: str
    group: Annotated[
        str | None, said("what these columns would be called beside others")
    ]
    bytes: Annotated[Count, said("that would be encrypted")]
    holds: Annotated[list[Held], said("which unit would hold whom; never public")]
    unit: Annotated[Count | None, said("the unit of `who`")]
    warnings: Annotated[
        list[str], said("what is legal, and may not be what its owner means")
    ]


class ColumnGroup(Result, frozen=True):
    name: str
    dataset: Annotated[Count, said("by which it is granted, asked for and fetched")]
    columns: list[str]


class DatasetShown(DatasetRow, frozen=True, kw_only=True):
    listing: Annotated[Listing | None, said("null where it could not be had")]
    why: Annotated[str | None, said("why there is no listing")] = None
    groups: Annotated[
        list[ColumnGroup],
        said("all groups of columns of this table that are known here, this one too"),
    ] = []
    warnings: Annotated[list[str], said("on publishing: what to look at again")] = []
    slices: Annotated[
        list[Count],
        said(
            "other datasets of this node, cut from the same table into the same units"
        ),
    ] = []


class DatasetsFetch(Result, frozen=True):
    dataset: Count
    title: str
    record: Digest
    units: Annotated[list[Count], said("the units that were read")]
    columns: list[str]
    bytes: Count
    path: str


class Work(Result, frozen=True):
    path: Annotated[
        str,
        said(
            "the first one that was named in the call; of `datasets.rekey` the number"
        ),
    ]
    what: Literal[
        "reading", "encrypting", "anchoring", "fetching", "decrypting", "inferring"
    ]
    done_bytes: Count
    bytes: Annotated[Count, said("0 where it is not known yet")]


class DatasetsWorks(Result, frozen=True):
    works: Annotated[list[Work], said("oldest first")]


class GrantLess(Result, frozen=True):
    grant: Count
    left: Annotated[list[Count], said("units it still covers")]


class SameRows(Result, frozen=True):
    dataset: Count
    units: Annotated[list[Count], said("not withdrawn there")]


class DatasetsWithdraw(Result, frozen=True):
    dataset: Count
    units: Annotated[list[Count], said("units whose keys are destroyed")]
    left: Annotated[list[Count], said("units that can still be granted")]
    grants: Annotated[list[GrantLess], said("grants in force that lose units")]
    same_rows: Annotated[
        list[SameRows],
        said(
            "where the same rows are still to be had: datasets cut from the same table"
        ),
    ]
    versions: Annotated[
        list[Count],
        said("other versions that can still be read; their units have other numbers"),
    ]
    cannot_be_undone: Annotated[list[str], said("one line each, for the patient")]


class GrantRow(Result, frozen=True):
    grant: Count
    dataset: Count
    grantee: Annotated[str, said("name, or account of somebody who is no member")]
    units: list[Count]
    purposes: Annotated[list[str], said("what it is for, as DUO terms")]
    until: Annotated[Count, said("Unix seconds")]
    revoked: bool
    active: bool


class GrantGiven(GrantRow, frozen=True):
    replaced: Annotated[
        list[Count] | None,
        said(
            "units of the grant in force that this one stands in for, if there was one"
        ),
    ]


class GrantsList(Result, frozen=True):
    grants: list[GrantRow]
