"""The registry of members, datasets, grants and anchors."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from protocol.members import Member, MemberSet
from protocol.types import Digest


@dataclass(frozen=True)
class Head:
    """The newest block this node takes as final."""

    number: int
    digest: bytes
    time: int


@dataclass(frozen=True)
class Terms:
    """On what a dataset is given; bits as in docs/chain.md."""

    allowed: int = 0b11111
    """Permissions that may be granted."""
    required: int = 0
    """Modifiers that a grantee has to acknowledge."""
    max_days: int = 65_535
    """The longest a grant may last."""
    token: bytes = bytes(20)
    """The ERC-20 of the price; zero: settled elsewhere."""


OPEN_TERMS = Terms()
"""Every permission, nothing to acknowledge, as long as anybody likes."""


@dataclass(frozen=True)
class DatasetToken:
    """A dataset as the chain knows it."""

    dataset: int
    owner: bytes
    """20-byte account."""
    record: Digest
    units: int
    """Number of consent units, at most 64."""
    price: int
    terms: Terms = OPEN_TERMS
    committee: bytes = b""
    """20-byte account of who decides on access; empty: not said."""
    version: int = 1
    key_epoch: int = 1
    withdrawn: int = 0
    """Bitmap of units that are withdrawn for ever."""
    open: bool = True


@dataclass(frozen=True)
class Grant:
    """Who may read which units of a dataset; one per dataset and grantee."""

    grant: int
    dataset: int
    grantee: bytes
    """20-byte account."""
    units: int
    """Bitmap, bit i is unit i; withdrawn units are not in it."""
    until: int
    revoked: bool
    """Ended by a decision: a revocation, other terms, a withdrawal, the end of a membership."""
    purposes: int = 0b11111
    acknowledged: int = 0


@dataclass(frozen=True)
class ChainEvent:
    """One log of our contracts; `kind` is the Solidity event's name, `data` its fields."""

    block: int
    index: int
    kind: str
    data: Mapping[str, Any]


class Chain(Protocol):
    """The contracts, as the daemon speaks of them (docs/chain.md).

    Every call that changes something returns once the transaction is final by this
    node's confirmation rule, and raises `ChainError` with the contract's reason if not.
    """

    async def head(self) -> Head: ...

    async def members(self) -> MemberSet: ...

    async def register(self, member: Member, roles: int) -> None:
        """The registry's owner admits a member, or changes its roles.

        Keys, account and name are fixed when it is admitted; only a member changes its keys.
        """

    async def rotate_keys(self, node_key: bytes, seal_key: bytes) -> None:
        """Give the member of this account new keys."""

    async def list_dataset(
        self, record: Digest, units: int, price: int, terms: Terms = OPEN_TERMS
    ) -> int:
        """Mint a dataset token for a listing record; returns its id."""

    async def add_version(
        self, dataset: int, record: Digest, units: int, *, rekeyed: bool
    ) -> None:
        """Replace a listing record; units keep their numbers and are never fewer."""

    async def set_terms(self, dataset: int, price: int, terms: Terms) -> None:
        """Narrower terms also end what was granted on wider ones."""

    async def set_committee(self, dataset: int, committee: bytes) -> None:
        """Who decides on access from now on."""

    async def withdraw_units(self, dataset: int, units: int) -> None:
        """End the use of some units (a bitmap) for everybody, for ever."""

    async def withdraw_dataset(self, dataset: int) -> None:
        """End the use of a dataset for everybody, for ever."""

    async def datasets(self) -> list[DatasetToken]: ...

    async def grant(
        self,
        dataset: int,
        grantee: bytes,
        units: int,
        until: int,
        *,
        purposes: int | None = None,
        acknowledged: int | None = None,
    ) -> int:
        """Give a member access; replaces what it had.  Returns the grant's id.

        `units` is a bitmap over consent units, `until` Unix seconds; purposes and
        acknowledged modifiers are what the terms allow and require unless said otherwise.
        """

    async def revoke(self, grant: int) -> None: ...

    async def grants(self, dataset: int) -> list[Grant]: ...

    async def anchor_model(self, root: Digest, record: Digest) -> None: ...

    async def anchor_round(self, run: Digest, number: int, state: Digest) -> None: ...

    async def anchor_receipts(self, root: Digest, count: int) -> int:
        """Anchor a Merkle root over signed receipts; returns the batch's id."""

    async def anchored_receipts(self, host: bytes, root: Digest) -> int:
        """Of how many receipts the batch is that `host` anchored; 0 if it did not."""

    def follow(self, from_block: int) -> AsyncIterator[ChainEvent]:
        """Everything final since `from_block`, then what comes; never twice on one branch."""
