"""What is said of released models, inference, receipts, audits and disputes."""

from typing import Annotated, Literal

from node.rpc.results.base import Account, Count, Digest, Result, said


class ModelRow(Result, frozen=True):
    model: Annotated[Digest, said("root of the keyed integer trunk")]
    run: Digest
    state_root: Digest
    released_by: str
    hosts: Annotated[list[str], said("who may serve it; empty: any host")]
    until: Annotated[
        Count | None,
        said("Unix second after which hosts answer nobody; null: for good"),
    ]
    bytes: Annotated[Count, said("size of the trunk")]
    here: Annotated[bool, said("this node has the trunk")]


class Source(Result, frozen=True):
    dataset: Count
    record: Annotated[Digest, said("digest of the listing, as the signed step has it")]
    owner: str
    title: str | None
    licence: Annotated[str | None, said("null where the owner cannot be asked")]


class ModelShown(ModelRow, frozen=True):
    confirmed_by: Annotated[
        list[str],
        said("who compared it with the state they trained and signed for it"),
    ]
    sources: Annotated[list[Source], said("the listings it was trained on")]


class ModelsList(Result, frozen=True):
    models: list[ModelRow]


class InferenceRun(Result, frozen=True):
    model: Digest
    host: str
    receipts: list[Digest]
    scores: Annotated[
        list[float | None],
        said(
            "what the model's head gives, one a row of the table; a logit, of the class in"
            " `answers` where there are classes; null for a row that was not answered"
        ),
    ]
    answers: Annotated[
        list[str | None],
        said("the class of each row, of a model that tells classes apart; else empty"),
    ]
    stopped: Annotated[
        str | None, said("why not every row was answered; null where all were")
    ]
    hint: Annotated[str | None, said("how to go on from there")]
    path: Annotated[str | None, said("where the scores were written too")] = None


class ReceiptRow(Result, frozen=True):
    receipt: Digest
    batch: Annotated[
        Digest | None, said("Merkle root of its batch; null until that is closed")
    ]
    anchored: Annotated[bool, said("whether the chain has the batch")]


class ReceiptsList(Result, frozen=True):
    receipts: list[ReceiptRow]


class CertificateRow(Result, frozen=True):
    receipt: Digest
    model: Digest
    host: Annotated[str | None, said("null where it is no member any more")]
    cases: Count
    time: Annotated[int, said("when the host signed, in Unix seconds")]
    batch: Annotated[
        Digest | None,
        said("Merkle root it was anchored under; null until the chain has it"),
    ]


class ReceiptsCertificates(Result, frozen=True):
    certificates: list[CertificateRow]


class ReceiptsAnchor(Result, frozen=True):
    batch: Annotated[Digest | None, said("null where no receipt waited")]


class BatchRow(Result, frozen=True):
    batch: Annotated[Digest, said("Merkle root over its receipts")]
    receipts: Count
    block: Annotated[Count, said("where the chain has it")]


class ReceiptsAnchored(Result, frozen=True):
    host: str
    account: Annotated[Account, said("the account that anchored them")]
    batches: Annotated[list[BatchRow], said("the newest thousand, oldest first")]
    older: Annotated[Count, said("how many more there are")]


class ReceiptsExport(Result, frozen=True):
    path: str
    bytes: Count


class AuditEntry(Result, frozen=True):
    case: Count
    token: Count
    column: Count
    committed: Annotated[int, said("what the host signed")]
    computed: Annotated[int, said("what the replay gives")]
    differing: Annotated[Count, said("numbers of the layer that differ")]


class AuditRow(Result, frozen=True):
    receipt: Digest
    batch: Digest
    host: str
    verifier: Annotated[str, said("who signed the report")]
    model: Annotated[Digest, said("all zeros for a leaf that is no receipt")]
    verdict: Literal["passed", "failed"]
    fault: Literal["layer", "shape", "receipt"] | None
    layer: Annotated[Count | None, said("the first layer that differs, from 0")]
    entry: Annotated[AuditEntry | None, said("its first number that differs")]
    first_layer: Count
    layers_replayed: Count
    tier: Annotated[
        Literal["replay", "freivalds"],
        said("computed again, or checked with a key and without weights"),
    ]
    error_bits: Annotated[
        Count, said("a wrong layer passes with 2 to minus this at most; 0: never")
    ]
    time: Annotated[Count, said("Unix seconds")]


class AuditsList(Result, frozen=True):
    audits: list[AuditRow]


class DisputesOpen(Result, frozen=True):
    dispute: Count
    host: str


class DisputeRow(Result, frozen=True):
    dispute: Count
    challenger: str
    host: str
    model: Digest
    layer: Count
    case: Count
    token: Count
    turn: Annotated[Literal["host", "challenger", "nobody"], said("who must move")]
    outcome: Annotated[
        Literal["upheld", "rejected", "undecided"] | None,
        said("upheld: the host was wrong, or silent; null while it runs"),
    ]


class DisputesList(Result, frozen=True):
    disputes: list[DisputeRow]
