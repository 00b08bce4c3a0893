"""One member of a measured sum, in a process of its own: `round_peer NUMBER FOLDER ENTRIES`.

Everything that a daemon uses for a round is used here as it is: the machine, its driver and
hands, records in SQLite, blobs and states on disk, libp2p, and the compute child.  Only the
update is drawn instead of trained, before the clock starts, and nobody holds records out.

Each answer is a line of JSON; each question is a line too.  It says who it is, is told who the
others are, says `ready` once its update is on disk, starts at `go`, and tells what the round
took.
"""

import json
import os
import socket
import struct
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import trio

from ee.spec import Column, ModelSpec, size
from node.adapters.blob_dir import BlobDir
from node.adapters.compute_child import ComputeChild, open_compute_child
from node.adapters.libp2p import Libp2pTransport
from node.adapters.memory_chain import Ledger, MemoryChain
from node.adapters.memory_signer import memory_signer
from node.adapters.sqlite_store import SqliteStore
from node.bench.memory import Growth
from node.bench.round_child import CLOCKS
from node.bench.timeline import watch
from node.config import Log
from node.log import configure
from node.ports.compute import Progress
from node.services.federation import Federation
from node.services.hands import Folders, RoundNotes, Tools
from node.services.states import States
from node.services.training import Trainer
from protocol.certificate import Certificate
from protocol.course import policy
from protocol.errors import GossipIgnore
from protocol.members import Member, MemberSet
from protocol.rounds.events import Finished
from protocol.rounds.messages import LIMIT_BYTES, hear
from protocol.rounds.policy import Epoch, Seat
from protocol.runs import ROUND_PROTOCOL, ROUND_TOPIC, Plan
from protocol.types import Digest, PeerId, digest

LISTEN = ("/ip4/127.0.0.1/tcp/0",)
CHILD = (sys.executable, "-m", "node.bench.round_child")
RECORDS = b"id,x,y\n1,0.5,1\n2,-0.5,0\n"
INPUT_BITS = 14
"""The most that four members may use of a ring of 16 bits."""
_TCP_INFO_BYTES = 256
_ACKED_AT, _RECEIVED_AT = 120, 128
"""Where Linux keeps a connection's bytes in struct tcp_info (linux/tcp.h, since 4.2)."""


def plan(entries: int) -> Plan:
    """A model of about so many parameters: whole layers of a table transformer."""
    width = 64 if entries < 1_000_000 else 512
    layer = 4 * width * width
    inner = 2 * width
    layers = max(1, round(entries / (layer + 3 * width * inner)))
    spec = ModelSpec(
        columns=(Column("x"),),
        width=width,
        layers=layers,
        heads=8,
        kv_heads=8,
        inner=inner,
        seed=1,
    )
    return Plan(
        title="bench",
        spec=spec.to_dict(),
        task={"id": "id", "label": "y", "above": 0.5, "held_out_percent": 1},
        train={},
        sum={"ring_bits": 16, "input_bits": INPUT_BITS},
    )


def length(entries: int) -> int:
    """How many parameters that model has."""
    return size(ModelSpec.from_dict(plan(entries).spec))


