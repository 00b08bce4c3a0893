"""What an attempt fixes before anything is uploaded (docs/protocol.md §5.4)."""

from dataclasses import dataclass

from protocol.aggregate.shards import Slice
from protocol.types import Millis


@dataclass(frozen=True)
class Setting:
    """What an attempt fixes before anything is uploaded."""

    context: bytes
    round: int
    attempt: int
    members: tuple[bytes, ...]
    slices: tuple[Slice, ...]
    since: Millis
    """When this node knew the opening, on its own clock."""
    allowed_ms: int
    """Time for uploads."""
    backup_ms: int
    bound: bool = True
    """May a rejection of this sum be sketched?  Then no two in it differ over a key (§5.10)."""

    @property
    def deadline(self) -> int:
        return self.since + self.allowed_ms

    def place(self, member: bytes) -> int:
        return self.members.index(member)

    @property
    def everyone(self) -> int:
        return (1 << len(self.members)) - 1

    def named(self, members: int) -> tuple[bytes, ...]:
        """The members of a set."""
        return tuple(m for i, m in enumerate(self.members) if members >> i & 1)

    def key(self, what: str) -> str:
        """Where a statement of this attempt is recorded."""
        return f"{self.round}/said/{self.context.hex()}/{what}"
