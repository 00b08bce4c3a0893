"""What the driver of a run's rounds asks for, done with this node's tools.

Vectors never pass through here: the compute child reads and writes them as blobs, and this
module hands it names.
"""

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import structlog
import trio

from node.driver import Work
from node.errors import AccessError, ComputeError, NodeError
from node.ports.compute import Compute
from node.ports.keys import Signer
from node.ports.storage import Blobs, Store
from node.ports.transport import Transport
from node.services.federation import Federation
from node.services.parts import Parts
from node.services.record_box import RecordBox
from node.services.sessions import Sessions, session_context, session_opens
from node.services.sketches import drawn, sketch_row, weighed
from node.services.states import States
from node.services.thin import ThinLinks, counted
from protocol.aggregate.ring import WORD_BYTES
from protocol.aggregate.shards import Slice
from protocol.certificate import Certificate
from protocol.course import noise, outer, scales_bytes
from protocol.envelope import Envelope
from protocol.errors import ProtocolError
from protocol.rounds import events as ev
from protocol.rounds.messages import DOMAIN, Heartbeat, Opening, Said
from protocol.rounds.policy import Epoch
from protocol.runs import ROUND_PROTOCOL, ROUND_TOPIC, Plan, canonical_plan
from protocol.types import KEY_BYTES, Digest, PeerId
from protocol.wire import decode

SEND_TIMEOUT_S = 10.0
ANSWER_LIMIT_BYTES = 64

log = structlog.get_logger()


@dataclass(frozen=True)
class Folders:
    """Where files of training lie; the compute child reads and writes them too."""

    states: Path
    blobs: Path
    models: Path
    """Bases of stock models, a folder for each."""


@dataclass(frozen=True)
class Tools:
    """What training works with; the same for every run of a node."""

    store: Store
    blobs: Blobs
    signer: Signer
    transport: Transport
    federation: Federation
    compute: Compute
    states: States
    folders: Folders
    worker_socket: str
    worker_host: str = ""
    """The member whose worker is behind the socket; empty: it is our own."""


@dataclass
class RoundNotes:
    """What this node measured in one round; nothing in it is secret."""

    attempts: set[bytes] = field(default_factory=set)
    loss_first: float | None = None
    loss_last: float | None = None
    norm: float | None = None
    cut: int = 0
    received: dict[str, list[int]] = field(default_factory=dict)
    """Member's name to [blobs, bytes] pulled from it."""
    scores: dict[bytes, Mapping[str, Any]] = field(default_factory=dict)
    """By state root: how it did on the own held-out records."""
    sketch: dict[str, Any] | None = None
    """What was found out about a rejected sum."""
    accused: dict[str, str] = field(default_factory=dict)
    """By member's name, what it was first shown to have done."""
    written: set[Digest] = field(default_factory=set)
    """States and scales made in this round, by attempts that led nowhere too."""


ReadRecords = Callable[[], Awaitable[bytes]]
"""The table as it is now: what was withdrawn since the last round is not in it."""


