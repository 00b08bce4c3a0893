"""Which datasets of this node were cut from one table: the same rows, under other columns.

A slice is a listing of its own, and nothing on the chain ties it to its table.  But who withdraws
a person from one has to know of the others.  So a fingerprint of the whole table and of how it
was cut is kept, under the node's own key like every fingerprint of records.
"""

from node.market.plan import Plan
from node.market.shelf import OwnDataset, Shelf, fingerprint
from node.ports.storage import Store

_CUT = "market.cut"
_FINGERPRINT_BYTES = 32


class Slices:
    """Of the datasets on `shelf`."""

    def __init__(self, store: Store, shelf: Shelf) -> None:
        self._store = store
        self._shelf = shelf

    async def note(self, plan: Plan, record: OwnDataset, secret: bytes) -> None:
        """Of files nothing is noted: they are published once."""
        if plan.table:
            cut = fingerprint(secret, list(plan.table))
            await self._store.put(_CUT, cut + record.fingerprint, b"")

    async def others(self, dataset: int) -> list[OwnDataset]:
        """The other datasets of the same rows in the same units, by number."""
        record = self._shelf.by_dataset(dataset)
        if record is None:
            return []
        noted = [key for key, _ in await self._store.scan(_CUT)]
        cuts = {
            key[:_FINGERPRINT_BYTES]
            for key in noted
            if key[_FINGERPRINT_BYTES:] == record.fingerprint
        }
        found = [
            self._shelf.by_fingerprint(key[_FINGERPRINT_BYTES:])
            for key in noted
            if key[:_FINGERPRINT_BYTES] in cuts
        ]
        numbered = {
            one.dataset: one
            for one in found
            if one is not None and one.dataset not in {None, dataset}
        }
        return [
            one for _, one in sorted(numbered.items(), key=lambda pair: pair[0] or 0)
        ]
