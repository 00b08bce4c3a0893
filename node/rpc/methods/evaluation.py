"""Released models, inference, receipts, audits and disputes."""

from node.rpc.method import Method
from node.rpc.params import evaluation as params
from node.rpc.params.base import Nothing
from node.rpc.results import evaluation as results

METHODS = (
    Method(
        "models.release",
        params.ModelsRelease,
        results.ModelRow,
        "Key the final state of a run under a fresh key, round it to integers, announce and "
        "anchor it. The key goes, sealed, to the members that trained.",
    ),
    Method(
        "models.list",
        Nothing,
        results.ModelsList,
        "Released models this node has made or heard of.",
    ),
    Method(
        "models.show",
        params.ModelsShow,
        results.ModelShown,
        "One released model, and the listings it was trained on by its signed provenance.",
    ),
    Method(
        "inference.run",
        params.InferenceRun,
        results.InferenceRun,
        "Score the rows of a table on a host that sees keyed integers only. Each answer comes "
        "with a receipt the host has signed. A call that stops midway gives what was answered and "
        "says why in `stopped`; the same call again asks the host for the other rows only.",
    ),
    Method(
        "receipts.list",
        Nothing,
        results.ReceiptsList,
        "Receipts this node has signed as a host.",
    ),
    Method(
        "receipts.certificates",
        Nothing,
        results.ReceiptsCertificates,
        "Answers this node has got, each with the receipt its host signed and what else a "
        "regulator needs to check it without that host.",
    ),
    Method(
        "receipts.anchor",
        Nothing,
        results.ReceiptsAnchor,
        "Close the open batch of receipts now instead of in a few seconds.",
    ),
    Method(
        "receipts.anchored",
        params.ReceiptsAnchored,
        results.ReceiptsAnchored,
        "Batches of receipts that a host's account has anchored, by the final blocks this node "
        "has seen; what `rexis-verify --anchored` compares a file with.",
    ),
    Method(
        "receipts.export",
        params.ReceiptsExport,
        results.ReceiptsExport,
        "Write one receipt with all that `rexis-verify` needs to check it without a network.",
    ),
    Method(
        "audits.list",
        Nothing,
        results.AuditsList,
        "What verifiers reported, each under its signature.",
    ),
    Method(
        "disputes.open",
        params.DisputesOpen,
        results.DisputesOpen,
        "Take the evidence against a receipt to the contract. What follows (answers, rows, the "
        "proof) the nodes do by themselves.",
    ),
    Method(
        "disputes.list",
        Nothing,
        results.DisputesList,
        "Disputes before the contract, of this node and of others.",
    ),
)
