"""The key of every training session: fresh, written down before it is used, gone afterwards.

A session is one member's local steps of one round at one host.  Its secret lies sealed in
this node's store while the session lasts, and its print for ever: no secret serves twice,
and anybody who may read the store can see that every session had one of its own.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nacl.public
import trio

from ee.ledger import Context, Life, Opens, session_seed
from node.model.keyring import Keyring
from node.model.wrapping import Sealed
from node.ports.keys import Signer
from node.ports.storage import Store
from protocol.types import digest

_NAME_BYTES = 4
"""Tells two tries of one round apart."""


class Sessions:
    """Keys of this node's training sessions."""

    def __init__(self, store: Store, signer: Signer) -> None:
        box = nacl.public.SealedBox(nacl.public.PublicKey(signer.seal_key))
        self._ring = Keyring(store, Sealed(box.encrypt, signer.open_sealed))

    @asynccontextmanager
    async def key(self, context: Context, opens: Opens) -> AsyncIterator[bytes]:
        """The 32 bytes a session's key is drawn from; destroyed when the block ends."""
        opened = await self._ring.new(context, opens)
        try:
            yield session_seed(opened.secret, context)
        finally:
            # A run that is cancelled must not leave its key behind.
            with trio.CancelScope(shield=True):
                await self._ring.destroy(context)

    async def end_all(self) -> int:
        """Destroy what a crash has left: those sessions' workers have forgotten them.

        By the ledger and not by what is sealed: a crash between the print and the secret
        leaves a print that would count as in use for ever.
        """
        await self._ring.sweep()
        left = [e for e in await self._ring.entries() if e.life is Life.LIVE]
        for entry in left:
            await self._ring.destroy(entry.context)
        return len(left)

    async def rows(self) -> list[dict[str, Any]]:
        """Every session's key there ever was, without a secret."""
        return [
            {
                "print": entry.print.hex(),
                "institution": entry.context.institution,
                "host": entry.context.host,
                "session": entry.context.session,
                "life": str(entry.life),
            }
            for entry in await self._ring.entries()
        ]


def session_context(institution: str, host: str, run: bytes, round_: int) -> Context:
    """Where one try of one round's local steps uses its key."""
    again = secrets.token_hex(_NAME_BYTES)
    return Context(institution, host, f"{run.hex()[:16]} round {round_} {again}")


def session_opens(spec: dict[str, Any], plan: bytes) -> Opens:
    """What such a key is for; `plan` is the model file."""
    config, base = spec.get("config") or {}, spec.get("checkpoint") or {}
    kind = config.get("model_type") or base.get("name") or "table"
    return Opens(str(kind), digest(plan), "orthogonal", "dense")
