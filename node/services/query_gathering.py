"""One message to every institution that is asked, and what came back of it.

What is no answer (`Check`) is nobody's: whoever sends rubbish counts as gone, and is named where
too few are left.
"""

from collections.abc import Awaitable, Callable, Mapping

import trio

from node.errors import AccessError, NodeError, TransportError
from node.ports.keys import Signer
from node.ports.transport import Transport
from node.services.federation import Federation
from protocol.errors import ProtocolError
from protocol.members import Member
from protocol.queries.answer import ANSWER_LIMIT_BYTES
from protocol.queries.spec import Query
from protocol.types import PeerId

ANSWER_TIMEOUT_S = 900.0
"""Longer than a sandbox may take."""

Act = Callable[[PeerId, bytes], Awaitable[bytes]]
Owners = Mapping[int, bytes]
"""Node keys by dataset."""
Check = Callable[[int, bytes], None]
"""Raises `ProtocolError` for what is no answer of the owner of this dataset."""


class Gathering:
    """Asks the owners, all at the same time."""

    def __init__(
        self,
        *,
        signer: Signer,
        transport: Transport,
        federation: Federation,
        local: Mapping[str, Act],
    ) -> None:
        """`local` answers by protocol where one of the datasets is our own."""
        self._signer = signer
        self._transport = transport
        self._federation = federation
        self._local = local

    async def all(
        self,
        query: Query,
        owners: Owners,
        message: tuple[str, bytes],
        check: Check | None = None,
        *,
        begun: bool = True,
    ) -> dict[int, bytes]:
        """One answer from every owner to a message of a protocol."""
        answers, failed = await self.each(owners, message, check)
        if failed:
            raise _missing(query, len(owners), failed, len(owners) if begun else None)
        return answers

    async def some(
        self,
        query: Query,
        owners: Owners,
        message: tuple[str, bytes],
        check: Check,
        *,
        quorum: int,
    ) -> dict[int, bytes]:
        """Answers from so many at least."""
        answers, failed = await self.each(owners, message, check)
        if len(answers) < quorum:
            raise _missing(query, len(owners), failed, quorum)
        return answers

    async def each(
        self, owners: Owners, message: tuple[str, bytes], check: Check | None = None
    ) -> tuple[dict[int, bytes], dict[str, Exception]]:
        """What came from whom, and what did not; the latter by name."""
        answers: dict[int, bytes] = {}
        failed: dict[str, Exception] = {}

        async def one(dataset: int, key: bytes) -> None:
            member = self._federation.key(key)
            try:
                data = await self._from(member, *message)
                if check is not None:
                    check(dataset, data)
                answers[dataset] = data
            except (NodeError, ProtocolError) as error:
                failed[member.name] = error

        async with trio.open_nursery() as nursery:
            for dataset, key in owners.items():
                nursery.start_soon(one, dataset, key)
        return answers, failed

    async def _from(self, member: Member, protocol: str, payload: bytes) -> bytes:
        if member.node_key == self._signer.public_key:
            return await self._local[protocol](member.peer_id, payload)
        return await self._transport.request(
            member.peer_id,
            protocol,
            payload,
            timeout_s=ANSWER_TIMEOUT_S,
            limit_bytes=ANSWER_LIMIT_BYTES,
        )


def _missing(
    query: Query, size: int, failed: Mapping[str, Exception], needed: int | None
) -> NodeError:
    """Too few have answered; `needed` is None where nobody has paid yet."""
    told = "; ".join(f"{name}: {error}" for name, error in failed.items())
    refused = all(isinstance(one, AccessError) for one in failed.values())
    kind = AccessError if refused else TransportError
    hint = "nothing was paid; " + (
        "ask as they say, or leave them out"
        if refused
        else "leave them out, or ask again once they are there"
    )
    if needed is not None:
        hint = (
            f"the sum needs {needed}; once they are there again, `rexis query resume"
            f" {query.charged().hex()[:16]}`"
        )
    return kind(f"{len(failed)} of {size} did not answer: {told}", hint=hint)
