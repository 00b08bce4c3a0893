"""Who sums what: every member owns one slice of the vector, drawn afresh per attempt."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.aggregate.masks import BLOCK_BYTES
from protocol.errors import LocalProtocolError

_LABEL = b"rexis-shard-owner-1"


@dataclass(frozen=True)
class Slice:
    """A slice of the vector; `order` are those who may sum it, the owner first."""

    index: int
    start: int
    stop: int
    order: tuple[bytes, ...]

    @property
    def size(self) -> int:
        return self.stop - self.start


def slices(
    length: int, bytes_each: int, members: Sequence[bytes], context: bytes
) -> tuple[Slice, ...]:
    """One slice per member, in the order of the vector; starts lie on cipher blocks.

    Who owns which follows a hash of the context: nobody chooses, and it changes with every
    attempt.  The backups of a slice are the owners of those after it.  Slices at the end
    may be empty where the vector is short.
    """
    if length < 1 or not members:
        raise LocalProtocolError(f"{length} entries over {len(members)} members")
    owners = sorted(
        members, key=lambda m: hashlib.sha256(_LABEL + context + m).digest()
    )
    unit = BLOCK_BYTES // bytes_each
    each, extra = divmod(-(-length // unit), len(owners))
    out, start = [], 0
    for index in range(len(owners)):
        stop = start + (each + (index < extra)) * unit
        order = tuple(owners[index:] + owners[:index])
        out.append(Slice(index, min(start, length), min(stop, length), order))
        start = stop
    return tuple(out)
