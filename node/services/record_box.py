"""What a run's machine must not lose, sealed at rest.

Records of a round hold secrets (pre-keys, seeds, shares), and so do the recipes by which
updates are rounded; both are stored under a key that only the opened key file gives.
"""

import hashlib
from collections.abc import Mapping, Sequence

import nacl.secret

from node.errors import StorageError
from node.ports.keys import Signer
from node.ports.storage import Store
from protocol.types import Digest, digest

RECORDS, RECIPES = "round-records", "round-recipes"
_LABEL = b"rexis-round-records-1"


class RecordBox:
    """Records of one run in the store, sealed at rest."""

    def __init__(self, store: Store, signer: Signer, run: bytes) -> None:
        self._store = store
        self._run = run
        # What this node agrees on with itself is known to whoever opens the key file.
        own = signer.agree(signer.seal_key)
        self._box = nacl.secret.SecretBox(hashlib.sha256(_LABEL + own).digest())

    async def read(self) -> dict[str, bytes]:
        """All of them, as the machine takes them up."""
        return {
            key.decode(): self._box.decrypt(value)
            for key, value in await self._own(RECORDS)
        }

    async def get(self, key: str) -> bytes | None:
        """One record, or None."""
        sealed = await self._store.get(RECORDS, self._run + key.encode())
        return None if sealed is None else self._box.decrypt(sealed)

    async def put(self, records: Mapping[str, bytes]) -> None:
        """All of them, on disk when this returns."""
        await self._store.put_many(
            [
                (RECORDS, self._run + key.encode(), bytes(self._box.encrypt(value)))
                for key, value in records.items()
            ]
        )

    async def put_recipe(self, recipe: bytes) -> Digest:
        """On disk when this returns; named by its digest, which is what the machine knows."""
        name, sealed = digest(recipe), bytes(self._box.encrypt(recipe))
        await self._store.put(RECIPES, self._run + name, sealed)
        return name

    async def recipe(self, name: Digest) -> bytes:
        sealed = await self._store.get(RECIPES, self._run + name)
        if sealed is None:
            raise StorageError(f"no recipe {name.hex()[:16]}: its round is over")
        return self._box.decrypt(sealed)

    async def delete(
        self,
        keys: Sequence[str],
        blobs: Sequence[Digest] = (),
        besides: Sequence[tuple[str, bytes, None]] = (),
    ) -> None:
        """Records, recipes called like one of `blobs`, and rows of others: in one write.

        A kill leaves all of them or none, so whatever is left is still named by a record.
        """
        await self._store.put_many(
            [
                *((RECORDS, self._run + key.encode(), None) for key in keys),
                *((RECIPES, self._run + blob, None) for blob in blobs),
                *besides,
            ]
        )

    async def tidy(self) -> None:
        """Delete recipes that no record names: a kill, or a verdict, came between the two writes."""
        named = {
            self._box.decrypt(value)
            for key, value in await self._own(RECORDS)
            if key.endswith(b"/quantised")
        }
        stray = [
            Digest(name) for name, _ in await self._own(RECIPES) if name not in named
        ]
        if stray:
            await self.delete((), stray)

    async def _own(self, namespace: str) -> list[tuple[bytes, bytes]]:
        """Keys without the run's name, and what is stored under them."""
        return [
            (key[len(self._run) :], value)
            for key, value in await self._store.scan(namespace)
            if key.startswith(self._run)
        ]
