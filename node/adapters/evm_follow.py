"""The events of some contracts, block by block, along the branch that the chain settles on.

Events are told once their block is as deep as this node takes for final.  A reorganisation below
that depth is told in the log, and what stands on the new branch follows from the fork on; what
stood on the old one cannot be untold, which is why the depth is chosen with care.
"""

from collections import deque
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import structlog
import trio
from hexbytes import HexBytes
from web3.exceptions import BlockNotFound

from node.adapters import evm_contracts
from node.adapters.evm_heads import Newest
from node.adapters.evm_link import Link
from node.errors import ChainError
from node.ports.chain import ChainEvent

BLOCK_RANGE = 1_000
BACK_OFF_LIMIT_S = 15.0
REMEMBERED = 256
"""Ends of ranges whose hashes are kept to find a fork: over an hour of 12-second blocks."""

log = structlog.get_logger()


class Follower:
    """Where one consumer stands on the chain."""

    def __init__(self, link: Link, contracts: Mapping[str, Any], first: int) -> None:
        self._link, self._contracts = link, contracts
        self._next = self._first = first
        self._told: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED)

    async def events(self) -> AsyncIterator[ChainEvent]:
        """For ever; a chain that does not answer is waited for."""
        pause = self._link.poll_s
        seen: Newest | None = None
        while True:
            try:
                newest = await self._link.heads.other_than(seen)
                step = partial(self._step, newest.number)
                found = await self._link.read("reading logs", step)
            except ChainError as error:
                log.warning("chain is not followed", reason=str(error), retry_s=pause)
                await trio.sleep(pause)
                pause = min(BACK_OFF_LIMIT_S, 2 * pause)
                continue
            pause = self._link.poll_s
            if found is None:
                await trio.sleep(self._link.poll_s)
                continue
            if self._next > self._final(newest.number):
                seen = newest
            for event in found:
                yield event

    def _final(self, newest: int) -> int:
        return newest - self._link.confirmations

    def _step(self, newest: int) -> list[ChainEvent] | None:
        """The events of the next range, or None where it was reorganised meanwhile.

        Runs in a thread.
        """
        eth = self._link.web3.eth
        self._find_fork()
        last = min(self._final(newest), self._next + BLOCK_RANGE - 1)
        if last < self._next:
            return []
        before = self._digest(last)
        logs = eth.get_logs(
            {
                "fromBlock": self._next,
                "toBlock": last,
                "address": [one.address for one in self._contracts.values()],
                "topics": [[HexBytes(topic) for topic in evm_contracts.event_topics()]],
            }
        )
        if before is None or self._digest(last) != before:
            return None
        events = evm_contracts.events(self._contracts.values(), logs)
        self._told.append((last, before))
        self._next = last + 1
        return events

    def _find_fork(self) -> None:
        """Go back to the newest block that is still on the chain."""
        left = self._next
        while self._told and self._digest(self._told[-1][0]) != self._told[-1][1]:
            self._told.pop()
            self._next = self._told[-1][0] + 1 if self._told else self._first
        if self._next != left:
            log.error(
                "chain reorganised below the depth that counts as final",
                told_to=left - 1,
                again_from=self._next,
                confirmations=self._link.confirmations,
            )

    def _digest(self, number: int) -> bytes | None:
        try:
            return bytes(self._link.web3.eth.get_block(number)["hash"])
        except BlockNotFound:
            return None
