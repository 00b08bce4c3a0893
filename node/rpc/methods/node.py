"""The node itself."""

from node.rpc.method import Method
from node.rpc.params import node as params
from node.rpc.params.base import Nothing
from node.rpc.results import node as results

METHODS = (
    Method(
        "status.get",
        Nothing,
        results.StatusGet,
        "Who this node is, whom it sees, and how it stands with the chain.",
    ),
    Method(
        "peers.list",
        Nothing,
        results.PeersList,
        "The other members, and which of them are connected now.",
    ),
    Method(
        "members.list",
        Nothing,
        results.MembersList,
        "The federation as the registry on the chain has it. While the chain is down this is "
        "the last list that was read.",
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
        Nothing,
        results.NodeStop,
        "Stop the daemon gracefully; nothing that was acknowledged is lost.",
    ),
)
