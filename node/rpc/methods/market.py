"""Requests, committees, cases and the council."""

from node.rpc.method import Method
from node.rpc.params import market as params
from node.rpc.params.base import Nothing
from node.rpc.results import market as results

METHODS = (
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
        Nothing,
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
        Nothing,
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
        Nothing,
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
)
