"""What the registry holds and refuses, in plain Python, and the ledger's time and events.

See `memory_ledger` for what keeps this and `contracts/src` together.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from node.adapters.chain_errors import refused
from node.ports.chain import ChainEvent, Head
from protocol.members import Member
from protocol.types import Digest

MAX_NAME_BYTES = 64
_ZERO = bytes(32)


@dataclass
class Membership:
    """A member, since when it is one, and how often its keys changed."""

    member: Member
    since: int
    key_epoch: int = 0
    roles_since: int = 0


@dataclass
class Registry:
    """Members, time and events."""

    owner: bytes
    clock: Callable[[], int]
    members: list[Membership] = field(default_factory=list)
    used_keys: set[bytes] = field(default_factory=set)
    events: list[ChainEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.head = Head(0, Digest(sha256(b"genesis").digest()), self.clock())

    def now(self) -> int:
        """The time that the next transaction sees."""
        return max(self.clock(), self.head.time + 1)

    def emit(self, event: str, /, **data: Any) -> None:
        """A block with one event."""
        number = self.head.number + 1
        digest = Digest(sha256(self.head.digest + event.encode()).digest())
        self.head = Head(number, digest, self.now())
        self.events.append(ChainEvent(number, 0, event, data))

    def require(self, doing: str, account: bytes, role: int = 0) -> None:
        roles = self.roles(account)
        if roles == 0:
            raise refused(doing, "NotMember", account=account)
        if role and not roles & role:
            raise refused(doing, "MissingRole", account=account, role=role)

    def admit(
        self,
        by: bytes,
        node_key: bytes,
        seal_key: bytes,
        account: bytes,
        roles: int,
        name: str,
    ) -> None:
        doing = "registry.admit"
        self._only_owner(doing, by)
        if account == bytes(20):
            raise refused(doing, "InvalidAccount")
        length = len(name.encode())
        if not 0 < length <= MAX_NAME_BYTES:
            raise refused(doing, "InvalidName", length=length, limit=MAX_NAME_BYTES)
        if self.membership(account) is not None:
            raise refused(doing, "AccountTaken", account=account)
        self._take(doing, node_key, seal_key)
        member = Member(
            node_key=node_key,
            seal_key=seal_key,
            account=account,
            roles=0,
            name=name,
        )
        self.members.append(Membership(member, 0))
        self._set_roles(account, roles)

    def set_roles(self, by: bytes, account: bytes, roles: int) -> None:
        doing = "registry.setRoles"
        self._only_owner(doing, by)
        if self.membership(account) is None:
            raise refused(doing, "NotMember", account=account)
        self._set_roles(account, roles)

    def rotate_keys(self, by: bytes, node_key: bytes, seal_key: bytes) -> None:
        doing = "registry.rotateKeys"
        found = self.membership(by)
        if found is None or not found.member.roles:
            raise refused(doing, "NotMember", account=by)
        if node_key != found.member.node_key:
            self._take(doing, node_key, seal_key)
        elif seal_key == _ZERO:
            raise refused(doing, "InvalidKey")
        found.member = Member(
            node_key=node_key,
            seal_key=seal_key,
            account=by,
            roles=found.member.roles,
            name=found.member.name,
        )
        found.key_epoch += 1
        self.emit(
            "KeysRotated",
            account=by,
            nodeKey=node_key,
            sealKey=seal_key,
            keyEpoch=found.key_epoch,
        )

    def membership(self, account: bytes) -> Membership | None:
        return next((m for m in self.members if m.member.account == account), None)

    def roles(self, account: bytes) -> int:
        found = self.membership(account)
        return 0 if found is None else found.member.roles

    def _only_owner(self, doing: str, by: bytes) -> None:
        if by != self.owner:
            raise refused(doing, "OwnableUnauthorizedAccount", account=by)

    def _take(self, doing: str, node_key: bytes, seal_key: bytes) -> None:
        if _ZERO in {node_key, seal_key}:
            raise refused(doing, "InvalidKey")
        if node_key in self.used_keys:
            raise refused(doing, "KeyTaken", nodeKey=node_key)
        self.used_keys.add(node_key)

    def _set_roles(self, account: bytes, roles: int) -> None:
        found = self.membership(account)
        assert found is not None
        if found.member.roles == 0 and roles:
            found.since = self.now()
        found.roles_since = self.now()
        known = found.member
        found.member = Member(
            node_key=known.node_key,
            seal_key=known.seal_key,
            account=account,
            roles=roles,
            name=known.name,
        )
        self.emit(
            "MemberSet",
            nodeKey=known.node_key,
            sealKey=known.seal_key,
            account=account,
            roles=roles,
            name=known.name,
        )
