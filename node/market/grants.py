"""Who may read which unit now, as the chain last said.

Releasing a key asks the chain each time.  Pulling a blob is a yes or no that cannot
wait, so it is answered from here, and a view older than `FRESH_S` answers no: a node
that cannot see its chain releases nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from node.ports.chain import Chain, Grant
from protocol.members import MemberSet

FRESH_S = 30
"""Longer than the watch interval twice, shorter than anyone would call a revocation
slow; a chain with 12 s blocks does not know sooner."""
RECENT_S = 10
"""As often as the grants are read anyway (`node.services.market.WATCH_S`)."""


@dataclass(frozen=True)
class View:
    """The grants of one dataset at one moment."""

    grants: tuple[Grant, ...]
    members: MemberSet
    chain_time: int
    read_at: int


class GrantBook:
    """The last view of each dataset of ours."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._views: dict[int, View] = {}
        self._withdrawn: set[int] = set()

    async def read(self, dataset: int, now: int) -> View:
        """Ask the chain, and remember."""
        members = await self._chain.members()
        head = await self._chain.head()
        grants = tuple(await self._chain.grants(dataset))
        view = View(grants, members, head.time, now)
        # The chain has it now.  A grantee has one grant of a dataset, so the number comes
        # back when it is given another.
        self._withdrawn -= {grant.grant for grant in grants if grant.revoked}
        self._views[dataset] = view
        return view

    async def recent(self, dataset: int, now: int) -> View:
        """What was read within `RECENT_S`, or now: for what is asked piece after piece."""
        view = self._views.get(dataset)
        if view is not None and 0 <= now - view.read_at < RECENT_S:
            return view
        return await self.read(dataset, now)

    def withdraw(self, grant: int) -> None:
        """Stop at once, before the chain has said so."""
        self._withdrawn.add(grant)

    def restore(self, grant: int) -> None:
        """The chain refused the revocation."""
        self._withdrawn.discard(grant)

    def units(self, view: View, account: bytes, now: int) -> int:
        """Bitmap of what `account` may read."""
        bits = 0
        for grant in self.active(view, now):
            if grant.grantee == account:
                bits |= grant.units
        return bits

    def active(self, view: View, now: int) -> Sequence[Grant]:
        # The later of the two clocks: neither a slow chain nor a slow host extends.
        time = max(now, view.chain_time)
        return [
            grant
            for grant in view.grants
            if not grant.revoked
            and grant.until > time
            and grant.grant not in self._withdrawn
        ]

    def covers(self, peer: str, dataset: int, unit: int, now: int) -> bool:
        """From the last view, without asking; no where there is none or it is old."""
        view = self._views.get(dataset)
        if view is None or abs(now - view.read_at) > FRESH_S:
            return False
        member = next((m for m in view.members.members if m.peer_id == peer), None)
        if member is None:
            return False
        return bool(self.units(view, member.account, now) >> unit & 1)
