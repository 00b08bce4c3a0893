"""What the driver of a round asks for, done with this node's tools.

One object for one attempt.  Vectors never pass through here: the compute child reads and
writes them as blobs, and this module hands it names.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from node.ports import Blobs, Compute, Signer, Store, Transport
from node.services.federation import Federation
from node.services.states import States
from protocol.aggregate.round import (
    Applied,
    ApplySum,
    Fetch,
    Masked,
    MaskUpdate,
    Persist,
    Publish,
    Round,
    SumShard,
    Unmasked,
)
from protocol.runs import ROUND_TOPIC, Plan
from protocol.types import Digest, PeerId

SAID = "round-said"
FETCH_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Folders:
    """Where files of training lie; the compute child reads and writes them too."""

    states: Path
    work: Path
    blobs: Path


@dataclass(frozen=True)
class Tools:
    """What a trainer works with; the same for every run of a node."""

    store: Store
    blobs: Blobs
    signer: Signer
    transport: Transport
    federation: Federation
    compute: Compute
    states: States
    folders: Folders
    worker_socket: str
    train_s: float
    phase_s: float


@dataclass
class RoundNotes:
    """What this node measured in one round; nothing in it is secret."""

    attempts: int = 0
    seconds: float = 0.0
    loss_first: float | None = None
    loss_last: float | None = None
    norm: float | None = None
    cut: int = 0
    received: dict[str, list[int]] = field(default_factory=dict)
    """Member's name to [blobs, bytes] pulled from it."""


class Hands:
    """Implements `node.driver.Hands`."""

    def __init__(
        self,
        *,
        tools: Tools,
        plan: Plan,
        machine: Round,
        notes: RoundNotes,
        update: Path,
        readers: dict[Digest, frozenset[PeerId]],
        tell: Callable[[str], None],
    ) -> None:
        """`readers`: who may pull which blob; filled here, asked by the transport."""
        self._tools = tools
        self._plan = plan
        self._machine = machine
        self._notes = notes
        self._update = update
        self._readers = readers
        self._tell = tell

    async def persist(self, effect: Persist) -> None:
        attempt = self._machine.attempt
        place = attempt.round.to_bytes(8, "big") + attempt.attempt.to_bytes(8, "big")
        key = attempt.run + place + effect.name.encode()
        await self._tools.store.put(SAID, key, effect.envelope)

    async def publish(self, effect: Publish) -> None:
        self._tell(self._machine.phase.name.lower())
        await self._tools.transport.announce(ROUND_TOPIC, effect.envelope)

    async def fetch(self, effect: Fetch) -> None:
        member = self._tools.federation.key(effect.member)
        await self._tools.transport.fetch(
            member.peer_id,
            effect.blob,
            limit_bytes=effect.limit_bytes,
            timeout_s=FETCH_TIMEOUT_S,
        )
        # Ours to delete when the round is over, nobody's to fetch from us.
        self._readers.setdefault(effect.blob, frozenset())
        count = self._notes.received.setdefault(member.name, [0, 0])
        count[0] += 1
        count[1] += self._tools.blobs.size(effect.blob)

    async def mask(self, effect: MaskUpdate) -> Masked:
        tools, attempt = self._tools, effect.attempt
        me = tools.signer.public_key
        pairs = {
            member: tools.signer.agree(tools.federation.key(member).seal_key)
            for member in attempt.members
            if member != me
        }
        samples = attempt.weights[attempt.members.index(me)]
        self._tell("masking")
        found = await tools.compute.call(
            "round.mask",
            {
                "update": str(self._update),
                "weight": samples / sum(attempt.weights),
                "members": len(attempt.members),
                "me": me,
                "context": attempt.context(),
                "secrets": pairs,
                "seed": effect.seed,
                "bounds": [[shard.start, shard.stop] for shard in effect.shards],
                "blobs": str(tools.folders.blobs),
            },
        )
        self._notes.cut = found["cut"]
        blobs = tuple(Digest(blob) for blob in found["shards"])
        for shard, blob in zip(effect.shards, blobs, strict=True):
            self._readers[blob] = frozenset({self._peer(shard.owner)})
        return Masked(blobs)

    async def sum_shard(self, effect: SumShard) -> Unmasked:
        self._tell("summing")
        found = await self._tools.compute.call(
            "round.sum",
            {
                "inputs": list(effect.inputs),
                "start": effect.shard.start,
                "words": effect.shard.stop - effect.shard.start,
                "context": self._machine.context,
                "seeds": dict(effect.seeds),
                "blobs": str(self._tools.folders.blobs),
            },
        )
        blob = Digest(found["blob"])
        self._readers[blob] = frozenset(map(self._peer, self._machine.attempt.members))
        return Unmasked(blob)

    async def apply(self, effect: ApplySum) -> Applied:
        attempt = self._machine.attempt
        self._tell("stepping")
        found = await self._tools.compute.call(
            "round.apply",
            {
                "results": list(effect.results),
                "words": [s.stop - s.start for s in self._machine.shards],
                "folder": str(self._tools.folders.states),
                "root": attempt.base,
                "size": attempt.length,
                "rate": float(self._plan.outer.get("rate", 1.0)),
                "blobs": str(self._tools.folders.blobs),
            },
        )
        return Applied(Digest(found["root"]))

    def _peer(self, member: bytes) -> PeerId:
        return self._tools.federation.key(member).peer_id
