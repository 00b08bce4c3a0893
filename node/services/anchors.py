"""What members anchored, as the chain has it: followed from its first block, held in memory."""

from collections import deque
from typing import Any

from node.ports.chain import Chain, ChainEvent
from node.services.federation import Federation

ANCHORS_LIMIT = 1 << 20
"""Anchors in memory, some 200 bytes each; of more the oldest are not known here."""
BATCHES_LIMIT = 1000
"""Of one answer, which must fit a line of the admin socket."""

_KINDS = {
    *("RoundAnchored", "ModelAnchored", "ReceiptsAnchored"),
    *("DatasetListed", "DatasetVersion"),
}


class Anchors:
    """Every anchor that is final; what is here once is never taken back."""

    def __init__(self, chain: Chain, federation: Federation) -> None:
        self._chain = chain
        self._federation = federation
        self._events: deque[ChainEvent] = deque(maxlen=ANCHORS_LIMIT)

    async def run(self) -> None:
        """Follow the chain, for ever."""
        async for event in self._chain.follow(0):
            if event.kind in _KINDS:
                self._events.append(event)

    def events(self) -> tuple[ChainEvent, ...]:
        """In the order of the chain."""
        return tuple(self._events)

    def batches(self, host: str, begins: str) -> dict[str, Any]:
        """For `receipts.anchored`: of the batches of `host` with a root that begins so the newest.

        Who anchored counts, and not whose receipts are in it: the roots of another's batch under
        this account are this account's word and nobody else's.
        """
        member = self._federation.named(host)
        found = [
            {
                "batch": bytes(event.data["root"]).hex(),
                "receipts": int(event.data["count"]),
                "block": event.block,
            }
            for event in self._events
            if event.kind == "ReceiptsAnchored"
            and bytes(event.data["host"]) == member.account
            and bytes(event.data["root"]).hex().startswith(begins)
        ]
        return {
            "host": member.name,
            "account": "0x" + member.account.hex(),
            "batches": found[-BATCHES_LIMIT:],
            "older": max(0, len(found) - BATCHES_LIMIT),
        }
