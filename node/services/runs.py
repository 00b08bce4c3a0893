"""Training runs of the federation: proposed, consented to, trained, kept.

Everybody hears of every run and may list it; a node that is named in one takes part once its
steward has consented with a dataset of its own.  What a run costs an institution is decided
there: nothing trains before every member named has said yes to exactly that text.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import msgpack
import structlog
import trio

from node.clock import now_s
from node.errors import NodeError, RoundError
from node.ports.transport import Announcement
from node.services.bases import require_own_host
from node.services.early import Early
from node.services.hands import RoundNotes, Tools
from node.services.outbox import Outbox
from node.services.run_record import Record
from node.services.run_rows import round_row, run_row
from node.services.seats import Seats
from node.services.sessions import Sessions
from node.services.steering import Steering
from node.services.training import Trainer
from protocol.certificate import Certificate
from protocol.course import (
    Course,
    policy,
    require_budget,
    require_room,
    velocities,
)
from protocol.errors import GossipIgnore, GossipReject, ProtocolError
from protocol.rounds.events import Finished
from protocol.rounds.messages import LIMIT_BYTES, Heartbeat, hear
from protocol.rounds.policy import Epoch
from protocol.runs import (
    CONSENT_TOPIC,
    PROPOSAL_TOPIC,
    ROUND_PROTOCOL,
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
from protocol.seating import Change
from protocol.types import Digest, PeerId, digest
from protocol.wire import encode

_RUNS, _CONSENTS, _ROUNDS = "runs", "run-consents", "run-rounds"

log = structlog.get_logger()


class Datasets(Protocol):
    """What runs need of the market."""

    async def own_rows(self, dataset: int) -> bytes: ...


class Runs:
    """Every run this node has proposed or heard of."""

    def __init__(self, *, tools: Tools, datasets: Datasets, outbox: Outbox) -> None:
        self._tools = tools
        self._datasets = datasets
        self._outbox = outbox
        self._known: dict[bytes, Record] = {}
        self._early = Early()
        self._steering = Steering(tools)
        self._start, self._starting = trio.open_memory_channel[bytes](1024)
        self._seats = Seats(tools, self._known, self, self._seats_changed)
        tools.transport.serve(ROUND_PROTOCOL, self._serve, limit_bytes=LIMIT_BYTES)

    async def load(self) -> None:
        """What was known before the restart; runs under way go on."""
        store = self._tools.store
        await Sessions(store, self._tools.signer).end_all()
        for _, sealed in await store.scan(_RUNS):
            proposal, proposer = open_proposal(sealed)
            self._known[proposal.id()] = await self._read(sealed, proposal, proposer)
        for _, sealed in await store.scan(_CONSENTS):
            consent, member = open_consent(sealed)
            self._known[consent.run].course.consent(member, consent)
        await self._steering.load({**self._known})
        await self._seats.load()
        for key, data in sorted(await store.scan(_ROUNDS)):
            row = msgpack.unpackb(data)
            record = self._known[key[:32]]
            record.rounds.append(row["notes"])
            record.done, record.state = row["round"] + 1, Digest(row["state"])
            record.scales = Digest(row["scales"])
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
        require_room(len(keys), parsed)
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
        await trio.to_thread.run_sync(require_budget, proposal, parsed)
        consent = await self._consent_to(proposal, parsed, dataset)
        me = self._tools.signer
        sealed = seal_proposal(me.sign, me.public_key, proposal)
        await self.take_proposal(sealed)
        await self._tools.transport.announce(PROPOSAL_TOPIC, sealed)
        await self._give(consent)
        return self.row(proposal.id())

    async def join(self, run: bytes, dataset: int) -> dict[str, Any]:
        """Consent to a run with a dataset of this node; where it is under way, ask for a seat."""
        if run not in self._known:
            await self._learn(run)
        record = self.record(run)
        me = self._tools.signer.public_key
        if me in record.course.consents:
            raise RoundError(f"this node has consented to run {run.hex()[:16]} already")
        if record.phase() in {"ended", "finished"}:
            raise RoundError(f"run {run.hex()[:16]} is {record.phase()}")
        if me not in record.members and record.phase() == "proposed":
            raise RoundError(
                f"run {run.hex()[:16]} does not name this node",
                hint="ask its proposer for a run that does, or for a seat once it has begun",
            )
        require_room(len(record.course.proposal.members), record.plan)
        created = await self._create(record.plan)
        if created["root"] != record.course.proposal.initial:
            raise RoundError(
                "the proposal's first state is not what its model file gives",
                hint="do not join: the proposer runs another program, or lies",
            )
        consent = await self._consent_to(record.course.proposal, record.plan, dataset)
        await self._give(consent)
        return self.row(run)

    async def steer(self, run: bytes, word: str) -> dict[str, Any]:
        """Pause, resume or end this node's part in a run, and tell the others."""
        await self._steering.say(self.record(run), word)
        return self.row(run)

    async def seat(self, run: bytes, member: str, word: str) -> dict[str, Any]:
        """Say whom the run should seat, in a word of a wish; `member` is a name, "" this node."""
        federation, me = self._tools.federation, self._tools.signer.public_key
        about = federation.named(member).node_key if member else me
        await self._seats.say(self.record(run), about, word)
        return self.row(run)

    async def _learn(self, run: bytes) -> None:
        """A run proposed before this node was there: its members tell its story."""
        me = self._tools.signer.peer_id
        for peer in self._tools.transport.connected() - {me}:
            with suppress(NodeError, ProtocolError):
                if await self._seats.ask(run, peer):
                    return

    # --- from the network ------------------------------------------------------

    async def heard_proposal(self, said: Announcement) -> None:
        """A member proposes a run."""
        await self.take_proposal(said.payload)

    async def heard_consent(self, said: Announcement) -> None:
        """A member's steward consents."""
        consent, member = open_consent(said.payload)
        if consent.run not in self._known:
            self._early.keep(said.origin, consent.run, said.payload)
            return
        await self._keep_consent(consent, member, said.payload)

    async def heard_stance(self, said: Announcement) -> None:
        """A member's operator wants a run to go on, to pause or to end."""
        await self._steering.heard(said, {**self._known})

    async def heard_wish(self, said: Announcement) -> None:
        """A member's operator wants somebody in a run, or out of it."""
        await self._seats.heard_wish(said)

    async def heard_change(self, said: Announcement) -> None:
        """A run has other members now."""
        await self._seats.heard_change(said)

    async def heard_round(self, said: Announcement) -> None:
        """A message of a round; relayed ones prove themselves."""
        self._hear(said.payload)

    async def _serve(self, peer: PeerId, payload: bytes) -> bytes:
        """The same, told to this node alone."""
        self._tools.federation.peer(peer)
        with suppress(GossipIgnore):
            self._hear(payload)
        return b""

    def _hear(self, envelope: bytes) -> None:
        heard = hear(envelope)
        record = self._known.get(heard.run)
        if record is None:
            raise GossipIgnore("not a run this node knows")
        course = record.course
        if (
            heard.sender not in course.consents
            and heard.sender not in course.seating.ever
        ):
            raise GossipReject("who speaks never asked for a seat in the run")
        if isinstance(heard.body, Heartbeat) and self._is_news(record, heard.context):
            member = self._tools.federation.key(heard.sender)
            self._seats.astray(heard.run, member.peer_id)
        if record.trainer is None:
            raise GossipIgnore("not a run this node trains in now")
        record.trainer.hear(heard)

    def _is_news(self, record: Record, epoch: bytes) -> bool:
        """Is a member told of an epoch of its run here, and was not told what led to it?"""
        if record.trainer is not None:
            return not record.trainer.knows(epoch)
        me, course = self._tools.signer.public_key, record.course
        return me in course.consents and me not in course.seating.ever

    # --- work ------------------------------------------------------------------

    async def run(self) -> None:
        """Train in every run that is ready, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._seats.run)
            async for run in self._starting:
                record = self._known[run]
                me = self._tools.signer.public_key
                consented = record.course.consents.get(me)
                if consented and not record.starting and self._has_part(record):
                    record.starting = True
                    nursery.start_soon(self._train, record, consented.dataset)

    def _has_part(self, record: Record) -> bool:
        """Does this node have a seat, or is it about to get one?"""
        me, course = self._tools.signer.public_key, record.course
        members = course.members
        return course.complete and (
            me in members or me in course.seating.admitted(course.consents, members)
        )

    async def _seats_changed(self, run: bytes) -> None:
        record = self._known[run]
        self._seats.offer(record)
        if record.trainer is not None:
            await self._steering.apply(record.trainer, record.course)
        await self._start.send(run)

    async def _train(self, record: Record, dataset: int) -> None:
        course, folder = record.course, str(self._tools.folders.states)
        try:
            # Again: the worker's place may have changed since this node consented.
            require_own_host(record.plan.spec, self._tools.worker_host)
            created = await self._create(record.plan)
            epoch = course.epoch(created["size"], record.plan)
            first = await self._tools.compute.call(
                "round.scales",
                {
                    "length": epoch.policy.length,
                    "velocities": velocities(created["size"], record.plan),
                    "folder": folder,
                },
            )
        except (NodeError, ProtocolError) as error:
            record.reason, record.starting = str(error), False
            log.warning("run cannot start", run=_short(record), reason=str(error))
            return
        record.last_end = trio.current_time()
        if record.scales is None:
            record.scales = Digest(first["root"])

        async def finish(end: Finished, notes: RoundNotes) -> None:
            await self._finish(record, end, notes)

        async def change(entered: Epoch, certificate: Certificate) -> None:
            await self._seats.entered(record, entered, certificate)

        seating = course.seating
        later = [each.epoch for each in seating.changes]
        if self._tools.signer.public_key not in course.members:
            wanted = seating.next(later[-1] if later else epoch, course.consents)
            if wanted is None:
                record.starting = False
                return  # somebody has changed its mind meanwhile
            later.append(wanted)
        record.trainer = Trainer(
            tools=self._tools,
            plan=record.plan,
            epoch=epoch,
            later=later,
            rounds=record.rounds_allowed,
            state=Digest(course.proposal.initial),
            scales=Digest(first["root"]),
            records=partial(self._datasets.own_rows, dataset),
            size=created["size"],
            finish=finish,
            change=change,
            up=lambda: self._seats.offer(record),
        )
        await self._steering.apply(record.trainer, course)
        await record.trainer.run()
        # It has left the run, or could not take it up again.
        record.reason, record.trainer = record.trainer.reason, None

    async def _finish(self, record: Record, end: Finished, notes: RoundNotes) -> None:
        verdict, run = end.verdict, record.course.run
        if verdict.round < record.done:
            return  # told of before a restart
        seconds = trio.current_time() - record.last_end
        row = round_row(run, end, notes, seconds, self._tools.federation.name_of)
        stored = {
            "round": verdict.round,
            "state": verdict.state,
            "scales": verdict.scales,
            "certificate": encode(end.certificate),
            "notes": row,
        }
        key = run + verdict.round.to_bytes(8, "big")
        # The anchor first: after a crash in between it is queued a second time, which the
        # chain refuses; the other way round it would be lost.
        await self._outbox.put("round", run, verdict.round, verdict.state)
        await self._tools.store.put(_ROUNDS, key, msgpack.packb(stored))
        old = {one for one in (record.state, record.scales) if one is not None}
        record.rounds.append(row)
        record.done, record.last_end = verdict.round + 1, trio.current_time()
        record.state, record.scales = Digest(verdict.state), Digest(verdict.scales)
        # Nobody asks for these any more, unless another run of the same model stands there.
        keep = {root for known in self._known.values() for root in known.roots()}
        for root in (old | notes.written) - keep:
            self._tools.states.retire(root)
        await self._tools.store.append_event("round.final", row)
        log.info("round final", run=_short(record), round=verdict.round, auc=row["auc"])

    async def _create(self, plan: Plan) -> dict[str, Any]:
        return await self._tools.compute.call(
            "model.create",
            {
                "spec": plan.spec,
                "folder": str(self._tools.folders.states),
                "models": str(self._tools.folders.models),
            },
        )

    async def _consent_to(
        self, proposal: Proposal, plan: Plan, dataset: int
    ) -> Consent:
        require_own_host(plan.spec, self._tools.worker_host)
        found = await self._tools.compute.call(
            "train.check",
            {
                "spec": plan.spec,
                "task": plan.task,
                "train": plan.train,
                "models": str(self._tools.folders.models),
                "records": await self._datasets.own_rows(dataset),
            },
        )
        return Consent(
            proposal.id(), dataset, found["samples"], self._tools.signer.seal_key
        )

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
        if record.phase() not in {"finished", "ended"}:
            raise RoundError(
                f"run {run.hex()[:16]} has done {record.done} rounds of"
                f" {record.course.proposal.rounds}",
                hint="wait until it is finished",
            )
        return record.state

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
        known = record.roots()
        return (
            member is not None and member.node_key in record.members and root in known
        )

    async def signed(self) -> tuple[list[bytes], list[bytes], list[Change]]:
        """All proposals, consents that came to a seat, and changes of members, as signed."""
        store = self._tools.store
        proposals = [sealed for _, sealed in await store.scan(_RUNS)]
        consents = [
            sealed
            for _, sealed in await store.scan(_CONSENTS)
            for consent, member in [open_consent(sealed)]
            if member in self._known[consent.run].course.seating.ever
        ]
        changes = [
            change
            for record in self._known.values()
            for change in record.course.seating.changes
        ]
        return proposals, consents, changes

    def rows(self) -> list[dict[str, Any]]:
        """For `runs.list`, oldest first."""
        ordered = sorted(self._known.values(), key=lambda r: r.course.proposal.created)
        return [run_row(record, self._tools) for record in ordered]

    def row(self, run: bytes) -> dict[str, Any]:
        """For a person or a program to read."""
        return run_row(self.record(run), self._tools)

    def rounds(self, run: bytes) -> list[dict[str, Any]]:
        """Final rounds, as this node measured them."""
        return self.record(run).rounds

    async def _read(self, sealed: bytes, proposal: Proposal, proposer: bytes) -> Record:
        plan = parse_plan(proposal.plan)
        if canonical_plan(plan) != proposal.plan:
            raise ProtocolError("the proposal's model file is not in canonical form")
        policy(1, plan)
        # The accountant takes its time, once: what it finds is remembered.
        await trio.to_thread.run_sync(require_budget, proposal, plan)
        state = Digest(proposal.initial)
        return Record(Course(proposal), plan, proposer, sealed, [], state)

    async def take_proposal(self, sealed: bytes) -> None:
        """A run this node may not know yet."""
        proposal, proposer = open_proposal(sealed)
        run = proposal.id()
        if run in self._known:
            return
        self._tools.federation.key(proposer)
        record = await self._read(sealed, proposal, proposer)
        # On disk first: what memory alone knew would count until a restart, and then be lost.
        await self._tools.store.put(_RUNS, run, sealed)
        self._known[run] = record
        await self._tools.store.append_event("run.proposed", self.row(run))
        log.info("run proposed", run=_short(record), title=proposal.title)
        await self._steering.known(record)
        await self._early.give(run, self.take_consent)
        await self._seats.known(record)

    async def take_consent(self, sealed: bytes) -> None:
        """Of a run that is known."""
        await self._keep_consent(*open_consent(sealed), sealed)

    async def consents_of(self, run: bytes) -> list[bytes]:
        """As they were signed."""
        found = await self._tools.store.scan(_CONSENTS)
        return [sealed for key, sealed in found if key.startswith(run)]

    async def _keep_consent(
        self, consent: Consent, member: bytes, sealed: bytes
    ) -> None:
        record = self._known[consent.run]
        self._seats.require_known(record, member)
        if not record.course.is_news(member, consent):
            return
        await self._tools.store.put(_CONSENTS, consent.run + digest(sealed), sealed)
        if not record.course.consent(member, consent):
            return  # it came twice meanwhile
        await self._tools.store.append_event(
            "run.consent",
            {
                "run": consent.run.hex(),
                "member": self._tools.federation.name_of(member),
                "dataset": consent.dataset,
                "samples": consent.samples,
            },
        )
        await self._seats_changed(consent.run)


def _short(record: Record) -> str:
    return record.course.run.hex()[:16]