class Hands:
    """Implements `node.driver.Hands` for one run."""

    def __init__(
        self,
        *,
        tools: Tools,
        plan: Plan,
        epoch: Epoch,
        rounds: int,
        records: ReadRecords,
        box: RecordBox,
        size: int | None = None,
        finish: Callable[[ev.Finished, RoundNotes], Any],
        change: Callable[[Epoch, Certificate], Any],
        tell: Callable[[Mapping[str, Any] | None], None],
        complain: Callable[[str], None],
    ) -> None:
        """`size`: entries of a state, where not all travel; `records` reads this member's table.

        `finish` is awaited with every verdict, `change` with every epoch that one leads to;
        `tell` and `complain` show the operator.

        What progress there is, and what keeps this node from training; "" if nothing does.
        """
        self._tools = tools
        self._plan = plan
        self._rounds = rounds
        self._size = size
        self.enter(epoch)
        self._thin = ThinLinks(tools.store, tools.states, epoch.run, plan)
        self._records = records
        self._box = box
        self._finish = finish
        self._change = change
        self._certificate: Certificate | None = None
        """Of the newest verdict."""
        self._base: bytes | None = None
        """The state that one led to; None before there is any."""
        self._over = False
        """No round follows the one under way, by the word of members."""
        self._tell = tell
        self._complain = complain
        self._sessions = Sessions(tools.store, tools.signer)
        self._notes = RoundNotes()
        self._failed: type | None = None
        """The kind of work that the operator was told of because it failed."""
        self._parts = Parts(
            tools.store, tools.blobs, tools.transport, tools.federation, epoch.run
        )
        ring = epoch.policy.ring()
        self._common = {
            "ring": [ring.bits, ring.input_bits],
            "blobs": str(tools.folders.blobs),
        }
        self._measures = {**self._common, "length": epoch.policy.length}

    def enter(self, epoch: Epoch) -> None:
        """Weights and noise are those of an epoch's seats."""
        self._epoch = epoch
        self._noise = noise(epoch, self._plan)

    async def entered(self, epoch: Epoch) -> None:
        """Its first act for the new members: what shows that they are it."""
        if self._tools.signer.public_key in epoch.members:
            self.enter(epoch)
        else:
            await self.end()
        if self._certificate is not None:
            await self._change(epoch, self._certificate)

    async def load(self) -> None:
        """Which blobs the members of the run may pull, from before a restart."""
        await self._parts.load()

    def may_fetch(self, peer: PeerId, blob: Digest) -> bool:
        """Masked shards and their sums are for the members, whoever sums them."""
        member = self._tools.federation.members.by_peer(peer)
        return (
            blob in self._parts
            and member is not None
            and member.node_key in self._epoch.members
        )

    # --- records and words -------------------------------------------------------

    async def persist(self, effects: Sequence[ev.Persist]) -> None:
        await self._box.put({each.key: each.value for each in effects})

    async def forget(self, effect: ev.Forget) -> None:
        rows = await self._parts.delete(effect.blobs)
        await self._box.delete(effect.keys, effect.blobs, rows)

    async def publish(self, effect: ev.Publish) -> tuple[ev.Send, ...]:
        if not is_heartbeat(effect.envelope):
            await self._tools.transport.announce(ROUND_TOPIC, effect.envelope)
            return ()
        # Of no use a second later, and one every second: too many for announcements, which
        # are kept and repaired.
        me = self._tools.signer.public_key
        return tuple(
            ev.Send(member, effect.envelope)
            for member in self._epoch.members
            if member != me
        )

    async def send(self, effect: ev.Send) -> None:
        await self._tools.transport.request(
            self._peer(effect.member),
            ROUND_PROTOCOL,
            effect.envelope,
            timeout_s=SEND_TIMEOUT_S,
            limit_bytes=ANSWER_LIMIT_BYTES,
        )

    async def accuse(self, effect: ev.Accuse) -> None:
        name = self._tools.federation.name_of(effect.member)
        log.warning("member accused", member=name, reason=effect.reason)
        self._notes.accused.setdefault(name, effect.reason)
        await self._tools.store.append_event(
            "round.evidence",
            {
                "run": self._epoch.run,
                "member": name,
                "reason": effect.reason,
                "evidence": effect.evidence,
            },
        )

    @property
    def accused(self) -> Mapping[str, str]:
        """Members shown to break a rule in the round under way, and how."""
        return self._notes.accused

    async def measured(self, effect: ev.Measured) -> None:
        found = sketch_row(effect, self._tools.federation.name_of)
        log.warning("rejected round sketched", **found)
        self._notes.sketch = found
        await self._tools.store.append_event(
            "round.sketch", {"run": self._epoch.run, **found}
        )

    async def finished(self, effect: ev.Finished) -> bool:
        notes, self._notes = self._notes, RoundNotes()
        self._tell(None)
        self._succeed()
        self._certificate, self._base = effect.certificate, effect.verdict.state
        self._parts.round = effect.verdict.round + 1
        goes_on = self._parts.round < self._rounds
        await self._box.tidy()
        if self._thin.is_on:
            # While the update is there: it is deleted once this returns.
            await self._keep_back(effect, goes_on=goes_on)
        await self._finish(effect, notes)
        if self._over or not goes_on:
            await self._drop_spares()
        return goes_on

    async def end(self) -> None:
        """No round after this one, by the word of members: what is kept for them is deleted."""
        self._over = True
        await self._thin.end()
        await self._drop_spares()

    async def _drop_spares(self) -> None:
        """What room the retired states of this run left, no next one will take."""
        await trio.to_thread.run_sync(self._tools.states.drop_spares)

    async def _keep_back(self, effect: ev.Finished, *, goes_on: bool) -> None:
        if not goes_on:
            await self._thin.end()
            return
        me = self._tools.signer.public_key
        found = counted(await self._box.read(), effect, me)
        if found is not None:
            await self._thin.move_on(*found, self._rest)

    async def _rest(self, number: int, update: Digest) -> Digest:
        found = await self._call(
            "round.keep",
            update=update,
            thin=self._thin.choice(number),
            folder=str(self._tools.folders.states),
        )
        return Digest(found["root"])

    # --- blobs and states ----------------------------------------------------------

    async def fetch(self, effect: ev.Fetch) -> None:
        """From the first source that has it; the driver comes back if none does."""
        blob, sources = effect.blob, effect.sources
        giver = await self._parts.fetch(blob, sources, effect.limit_bytes)
        count = self._notes.received.setdefault(giver, [0, 0])
        count[0] += 1
        count[1] += self._tools.blobs.size(blob)

    async def sync(self, effect: ev.SyncState) -> ev.Event | None:
        if self._base not in (None, effect.state):
            return None  # a newer verdict: nobody has this state any more
        tools, run = self._tools, self._epoch.run
        peers = [self._peer(donor) for donor in effect.donors]
        self._tell({**_IDLE, "what": "fetching the state"})
        for root, size in (
            (effect.state, self._state_bytes),
            (effect.scales, self._scales_bytes),
        ):
            if not tools.states.has(root):
                await tools.states.fetch(run, root, size, peers)
        return ev.Synced(effect.state)

    @property
    def _state_bytes(self) -> int:
        length = self._epoch.policy.length
        return WORD_BYTES * (length if self._size is None else self._size)

    @property
    def _scales_bytes(self) -> int:
        entries = self._state_bytes // WORD_BYTES
        return scales_bytes(entries, self._epoch.policy.length, self._plan)

    async def _mend(self, files: Mapping[bytes, int]) -> None:
        """Of these states, by root and size: those a disk has damaged or lost come from the others.

        Where rounds are rejected their base stays, so that nothing else would ever replace one.
        """
        tools, me = self._tools, self._tools.signer.public_key
        peers = [self._peer(other) for other in self._epoch.members if other != me]
        for root, size in files.items():
            if await tools.states.is_whole(root):
                continue
            log.warning(
                "state is damaged here, and fetched anew", state=root.hex()[:16]
            )
            if tools.states.has(root):  # else a download may have begun, and goes on
                await trio.to_thread.run_sync(tools.states.delete, root)
            await tools.states.fetch(self._epoch.run, root, size, peers)

    async def _restore(self, *blobs: Digest) -> None:
        """After a power cut the machine counts on blobs that are gone: others have them."""
        me = self._tools.signer.public_key
        others = tuple(member for member in self._epoch.members if member != me)
        length = WORD_BYTES * self._epoch.policy.length
        for blob in blobs:
            if not self._tools.blobs.has(blob):
                await self.fetch(ev.Fetch(others, blob, length))

    # --- vectors -------------------------------------------------------------------

    async def train(self, effect: ev.Train) -> ev.Event | None:
        if effect.round >= self._rounds or effect.round < self._parts.round:
            return None
        try:
            trained = await self._train(effect)
        except NodeError as error:
            if effect.round < self._parts.round:
                return None  # it ended without this update, and its base went with it
            self._complain(str(error))
            if isinstance(error, ComputeError):
                await self._mend({effect.base: self._state_bytes})
            raise
        self._complain("")
        return trained

    async def _train(self, effect: ev.Train) -> ev.Event:
        tools, run = self._tools, self._epoch.run
        # A compute child that has just been started loads PyTorch first: seconds, or minutes on a
        # busy machine, in which what was told before would look like what takes so long.
        self._tell({**_IDLE, "what": "getting ready to train"})
        # Which records a step takes is drawn from public values: it tells nobody anything
        # without the records, and makes a run repeatable.
        drawn = hashlib.sha256(
            run + effect.round.to_bytes(8, "big") + tools.signer.public_key
        )
        own = tools.federation.name_of(tools.signer.public_key)
        context = session_context(own, tools.worker_host or own, run, effect.round)
        opens = session_opens(self._plan.spec, canonical_plan(self._plan))
        async with self._sessions.key(context, opens) as seed:
            found = await tools.compute.call(
                "train.local",
                {
                    "spec": self._plan.spec,
                    "task": self._plan.task,
                    "train": self._plan.train,
                    "folder": str(tools.folders.states),
                    "models": str(tools.folders.models),
                    "root": effect.base,
                    "records": await self._records(),
                    "worker": tools.worker_socket,
                    "key_seed": seed,
                    "left": await self._thin.left(),
                    "batch_seed": int.from_bytes(drawn.digest()[:8], "big"),
                    "elapsed": effect.round / self._rounds,
                    "blobs": str(tools.folders.blobs),
                },
                progress=lambda data: self._tell({**_IDLE, "what": "training", **data}),
            )
        self._notes.loss_first = found["loss_first"]
        self._notes.loss_last = found["loss_last"]
        self._notes.norm = found["norm"]
        self._tell({**_IDLE, "what": "waiting for the others"})
        return ev.Trained(effect.round, Digest(found["update"]))

    async def work(self, effect: Work) -> ev.Event:
        self._tell({**_IDLE, "what": _WORDS[type(effect)]})
        self._notes.attempts.add(effect.context)
        try:
            done = await self._worked(effect)
        except (NodeError, ProtocolError) as error:
            if (
                effect.context in self._notes.attempts
            ):  # else with its round went its blobs
                self._failed = type(effect)
                self._complain(f"{_WORDS[self._failed]} fails: {error}")
            if isinstance(error, ComputeError):
                await self._mend(await self._rests_on(effect))
            raise  # the driver tries again
        if self._failed is type(effect):
            self._succeed()
        return done

    def _succeed(self) -> None:
        """What failed before is done, or nobody needs it any more."""
        if self._failed is not None:
            self._failed = None
            self._complain("")

    async def _rests_on(self, effect: Work) -> dict[bytes, int]:
        """The states that this work reads, with their sizes."""
        match effect:
            case ev.Mask():
                recipe = msgpack.unpackb(await self._box.recipe(effect.quantised))
                return {recipe["scales"]: self._scales_bytes}
            case ev.Apply() if effect.opening.round >= self._parts.round:
                base, scales = effect.opening.base, effect.opening.scales
                return {base: self._state_bytes, scales: self._scales_bytes}
            case _:
                return {}

    async def _worked(self, effect: Work) -> ev.Event:
        match effect:
            case ev.Quantise():
                return await self._quantise(effect)
            case ev.Mask():
                return await self._mask(effect)
            case ev.Sum():
                return await self._sum(effect)
            case ev.Apply():
                return await self._apply(effect)
            case ev.Tag():
                await self._restore(*effect.shards)
                found = await self._call(
                    "round.tag",
                    slices=_bounds(effect.slices),
                    shards=list(effect.shards),
                    seed=effect.seed,
                )
                return ev.Tagged(effect.context, tuple(found["values"]))
            case ev.Check():
                await self._restore(effect.sum, effect.carry)
                found = await self._call(
                    "round.check",
                    sum=effect.sum,
                    carry=effect.carry,
                    start=effect.slice.start,
                    members=effect.members,
                    seed=effect.seed,
                    tag=effect.tag,
                )
                return ev.Checked(effect.context, effect.slice.index, found["good"])
            case ev.Draw():
                await self._restore(*effect.shards)
                made = await drawn(effect, self._tools.compute, self._measures)
                await self._parts.share(made.blob)
                return made
            case ev.Weigh():
                parts = [part for each in effect.parts for part in each]
                await self._restore(*effect.said, *effect.sums, *parts)
                return await weighed(effect, self._tools.compute, self._measures)

    async def _quantise(self, effect: ev.Quantise) -> ev.Event:
        """Write down how the update is rounded; the rounding follows from that to the bit.

        A recipe of some hundred bytes in place of a vector: it is on record before anything
        is masked, and after a restart it makes the same bytes again.
        """
        me = self._tools.signer.public_key
        # Which way an entry is rounded must be nobody's to foresee, nor its noise.
        recipe = msgpack.packb(
            {
                "update": effect.update,
                "scales": effect.opening.scales,
                "weight": sum(s.weight for s in self._epoch.seats if s.node_key == me),
                "total": sum(seat.weight for seat in self._epoch.seats),
                "members": len(self._epoch.seats),
                "noise": None if self._noise is None else asdict(self._noise),
                "thin": self._thin.choice(effect.opening.round),
                "seed": secrets.token_bytes(KEY_BYTES),
                "noise_seed": secrets.token_bytes(KEY_BYTES),
            }
        )
        return ev.Quantised(effect.context, await self._box.put_recipe(recipe))

    async def _mask(self, effect: ev.Mask) -> ev.Event:
        found = await self._call(
            "round.mask",
            **msgpack.unpackb(await self._box.recipe(effect.quantised)),
            slices=_bounds(effect.slices),
            plus=list(effect.plus),
            minus=list(effect.minus),
            folder=str(self._tools.folders.states),
        )
        self._notes.cut = found["cut"]
        shards = tuple(Digest(blob) for blob in found["shards"])
        await self._parts.share(*shards)
        return ev.Masked(effect.context, shards)

    async def _sum(self, effect: ev.Sum) -> ev.Event:
        await self._restore(*effect.inputs)
        found = await self._call(
            "round.sum",
            inputs=list(effect.inputs),
            size=effect.slice.size,
            carry=effect.carry,
        )
        total, carry = Digest(found["sum"]), bytes(found["carry"])
        await self._parts.share(total, *([Digest(carry)] if carry else []))
        index = effect.slice.index
        return ev.Summed(effect.context, index, effect.members, total, carry)

    async def _apply(self, effect: ev.Apply) -> ev.Event:
        await self._restore(*effect.sums)
        opening: Opening = effect.opening
        seats, step = self._epoch.seats, outer(self._plan)
        found = await self._call(
            "round.apply",
            sums=list(effect.sums),
            slices=_bounds(effect.slices),
            plus=list(effect.plus),
            minus=list(effect.minus),
            base=opening.base,
            scales=opening.scales,
            here=sum(s.weight for s in seats if s.node_key in effect.survivors),
            weight=sum(seat.weight for seat in seats),
            members=len(seats),
            survivors=len(effect.survivors),
            rate=step.rate,
            momentum=step.momentum,
            tolerance=step.tolerance,
            thin=self._thin.choice(opening.round),
            spec=self._plan.spec,
            task=self._plan.task,
            records=await self._tried(),
            folder=str(self._tools.folders.states),
            models=str(self._tools.folders.models),
        )
        if found["strays"]:
            strays = tuple(effect.slices[at].index for at in found["strays"])
            return ev.Astray(effect.context, effect.sums, strays)
        state, scales = Digest(found["state"]), Digest(found["scales"])
        self._notes.written |= {state, scales}
        self._notes.scores[state] = {k: found[k] for k in ("held_out", "auc", "loss")}
        # The metric is for everybody to see, and how a clinic's own patients fare is not.
        return ev.Applied(
            effect.context, effect.sums, state, scales, found["accept"], 0
        )

    async def _tried(self) -> bytes:
        """What a state is tried on; nothing where all of it is withdrawn.

        A member without records still sums and votes, and a state is its to keep.
        """
        try:
            return await self._records()
        except AccessError:
            return b""

    async def _call(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._tools.compute.call(method, {**self._common, **params})

    def _peer(self, member: bytes) -> PeerId:
        return self._tools.federation.key(member).peer_id


def is_heartbeat(envelope: bytes) -> bool:
    """Of an envelope of our own, so its signature is not looked at."""
    opened = decode(envelope, Envelope)
    return opened.domain == DOMAIN and isinstance(
        decode(opened.payload, Said).body, Heartbeat
    )


def _bounds(slices: Sequence[Slice]) -> list[list[int]]:
    return [[each.start, each.stop] for each in slices]


_IDLE: Mapping[str, Any] = {"step": None, "of": None, "loss": None}
_WORDS: Mapping[type, str] = {
    ev.Quantise: "rounding",
    ev.Mask: "masking",
    ev.Sum: "summing",
    ev.Apply: "stepping",
    ev.Tag: "checking",
    ev.Check: "checking",
    ev.Draw: "sketching",
    ev.Weigh: "sketching",
}
