"""Who is a member right now, by key, name, peer id and account.

The registry on the chain is the source.  The last list read is kept in the store, so that a
node restarts and talks to its peers while the chain is down.
"""

import structlog
import trio

from node.errors import AccessError, ChainError
from node.ports.chain import Chain
from node.ports.storage import Store
from protocol.members import ROLE_COMPUTE_HOST, Member, MemberSet
from protocol.types import PeerId
from protocol.wire import decode, encode

REFRESH_S = 2.0
_LIMIT_BYTES = 1 << 20
_NAMESPACE, _KEY = "federation", b"members"

log = structlog.get_logger()


class Federation:
    """The member set, refreshed from the chain."""

    def __init__(self, store: Store, chain: Chain) -> None:
        self._store = store
        self._chain = chain
        self.members = MemberSet.of([])

    async def load(self) -> None:
        """What was known before the restart."""
        stored = await self._store.get(_NAMESPACE, _KEY)
        if stored is not None:
            known = decode(stored, tuple[Member, ...], limit_bytes=_LIMIT_BYTES)
            self.members = MemberSet.of(list(known))

    async def refresh(self) -> None:
        """Read the registry once."""
        members = await self._chain.members()
        if members != self.members:
            self.members = members
            await self._store.put(_NAMESPACE, _KEY, encode(members.members))
            await self._store.append_event(
                "members", {"names": [member.name for member in members.members]}
            )

    async def run(self) -> None:
        """Refresh for ever; a dead chain leaves the last list standing."""
        told = False
        while True:
            try:
                await self.refresh()
                told = False
            except ChainError as error:
                if not told:
                    log.warning("member list is not fresh", reason=str(error))
                told = True
            await trio.sleep(REFRESH_S)

    def is_member(self, peer: PeerId) -> bool:
        """The gate of the transport."""
        return self.members.by_peer(peer) is not None

    def peer(self, peer: PeerId) -> Member:
        """The member behind a connection."""
        member = self.members.by_peer(peer)
        if member is None:
            raise AccessError(f"{peer} is not a member")
        return member

    def key(self, node_key: bytes) -> Member:
        """The member with this node key."""
        member = self.members.by_key(node_key)
        if member is None:
            raise AccessError(f"node key {node_key.hex()[:16]} is not a member")
        return member

    def named(self, name: str) -> Member:
        """The member an operator means."""
        for member in self.members.members:
            if name in (member.name, member.peer_id):
                return member
        names = ", ".join(sorted(member.name for member in self.members.members))
        raise AccessError(f"no member is called {name!r}", hint=f"members are: {names}")

    def named_host(self, name: str) -> Member:
        """The member an operator means to compute."""
        member = self.named(name)
        if not member.has(ROLE_COMPUTE_HOST):
            hosts = [m.name for m in self.members.members if m.has(ROLE_COMPUTE_HOST)]
            raise AccessError(
                f"{name} is not registered as a compute host",
                hint=f"compute hosts are: {', '.join(sorted(hosts)) or 'none yet'}",
            )
        return member

    def name_of(self, node_key: bytes) -> str:
        """For a person to read."""
        member = self.members.by_key(node_key)
        return node_key.hex()[:16] if member is None else member.name

    def name_of_account(self, account: bytes) -> str:
        """Likewise, by the chain account."""
        member = self.members.by_account(account)
        return "0x" + account.hex() if member is None else member.name
