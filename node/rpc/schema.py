"""The admin interface as data: every method, in the order a person would learn them.

The server refuses what is not here, the reference page is generated from it, and the examples
are checked against it, so there is one place to read and one place to change.  Examples stand
apart, in `examples.json`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from node.rpc import params, results


@dataclass(frozen=True)
class Method:
    """One method: what it is asked, what it answers, what it is for."""

    name: str
    params: type[msgspec.Struct]
    result: type[msgspec.Struct]
    about: str

    @property
    def example(self) -> Mapping[str, Any]:
        """`params` and `result` of one call."""
        return _examples()[self.name]

    def described(self, field: str) -> str:
        """What a parameter takes, for the hint of a refusal; empty if there is none."""
        properties = schema_of(self.params)["properties"]
        return description(properties.get(field, {}))


def schema_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of one Struct, with its definitions beside it under `$defs`."""
    (top,), definitions = msgspec.json.schema_components([struct])
    name = top["$ref"].rsplit("/", 1)[-1]
    found = definitions.pop(name)
    return {**found, "$defs": definitions}


def description(schema: Mapping[str, Any]) -> str:
    """The words of a property; those of an optional one stand on its first kind."""
    for one in (schema, *schema.get("anyOf", ())):
        if text := one.get("description"):
            return str(text)
    return ""


@cache
def _examples() -> Mapping[str, Mapping[str, Any]]:
    path = resources.files("node.rpc") / "examples.json"
    found: dict[str, Mapping[str, Any]] = json.loads(path.read_text())
    return found


