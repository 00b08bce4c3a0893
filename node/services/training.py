"""One member's part in the rounds of one run: train, sum, step, again.

The rules are two pure machines, `protocol.course` for the run and `protocol.aggregate.round`
for one attempt; this module owns what they cannot: files, the child, the network, waiting.
What a restart needs is stored before anything is said.  After a crash an attempt is never
taken up again; the next one has fresh masks over the same stored update.
"""

import hashlib
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import structlog
import trio

from node.driver import drive
from node.errors import ComputeError, NodeError
from node.services.hands import SAID, Hands, RoundNotes, Tools
from protocol.aggregate.messages import Heard
from protocol.aggregate.ring import WORD_BYTES
from protocol.aggregate.round import Event, Finished, Received, Round, Started
from protocol.course import Course, Final
from protocol.runs import Plan
from protocol.types import Digest, Millis, PeerId, PublicKey

ATTEMPTS, UPDATES = "round-attempts", "round-updates"
PAUSE_FIRST_S = 0.5
PAUSE_LIMIT_S = 30.0
_INBOX = 4096

log = structlog.get_logger()


class Trainer:
    """The rounds of one run at this node."""

    def __init__(
        self, tools: Tools, course: Course, plan: Plan, size: int, records: bytes
    ) -> None:
        self.course = course
        self.reason = ""
        self.progress: Mapping[str, Any] | None = None
        self._tools = tools
        self._plan = plan
        self._size = size
        self._records = records
        self._news = trio.Event()
        self._inbox: tuple[int, int, trio.MemorySendChannel[Event]] | None = None
        self._readers: dict[Digest, frozenset[PeerId]] = {}

    # --- from outside ----------------------------------------------------------

    def hear(self, heard: Heard) -> Final | None:
        """A verified message of this run; returns a round its sender missed the end of."""
        missed = self.course.hear(heard)
        said = heard.said
        if self._inbox is not None and self._inbox[:2] == (said.round, said.attempt):
            try:
                self._inbox[2].send_nowait(Received(heard))
            except (trio.WouldBlock, trio.BrokenResourceError):
                # Full or over: the course has kept the message for the next attempt, and
                # whoever missed the end of a round is shown its claims.
                log.warning("round message not taken", round=said.round)
        news, self._news = self._news, trio.Event()
        news.set()
        return missed

    def may_fetch(self, peer: PeerId, digest: Digest) -> bool:
        """A masked shard is for its owner, a sum for the members."""
        return peer in self._readers.get(digest, frozenset())

    # --- one round -------------------------------------------------------------

    async def round(self) -> tuple[Final, RoundNotes]:
        """Bring the open round to its end, however many attempts it takes."""
        notes, begun = RoundNotes(), time.monotonic()
        ended: list[Final] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_agreed, nursery.cancel_scope)
            ended.append(await self._attempts(notes))
            nursery.cancel_scope.cancel()
        final = ended[0] if ended else self.course.agreed()
        if final is None:
            raise ComputeError("the round ended without a state")
        await self._ensure_state(final)
        notes.seconds = time.monotonic() - begun
        return final, notes

    async def tidy(self, number: int) -> None:
        """Drop what a final round leaves: blobs, the update, what was said."""
        for blob in self._readers:
            self._tools.blobs.delete(blob)
        self._readers.clear()
        store, key = self._tools.store, self._key(number)
        for namespace in (SAID, ATTEMPTS, UPDATES):
            for name, _ in await store.scan(namespace):
                if name.startswith(key):
                    await store.delete(namespace, name)
        self._update_path(number).unlink(missing_ok=True)
        self.progress = None

    async def _until_agreed(self, scope: trio.CancelScope) -> None:
        """The others may end a round that this node is still working on."""
        while self.course.agreed() is None:
            await self._news.wait()
        scope.cancel()

    async def _attempts(self, notes: RoundNotes) -> Final:
        await self._train(notes)
        last, pause = await self._last_attempt(), PAUSE_FIRST_S
        while True:
            number = max(self.course.newest(), last + 1)
            notes.attempts += 1
            # Stored first: a context is never used again with another seed.
            await self._tools.store.put(
                ATTEMPTS, self._key(self.course.round), number.to_bytes(8, "big")
            )
            end = await self._attempt(number, notes)
            if isinstance(end, Final):
                self.reason = ""
                return end
            last, self.reason = number, end
            await self._tools.store.append_event(
                "round.attempt-failed",
                {
                    "run": self.course.run.hex(),
                    "round": self.course.round,
                    "attempt": number,
                    "reason": end,
                },
            )
            await self._pause(number, pause)
            pause = min(PAUSE_LIMIT_S, 2 * pause)

    async def _pause(self, number: int, seconds: float) -> None:
        with trio.move_on_after(seconds):
            while self.course.newest() <= number:
                await self._news.wait()

    async def _attempt(self, number: int, notes: RoundNotes) -> Final | str:
        """One attempt; the final round, or why there is none."""
        tools, attempt = self._tools, self.course.attempt(number)
        machine = Round(
            attempt,
            PublicKey(tools.signer.public_key),
            tools.signer.sign,
            secrets.token_bytes(32),
            deadline=Millis(round(1000 * tools.phase_s)),
            upload_deadline=Millis(round(1000 * tools.train_s)),
        )
        send, receive = trio.open_memory_channel[Event](_INBOX)
        hands = Hands(
            tools=tools,
            plan=self._plan,
            machine=machine,
            notes=notes,
            update=self._update_path(),
            readers=self._readers,
            tell=self._tell,
        )
        self._inbox = (attempt.round, number, send)
        send.send_nowait(Started())
        for heard in self.course.mail(number):
            send.send_nowait(Received(heard))
        end: Any = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_newer, number, nursery.cancel_scope)
                end = await drive(machine, hands, receive, send)
                nursery.cancel_scope.cancel()
        finally:
            self._inbox = None
        if end is None:
            return f"the others went on to attempt {self.course.newest()}"
        if isinstance(end, Finished):
            return Final(attempt.round, number, end.state, end.claims)
        names = ", ".join(tools.federation.name_of(member) for member in end.members)
        return f"{end.reason}{f' ({names})' if names else ''}"

    async def _until_newer(self, number: int, scope: trio.CancelScope) -> None:
        while self.course.newest() <= number:
            await self._news.wait()
        scope.cancel()

    # --- the update ------------------------------------------------------------

    async def _train(self, notes: RoundNotes) -> None:
        """Have the update of the open round on disk: trained now, or before a restart."""
        stored = await self._tools.store.get(UPDATES, self._key(self.course.round))
        if stored is not None:
            told = msgpack.unpackb(stored)
            if told["base"] == self.course.state and self._update_path().is_file():
                self._note(notes, told)
                return
        told = {**await self._trained(), "base": self.course.state}
        await self._tools.store.put(
            UPDATES, self._key(self.course.round), msgpack.packb(told)
        )
        self._note(notes, told)

    async def _trained(self) -> dict[str, Any]:
        """Local steps, repeated until the child and the worker have done them."""
        pause = PAUSE_FIRST_S
        while True:
            try:
                told = await self._train_once()
            except ComputeError as error:
                self.reason = str(error)
                log.warning("training repeats", reason=str(error), retry_s=pause)
                await trio.sleep(pause)
                pause = min(PAUSE_LIMIT_S, 2 * pause)
            else:
                self.reason = ""
                return told

    async def _train_once(self) -> dict[str, Any]:
        tools, course = self._tools, self.course
        tools.folders.work.mkdir(mode=0o700, parents=True, exist_ok=True)

        def tell(data: Mapping[str, Any]) -> None:
            self.progress = {"what": "training", **data}

        # Which records a step takes is drawn from public values: it tells nobody anything
        # without the records, and makes a run repeatable.
        drawn = hashlib.sha256(self._key(course.round) + tools.signer.public_key)
        return await tools.compute.call(
            "train.local",
            {
                "spec": self._plan.spec,
                "task": self._plan.task,
                "train": self._plan.train,
                "folder": str(tools.folders.states),
                "root": course.state,
                "records": self._records,
                "worker": tools.worker_socket,
                "key_seed": secrets.token_bytes(32),
                "batch_seed": int.from_bytes(drawn.digest()[:8], "big"),
                "elapsed": course.round / course.proposal.rounds,
                "out": str(self._update_path()),
            },
            progress=tell,
        )

    def _note(self, notes: RoundNotes, told: Mapping[str, Any]) -> None:
        notes.loss_first, notes.loss_last = told["loss_first"], told["loss_last"]
        notes.norm = told["norm"]

    def _tell(self, what: str) -> None:
        self.progress = {"what": what, "step": None, "of": None, "loss": None}

    async def _ensure_state(self, final: Final) -> None:
        """A member that missed the end of a round has not computed its state."""
        pause = PAUSE_FIRST_S
        while not self._tools.states.has(final.state):
            peers = [
                self._tools.federation.key(member).peer_id
                for member in self.course.proposal.members
                if member != self._tools.signer.public_key
            ]
            try:
                await self._tools.states.fetch(
                    self.course.run, final.state, WORD_BYTES * self._size, peers
                )
            except NodeError as error:
                self.reason = str(error)
                await trio.sleep(pause)
                pause = min(PAUSE_LIMIT_S, 2 * pause)

    async def _last_attempt(self) -> int:
        stored = await self._tools.store.get(ATTEMPTS, self._key(self.course.round))
        return -1 if stored is None else int.from_bytes(stored, "big")

    def _key(self, number: int) -> bytes:
        return self.course.run + number.to_bytes(8, "big")

    def _update_path(self, number: int | None = None) -> Path:
        round_ = self.course.round if number is None else number
        return self._tools.folders.work / f"{self.course.run.hex()}-{round_}.update"
