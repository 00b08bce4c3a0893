"""Who sums what: every member owns one slice of the vector, drawn afresh per attempt."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.aggregate.masks import BLOCK_WORDS
from protocol.errors import LocalProtocolError
from protocol.types import Digest

_LABEL = b"rexis-shard-owner-1"


@dataclass(frozen=True)
class Shard:
    """A slice of the vector and the member that sums it."""

    owner: bytes
    start: int
    stop: int


def shards(length: int, members: Sequence[bytes], context: Digest) -> tuple[Shard, ...]:
    """One shard per member, in the order of the vector; starts lie on cipher blocks.

    The owners' order follows a hash of the context: nobody chooses which slice it sums, and
    it changes with every attempt.  Shards at the end may be empty where the vector is short.
    """
    if length < 1 or not members:
        raise LocalProtocolError(f"{length} words over {len(members)} members")
    owners = sorted(
        members, key=lambda m: hashlib.sha256(_LABEL + context + m).digest()
    )
    blocks = -(-length // BLOCK_WORDS)
    each, extra = divmod(blocks, len(owners))
    out, start = [], 0
    for index, owner in enumerate(owners):
        stop = start + (each + (index < extra)) * BLOCK_WORDS
        out.append(Shard(owner, min(start, length), min(stop, length)))
        start = stop
    return tuple(out)
