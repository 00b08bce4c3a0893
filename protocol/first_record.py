"""Which record of a model counts: the first that the chain had for its root (docs/verify.md §7.1).

A root is secret until it stands in a transaction, and whoever sees that transaction under way can
have another record of the same root ahead of it.  So a releaser first anchors a *claim*: a digest
of account, root and record, which tells nothing, and which is worth nothing under another account.
Root and record follow once the claim stands, and count from the claim's place in the chain on.  To
be earlier, one would have to know the root before anybody showed it.

A claim is anchored as a root that is its own record; no release's digest is its model's root.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.types import Digest, digest

_LABEL = b"rexis-release-claim-1"

Place = tuple[int, int]
"""Block, and place in the block."""


def claim_of(account: bytes, root: bytes, record: bytes) -> Digest:
    """What the member with this 20-byte account anchors before root and record."""
    return digest(_LABEL + account + root + record)


@dataclass(frozen=True)
class First:
    """The record that counts, who anchored it, and from where in the chain it counts."""

    record: Digest
    account: bytes
    place: Place
    claimed: bool


class FirstRecords:
    """Fed with anchors of models in the order of the chain."""

    def __init__(
        self,
        firsts: Iterable[tuple[bytes, First]] = (),
        claims: Iterable[tuple[tuple[bytes, bytes], Place]] = (),
    ) -> None:
        """`firsts` by root and `claims` by account and claim, as they were kept."""
        self._firsts = dict(firsts)
        self._claims = dict(claims)

    def anchored(
        self, account: bytes, root: bytes, record: bytes, place: Place
    ) -> bool:
        """Whether another record counts now for `root`."""
        if root == record:
            self._claims.setdefault((account, root), place)
            return False
        claimed = self._claims.get((account, claim_of(account, root, record)))
        found = First(Digest(record), account, claimed or place, claimed is not None)
        known = self._firsts.get(root)
        if known is not None and known.place <= found.place:
            return False
        self._firsts[root] = found
        return known is None or known.record != found.record

    def claimed(self, account: bytes, claim: bytes) -> Place | None:
        """Where this account's claim stands."""
        return self._claims.get((account, claim))

    def first(self, root: bytes) -> First | None:
        """What counts for `root`; None where the chain has nothing."""
        return self._firsts.get(root)

    def roots(self) -> list[bytes]:
        """Models that the chain has a record of."""
        return list(self._firsts)

    def all(self) -> list[tuple[bytes, First]]:
        """What counts, by root."""
        return list(self._firsts.items())
