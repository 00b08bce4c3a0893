"""The contract that decides on a wrong receipt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from protocol.dispute import Asked, Claim, Leaf, Proof, SaltProof, Trunk, Turn
from protocol.receipt import BatchProof


@dataclass(frozen=True)
class Standing:
    """Whose move it is in a dispute, and until when (Unix seconds of the chain)."""

    turn: Turn
    deadline: int


class Arbiter(Protocol):
    """Disputes that a contract decides by computing (docs/verify.md §10)."""

    @property
    def account(self) -> bytes:
        """Who moves."""

    async def accuse(
        self,
        host: bytes,
        batch: bytes,
        proof: BatchProof,
        receipt: bytes,
        trunk: Trunk,
        place: tuple[int, int, int],
    ) -> int:
        """Dispute the row at (layer, case, token) of a sealed receipt; the number."""

    async def answer(self, number: int, roots: Sequence[bytes]) -> None: ...

    async def ask(self, number: int, claim: Claim, asked: Asked) -> None: ...

    async def show(
        self, number: int, claim: Claim, roots: Sequence[bytes], leaf: Leaf
    ) -> None: ...

    async def split(
        self,
        number: int,
        claim: Claim,
        roots: Sequence[bytes],
        nodes: Sequence[bytes],
        path: Sequence[bytes],
    ) -> None:
        """What is below the node that was asked for, and the way up from it."""

    async def prove(
        self,
        number: int,
        claim: Claim,
        roots: Sequence[bytes],
        proof: Proof | SaltProof,
    ) -> None: ...

    async def close(self, number: int) -> None:
        """Whoever had to move let the time pass."""

    async def standing(self, number: int) -> Standing: ...
