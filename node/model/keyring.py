"""The daemon's model keys: made, opened, rotated and destroyed through the store.

A key's print is written to the ledger before the key is given out, and never leaves it.  So
a crash may cost a key that was not used yet, and cannot let one be used twice.
"""

import json
from dataclasses import dataclass

from ee.errors import EncryptionError
from ee.ledger import Context, Entry, Ledger, Life, Opens
from node.errors import ModelError
from node.model.key_document import KeyDocument, new_secret
from node.model.wrapping import Wrapping
from node.ports.storage import Store

KEYS = "model.keys"
"""Print of the secret to its document, while it lives."""
USED = "model.used-keys"
"""Print of every secret there ever was to its context and its life."""


@dataclass(frozen=True, repr=False)
class OpenKey:
    """A secret in hand, with what it is for; the compute child draws the key from it."""

    secret: bytes
    document: KeyDocument


class Keyring:
    """All keys of one node."""

    def __init__(self, store: Store, wrapping: Wrapping) -> None:
        self._store = store
        self._wrapping = wrapping

    async def new(self, context: Context, opens: Opens) -> OpenKey:
        """A fresh key; `ModelError` where one is in use."""
        ledger, secret = await self._ledger(), new_secret()
        with_context = _admitted(ledger, secret, context)
        document = KeyDocument.wrap(secret, context, opens, self._wrapping)
        await self._put(with_context)
        await self._store.put(KEYS, document.print, document.encoded())
        return OpenKey(secret, document)

    async def open(self, context: Context) -> OpenKey:
        """The key in use in `context`, to go on with a session that was interrupted."""
        entry = (await self._ledger()).live(context)
        data = None if entry is None else await self._store.get(KEYS, entry.print)
        if data is None:
            raise ModelError(
                f"there is no key for {context}",
                hint="a session that ended has none; begin a new one",
            )
        document = KeyDocument.decoded(data)
        return OpenKey(document.unwrap(self._wrapping), document)

    async def rotate(self, context: Context) -> tuple[OpenKey, OpenKey]:
        """(old, new): the old key is out of use; unkey under it and key under the new one.

        The old secret lives only in the answer.
        """
        old = await self.open(context)
        await self.destroy(context)
        return old, await self.new(context, old.document.opens)

    async def destroy(self, context: Context) -> None:
        """Forget the secret in use in `context`; the ledger keeps its print."""
        ledger = await self._ledger()
        entry = ledger.live(context)
        if entry is None:
            raise ModelError(f"there is no key for {context}")
        # The mark first: after a crash between the two, the key is unusable and not lost
        # track of, and the next call of `sweep` removes it.
        await self._put(ledger.retire(entry))
        await self._store.delete(KEYS, entry.print)

    async def sweep(self) -> int:
        """Remove what a crash left of destroyed keys; how many there were."""
        gone = {
            e.print for e in (await self._ledger()).entries() if e.life is not Life.LIVE
        }
        left = [name for name, _ in await self._store.scan(KEYS) if name in gone]
        for name in left:
            await self._store.delete(KEYS, name)
        return len(left)

    async def rewrap(self, new: Wrapping) -> int:
        """Keep every key another way, as after a change of the node's key; how many."""
        held = await self._store.scan(KEYS)
        for name, data in held:
            document = KeyDocument.decoded(data).rewrap(self._wrapping, new)
            await self._store.put(KEYS, name, document.encoded())
        self._wrapping = new
        return len(held)

    async def entries(self) -> tuple[Entry, ...]:
        """Every secret there ever was, by its print."""
        return (await self._ledger()).entries()

    async def _ledger(self) -> Ledger:
        return Ledger([_entry(n, d) for n, d in await self._store.scan(USED)])

    async def _put(self, entry: Entry) -> None:
        context = entry.context
        record = [context.institution, context.host, context.session, str(entry.life)]
        await self._store.put(USED, entry.print, json.dumps(record).encode())


def _admitted(ledger: Ledger, secret: bytes, context: Context) -> Entry:
    try:
        return ledger.admit(secret, context)
    except EncryptionError as error:
        raise ModelError(
            str(error), hint="a key serves one institution, host and session"
        ) from error


def _entry(name: bytes, data: bytes) -> Entry:
    institution, host, session, life = json.loads(data)
    return Entry(name, Context(institution, host, session), Life(life))
