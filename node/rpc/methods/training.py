"""Training runs."""

from node.rpc.method import Method
from node.rpc.params import training as params
from node.rpc.params.base import Nothing
from node.rpc.results import training as results

METHODS = (
    Method(
        "runs.propose",
        params.RunsPropose,
        results.RunRow,
        "Propose a training run, and consent to it with a dataset of this node. Nothing trains "
        "before every member named has consented.",
    ),
    Method(
        "runs.join",
        params.RunsJoin,
        results.RunRow,
        "Consent to a run with a dataset of this node. Where the run does not name this node and "
        "is under way, that asks its members for a seat.",
    ),
    Method(
        "runs.admit",
        params.RunsSeat,
        results.RunRow,
        "Want a member in a run that it has asked to join, and tell the others. It has a seat "
        "from the round after a quorum of the run's members wants so.",
    ),
    Method(
        "runs.dismiss",
        params.RunsDismiss,
        results.RunRow,
        "Want a member out of a run, and tell the others. Its seat is gone from the round after "
        "a quorum of the run's members wants so, and is not given to it again. Where a sum it was "
        "in is rejected, that round needs it too, unless a quorum says `expose`.",
    ),
    Method(
        "runs.leave",
        params.RunsSteer,
        results.RunRow,
        "Give up this node's seat in a run for good; the others go on without it from the next "
        "round.",
    ),
    Method("runs.list", Nothing, results.RunsList, "Every run this node knows."),
    Method(
        "runs.show",
        params.RunsShow,
        results.RunRow,
        "One run, with what this node is doing for it now.",
    ),
    Method(
        "runs.pause",
        params.RunsSteer,
        results.RunRow,
        "Hold this node's part in a run and tell the others: the round under way ends, and this "
        "node opens none. The run is paused once too few go on for a quorum.",
    ),
    Method(
        "runs.resume",
        params.RunsSteer,
        results.RunRow,
        "Go on with a run this node has paused.",
    ),
    Method(
        "runs.end",
        params.RunsSteer,
        results.RunRow,
        "End this node's part in a run for good, and tell the others. The run has ended once too "
        "few are left for a quorum; its newest state can then be released.",
    ),
    Method(
        "runs.score",
        params.RunsScore,
        results.RunScore,
        "Try the newest state of a run on every record of a table, in the clear on this node.",
    ),
    Method(
        "runs.export",
        params.RunsExport,
        results.RunExport,
        "Write the newest state of a run over a stock model as a stock checkpoint, the head "
        "beside it.",
    ),
    Method(
        "rounds.list",
        params.RoundsList,
        results.RoundsList,
        "The closed rounds of a run, as this node saw them.",
    ),
    Method(
        "keys.list",
        Nothing,
        results.KeysList,
        "The key of every training session there was, by its print: none serves twice, and each "
        "is destroyed when its session ends.",
    ),
)
