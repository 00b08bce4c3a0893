"""One member's part in a run, from the last consent to the last round, through restarts.

The rules are pure machines under `protocol.rounds`; here one of them gets its records back,
its hands, and a driver.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

from node.driver import Driver
from node.services.hands import Hands, ReadRecords, RoundNotes, Tools
from node.services.record_box import RecordBox
from protocol.certificate import Certificate
from protocol.errors import GossipIgnore, LocalProtocolError, MalformedMessageError
from protocol.rounds import events as ev
from protocol.rounds.machine import Rounds
from protocol.rounds.messages import Heard
from protocol.rounds.policy import Epoch
from protocol.runs import Plan
from protocol.types import Digest, PeerId, PublicKey

log = structlog.get_logger()


class Keyring:
    """The machine's secrets and chance: the node's key file, the system's coins."""

    def __init__(self, tools: Tools) -> None:
        self.sign = tools.signer.sign
        self.agree = tools.signer.agree

    def fresh(self, count: int) -> bytes:
        return secrets.token_bytes(count)


class Trainer:
    """The rounds of one run at this node."""

    def __init__(
        self,
        *,
        tools: Tools,
        plan: Plan,
        epoch: Epoch,
        later: Sequence[Epoch] = (),
        rounds: int,
        state: Digest,
        scales: Digest,
        records: ReadRecords,
        size: int | None = None,
        finish: Callable[[ev.Finished, RoundNotes], Any],
        change: Callable[[Epoch, Certificate], Awaitable[None]],
        up: Callable[[], None] = lambda: None,
    ) -> None:
        """`epoch`, `state` and `scales` are the run's first; `records` reads this member's
        table, for each round anew.

        `later`: epochs since, in order, and for a member that comes only now the one with its
        seat.  `size`: entries of a state, where fewer travel.  `up` is called once the machine
        has its records back: what may follow its epoch is then offered to it anew.
        """
        self.progress: Mapping[str, Any] | None = None
        self.reason = ""
        self._tools = tools
        self._epoch = epoch
        self._later = tuple(later)
        self._offers = {each.name(): ev.EpochOffered(each) for each in later}
        """Epochs that have followed or may follow; the newest word of it last."""
        self._rounds = rounds
        self._up = up
        self._first = state, scales
        self._box = RecordBox(tools.store, tools.signer, epoch.run)
        self._hands = Hands(
            tools=tools,
            plan=plan,
            epoch=epoch,
            rounds=rounds,
            records=records,
            box=self._box,
            size=size,
            finish=finish,
            change=change,
            tell=self._tell,
            complain=self._complain,
        )
        self._held = False
        self._driver: Driver | None = None
        self._machine: Rounds | None = None

    async def run(self) -> None:
        """Until cancelled, or until this node has left the run.

        A finished run still answers those that missed its end.
        """
        await self._hands.load()
        state, scales = self._first
        try:
            machine = Rounds(
                self._epoch,
                PublicKey(self._tools.signer.public_key),
                Keyring(self._tools),
                state=state,
                scales=scales,
                records=await self._box.read(),
                known_epochs=self._later,
            )
        except LocalProtocolError as error:
            # Killed between the record of the verdict that took its seat and the word of it.
            self._complain(str(error))
            return
        except MalformedMessageError as error:
            # The others go on without this node; the daemon has other runs, and more to do.
            log.warning("records of a run cannot be read", reason=str(error))
            self._complain(
                "this node's records of the run cannot be read, they are damaged or of another"
                f" version of the program: {error}"
            )
            return
        self._machine = machine
        newest = machine.newest()
        if newest is not None:
            # Killed between the record of a verdict and the row: its round was never told of.
            await self._hands.finished(newest)
            if newest.verdict.epoch != newest.certificate.slot.epoch:
                await self._hands.entered(machine.epoch)
        self._hands.enter(machine.epoch)
        self._up()
        self._driver = Driver(machine, self._hands)
        over = machine.round >= self._rounds
        offers = list(self._offers.values())
        await self._driver.run(over=over, hold=self._held, offers=offers)

    @property
    def epoch(self) -> Epoch | None:
        """The present members and numbers; None before the machine is up."""
        return None if self._machine is None else self._machine.epoch

    def offer(
        self,
        epoch: Epoch,
        certificate: Certificate | None = None,
        *,
        exposed: frozenset[bytes] = frozenset(),
    ) -> None:
        """The epoch that is next, as far as this node can tell; another may replace it.

        `certificate`: of the verdict that led to it, where it has begun.  `exposed`: of those
        that go, whose updates need not be hidden any more (docs/protocol.md §5.7).
        """
        name, said = epoch.name(), ev.EpochOffered(epoch, certificate, exposed)
        if self._offers.get(name) == said and name == next(reversed(self._offers)):
            return
        self._offers.pop(name, None)
        self._offers[name] = said
        if self._driver is not None:
            self._driver.give(said)

    def knows(self, epoch: bytes) -> bool:
        """Is it an epoch that this node was told of, past, present or to come?"""
        return epoch == self._epoch.name() or epoch in self._offers

    def hold(self, *, hold: bool) -> None:
        """Open no further round, or go on; the round under way ends as it would have."""
        if self._held != hold and self._driver is not None:
            over = self._machine is None or self._machine.round >= self._rounds
            if not over:  # a run that is over holds for ever
                self._driver.give(ev.Held(hold=hold))
        self._held = hold

    async def end(self) -> None:
        """No round after the one under way, ever: what this node kept for them is deleted."""
        await self._hands.end()

    def hear(self, heard: Heard) -> None:
        """A verified message of this run."""
        if self._driver is None:
            raise GossipIgnore("the run is not up yet; its sender says it again")
        if not self._driver.give(ev.Received(heard)):
            log.warning("round message not taken", round=heard.round)

    def stage(self) -> str | None:
        """The machine's word for where it stands; None before it is up."""
        return None if self._machine is None else self._machine.phase

    def away(self) -> tuple[bytes, ...]:
        """Members this node has not heard from lately; nobody before it is up."""
        return () if self._machine is None else self._machine.absent()

    def lacking(self) -> tuple[bytes, ...]:
        """Members that are away and that no sum may be opened without (docs/protocol.md §5.7)."""
        return () if self._machine is None else self._machine.lacking()

    def accused(self) -> Mapping[str, str]:
        """Members shown to break a rule in the round under way, and how."""
        return self._hands.accused

    def may_fetch(self, peer: PeerId, blob: Digest) -> bool:
        """Masked shards and sums are for the members of the run."""
        return self._hands.may_fetch(peer, blob)

    def _tell(self, progress: Mapping[str, Any] | None) -> None:
        self.progress = progress

    def _complain(self, reason: str) -> None:
        self.reason = reason
