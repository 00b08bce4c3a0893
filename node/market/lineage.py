"""What this node has of the records and facts behind a provenance graph."""

from collections.abc import Iterable, Sequence

from node.market.shelf import SeenListing
from node.ports.chain import ChainEvent, DatasetToken, Grant
from protocol.first_record import FirstRecords
from protocol.lineage import (
    AskedQuery,
    Facts,
    GrantFact,
    PlacedReceipt,
    Records,
    TokenFact,
)
from protocol.manifest import ListingAnswer
from protocol.members import MemberSet
from protocol.seating import Change


def records(
    listings: Iterable[SeenListing],
    *,
    proposals: Sequence[bytes] = (),
    consents: Sequence[bytes] = (),
    releases: Sequence[bytes] = (),
    receipts: Sequence[PlacedReceipt] = (),
    queries: Sequence[AskedQuery] = (),
    changes: Sequence[Change] = (),
) -> Records:
    """Signed messages from the node's services, unverified."""
    return Records(
        tuple(ListingAnswer(one.listing, one.provenance) for one in listings),
        tuple(proposals),
        tuple(consents),
        tuple(releases),
        tuple(receipts),
        tuple(queries),
        tuple(changes),
    )


def had(
    tokens: Sequence[DatasetToken], events: Iterable[ChainEvent]
) -> tuple[TokenFact, ...]:
    """Every record that each dataset had under its keys, the oldest first and today's last."""
    now = {one.dataset: one for one in tokens}
    before = []
    for event in events:
        if event.kind in {"DatasetListed", "DatasetVersion"}:
            number, record = int(event.data["dataset"]), bytes(event.data["record"])
            token = now.get(number)
            if token is not None and token.record != record:
                before.append(TokenFact(number, token.owner, record))
    return *before, *(TokenFact(one.dataset, one.owner, one.record) for one in tokens)


def facts(
    members: MemberSet,
    tokens: Sequence[TokenFact],
    grants: Iterable[Grant],
    events: Iterable[ChainEvent],
) -> Facts:
    """What the chain says; of a thing anchored twice the first counts, as on chain.

    `tokens` is what `had` found.
    """
    rounds: set[tuple[bytes, int, bytes]] = set()
    models = FirstRecords()
    batches: set[bytes] = set()
    for event in events:
        data = event.data
        if event.kind == "RoundAnchored":
            rounds.add((data["run"], data["number"], data["state"]))
        elif event.kind == "ModelAnchored":
            place = event.block, event.index
            models.anchored(data["account"], data["root"], data["record"], place)
        elif event.kind == "ReceiptsAnchored":
            batches.add(data["root"])
    return Facts(
        members,
        tuple(tokens),
        tuple(
            GrantFact(
                one.grant, one.dataset, one.grantee, one.units, one.until, one.revoked
            )
            for one in grants
        ),
        frozenset(rounds),
        {root: first.record for root, first in models.all()},
        frozenset(batches),
    )
