"""What each method of the admin interface answers.

The server converts what a service returns to these before it answers, so the documentation
made from them cannot say one thing and the daemon another.  A field is always there; where
there is nothing to say it is null.  Adding a field is free, taking one away is not.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Hex = Annotated[str, Meta(pattern="^[0-9a-f]*$", description="lower-case hex digits")]
Digest = Annotated[
    str, Meta(pattern="^[0-9a-f]{64}$", description="32 bytes, lower-case hex")
]
Account = Annotated[
    str,
    Meta(pattern="^(0x)?[0-9a-fA-F]{40}$", description="20 bytes, the chain account"),
]
Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[
    str,
    Meta(pattern="^[0-9]+$", description="a whole number, as it may pass 2^53"),
]


def _said(description: str) -> Meta:
    return Meta(description=description)


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all of them."""


# --- node ---------------------------------------------------------------------


class ChainStatus(Result, frozen=True):
    url: str
    chain_id: Count
    head: Annotated[
        Count | None, _said("newest block taken as final; null while the chain is down")
    ]
    waiting: Annotated[Count, _said("anchors that wait for the chain")]


class StatusGet(Result, frozen=True):
    name: str
    role: str
    peer_id: str
    version: str
    addresses: Annotated[list[str], _said("where this node listens")]
    connected: Annotated[Count, _said("peers connected now")]
    members: Annotated[Count, _said("members of the federation")]
    uptime_s: float
    chain: ChainStatus
    datasets: Annotated[Count, _said("datasets of this node")]
    runs: Count
    models: Count


class Peer(Result, frozen=True):
    name: str
    peer_id: str
    connected: bool
    roles: list[str]


class PeersList(Result, frozen=True):
    peers: list[Peer]


class Member(Result, frozen=True):
    name: str
    peer_id: str
    node_key: Annotated[Hex, _said("Ed25519, 32 bytes")]
    account: Account
    roles: list[str]


class MembersList(Result, frozen=True):
    members: list[Member]


class NodeStop(Result, frozen=True):
    stopping: Literal[True]


class Event(Result, frozen=True):
    number: Count
    at_ms: Annotated[Count, _said("Unix milliseconds")]
    kind: str
    data: Annotated[dict[str, Any], _said("what `kind` has to say")]


class EventsList(Result, frozen=True):
    events: Annotated[list[Event], _said("oldest first")]


# --- data ---------------------------------------------------------------------


class Terms(Result, frozen=True):
    token: Annotated[Account | None, _said("the ERC-20 of the price")]
    max_days: Annotated[Count, _said("the longest that a grant may last")]
    allowed: Annotated[list[str], _said("purposes that can be granted, as DUO terms")]
    required: Annotated[list[str], _said("conditions that must be acknowledged")]
    committee: Annotated[str, _said("who decides: a member's name, or an account")]


