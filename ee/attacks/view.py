"""The situations an attack is tried in: who has which base, and what a host is sent.

A `View` is one cell of the published table: the attacker's base, the victim's, and how rows
are hidden before they leave the key holder.  Attacks ask it for what a host would hold; they
never see how it was made.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ee.attacks.base import Base, Block
from ee.attacks.keying import Body, Imitator, KeyedBody, Observed, PlainBody
from ee.smode.arithmetic import Arithmetic
from ee.smode.pads import PadLedger


class View(ABC):
    """What one host sees of a victim's session."""

    def __init__(self, attacker: Base, victim: Base, depth: int) -> None:
        self.attacker = attacker
        self.victim = victim
        self.depth = depth

    @property
    @abstractmethod
    def mode(self) -> str:
        """As the table prints it."""

    @property
    @abstractmethod
    def block(self) -> Block:
        """The matrices the host runs on the rows it is sent."""

    @property
    @abstractmethod
    def normed(self) -> bool:
        """The rows are what q, k and v multiply, not the residual."""

    @abstractmethod
    def hide(self, rows: Tensor) -> Tensor:
        """(..., width) plain rows of this session as the host sees them."""

    @abstractmethod
    def imitate(self, rows: Tensor, draw: torch.Generator) -> Tensor:
        """The same under secrets of the attacker's own, fresh at each call."""

    def plain_rows(self, base: Base, ids: Tensor) -> Tensor:
        """What the key holder would hide, computed with `base`."""
        rows = base.rows(ids, self.depth)
        return base.block(self.depth).enter(rows) if self.normed else rows

    def observed(self, ids: Tensor) -> Observed:
        """What the host holds once the victim has sent these texts."""
        rows = self.hide(self.plain_rows(self.victim, ids))
        return Observed(rows, self.block, self.depth, self.normed)


class BodyView(View):
    """One host that runs the whole trunk, keyed or not."""

    body: Body

    @property
    def block(self) -> Block:
        return self.body.block

    @property
    def normed(self) -> bool:
        return False

    def hide(self, rows: Tensor) -> Tensor:
        return self.body.enter(rows)


class KeyedView(BodyView):
    """E-mode: a static key for the session, keyed matrices at the host."""

    def __init__(self, attacker: Base, victim: Base, depth: int, seed: bytes) -> None:
        super().__init__(attacker, victim, depth)
        self.body = KeyedBody(victim, depth, seed)
        self._imitator = Imitator(attacker)

    @property
    def mode(self) -> str:
        return f"E k={self.depth}"

    def imitate(self, rows: Tensor, draw: torch.Generator) -> Tensor:
        return self._imitator.enter(rows, draw)


class PlainView(BodyView):
    """No key at all: the positive control of every attack."""

    def __init__(self, attacker: Base, victim: Base, depth: int) -> None:
        super().__init__(attacker, victim, depth)
        self.body = PlainBody(victim, depth)

    @property
    def mode(self) -> str:
        return f"plain k={self.depth}"

    def imitate(self, rows: Tensor, draw: torch.Generator) -> Tensor:
        del draw
        return rows


class ShareView(View):
    """S-mode: the first host, with its shares and the public matrices."""

    def __init__(self, base: Base, arithmetic: Arithmetic, seed: bytes) -> None:
        super().__init__(base, base, 0)
        self.arithmetic = arithmetic
        self._ledger = PadLedger(seed, set())

    @property
    def mode(self) -> str:
        return f"S {self.arithmetic.name}"

    @property
    def block(self) -> Block:
        return self.victim.block(0)

    @property
    def normed(self) -> bool:
        return True

    def hide(self, rows: Tensor) -> Tensor:
        return _share(self.arithmetic, self._ledger, rows)

    def imitate(self, rows: Tensor, draw: torch.Generator) -> Tensor:
        words = torch.randint(0, 256, (32,), generator=draw).tolist()
        return _share(self.arithmetic, PadLedger(bytes(words), set()), rows)


def _share(arithmetic: Arithmetic, ledger: PadLedger, rows: Tensor) -> Tensor:
    """The numbers of the message to the first host; ring words as signed fractions."""
    flat = rows.reshape(-1, rows.shape[-1]).numpy()
    share = arithmetic.split(flat, ledger.stream, ledger.issue()).share
    if share.dtype == np.uint64:
        share = share.view(np.int64) * 2.0**-63
    return torch.from_numpy(share.astype(np.float32)).reshape(rows.shape)


@dataclass(frozen=True)
class Bases:
    """A victim's base and the nearest thing to it that the attacker has."""

    name: str
    attacker: Base
    victim: Base
