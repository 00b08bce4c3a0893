"""What was answered of a table that is not through yet.

A host is paid, or its time is spent, by the order.  Which rows it has answered is noted under
their digest until all of their table are, so a call that was cut, by whomever, goes on where it
stood.  Once a table is through its notes go: who asks again then wants to be answered again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from node.ports.storage import Store
from protocol.boundary import Shape
from protocol.types import Digest, digest

_ANSWERED = "inference-answered"


def key_of(model_root: bytes, host: bytes, shape: Shape, rows: bytes) -> Digest:
    """The same for the same rows of the same model at the same host."""
    sizes = b"".join(number.to_bytes(4, "big") for number in shape)
    return digest(b"".join([model_root, host, sizes, rows]))


class Answered:
    """Receipts by what was asked."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def receipts(self, keys: Sequence[Digest]) -> dict[Digest, Digest]:
        """By key; what was not answered is not in it."""
        found = {key: await self._store.get(_ANSWERED, key) for key in keys}
        return {key: Digest(one) for key, one in found.items() if one is not None}

    async def note(self, key: Digest, receipt: Digest) -> None:
        """Durable when this returns; its certificate is already."""
        await self._store.put(_ANSWERED, key, receipt)

    async def forget(self, keys: Sequence[Digest], about: Mapping[str, Any]) -> None:
        """Their table is through, and an event says what came of it."""
        gone = [(_ANSWERED, key, None) for key in keys]
        await self._store.put_many(gone, event=("inference", about))
