"""A model whose products two hosts make, through the death of either.

Everything that is learned stays with the key holder, so a dead host costs the step that
was under way and nothing else.  A new link means a new pad seed: the old one's numbers
would start again, and two shares under one pad differ by their plaintexts.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Self, TypeVar

from ee.smode import Account, Arithmetic, KeyHolder, PadLedger, Probes
from ee.smode.model import SharedModel
from ee.smode.pads import SEED_BYTES
from node.errors import ComputeError
from node.smode.link import HostLink

PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Between looks for a host that has gone: what restarts it has a quarter of a minute."""

T = TypeVar("T")


class SharedSession:
    """Hosts, pads and probes behind a `SharedModel`."""

    def __init__(
        self,
        shared: SharedModel,
        arithmetic: Arithmetic,
        hosts: tuple[str, str],
        *,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        """`hosts`: their sockets; the second is the one that gets seeds."""
        self._shared = shared
        self._arithmetic = arithmetic
        self._hosts = hosts
        self._pauses_s = pauses_s
        self._spent: set[bytes] = set()
        self._done = Account()
        self._moved = 0
        self._open: tuple[HostLink, KeyHolder] | None = None
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lost()

    @property
    def links(self) -> int:
        """How many times hosts were connected to, each under a seed of its own."""
        return len(self._spent)

    @property
    def account(self) -> Account:
        """Sent and told by all links together."""
        return self._done if self._open is None else _sum(self._done, self._open[1])

    @property
    def bytes_computing(self) -> int:
        """On all wires so far, without weights handed over."""
        return self._moved + (self._open[0].bytes_computing if self._open else 0)

    def run(self, work: Callable[[], T]) -> T:
        """`work`, again from its beginning whenever a host dies under it.

        It must change nothing until it returns: a forward and a backward pass, and not the
        optimiser's step.
        """
        for pause in self._pauses_s:
            try:
                return work()
            except ComputeError:
                self._lost()
                self._again(pause)
        return work()

    def _again(self, pause: float) -> None:
        """A new link, as soon as both hosts answer."""
        for wait in (pause, *self._pauses_s):
            time.sleep(wait)
            try:
                self._begin()
            except ComputeError:
                continue
            return
        self._begin()

    def _lost(self) -> None:
        """Keep the sums of a link that is over."""
        if self._open is not None:
            self._done, self._moved = self.account, self.bytes_computing
            self._open[0].close()
            self._open = None

    def _begin(self) -> None:
        seed = secrets.token_bytes(SEED_BYTES)
        ledger = PadLedger(seed, self._spent)
        arithmetic, shared = self._arithmetic, self._shared
        link = HostLink(*self._hosts, arithmetic, shared.weights, seed)
        probes = Probes(arithmetic, shared.weights, secrets.token_bytes(SEED_BYTES))
        holder = KeyHolder(arithmetic, ledger, link, shared.sizes, probes)
        shared.attach(holder)
        self._open = link, holder


def _sum(before: Account, holder: KeyHolder) -> Account:
    total = Account()
    for field in fields(Account):
        one, two = getattr(holder.account, field.name), getattr(before, field.name)
        joined = max(one, two) if field.name == "expected_error" else one + two
        setattr(total, field.name, joined)
    return total
