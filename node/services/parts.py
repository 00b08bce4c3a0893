"""Blobs of a run that its members pull from one another: masked shards and their sums.

Which they are is in the store, so a restart goes on giving them; a blob that a power cut took is
pulled again from whoever shares it.
"""

from collections.abc import Sequence

import trio

from node.errors import NodeError, TransportError
from node.ports.storage import Blobs, Store
from node.ports.transport import Transport
from node.services.federation import Federation
from protocol.types import Digest

SHARED = "round-shared"
FETCH_TIMEOUT_S = 60.0

Row = tuple[str, bytes, None]


class Parts:
    """What one run's members may pull here, and how this node pulls theirs."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        transport: Transport,
        federation: Federation,
        run: bytes,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._transport = transport
        self._federation = federation
        self._run = run
        self._came_in: dict[Digest, int] = {}
        """Each shared blob, and the round it came in."""
        self.round = 0
        """The one under way."""

    def __contains__(self, blob: Digest) -> bool:
        """May members pull it?"""
        return blob in self._came_in

    async def load(self) -> None:
        """What was shared before a restart."""
        for key, number in await self._store.scan(SHARED):
            if key.startswith(self._run):
                blob = Digest(key[len(self._run) :])
                self._came_in[blob] = int.from_bytes(number, "big")

    async def share(self, *blobs: Digest) -> None:
        """Let members pull them from now on."""
        # It need not outlast the blobs, which do not outlast a power cut.
        run, number = self._run, self.round.to_bytes(8, "big")
        await self._store.put_many(
            [(SHARED, run + blob, number) for blob in blobs], lasting=False
        )
        self._came_in.update(dict.fromkeys(blobs, self.round))

    async def fetch(
        self, blob: Digest, sources: Sequence[bytes], limit_bytes: int
    ) -> str:
        """Pull it from the first source that has it; the name of that member.

        Raises `TransportError` with what each of them said, if none gives it.
        """
        reasons: list[str] = []
        for source in sources:
            member = self._federation.key(source)
            try:
                await self._transport.fetch(
                    member.peer_id,
                    blob,
                    limit_bytes=limit_bytes,
                    timeout_s=FETCH_TIMEOUT_S,
                    lasting=False,
                )
            except NodeError as error:
                reasons.append(f"{member.name}: {error}")
                continue
            # Whoever takes a slice over from its owner may ask us for a part of it.
            await self.share(blob)
            return member.name
        raise TransportError(f"no member gives a shard: {'; '.join(reasons)}")

    async def delete(self, blobs: Sequence[Digest]) -> list[Row]:
        """Delete these files, and those of rounds that are over.

        Returns the rows that still name them, to be written off together with the records: the
        files go first, so that after a kill those that are left are still named.
        """
        # The machine knows the parts of others and the sums that came in this life of it; what
        # came in an earlier one, of a round that is over, goes with them.
        old = {blob for blob, number in self._came_in.items() if number < self.round}
        gone = sorted(old.union(blobs))
        for blob in gone:
            self._came_in.pop(blob, None)
        # A file system takes its time to free a large one, and heartbeats must not wait.
        await trio.to_thread.run_sync(self._delete, gone)
        return [(SHARED, self._run + blob, None) for blob in gone]

    def _delete(self, blobs: Sequence[Digest]) -> None:
        for blob in blobs:
            self._blobs.delete(blob)
