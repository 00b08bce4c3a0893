"""Who belongs to the federation, and the name of a node on the network.

A member is an institution's node.  The set is a value: it is read from the registry
contract (or from configuration), sorted by key, and its digest goes into every context,
so two nodes that disagree about membership never share a mask.
"""

from functools import lru_cache

import base58
import msgspec

from protocol.errors import LocalProtocolError
from protocol.types import KEY_BYTES, Digest, PeerId, PublicKey, digest
from protocol.wire import Message, encode, require_length

ROLE_DATA_PROVIDER = 1
ROLE_RESEARCHER = 2
ROLE_COMPUTE_HOST = 4
ROLE_AUDITOR = 8

# A libp2p peer id of an Ed25519 key is the identity multihash (0x00, 36 bytes) of the
# protobuf {type: 1 = Ed25519, data: 32 bytes}.  Source: libp2p specs, peer-ids.
_PEER_ID_PREFIX = bytes.fromhex("002408011220")


@lru_cache(maxsize=1024)
def peer_id(public_key: bytes) -> PeerId:
    """The libp2p peer id of an Ed25519 key."""
    # Remembered: every request looks its sender up among the members by this name.
    require_length("public key", public_key, KEY_BYTES)
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public_key).decode())


def public_key(peer: PeerId) -> PublicKey:
    """The Ed25519 key inside a peer id."""
    try:
        raw = base58.b58decode(peer)
    except ValueError as error:
        raise LocalProtocolError(f"peer id {peer!r} is not base58") from error
    if len(raw) != len(_PEER_ID_PREFIX) + KEY_BYTES or not raw.startswith(
        _PEER_ID_PREFIX
    ):
        raise LocalProtocolError(f"peer id {peer!r} does not hold an Ed25519 key")
    return PublicKey(raw[len(_PEER_ID_PREFIX) :])


class Member(Message, frozen=True, tag="member"):
    """One node as the registry knows it."""

    node_key: bytes
    """Ed25519: signatures, and the peer id."""
    seal_key: bytes
    """X25519: what others encrypt to."""
    account: bytes
    """20-byte chain address."""
    roles: int
    name: str

    @property
    def peer_id(self) -> PeerId:
        return peer_id(self.node_key)

    def has(self, role: int) -> bool:
        return bool(self.roles & role)


class MemberSet(msgspec.Struct, frozen=True):
    """Members sorted by node key, no key twice."""

    members: tuple[Member, ...]

    @classmethod
    def of(cls, members: list[Member]) -> "MemberSet":
        ordered = tuple(sorted(members, key=lambda member: member.node_key))
        keys = [member.node_key for member in ordered]
        if len(set(keys)) != len(keys):
            raise LocalProtocolError("a node key is registered twice")
        return cls(ordered)

    def digest(self) -> Digest:
        return digest(encode(self.members))

    def by_key(self, node_key: bytes) -> Member | None:
        return next((m for m in self.members if m.node_key == node_key), None)

    def by_peer(self, peer: PeerId) -> Member | None:
        return next((m for m in self.members if m.peer_id == peer), None)

    def by_account(self, account: bytes) -> Member | None:
        return next((m for m in self.members if m.account == account), None)
