"""What is said of training runs."""

from typing import Annotated, Literal

from node.rpc.results.base import Count, Digest, Result, said


class Progress(Result, frozen=True):
    what: Annotated[str, said("what this node is doing for the run now")]
    step: Annotated[Count | None, said("null for work that has no steps")]
    of: Count | None
    loss: float | None


class PrivacyRow(Result, frozen=True):
    clip: Annotated[
        float, said("longest update of a member; longer ones are shortened")
    ]
    multiplier: Annotated[
        float, said("standard deviation of a sum's noise, in the largest update")
    ]
    delta: float
    budget: Annotated[float, said("epsilon for one record; no round goes beyond it")]
    rounds: Annotated[
        Count, said("how many the budget is good for, of those that were proposed")
    ]
    spent: Annotated[
        float, said("epsilon so far of one record of a member that was in every sum")
    ]
    membership: Annotated[
        float, said("epsilon so far of whether a member took part at all")
    ]
    members: Annotated[
        dict[str, float],
        said(
            "epsilon so far of one record, by member: sums it was not in do not count"
        ),
    ]


class Length(Result, frozen=True):
    whole: Annotated[float, said("of the whole update, over the typical one")]
    block: Annotated[float, said("of the block most unlike the others'")]


class SketchRow(Result, frozen=True):
    round: Count
    lengths: Annotated[
        dict[str, Length], said("by member; empty where they cannot be told")
    ]
    outliers: Annotated[list[str], said("far longer than the typical update")]
    false: Annotated[list[str], said("said what was shown to be wrong")]
    silent: Annotated[list[str], said("said nothing in time")]


class SeatRow(Result, frozen=True):
    member: str
    wish: Literal["in", "out"]
    by: Annotated[list[str], said("members that want so")]
    itself: Annotated[bool, said("and so does the member")]
    needed: Annotated[
        Count, said("members that must want so; to leave, the member's word does")
    ]
    exposed_by: Annotated[
        list[str],
        said("members that do not mind that its update in a rejected sum can be told"),
    ] = []


class RunRow(Result, frozen=True):
    run: Digest
    title: str
    phase: Annotated[
        Literal["proposed", "training", "paused", "ended", "finished", "failed"],
        said("paused and ended: too few members go on for a quorum"),
    ]
    round: Annotated[Count, said("rounds closed so far")]
    rounds: Count
    members: list[str]
    consents: Annotated[list[str], said("members whose stewards have agreed")]
    datasets: Annotated[
        dict[str, Count], said("the dataset each of them brings, by member")
    ]
    samples: Annotated[dict[str, Count], said("records that train, by member")]
    state_root: Annotated[Digest, said("of the newest state")]
    proposed_by: str
    mine: Annotated[bool, said("this node is one of the members")]
    reason: Annotated[
        str | None,
        said("why it failed, is paused or ended, or stopped before its time"),
    ]
    progress: Progress | None
    stage: Annotated[
        Literal[
            "syncing", "training", "ready", "uploading", "settling", "sketching", "left"
        ]
        | None,
        said("where this node stands in the round under way; null where none is"),
    ] = None
    away: Annotated[
        list[str],
        said("members not heard from lately: the next round opens without them"),
    ] = []
    epoch: Annotated[Count, said("how often its members have changed")] = 0
    seats: Annotated[
        list[SeatRow],
        said("who asks for a seat or is to give one up, and who wants so"),
    ] = []
    stances: Annotated[
        dict[str, Literal["go", "pause", "end"]],
        said("what operators said last, by member; who said nothing goes on"),
    ] = {}
    privacy: Annotated[
        PrivacyRow | None,
        said("null: sums carry no noise, and no epsilon bounds them"),
    ] = None
    sketch: Annotated[
        SketchRow | None,
        said("how members' updates compared in the last rejected round"),
    ] = None
    accused: Annotated[
        dict[str, str],
        said(
            "by member, what this node saw it do that no honest member does, and in which round"
        ),
    ] = {}


class RunsList(Result, frozen=True):
    runs: list[RunRow]


class RunScore(Result, frozen=True):
    state_root: Annotated[Digest, said("of the state that was tried")]
    round: Annotated[Count, said("rounds that state has seen")]
    records: Annotated[Count, said("with a known answer")]
    auc: Annotated[
        float | None,
        said("of several classes their mean; null where an answer is missing"),
    ]
    loss: float | None


class RunExport(Result, frozen=True):
    state_root: Annotated[Digest, said("of the state that was written")]
    round: Annotated[Count, said("rounds that state has seen")]
    path: str


class KeyRow(Result, frozen=True):
    print: Annotated[Digest, said("names the secret and tells nothing about it")]
    institution: str
    host: Annotated[str, said("the member whose worker was given the keyed trunk")]
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
    attempt: Annotated[Count, said("the attempt that succeeded")]
    attempts: Annotated[Count, said("attempts this node took part in")]
    accepted: Annotated[bool, said("a quorum accepted the sum; else the state stays")]
    survivors: Annotated[list[str], said("whose updates are in it")]
    state_root: Annotated[Digest, said("the state this round ended with")]
    seconds: float
    finished_at: Annotated[Count, said("Unix seconds")]
    loss_first: Annotated[
        float | None, said("this node's training loss, first step; null if it slept")
    ]
    loss_last: float | None
    norm: Annotated[float | None, said("length of this node's update, unmasked")]
    cut: Annotated[Count, said("entries of the update that had to be cut")]
    held_out: Annotated[Count, said("records of this node that never train")]
    auc: Annotated[float | None, said("of the new state, on those records")]
    loss: float | None
    bytes_received: Count
    received: Annotated[dict[str, Moved], said("blobs pulled, by member")]
    rejected_for: Annotated[
        str | None, said("why, as far as this node saw; null if it was accepted")
    ] = None
    sketch: Annotated[
        SketchRow | None, said("how members' updates compared, if it was rejected")
    ] = None
    accused: Annotated[
        dict[str, str],
        said("by member, what this node saw it do that no honest member does"),
    ] = {}


class RoundsList(Result, frozen=True):
    rounds: list[RoundRow]
