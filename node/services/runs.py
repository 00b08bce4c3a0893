"""Training runs of the federation: proposed, consented to, trained, kept.

Everybody hears of every run and may list it; a node that is named in one takes part once its
steward has consented with a dataset of its own.  What a run costs an institution is decided
there: nothing trains before every member named has said yes to exactly that text.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack
import structlog
import trio

from node.clock import now_s
from node.errors import ComputeError, NodeError, RoundError
from node.ports import Announcement
from node.services.hands import RoundNotes, Tools
from node.services.outbox import Outbox
from node.services.training import Trainer
from protocol.aggregate.messages import hear
from protocol.course import Course, Final
from protocol.errors import ProtocolError
from protocol.runs import (
    CONSENT_TOPIC,
    PROPOSAL_TOPIC,
    ROUND_TOPIC,
    Consent,
    Plan,
    Proposal,
    canonical_plan,
    open_consent,
    open_proposal,
    parse_plan,
    seal_consent,
    seal_proposal,
)
from protocol.types import Digest, PeerId, digest

_RUNS, _CONSENTS, _ROUNDS = "runs", "run-consents", "run-rounds"

log = structlog.get_logger()


class Datasets(Protocol):
    """What runs need of the market."""

    async def own_rows(self, dataset: int) -> bytes: ...


@dataclass
class Record:
    """One run as this node knows it."""

    course: Course
    plan: Plan
    proposer: bytes
    sealed: bytes
    rounds: list[dict[str, Any]]
    trainer: Trainer | None = None
    reason: str = ""

    @property
    def spec(self) -> dict[str, Any]:
        """The model, as `ee.spec` reads it."""
        return self.plan.spec

    @property
    def members(self) -> tuple[bytes, ...]:
        """Node keys, sorted."""
        return self.course.proposal.members

    @property
    def initial(self) -> bytes:
        """Root of the first state."""
        return self.course.proposal.initial

    @property
    def datasets(self) -> tuple[int, ...]:
        """Tokens of the datasets that train."""
        return tuple(sorted(one.dataset for one in self.course.consents.values()))

    def phase(self) -> str:
        """For a person: proposed, training, finished."""
        if self.course.over:
            return "finished"
        all_in = len(self.course.consents) == len(self.members)
        return "training" if all_in else "proposed"


class Runs:
    """Every run this node has proposed or heard of."""

    def __init__(self, *, tools: Tools, datasets: Datasets, outbox: Outbox) -> None:
        self._tools = tools
        self._datasets = datasets
        self._outbox = outbox
        self._known: dict[bytes, Record] = {}
        self._early: dict[bytes, list[bytes]] = {}
        self._start, self._starting = trio.open_memory_channel[bytes](1024)

    async def load(self) -> None:
        """What was known before the restart; runs under way go on."""
        store = self._tools.store
        for _, sealed in await store.scan(_RUNS):
            proposal, proposer = open_proposal(sealed)
            self._add(sealed, proposal, proposer)
        for _, sealed in await store.scan(_CONSENTS):
            consent, member = open_consent(sealed)
            self._known[consent.run].course.consent(member, consent)
        for key, data in sorted(await store.scan(_ROUNDS)):
            row = msgpack.unpackb(data)
            record = self._known[key[:32]]
            record.rounds.append(row["notes"])
            record.course.finish(
                Final(
                    row["round"],
                    row["attempt"],
                    Digest(row["state"]),
                    tuple(row["claims"]),
                )
            )
        for run in self._known:
            self._start.send_nowait(run)

    # --- from the operator -----------------------------------------------------

    async def propose(
        self, plan: str, rounds: int, members: Sequence[str], dataset: int
    ) -> dict[str, Any]:
        """Propose a run to members by name, and consent to it with `dataset`."""
        parsed = parse_plan(plan.encode())
        keys = {self._tools.federation.named(name).node_key for name in members}
        keys.add(self._tools.signer.public_key)
        created = await self._create(parsed)
        proposal = Proposal(
            title=parsed.title,
            plan=canonical_plan(parsed),
            initial=created["root"],
            rounds=rounds,
            members=tuple(sorted(keys)),
            created=now_s(),
        )
        proposal.check()
        consent = await self._consent_to(proposal, parsed, dataset)
        me = self._tools.signer
        sealed = seal_proposal(me.sign, me.public_key, proposal)
        await self._keep_proposal(sealed)
        await self._tools.transport.announce(PROPOSAL_TOPIC, sealed)
        await self._give(consent)
        return self.row(proposal.id())

    async def join(self, run: bytes, dataset: int) -> dict[str, Any]:
        """Consent to a run with a dataset of this node."""
        record = self.record(run)
        me = self._tools.signer.public_key
        if me not in record.members:
            raise RoundError(
                f"run {run.hex()[:16]} does not name this node",
                hint="ask its proposer for a run that does",
            )
        if me in record.course.consents:
            raise RoundError(f"this node has consented to run {run.hex()[:16]} already")
        created = await self._create(record.plan)
        if created["root"] != record.course.proposal.initial:
            raise RoundError(
                "the proposal's first state is not what its model file gives",
                hint="do not join: the proposer runs another program, or lies",
            )
        consent = await self._consent_to(record.course.proposal, record.plan, dataset)
        await self._give(consent)
        return self.row(run)

    # --- from the network ------------------------------------------------------

    async def heard_proposal(self, said: Announcement) -> None:
        """A member proposes a run."""
        await self._keep_proposal(said.payload)

    async def heard_consent(self, said: Announcement) -> None:
        """A member's steward consents."""
        consent, member = open_consent(said.payload)
        if consent.run not in self._known:
            # Announcements of different members arrive in any order.
            waiting = self._early.setdefault(consent.run, [])
            if len(self._early) <= 64 and len(waiting) < 64:
                waiting.append(said.payload)
            return
        await self._keep_consent(consent, member, said.payload)

    async def heard_round(self, said: Announcement) -> None:
        """A message of an attempt; relayed ones prove themselves."""
        heard = hear(said.payload)
        record = self._known.get(heard.said.run)
        if record is None:
            return
        missed = (record.trainer or record.course).hear(heard)
        if missed is not None:
            for claim in missed.claims:
                await self._tools.transport.announce(ROUND_TOPIC, claim)

    # --- work ------------------------------------------------------------------

    async def run(self) -> None:
        """Train every run that is ready, for ever."""
        async with trio.open_nursery() as nursery:
            async for run in self._starting:
                record = self._known[run]
                me = self._tools.signer.public_key
                consented = record.course.consents.get(me)
                all_in = len(record.course.consents) == len(record.members)
                if consented and all_in and not record.trainer:
                    nursery.start_soon(self._train, record, consented.dataset)

    async def _train(self, record: Record, dataset: int) -> None:
        try:
            created = await self._create(record.plan)
            records = await self._datasets.own_rows(dataset)
        except NodeError as error:
            record.reason = str(error)
            log.warning("run cannot start", run=_short(record), reason=str(error))
            return
        record.course.measure(created["size"])
        record.trainer = Trainer(
            self._tools, record.course, record.plan, created["size"], records
        )
        while not record.course.over:
            final, notes = await record.trainer.round()
            await self._finish(record, final, notes, records)

    async def _finish(
        self, record: Record, final: Final, notes: RoundNotes, records: bytes
    ) -> None:
        scores = await self._evaluate(record, final.state, records)
        row = _round_row(record.course, final, notes, scores)
        stored = {
            "round": final.round,
            "attempt": final.attempt,
            "state": final.state,
            "claims": list(final.claims),
            "notes": row,
        }
        key = record.course.run + final.round.to_bytes(8, "big")
        # The anchor first: after a crash in between it is queued a second time, which the
        # chain refuses; the other way round it would be lost.
        await self._outbox.put("round", record.course.run, final.round, final.state)
        await self._tools.store.put(_ROUNDS, key, msgpack.packb(stored))
        record.rounds.append(row)
        record.course.finish(final)
        await self._tools.store.append_event("round.final", row)
        if record.trainer is not None:
            await record.trainer.tidy(final.round)
        log.info("round final", run=_short(record), round=final.round, **scores)

    async def _evaluate(
        self, record: Record, state: bytes, records: bytes
    ) -> dict[str, Any]:
        """AUC and loss on this node's own held-out records; absent if that fails."""
        try:
            return await self._tools.compute.call(
                "train.evaluate",
                {
                    "spec": record.plan.spec,
                    "task": record.plan.task,
                    "folder": str(self._tools.folders.states),
                    "root": state,
                    "records": records,
                },
            )
        except ComputeError as error:
            log.warning("not evaluated", run=_short(record), reason=str(error))
            return {"held_out": 0, "auc": None, "loss": None}

    async def _create(self, plan: Plan) -> dict[str, Any]:
        return await self._tools.compute.call(
            "model.create",
            {"spec": plan.spec, "folder": str(self._tools.folders.states)},
        )

    async def _consent_to(
        self, proposal: Proposal, plan: Plan, dataset: int
    ) -> Consent:
        found = await self._tools.compute.call(
            "train.check",
            {
                "spec": plan.spec,
                "task": plan.task,
                "train": plan.train,
                "records": await self._datasets.own_rows(dataset),
            },
        )
        return Consent(proposal.id(), dataset, found["samples"])

    async def _give(self, consent: Consent) -> None:
        me = self._tools.signer
        sealed = seal_consent(me.sign, me.public_key, consent)
        await self._keep_consent(consent, me.public_key, sealed)
        await self._tools.transport.announce(CONSENT_TOPIC, sealed)

    # --- records ---------------------------------------------------------------

    def record(self, run: bytes) -> Record:
        """The run called `run`."""
        record = self._known.get(run)
        if record is None:
            raise RoundError(
                f"run {run.hex()[:16]} is not known here",
                hint="`rexis run list` shows what is",
            )
        return record

    def final_state(self, run: bytes) -> Digest:
        """The state a finished run ended with."""
        record = self.record(run)
        if not record.course.over:
            raise RoundError(
                f"run {run.hex()[:16]} is in round {record.course.round} of"
                f" {record.course.proposal.rounds}",
                hint="wait until it is finished",
            )
        return record.course.state

    def may_fetch(self, peer: PeerId, blob: Digest) -> bool:
        """Masked shards and sums of the attempt under way, each to whom it is for."""
        return any(
            record.trainer is not None and record.trainer.may_fetch(peer, blob)
            for record in self._known.values()
        )

    def may_read_state(self, run: bytes, root: bytes, peer: PeerId) -> bool:
        """States of a run are for its members."""
        record = self._known.get(run)
        if record is None:
            return False
        member = self._tools.federation.members.by_peer(peer)
        known = {record.course.state, record.course.proposal.initial}
        return (
            member is not None and member.node_key in record.members and root in known
        )

    def rows(self) -> list[dict[str, Any]]:
        """For `runs.list`, oldest first."""
        ordered = sorted(self._known.values(), key=lambda r: r.course.proposal.created)
        return [self.row(record.course.run) for record in ordered]

    def row(self, run: bytes) -> dict[str, Any]:
        """For a person or a program to read."""
        record = self.record(run)
        course, trainer = record.course, record.trainer
        name = self._tools.federation.name_of
        return {
            "run": run.hex(),
            "title": course.proposal.title,
            "phase": record.phase(),
            "round": course.round,
            "rounds": course.proposal.rounds,
            "members": [name(member) for member in record.members],
            "consents": [name(member) for member in course.consents],
            "datasets": {
                name(member): consent.dataset
                for member, consent in course.consents.items()
            },
            "samples": {
                name(member): consent.samples
                for member, consent in course.consents.items()
            },
            "state_root": course.state.hex(),
            "proposed_by": name(record.proposer),
            "mine": self._tools.signer.public_key in record.members,
            "reason": (trainer.reason if trainer else "") or record.reason or None,
            "progress": dict(trainer.progress)
            if trainer and trainer.progress
            else None,
        }

    def rounds(self, run: bytes) -> list[dict[str, Any]]:
        """Final rounds, as this node measured them."""
        return self.record(run).rounds

    def _add(self, sealed: bytes, proposal: Proposal, proposer: bytes) -> Record:
        plan = parse_plan(proposal.plan)
        if canonical_plan(plan) != proposal.plan:
            raise ProtocolError("the proposal's model file is not in canonical form")
        record = Record(Course(proposal), plan, proposer, sealed, [])
        self._known[proposal.id()] = record
        return record

    async def _keep_proposal(self, sealed: bytes) -> None:
        proposal, proposer = open_proposal(sealed)
        run = proposal.id()
        if run in self._known:
            return
        self._tools.federation.key(proposer)
        record = self._add(sealed, proposal, proposer)
        await self._tools.store.put(_RUNS, run, sealed)
        await self._tools.store.append_event("run.proposed", self.row(run))
        log.info("run proposed", run=_short(record), title=proposal.title)
        for early in self._early.pop(run, []):
            consent, member = open_consent(early)
            await self._keep_consent(consent, member, early)

    async def _keep_consent(
        self, consent: Consent, member: bytes, sealed: bytes
    ) -> None:
        record = self._known[consent.run]
        if not record.course.consent(member, consent):
            return
        await self._tools.store.put(_CONSENTS, consent.run + digest(sealed), sealed)
        await self._tools.store.append_event(
            "run.consent",
            {
                "run": consent.run.hex(),
                "member": self._tools.federation.name_of(member),
                "dataset": consent.dataset,
                "samples": consent.samples,
            },
        )
        await self._start.send(consent.run)


def _round_row(
    course: Course, final: Final, notes: RoundNotes, scores: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "run": course.run.hex(),
        "round": final.round,
        "attempt": final.attempt,
        "attempts": notes.attempts,
        "state_root": final.state.hex(),
        "seconds": round(notes.seconds, 3),
        "finished_at": int(time.time()),
        "loss_first": notes.loss_first,
        "loss_last": notes.loss_last,
        "norm": notes.norm,
        "cut": notes.cut,
        "held_out": scores["held_out"],
        "auc": scores["auc"],
        "loss": scores["loss"],
        "bytes_received": sum(size for _, size in notes.received.values()),
        "received": {
            name: {"count": count, "bytes": size}
            for name, (count, size) in sorted(notes.received.items())
        },
    }


def _short(record: Record) -> str:
    return record.course.run.hex()[:16]