_ALL = (
    Method(
        "status.get",
        params.Nothing,
        results.StatusGet,
        "Who this node is, whom it sees, and how it stands with the chain.",
    ),
    Method(
        "peers.list",
        params.Nothing,
        results.PeersList,
        "The other members, and which of them are connected now.",
    ),
    Method(
        "members.list",
        params.Nothing,
        results.MembersList,
        "The federation as the registry on the chain has it. While the chain is down this is "
        "the last list that was read.",
    ),
    Method(
        "datasets.publish",
        params.DatasetsPublish,
        results.DatasetShown,
        "Encrypt tables, images, DICOM, sequences or signals, list them and mint their token. "
        "Title, source, licence and the names of columns and fields become public and stay so. "
        "The same call again goes on where a cut one stopped, or finds what it made.",
    ),
    Method(
        "datasets.works",
        params.Nothing,
        results.DatasetsWorks,
        "What this node is publishing, fetching and asking hosts about now, and how far it is.",
    ),
    Method(
        "datasets.list",
        params.Nothing,
        results.DatasetsList,
        "Every dataset on the chain. While the chain does not answer this is the last list that "
        "was read, and `as_of` says of when; so are the rows of `datasets.search` and "
        "`datasets.show`.",
    ),
    Method(
        "datasets.search",
        params.DatasetsSearch,
        results.DatasetsList,
        "Datasets whose listing has all these words and admits all these filters, best first. "
        "Asks nobody: it looks through the listings this node has heard of and verified.",
    ),
    Method(
        "datasets.show",
        params.DatasetsShow,
        results.DatasetShown,
        "One dataset with its listing. The owner is asked for it once, then it is kept.",
    ),
    Method(
        "datasets.fetch",
        params.DatasetsFetch,
        results.DatasetsFetch,
        "Read what a grant covers: ask the owner for keys, pull the encrypted units, check "
        "each against the chain, decrypt into a private file. Without `units` all that is "
        "granted; if one named unit is not granted, nothing is read. All connected holders "
        "give at once; what has arrived when a call is cut is not fetched again.",
    ),
    Method(
        "datasets.withdraw",
        params.DatasetsWithdraw,
        results.DatasetsWithdraw,
        "Erase units of a dataset of this node, or all of it: keys and ciphertext are destroyed "
        "here, grants end on the chain, coming rounds train without them. The answer says what "
        "cannot be undone. The same call again finishes what a chain that was down has left.",
    ),
    Method(
        "datasets.terms",
        params.DatasetsTerms,
        results.DatasetShown,
        "Change price, longest grant or who decides, for requests from now on. What the listing "
        "says of purposes and conditions stays; a new version changes that.",
    ),
    Method(
        "requests.make",
        params.RequestsMake,
        results.RequestRow,
        "Ask for access to a dataset, for purposes its terms allow. The price goes into escrow "
        "and comes back if the request is refused, cancelled or not answered in time.",
    ),
    Method(
        "requests.list",
        params.RequestsList,
        results.RequestsList,
        "Every request on the chain, with what became of it.",
    ),
    Method(
        "requests.approve",
        params.RequestsOne,
        results.RequestRow,
        "Agree to a request: alone, or as one seat of the dataset's committee. The grant begins "
        "with the decision, and commits the owner to the message that brings the keys.",
    ),
    Method(
        "requests.refuse",
        params.RequestsOne,
        results.RequestRow,
        "Say no to a request, alone or as a seat; its price goes back.",
    ),
    Method(
        "requests.cancel",
        params.RequestsOne,
        results.RequestRow,
        "Take back a request of this node that nobody has answered.",
    ),
    Method(
        "requests.accept",
        params.RequestsOne,
        results.RequestRow,
        "Pay the owner: the keys that the approval committed to were read here. Without this "
        "the owner is paid when the time to dispute is over.",
    ),
    Method(
        "requests.dispute",
        params.RequestsDispute,
        results.RequestRow,
        "Say that the keys did not come, or wrong ones. Auditors decide who gets the price; a "
        "bond goes with it.",
    ),
    Method(
        "requests.close",
        params.RequestsOne,
        results.RequestRow,
        "Close a request whose time is over: refund what nobody answered, pay what nobody "
        "disputed. The node does it for its own by itself.",
    ),
    Method(
        "committees.make",
        params.CommitteesMake,
        results.CommitteesMake,
        "Put a data access committee on the chain: enough of its members decide together.",
    ),
    Method(
        "market.show",
        params.Nothing,
        results.MarketShow,
        "This node's money and record, and the market's rules.",
    ),
    Method(
        "market.scores",
        params.MarketScores,
        results.MarketScores,
        "What a member's record says, by what happened and by nobody's vote.",
    ),
    Method(
        "market.collect",
        params.MarketCollect,
        results.Purse,
        "Fetch what the contracts hold for this node: prices, refunds, bonds.",
    ),
    Method(
        "cases.list",
        params.Nothing,
        results.CasesList,
        "Disputed deliveries and challenged receipts.",
    ),
    Method(
        "cases.check",
        params.CasesOne,
        results.CasesCheck,
        "As an auditor, have the owner of a disputed delivery show the message and check it "
        "against the chain. The keys in it stay the grantee's.",
    ),
    Method(
        "cases.vote",
        params.CasesVote,
        results.CaseRow,
        "As an auditor, say who is right; the chain gets the report's digest.",
    ),
    Method(
        "cases.close",
        params.CasesOne,
        results.CaseRow,
        "Close a case whose time is over without a quorum.",
    ),
    Method(
        "council.list",
        params.Nothing,
        results.CouncilList,
        "What was proposed to the members, and how they voted.",
    ),
    Method(
        "council.propose",
        params.CouncilPropose,
        results.CouncilList,
        "Propose that the market takes a token, or other values of its parameters.",
    ),
    Method(
        "council.vote",
        params.CouncilOne,
        results.CouncilList,
        "Agree to a proposal; more than half of all members pass it.",
    ),
    Method(
        "council.execute",
        params.CouncilOne,
        results.CouncilList,
        "Carry out what has passed, once its delay is over.",
    ),
    Method(
        "grants.give",
        params.GrantsGive,
        results.GrantGiven,
        "Let a member read units of a dataset of this node. Who may read what is public. A member "
        "has one grant of a dataset: a new one stands in for the one before.",
    ),
    Method(
        "grants.list",
        params.GrantsList,
        results.GrantsList,
        "All grants of a dataset, those that ended too.",
    ),
    Method(
        "grants.revoke",
        params.GrantsRevoke,
        results.GrantRow,
        "End a grant: on this node at once, on the chain for everyone. What was read before "
        "stays read.",
    ),
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
    Method("runs.list", params.Nothing, results.RunsList, "Every run this node knows."),
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
        params.Nothing,
        results.KeysList,
        "The key of every training session there was, by its print: none serves twice, and each "
        "is destroyed when its session ends.",
    ),
    Method(
        "models.release",
        params.ModelsRelease,
        results.ModelRow,
        "Key the final state of a run under a fresh key, round it to integers, announce and "
        "anchor it. The key goes, sealed, to the members that trained.",
    ),
    Method(
        "models.list",
        params.Nothing,
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
        params.Nothing,
        results.ReceiptsList,
        "Receipts this node has signed as a host.",
    ),
    Method(
        "receipts.certificates",
        params.Nothing,
        results.ReceiptsCertificates,
        "Answers this node has got, each with the receipt its host signed and what else a "
        "regulator needs to check it without that host.",
    ),
    Method(
        "receipts.anchor",
        params.Nothing,
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
        params.Nothing,
        results.AuditsList,
        "What verifiers reported, each under its signature.",
    ),
    Method(
        "provenance.show",
        params.ProvenanceShow,
        results.ProvenanceShow,
        "What came of what, as far as this node can verify it: every relation rests on a "
        "signature, on the chain or on both, and what does not verify is a doubt with its "
        "reason.",
    ),
    Method(
        "provenance.export",
        params.ProvenanceExport,
        results.ProvenanceExport,
        "Write the same as W3C PROV-O in JSON-LD, as a picture, for Graphviz, or as the signed "
        "records it was made of, which another node verifies for itself.",
    ),
    Method(
        "queries.allow",
        params.QueriesAllow,
        results.QueryAllowed,
        "Let researchers ask a dataset of this node, within a privacy budget that is for ever: "
        "a second call changes the bounds, not what is spent.",
    ),
    Method(
        "queries.stop",
        params.QueriesStop,
        results.QueryPolicy,
        "Answer nothing about a dataset any more. What was charged is remembered.",
    ),
    Method(
        "queries.list",
        params.Nothing,
        results.QueriesList,
        "Datasets of this node that answer queries, and what is left of their budgets; questions "
        "that this node has begun and that have no result yet.",
    ),
    Method(
        "queries.ask",
        params.QueriesAsk,
        results.QueriesAsk,
        "Ask several datasets one of five built-in questions. Each is answered where it lies, in "
        "a sandbox, with noise, against its budget; several answers are masked so that only "
        "their sum can be read. Of four and more some may drop out on the way. Every attestation "
        "is verified.",
    ),
    Method(
        "queries.evaluate",
        params.QueriesEvaluate,
        results.QueriesAsk,
        "Try a model where the data lie: weights, or the state a run came to, at its members. "
        "Asked, charged, masked and attested like any other question; the sum is two "
        "histograms of log-odds, and what is read of them.",
    ),
    Method(
        "queries.train",
        params.QueriesTrain,
        results.QueriesAsk,
        "Fit a logistic regression where the data lie, in rounds of clipped and noisy gradients. "
        "Each dataset pays for all rounds before the first; what is cut goes on with "
        "`queries.resume`.",
    ),
    Method(
        "queries.resume",
        params.QueriesResume,
        results.QueriesAsk,
        "Go on with a question of this node that was cut, where institutions were away or this "
        "node was. What was answered is not paid again.",
    ),
    Method(
        "queries.forget",
        params.QueriesForget,
        results.QueriesForget,
        "Give up a question of this node that was begun and cannot end. What this node and the "
        "institutions hold of it is freed and nobody can go on with it; what was paid stays paid.",
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
        params.Nothing,
        results.DisputesList,
        "Disputes before the contract, of this node and of others.",
    ),
    Method(
        "events.list",
        params.EventsList,
        results.EventsList,
        "The numbered log of what happened on this node. With `wait_s` an empty answer is held "
        "back until there is something to say; ask again `after` the last number to follow.",
    ),
    Method(
        "node.stop",
        params.Nothing,
        results.NodeStop,
        "Stop the daemon gracefully; nothing that was acknowledged is lost.",
    ),
)

METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}