class DatasetRow(Result, frozen=True, kw_only=True):
    dataset: Count
    title: Annotated[str | None, _said("null while the owner has not been asked")]
    owner: Annotated[str, _said("name, or account of somebody who is no member")]
    owner_peer: str | None
    mine: bool
    units: Annotated[Count, _said("number of consent units")]
    withdrawn: Annotated[
        list[Count], _said("of them, those that nobody reads any more")
    ]
    price: Annotated[Amount, _said("of a request, in the token's smallest unit")]
    terms: Annotated[Terms, _said("what the chain holds requests and grants against")]
    record: Annotated[Digest, _said("digest of the listing, as the chain has it")]
    group: Annotated[
        str | None, _said("of a table published in groups of columns, which this is")
    ] = None
    replaced_by: Annotated[
        Count | None,
        _said("the dataset that its owner lists as its next version, if known here"),
    ] = None
    as_of: Annotated[
        Count | None,
        _said("Unix seconds of when the chain said so, while it does not answer"),
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
    details: Annotated[list[str], _said("facts of the format, such as a modality")]
    records: Annotated[
        Count | None, _said("rows or files; null where it would tell too much")
    ]


class Listing(Result, frozen=True):
    licence: str
    duo: list[str]
    source: str
    columns: list[Column]
    rows: Annotated[
        list[Count | None], _said("of each unit; null where fewer than ten")
    ]
    created: Annotated[Count, _said("Unix seconds")]
    manifest: Digest
    provenance: Digest
    croissant: Annotated[dict[str, Any], _said("the same facts as Croissant JSON-LD")]
    disease: Annotated[str | None, _said("a MONDO term, where one is public")] = None
    version: Count = 1
    previous: Annotated[
        Digest | None, _said("record of the version before this one")
    ] = None
    parts: Annotated[list[Part], _said("records of one format each")] = []
    packed: Annotated[bool, _said("a unit is a tar of files")] = False


class ColumnGroup(Result, frozen=True):
    name: str
    dataset: Annotated[Count, _said("by which it is granted, asked for and fetched")]
    columns: list[str]


class DatasetShown(DatasetRow, frozen=True, kw_only=True):
    listing: Annotated[Listing | None, _said("null where it could not be had")]
    why: Annotated[str | None, _said("why there is no listing")] = None
    groups: Annotated[
        list[ColumnGroup],
        _said("all groups of columns of this table that are known here, this one too"),
    ] = []
    warnings: Annotated[list[str], _said("on publishing: what to look at again")] = []
    slices: Annotated[
        list[Count],
        _said(
            "other datasets of this node, cut from the same table into the same units"
        ),
    ] = []


class DatasetsFetch(Result, frozen=True):
    dataset: Count
    title: str
    record: Digest
    units: Annotated[list[Count], _said("the units that were read")]
    columns: list[str]
    bytes: Count
    path: str


class Work(Result, frozen=True):
    path: Annotated[str, _said("the first one that was named in the call")]
    what: Literal[
        "reading", "encrypting", "anchoring", "fetching", "decrypting", "inferring"
    ]
    done_bytes: Count
    bytes: Annotated[Count, _said("0 where it is not known yet")]


class DatasetsWorks(Result, frozen=True):
    works: Annotated[list[Work], _said("oldest first")]


class GrantLess(Result, frozen=True):
    grant: Count
    left: Annotated[list[Count], _said("units it still covers")]


class SameRows(Result, frozen=True):
    dataset: Count
    units: Annotated[list[Count], _said("not withdrawn there")]


class DatasetsWithdraw(Result, frozen=True):
    dataset: Count
    units: Annotated[list[Count], _said("units whose keys are destroyed")]
    left: Annotated[list[Count], _said("units that can still be granted")]
    grants: Annotated[list[GrantLess], _said("grants in force that lose units")]
    same_rows: Annotated[
        list[SameRows],
        _said(
            "where the same rows are still to be had: datasets cut from the same table"
        ),
    ]
    versions: Annotated[
        list[Count],
        _said("other versions that can still be read; their units have other numbers"),
    ]
    cannot_be_undone: Annotated[list[str], _said("one line each, for the patient")]


class GrantRow(Result, frozen=True):
    grant: Count
    dataset: Count
    grantee: Annotated[str, _said("name, or account of somebody who is no member")]
    units: list[Count]
    purposes: Annotated[list[str], _said("what it is for, as DUO terms")]
    until: Annotated[Count, _said("Unix seconds")]
    revoked: bool
    active: bool


class GrantGiven(GrantRow, frozen=True):
    replaced: Annotated[
        list[Count] | None,
        _said(
            "units of the grant in force that this one stands in for, if there was one"
        ),
    ]


class GrantsList(Result, frozen=True):
    grants: list[GrantRow]


# --- requests, cases, money -----------------------------------------------------


class RequestRow(Result, frozen=True):
    request: Count
    dataset: Count
    owner: str
    grantee: str
    units: list[Count]
    purposes: list[str]
    acknowledged: list[str]
    days: Count
    price: Annotated[Amount, _said("in escrow until it is decided")]
    token: Account | None
    status: Literal["open", "approved", "disputed", "paid", "refunded", "halved"]
    deadline: Annotated[
        Count,
        _said("until when it may be answered; approved, until when disputed"),
    ]
    mine: Annotated[bool, _said("this node asked")]
    signed: Annotated[
        Count | None, _said("on deciding: members that agreed to this")
    ] = None
    threshold: Annotated[Count | None, _said("and how many are needed")] = None
    case: Annotated[Count | None, _said("on disputing: its number")] = None
    path: Annotated[str | None, _said("and where the claim is")] = None


class RequestsList(Result, frozen=True):
    requests: list[RequestRow]


class CommitteesMake(Result, frozen=True):
    committee: Account
    seats: list[str]
    threshold: Count


class Score(Result, frozen=True):
    role: Literal["provider", "grantee", "host", "challenger"]
    score: Annotated[Count, _said("0 to 100; a newcomer stands at 50")]
    cases: Annotated[Count, _said("how many it rests on")]


class MarketScores(Result, frozen=True):
    member: str
    roles: list[Score]


class Purse(Result, frozen=True):
    token: Account
    balance: Amount
    held: Annotated[Amount, _said("by the contracts, to be collected")]
    accepted: Annotated[bool, _said("whether prices may be in it")]


class Rules(Result, frozen=True):
    answer_s: Annotated[Count, _said("how long a request may wait for an answer")]
    dispute_s: Annotated[Count, _said("how long a delivery may be disputed")]
    challenge_s: Count
    vote_s: Count
    unbonding_s: Count
    quorum: Annotated[Count, _said("votes for one side that decide a case")]
    open_requests: Annotated[Count, _said("that one member may have")]
    bond: Annotated[Amount, _said("what it costs to open a case and be wrong")]
    bond_token: Account | None


class MarketShow(Result, frozen=True):
    account: Account
    purses: Annotated[list[Purse], _said("of every token in which something is priced")]
    scores: MarketScores
    rules: Rules


class CaseRow(Result, frozen=True):
    case: Count
    about: Literal["delivery", "receipt"]
    request: Count | None
    plaintiff: str
    defendant: str
    closes: Annotated[Count, _said("Unix seconds")]
    upholding: Count
    rejecting: Count
    quorum: Count
    outcome: Literal["pending", "upheld", "rejected", "undecided"]


class CasesList(Result, frozen=True):
    cases: list[CaseRow]


class CasesCheck(Result, frozen=True):
    case: Count
    request: Count
    committed: Annotated[Digest | None, _said("what the approval committed to")]
    shown: Annotated[Digest | None, _said("what the owner shows now")]
    sound: Annotated[
        bool, _said("the same bytes, of this dataset, with a header for each unit")
    ]
    why: Annotated[str | None, _said("why it is not sound")]


class MotionRow(Result, frozen=True):
    motion: Count
    text: Annotated[str, _said("the call, in words")]
    yes: Count
    electorate: Annotated[Count, _said("members when it was proposed")]
    opened: Count
    ready: Annotated[
        Count | None, _said("when it may be carried out; null: not passed")
    ]
    done: bool


class CouncilList(Result, frozen=True):
    motions: list[MotionRow]


# --- provenance ---------------------------------------------------------------


class Thing(Result, frozen=True):
    id: str
    kind: str
    label: str
    facts: dict[str, Any]


class Relation(Result, frozen=True):
    subject: Annotated[str, _said("the later thing")]
    relation: Annotated[str, _said("a property of PROV-O, or one of ours")]
    object: Annotated[str, _said("the earlier thing")]
    proof: Annotated[
        Literal["signature", "chain", "signature and chain"], _said("what it rests on")
    ]


class DoubtRow(Result, frozen=True):
    what: str
    why: str


class ProvenanceShow(Result, frozen=True):
    about: Annotated[str | None, _said("the thing that was asked for")]
    things: list[Thing]
    relations: Annotated[list[Relation], _said("every one was verified")]
    doubts: Annotated[list[DoubtRow], _said("records that did not verify")]


class ProvenanceExport(Result, frozen=True):
    path: str
    bytes: Count
    things: Count
    relations: Count
    doubts: Count


# --- queries ------------------------------------------------------------------


class QueryPolicy(Result, frozen=True):
    dataset: Count
    kinds: list[str]
    epsilon: Annotated[float, _said("of all answers together, for ever")]
    delta: float
    floor: Count
    rho: Annotated[float, _said("what the budget is worth as zCDP")]
    rho_left: float
    epsilon_spent: Annotated[float, _said("at the same delta")]
    questions: Annotated[Count, _said("that were charged")]


class QueryAllowed(QueryPolicy, frozen=True):
    same_rows: Annotated[
        list[Count],
        _said(
            "other datasets of the same rows that answer as well: their budgets add up"
        ),
    ]


class OpenQuery(Result, frozen=True):
    query: Annotated[Digest, _said("by which it is gone on with")]
    kind: str
    datasets: list[Count]
    begun: Annotated[Count, _said("Unix seconds; since then somebody may have paid")]
    awaits: Annotated[
        Literal["answers", "votes", "shares"],
        _said(
            "what the institutions have yet to send: noisy vectors; who is in the sum; what "
            "takes its masks off"
        ),
    ]
    running: Annotated[bool, _said("this node is asking it now")]
    hint: Annotated[str, _said("what to do about it")]


class QueriesList(Result, frozen=True):
    policies: Annotated[list[QueryPolicy], _said("of datasets that answer")]
    open: Annotated[
        list[OpenQuery],
        _said("questions of this node without a result yet, oldest first"),
    ]


class QueryAnswer(Result, frozen=True):
    dataset: Count
    owner: str
    record: Annotated[Digest, _said("digest of the listing, as attested and on chain")]
    manifest: Annotated[Digest, _said("root of the data, as attested and as listed")]


class QueriesAsk(Result, frozen=True):
    query: Annotated[Digest, _said("names the question; every attestation binds it")]
    kind: str
    code: Annotated[Digest, _said("of the program that answered, as attested")]
    answers: Annotated[list[QueryAnswer], _said("every one was verified")]
    dropped: Annotated[
        list[str], _said("institutions that were asked and are not in the sum")
    ]
    masked: Annotated[bool, _said("only the sum could be read")]
    noise_sd: Annotated[float, _said("standard deviation of one cell of the sum")]
    floor: Annotated[Count, _said("smaller counts are null; a curve ends there")]
    result: Annotated[dict[str, Any], _said("see docs/queries.md, by kind")]
    path: str | None


class FreedAnswer(Result, frozen=True):
    dataset: Count
    owner: str
    rho: Annotated[float, _said("that it has paid, and that stays paid")]


class UnreachedOwner(Result, frozen=True):
    dataset: Count
    reason: str


class QueriesForget(Result, frozen=True):
    query: Digest
    kind: str
    freed: Annotated[
        list[FreedAnswer], _said("they hold nothing of it, and never answer it again")
    ]
    unreached: Annotated[
        list[UnreachedOwner], _said("they keep what they hold, which opens nothing")
    ]


# --- training -----------------------------------------------------------------


class Progress(Result, frozen=True):
    what: Annotated[str, _said("what this node is doing for the run now")]
    step: Annotated[Count | None, _said("null for work that has no steps")]
    of: Count | None
    loss: float | None


class PrivacyRow(Result, frozen=True):
    clip: Annotated[
        float, _said("longest update of a member; longer ones are shortened")
    ]
    multiplier: Annotated[
        float, _said("standard deviation of a sum's noise, in the largest update")
    ]
    delta: float
    budget: Annotated[float, _said("epsilon for one record; no round goes beyond it")]
    rounds: Annotated[
        Count, _said("how many the budget is good for, of those that were proposed")
    ]
    spent: Annotated[
        float, _said("epsilon so far of one record of a member that was in every sum")
    ]
    membership: Annotated[
        float, _said("epsilon so far of whether a member took part at all")
    ]
    members: Annotated[
        dict[str, float],
        _said(
            "epsilon so far of one record, by member: sums it was not in do not count"
        ),
    ]


class Length(Result, frozen=True):
    whole: Annotated[float, _said("of the whole update, over the typical one")]
    block: Annotated[float, _said("of the block most unlike the others'")]


class SketchRow(Result, frozen=True):
    round: Count
    lengths: Annotated[
        dict[str, Length], _said("by member; empty where they cannot be told")
    ]
    outliers: Annotated[list[str], _said("far longer than the typical update")]
    false: Annotated[list[str], _said("said what was shown to be wrong")]
    silent: Annotated[list[str], _said("said nothing in time")]


class SeatRow(Result, frozen=True):
    member: str
    wish: Literal["in", "out"]
    by: Annotated[list[str], _said("members that want so")]
    itself: Annotated[bool, _said("and so does the member")]
    needed: Annotated[
        Count, _said("members that must want so; to leave, the member's word does")
    ]
    exposed_by: Annotated[
        list[str],
        _said("members that do not mind that its update in a rejected sum can be told"),
    ] = []


class RunRow(Result, frozen=True):
    run: Digest
    title: str
    phase: Annotated[
        Literal["proposed", "training", "paused", "ended", "finished", "failed"],
        _said("paused and ended: too few members go on for a quorum"),
    ]
    round: Annotated[Count, _said("rounds closed so far")]
    rounds: Count
    members: list[str]
    consents: Annotated[list[str], _said("members whose stewards have agreed")]
    datasets: Annotated[
        dict[str, Count], _said("the dataset each of them brings, by member")
    ]
    samples: Annotated[dict[str, Count], _said("records that train, by member")]
    state_root: Annotated[Digest, _said("of the newest state")]
    proposed_by: str
    mine: Annotated[bool, _said("this node is one of the members")]
    reason: Annotated[
        str | None,
        _said("why it failed, is paused or ended, or stopped before its time"),
    ]
    progress: Progress | None
    stage: Annotated[
        Literal[
            "syncing", "training", "ready", "uploading", "settling", "sketching", "left"
        ]
        | None,
        _said("where this node stands in the round under way; null where none is"),
    ] = None
    away: Annotated[
        list[str],
        _said("members not heard from lately: the next round opens without them"),
    ] = []
    epoch: Annotated[Count, _said("how often its members have changed")] = 0
    seats: Annotated[
        list[SeatRow],
        _said("who asks for a seat or is to give one up, and who wants so"),
    ] = []
    stances: Annotated[
        dict[str, Literal["go", "pause", "end"]],
        _said("what operators said last, by member; who said nothing goes on"),
    ] = {}
    privacy: Annotated[
        PrivacyRow | None,
        _said("null: sums carry no noise, and no epsilon bounds them"),
    ] = None
    sketch: Annotated[
        SketchRow | None,
        _said("how members' updates compared in the last rejected round"),
    ] = None
    accused: Annotated[
        dict[str, str],
        _said(
            "by member, what this node saw it do that no honest member does, and in which round"
        ),
    ] = {}


class RunsList(Result, frozen=True):
    runs: list[RunRow]


class RunScore(Result, frozen=True):
    state_root: Annotated[Digest, _said("of the state that was tried")]
    round: Annotated[Count, _said("rounds that state has seen")]
    records: Annotated[Count, _said("with a known answer")]
    auc: Annotated[
        float | None,
        _said("of several classes their mean; null where an answer is missing"),
    ]
    loss: float | None


class RunExport(Result, frozen=True):
    state_root: Annotated[Digest, _said("of the state that was written")]
    round: Annotated[Count, _said("rounds that state has seen")]
    path: str


class KeyRow(Result, frozen=True):
    print: Annotated[Digest, _said("names the secret and tells nothing about it")]
    institution: str
    host: Annotated[str, _said("the member whose worker was given the keyed trunk")]
    session: str
    life: Literal["live", "destroyed"]


class KeysList(Result, frozen=True):
    keys: list[KeyRow]


class Moved(Result, frozen=True):
    count: Count
    bytes: Count


class RoundRow(Result, frozen=True):
    run: Digest
    round: Count
    attempt: Annotated[Count, _said("the attempt that succeeded")]
    attempts: Annotated[Count, _said("attempts this node took part in")]
    accepted: Annotated[bool, _said("a quorum accepted the sum; else the state stays")]
    survivors: Annotated[list[str], _said("whose updates are in it")]
    state_root: Annotated[Digest, _said("the state this round ended with")]
    seconds: float
    finished_at: Annotated[Count, _said("Unix seconds")]
    loss_first: Annotated[
        float | None, _said("this node's training loss, first step; null if it slept")
    ]
    loss_last: float | None
    norm: Annotated[float | None, _said("length of this node's update, unmasked")]
    cut: Annotated[Count, _said("entries of the update that had to be cut")]
    held_out: Annotated[Count, _said("records of this node that never train")]
    auc: Annotated[float | None, _said("of the new state, on those records")]
    loss: float | None
    bytes_received: Count
    received: Annotated[dict[str, Moved], _said("blobs pulled, by member")]
    rejected_for: Annotated[
        str | None, _said("why, as far as this node saw; null if it was accepted")
    ] = None
    sketch: Annotated[
        SketchRow | None, _said("how members' updates compared, if it was rejected")
    ] = None
    accused: Annotated[
        dict[str, str],
        _said("by member, what this node saw it do that no honest member does"),
    ] = {}


class RoundsList(Result, frozen=True):
    rounds: list[RoundRow]


# --- evaluation ---------------------------------------------------------------


class ModelRow(Result, frozen=True):
    model: Annotated[Digest, _said("root of the keyed integer trunk")]
    run: Digest
    state_root: Digest
    released_by: str
    hosts: Annotated[list[str], _said("who may serve it; empty: any host")]
    until: Annotated[
        Count | None,
        _said("Unix second after which hosts answer nobody; null: for good"),
    ]
    bytes: Annotated[Count, _said("size of the trunk")]
    here: Annotated[bool, _said("this node has the trunk")]


class Source(Result, frozen=True):
    dataset: Count
    record: Annotated[Digest, _said("digest of the listing, as the signed step has it")]
    owner: str
    title: str | None
    licence: Annotated[str | None, _said("null where the owner cannot be asked")]


class ModelShown(ModelRow, frozen=True):
    confirmed_by: Annotated[
        list[str],
        _said("who compared it with the state they trained and signed for it"),
    ]
    sources: Annotated[list[Source], _said("the listings it was trained on")]


class ModelsList(Result, frozen=True):
    models: list[ModelRow]


class InferenceRun(Result, frozen=True):
    model: Digest
    host: str
    receipts: list[Digest]
    scores: Annotated[
        list[float | None],
        _said(
            "what the model's head gives, one a row of the table; a logit, of the class in"
            " `answers` where there are classes; null for a row that was not answered"
        ),
    ]
    answers: Annotated[
        list[str | None],
        _said("the class of each row, of a model that tells classes apart; else empty"),
    ]
    stopped: Annotated[
        str | None, _said("why not every row was answered; null where all were")
    ]
    hint: Annotated[str | None, _said("how to go on from there")]
    path: Annotated[str | None, _said("where the scores were written too")] = None


class ReceiptRow(Result, frozen=True):
    receipt: Digest
    batch: Annotated[
        Digest | None, _said("Merkle root of its batch; null until that is closed")
    ]
    anchored: Annotated[bool, _said("whether the chain has the batch")]


class ReceiptsList(Result, frozen=True):
    receipts: list[ReceiptRow]


class CertificateRow(Result, frozen=True):
    receipt: Digest
    model: Digest
    host: Annotated[str | None, _said("null where it is no member any more")]
    cases: Count
    time: Annotated[int, _said("when the host signed, in Unix seconds")]
    batch: Annotated[
        Digest | None,
        _said("Merkle root it was anchored under; null until the chain has it"),
    ]


class ReceiptsCertificates(Result, frozen=True):
    certificates: list[CertificateRow]


class ReceiptsAnchor(Result, frozen=True):
    batch: Annotated[Digest | None, _said("null where no receipt waited")]


class BatchRow(Result, frozen=True):
    batch: Annotated[Digest, _said("Merkle root over its receipts")]
    receipts: Count
    block: Annotated[Count, _said("where the chain has it")]


class ReceiptsAnchored(Result, frozen=True):
    host: str
    account: Annotated[Account, _said("the account that anchored them")]
    batches: Annotated[list[BatchRow], _said("the newest thousand, oldest first")]
    older: Annotated[Count, _said("how many more there are")]


class ReceiptsExport(Result, frozen=True):
    path: str
    bytes: Count


class AuditEntry(Result, frozen=True):
    case: Count
    token: Count
    column: Count
    committed: Annotated[int, _said("what the host signed")]
    computed: Annotated[int, _said("what the replay gives")]
    differing: Annotated[Count, _said("numbers of the layer that differ")]


class AuditRow(Result, frozen=True):
    receipt: Digest
    batch: Digest
    host: str
    verifier: Annotated[str, _said("who signed the report")]
    model: Annotated[Digest, _said("all zeros for a leaf that is no receipt")]
    verdict: Literal["passed", "failed"]
    fault: Literal["layer", "shape", "receipt"] | None
    layer: Annotated[Count | None, _said("the first layer that differs, from 0")]
    entry: Annotated[AuditEntry | None, _said("its first number that differs")]
    first_layer: Count
    layers_replayed: Count
    tier: Annotated[
        Literal["replay", "freivalds"],
        _said("computed again, or checked with a key and without weights"),
    ]
    error_bits: Annotated[
        Count, _said("a wrong layer passes with 2 to minus this at most; 0: never")
    ]
    time: Annotated[Count, _said("Unix seconds")]


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
    turn: Annotated[Literal["host", "challenger", "nobody"], _said("who must move")]
    outcome: Annotated[
        Literal["upheld", "rejected", "undecided"] | None,
        _said("upheld: the host was wrong, or silent; null while it runs"),
    ]


class DisputesList(Result, frozen=True):
    disputes: list[DisputeRow]