class Compute:
    """The child, but for training: the update waits for `go` instead."""

    def __init__(self, child: ComputeChild, blobs: BlobDir, entries: int) -> None:
        self._child = child
        self._blobs = blobs
        self._entries = entries
        self._round = 0
        self.began, self.worked, self.growth = 0.0, 0.0, Growth()

    async def call(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        if method != "train.local":
            return await self._child.call(method, params, progress=progress)
        update = await trio.to_thread.run_sync(self._drawn)
        tell({"ready": True})
        await question()
        self.began, self.growth = time.perf_counter(), Growth()
        self.worked = time.process_time()
        return {"update": update, "loss_first": 0.0, "loss_last": 0.0, "norm": 0.0}

    def _drawn(self) -> Digest:
        self._round += 1
        draw = np.random.default_rng(os.getpid() + self._round)
        values = draw.standard_normal(self._entries, np.float32) * np.float32(2**-9)
        return self._blobs.put(values.astype("<f4").tobytes())


async def question() -> Any:
    return json.loads(await trio.to_thread.run_sync(sys.stdin.readline))


def tell(answer: object) -> None:
    print(json.dumps(answer), flush=True)


async def main(number: int, folder: Path, entries: int) -> None:
    key, chosen = memory_signer(number), plan(entries)
    entries = size(ModelSpec.from_dict(chosen.spec))
    store, blobs = SqliteStore.open(folder / "node.sqlite"), BlobDir(folder / "blobs")
    os.environ[CLOCKS] = str(folder / "clocks")
    watch(folder)
    federation = Federation(store, MemoryChain(Ledger(bytes(20)), bytes(20)))
    trainer: Trainer | None = None

    def may_fetch(peer: PeerId, blob: Digest) -> bool:
        return trainer is not None and trainer.may_fetch(peer, blob)

    def hear_round(payload: bytes) -> None:
        if trainer is not None:
            with suppress(GossipIgnore):
                trainer.hear(hear(payload))

    async def serve(_peer: PeerId, payload: bytes) -> bytes:
        hear_round(payload)
        return b""

    transport = Libp2pTransport(
        identity_seed=key.identity_seed,
        sign=key.sign,
        listen=LISTEN,
        allowed=federation.is_member,
        blobs=blobs,
        may_fetch=may_fetch,
    )
    transport.serve(ROUND_PROTOCOL, serve, limit_bytes=LIMIT_BYTES)

    async def listen() -> None:
        async for said in transport.announcements():
            if said.topic == ROUND_TOPIC:
                hear_round(said.payload)

    async with open_compute_child(CHILD) as child, trio.open_nursery() as nursery:
        compute = Compute(child, blobs, entries)
        place = folder / "states"
        initial = await child.call(
            "model.create", {"spec": chosen.spec, "folder": str(place)}
        )
        scales = await child.call(
            "round.scales",
            {"length": entries, "velocities": 0, "folder": str(place)},
        )
        await nursery.start(transport.run)
        nursery.start_soon(listen)
        keys = [key.public_key.hex(), key.seal_key.hex()]
        tell({"keys": keys, "addresses": transport.addresses()})
        others = await question()
        members = [_member(number, each["keys"]) for number, each in enumerate(others)]
        federation.members = MemberSet.of(members)
        for member, each in zip(members, others, strict=True):
            if member.node_key != key.public_key:
                transport.keep_connected(member.peer_id, tuple(each["addresses"]))
        while len(transport.connected()) < len(others) - 1:
            await trio.sleep(0.02)
        states = States(place, transport, lambda _run, _root, _peer: True)
        wire, stands = wire_bytes(), Digest(initial["root"])

        async def finish(end: Finished, _notes: RoundNotes) -> None:
            nonlocal wire, stands
            before, wire = wire, wire_bytes()
            tell(
                {
                    "began": compute.began,
                    "seconds": time.perf_counter() - compute.began,
                    "processor": time.process_time() - compute.worked,
                    "accepted": end.verdict.accept,
                    "survivors": len(end.survivors),
                    "state": end.verdict.state.hex(),
                    "sent": wire[0] - before[0],
                    "received": wire[1] - before[1],
                    "grown_mb": compute.growth.megabytes(),
                }
            )
            old, stands = stands, Digest(end.verdict.state)
            if old != stands:
                states.retire(old)  # as a run does

        trainer = Trainer(
            tools=Tools(
                store=store,
                blobs=blobs,
                signer=key,
                transport=transport,
                federation=federation,
                compute=compute,
                states=states,
                folders=Folders(place, folder / "blobs", folder / "models"),
                worker_socket="",
            ),
            plan=chosen,
            epoch=_epoch(members, chosen, entries),
            rounds=1 << 20,
            state=Digest(initial["root"]),
            scales=Digest(scales["root"]),
            records=_records,
            finish=finish,
            change=_stays,
        )
        await trainer.run()


async def _records() -> bytes:
    return RECORDS


async def _stays(_epoch: Epoch, _certificate: Certificate) -> None:
    """Nobody joins or leaves here."""


def _member(number: int, keys: list[str]) -> Member:
    node_key, seal_key = map(bytes.fromhex, keys)
    return Member(node_key, seal_key, bytes([number + 1]) * 20, 1, f"peer-{number}")


def _epoch(members: list[Member], chosen: Plan, entries: int) -> Epoch:
    seats = [Seat(each.node_key, each.seal_key, 1) for each in members]
    ordered = tuple(sorted(seats, key=lambda seat: seat.node_key))
    return Epoch(digest(b"bench"), 0, ordered, policy(entries, chosen))


def wire_bytes() -> tuple[int, int]:
    """Bytes that this process's connections have sent, as acknowledged, and received."""
    sent = received = 0
    for place in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if not str(place.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(place.name))) as sock:
                info = sock.getsockopt(
                    socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES
                )
            sent += struct.unpack_from("<Q", info, _ACKED_AT)[0]
            received += struct.unpack_from("<Q", info, _RECEIVED_AT)[0]
    return sent, received


if __name__ == "__main__":
    configure(Log(level="warning"))
    trio.run(main, int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
