"""What the node says of itself."""

from typing import Annotated, Any, Literal

from node.rpc.results.base import Account, Count, Hex, Result, said


class ChainStatus(Result, frozen=True):
    url: str
    chain_id: Count
    head: Annotated[
        Count | None, said("newest block taken as final; null while the chain is down")
    ]
    waiting: Annotated[Count, said("anchors that wait for the chain")]


class StatusGet(Result, frozen=True):
    name: str
    role: str
    peer_id: str
    version: str
    addresses: Annotated[list[str], said("where this node listens")]
    connected: Annotated[Count, said("peers connected now")]
    members: Annotated[Count, said("members of the federation")]
    uptime_s: float
    chain: ChainStatus
    datasets: Annotated[Count, said("datasets of this node")]
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
    node_key: Annotated[Hex, said("Ed25519, 32 bytes")]
    account: Account
    roles: list[str]


class MembersList(Result, frozen=True):
    members: list[Member]


class NodeStop(Result, frozen=True):
    stopping: Literal[True]


class Event(Result, frozen=True):
    number: Count
    at_ms: Annotated[Count, said("Unix milliseconds")]
    kind: str
    data: Annotated[dict[str, Any], said("what `kind` has to say")]


class EventsList(Result, frozen=True):
    events: Annotated[list[Event], said("oldest first")]
