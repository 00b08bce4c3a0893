"""A lineage as one file: signed records, and the chain's facts as one reader saw them.

The records prove themselves; the facts are the word of whoever wrote the file.  So a reader takes
the records of one file and the facts of another, which a node it trusts has written: what the first
only says of the chain is then a doubt.
"""

from protocol.errors import MalformedMessageError
from protocol.lineage import (
    RECORDS_LIMIT_BYTES,
    Facts,
    GrantFact,
    Records,
    TokenFact,
)
from protocol.members import Member, MemberSet
from protocol.wire import Message, decode, encode

FILE_LIMIT_BYTES = 2 * RECORDS_LIMIT_BYTES

ITEMS_LIMIT = 65_536
"""Of one kind; what a reader of ours accepts of any list."""


class Seen(Message, frozen=True, tag="seen-chain"):
    """Where the reader stood."""

    chain_id: int
    block: int
    digest: bytes
    """Of the newest block it took as final."""
    registry: str
    """Address of the federation's registry."""


class LineageFile(Message, frozen=True, tag="lineage-1"):
    """Everything that `protocol.lineage.build` asks for."""

    records: Records
    seen: Seen
    members: tuple[Member, ...]
    tokens: tuple[tuple[int, bytes, bytes], ...]
    """Number, owner, record."""
    grants: tuple[tuple[int, int, bytes, int, int, bool], ...]
    rounds: tuple[tuple[bytes, int, bytes], ...]
    models: tuple[tuple[bytes, bytes], ...]
    batches: tuple[bytes, ...]

    def facts(self) -> Facts:
        """As the writer saw them."""
        return Facts(
            MemberSet.of(list(self.members)),
            tuple(TokenFact(*one) for one in self.tokens),
            tuple(GrantFact(*one) for one in self.grants),
            frozenset(self.rounds),
            dict(self.models),
            frozenset(self.batches),
        )


def write(records: Records, facts: Facts, seen: Seen) -> bytes:
    """The bytes of a file."""
    for name in ("tokens", "grants", "rounds", "models", "batches"):
        if len(getattr(facts, name)) > ITEMS_LIMIT:
            raise MalformedMessageError(
                f"{len(getattr(facts, name))} {name} on the chain, a file holds "
                f"{ITEMS_LIMIT}"
            )
    data = encode(
        LineageFile(
            records,
            seen,
            facts.members.members,
            tuple((one.dataset, one.owner, one.record) for one in facts.tokens),
            tuple(
                (
                    *(one.grant, one.dataset, one.grantee),
                    *(one.units, one.until, one.revoked),
                )
                for one in facts.grants
            ),
            tuple(sorted(facts.rounds)),
            tuple(sorted(facts.models.items())),
            tuple(sorted(facts.batches)),
        )
    )
    if len(data) > FILE_LIMIT_BYTES:
        raise MalformedMessageError(
            f"lineage has {len(data)} bytes, limit is {FILE_LIMIT_BYTES}; export less"
        )
    return data


def read(data: bytes) -> LineageFile:
    """The file whose bytes these are; nothing in it is verified yet."""
    return decode(data, LineageFile, limit_bytes=FILE_LIMIT_BYTES)
