"""A blob from several holders came out wrong: who lied, and what is right.

Only the digest of the whole is trusted.  The holders are asked for the digests of their
chunks and believed one after another: the chunks in which ours differ from what one holder
claims are fetched again, from that holder alone.  The claim under which the whole comes
out right is the true one; who sent other chunks than it names, or claimed otherwise before,
has lied.  One honest holder is enough, and each liar costs at most one more transfer of what
it lied about.
"""

import hashlib
from enum import Enum

from trio.to_thread import run_sync as in_thread

from node.adapters.libp2p.wanted import SIZE_BYTES, Wanted
from node.adapters.partial_blob import PartialBlob
from node.errors import AccessError, TransportError
from protocol.types import Digest, PeerId

Replaced = tuple[int, PeerId, Digest]
"""A chunk that another took the place of: its index, who had sent it, what it was."""


class Outcome(Enum):
    RIGHT = "right"
    WRONG = "wrong"
    """Every holder has been believed in vain."""
    OPEN = "open"
    """A holder that could not be asked may still tell the truth, another time."""


async def audit(
    wanted: Wanted,
    partial: PartialBlob,
    peers: list[PeerId],
    sender: dict[int, PeerId],
) -> Outcome:
    """Put the blob right; `sender` says whom each chunk of this fetch came from."""
    found = partial.found()
    if len(peers) == 1 and len(sender) == partial.chunks:
        wanted.accuse(peers[0], found)
        return Outcome.WRONG
    outcome = Outcome.WRONG
    replaced: list[Replaced] = []
    for peer in peers:
        try:
            kept = await _believe(wanted, partial, peer, sender, replaced)
        except (AccessError, TransportError) as error:
            wanted.errors[peer] = error
            outcome = Outcome.OPEN
            continue
        if kept and await in_thread(partial.matches):
            truth = await in_thread(partial.chunk_digests)
            wanted.liars |= {who for i, who, sent in replaced if sent != truth[i]}
            return Outcome.RIGHT
        wanted.accuse(peer, found)
    return outcome


async def _believe(
    wanted: Wanted,
    partial: PartialBlob,
    peer: PeerId,
    sender: dict[int, PeerId],
    replaced: list[Replaced],
) -> bool:
    """Replace what differs from the claim of `peer`; false if it contradicts itself."""
    claims = await wanted.claims(peer, partial.chunks)
    ours = await in_thread(partial.chunk_digests)
    if len(claims) != len(ours):
        return False
    for index in range(partial.chunks):
        if ours[index] == claims[index]:
            continue
        async with wanted.ask(peer, range(index, index + 1)) as body:
            await body.take(SIZE_BYTES)
            parts = await body.take(partial.length(index))
        if hashlib.sha256(b"".join(parts)).digest() != claims[index]:
            return False
        await in_thread(partial.write, index, parts)
        if index in sender:
            replaced.append((index, sender[index], ours[index]))
        sender[index] = peer
    return True
