"""What the parts of the market share: the ports, the records and the view of the grants."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from node.adapters import chain_duo
from node.errors import AccessError
from node.market.grants import GrantBook, View
from node.market.shelf import Shelf
from node.market.works import Works
from node.ports.chain import Chain, DatasetToken, Grant
from node.ports.keys import Signer
from node.ports.storage import Blobs, Store
from node.ports.transport import Transport
from protocol.manifest import unit_list


@dataclass(frozen=True)
class Tools:
    """Made once by the service."""

    store: Store
    blobs: Blobs
    signer: Signer
    chain: Chain
    transport: Transport
    shelf: Shelf
    book: GrantBook
    now: Callable[[], int]
    """Unix seconds."""
    open_key: Callable[[], bytes]
    """The node's secret X25519 seal key."""
    works: Works = field(default_factory=Works)

    async def token(self, dataset: int) -> DatasetToken:
        """The dataset as the chain has it, or a refusal."""
        for token in await self.chain.datasets():
            if token.dataset == dataset:
                return token
        raise missing(dataset)

    async def view(self, dataset: int) -> View:
        """All grants of a dataset, now."""
        return await self.book.read(dataset, self.now())

    def shown(self, grant: Grant, view: View) -> dict[str, Any]:
        """A grant for a person or a program to read."""
        member = view.members.by_account(grant.grantee)
        return {
            "grant": grant.grant,
            "dataset": grant.dataset,
            "grantee": member.name if member else grant.grantee.hex(),
            "units": unit_list(grant.units),
            "purposes": chain_duo.described(grant.purposes, 0)[0],
            "until": grant.until,
            "revoked": grant.revoked,
            "active": grant in self.active(view),
        }

    def active(self, view: View) -> Sequence[Grant]:
        """Grants in force."""
        return self.book.active(view, self.now())


def missing(dataset: int) -> AccessError:
    """What one is told of a number that no dataset has."""
    return AccessError(
        f"dataset {dataset} is not on the chain", hint="see the list of datasets"
    )
