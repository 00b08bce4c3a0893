"""A worker on another node: bytes both ways over libp2p, for members alone, whatever breaks."""

import hashlib
import socket
import threading
from contextlib import asynccontextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import trio

from node.errors import AccessError, TransportError
from node.services import borrowing, lending
from node.services.borrowing import Borrower
from node.services.federation import Federation
from node.services.lending import Lender
from node.worker import wire
from node.worker.client import TrunkLostError, WorkerClient
from protocol.hosting import (
    HOSTING_LIMIT_BYTES,
    HOSTING_PROTOCOL,
    PIECE_LIMIT_BYTES,
    Give,
    Leave,
    Piece,
    Take,
)
from protocol.members import Member, MemberSet, public_key
from protocol.wire import decode, encode

ONE = bytes(16)


class EchoWorker:
    """A worker's socket: each frame comes back, "step" lets it die."""

    def __init__(self, path):
        self.begun, self.ended, self.think = 0, 0, threading.Event()
        self.think.set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        self.begun += 1
        try:
            with connection:
                while True:
                    header, tensors = wire.receive(connection)
                    if header["op"] == "step":
                        return
                    self.think.wait()
                    wire.send(connection, {"ok": True}, {"y": tensors["x"]})
        except (wire.WorkerGone, OSError):
            pass
        finally:
            self.ended += 1

    def close(self):
        self.think.set()
        self._listener.close()


def _members(**nodes):
    return MemberSet.of(
        [
            Member(
                bytes(public_key(node.peer_id)),
                bytes(32),
                hashlib.sha256(name.encode()).digest()[:20],
                15,
                name,
            )
            for name, node in nodes.items()
        ]
    )


class Hosting:
    """Two nodes, the second with a worker that it lends."""

    @staticmethod
    @asynccontextmanager
    async def open(net, folder, *, lends=True):
        north, gpu = net.make(1), net.make(2)
        federation = Federation(None, None)
        federation.members = _members(north=north, gpu=gpu)
        worker = EchoWorker(folder / "worker.sock")
        try:
            async with net.mesh(north, gpu), trio.open_nursery() as nursery:
                lender = Lender(
                    transport=gpu,
                    federation=federation,
                    worker_socket=str(folder / "worker.sock"),
                    lends=lends,
                )
                path = folder / "borrowed.sock"
                borrower = Borrower(
                    transport=north, federation=federation, host="gpu", path=path
                )
                nursery.start_soon(lender.run)
                await nursery.start(borrower.run)

                async def ask(message):
                    data = await north.request(
                        gpu.peer_id,
                        HOSTING_PROTOCOL,
                        encode(message),
                        timeout_s=60,
                        limit_bytes=HOSTING_LIMIT_BYTES,
                    )
                    return decode(data, Piece, limit_bytes=HOSTING_LIMIT_BYTES)

                yield SimpleNamespace(
                    north=north,
                    gpu=gpu,
                    federation=federation,
                    worker=worker,
                    socket=str(path),
                    ask=ask,
                )
                nursery.cancel_scope.cancel()
        finally:
            worker.close()


def _frame(op, **tensors):
    """The bytes of one request to a worker."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, {"op": op, "params": {}}, tensors)
        ours.close()
        return b"".join(iter(lambda: theirs.recv(1 << 16), b""))


async def _forward(client, x):
    return await trio.to_thread.run_sync(lambda: client.forward(x, train=True))


async def test_a_session_runs_through_two_nodes(net, tmp_path, monkeypatch):
    monkeypatch.setattr(lending, "TAKE_WAIT_S", 0.05)
    async with Hosting.open(net, tmp_path) as world:
        with WorkerClient(world.socket) as client:
            # Larger than a piece, and an answer that is waited for in several turns.
            x = np.arange(3 * PIECE_LIMIT_BYTES // 8, dtype=np.float32)
            world.worker.think.clear()
            async with trio.open_nursery() as nursery:

                async def later():
                    await trio.sleep(0.4)
                    world.worker.think.set()

                nursery.start_soon(later)
                np.testing.assert_array_equal(await _forward(client, x), x)
            y = np.ones((2, 3, 4), np.float32)
            np.testing.assert_array_equal(await _forward(client, y), y)
            assert (world.worker.begun, world.worker.ended) == (1, 0)
        await net.until(lambda: world.worker.ended == 1)  # the host was told


async def test_a_broken_connection_costs_repetitions_and_no_byte(
    net, tmp_path, monkeypatch
):
    monkeypatch.setattr(borrowing, "PAUSES_S", (0.01,) * 5)
    async with Hosting.open(net, tmp_path) as world:
        asked, sound = 0, world.north.request

        async def broken(*arguments, **named):
            nonlocal asked
            asked += 1
            if asked % 3 == 1:
                raise TransportError("lost on the way there")
            answer = await sound(*arguments, **named)
            if asked % 3 == 2:
                raise TransportError("lost on the way back")
            return answer

        monkeypatch.setattr(world.north, "request", broken)
        with WorkerClient(world.socket) as client:
            for number in range(4):
                x = np.random.default_rng(number).normal(size=1000).astype(np.float32)
                np.testing.assert_array_equal(await _forward(client, x), x)
        # Two of three requests fail; how many more there are is a matter of speed.
        assert asked >= 12


async def test_a_dead_worker_is_heard_of_at_the_key_holder(net, tmp_path):
    async with Hosting.open(net, tmp_path) as world:
        with WorkerClient(world.socket) as client:
            await _forward(client, np.ones(3, np.float32))
            with pytest.raises(TrunkLostError, match="went away during step"):
                await trio.to_thread.run_sync(client.step, 0.1, {})
        with WorkerClient(world.socket) as client:  # and the next session is a new one
            await _forward(client, np.ones(3, np.float32))


async def test_who_is_no_member_any_more_is_served_no_longer(net, tmp_path):
    async with Hosting.open(net, tmp_path) as world:
        frame = _frame("forward", x=np.ones(3, np.float32))
        assert await world.ask(Give(ONE, 0, frame)) == Piece()
        everybody = world.federation.members
        world.federation.members = _members(gpu=world.gpu)
        with pytest.raises(AccessError, match="is not a member"):
            await world.ask(Take(ONE, 0))
        with pytest.raises(AccessError, match="is not a member"):
            await world.ask(Give(bytes(15) + b"1", 0, frame))
        world.federation.members = everybody
        assert (await world.ask(Take(ONE, 0))).data


async def test_a_worker_that_is_not_lent_is_nobodys(net, tmp_path):
    async with Hosting.open(net, tmp_path, lends=False) as world:
        with pytest.raises(AccessError, match="lends its worker to nobody") as caught:
            await world.ask(Give(ONE, 0, b"x"))
        assert "worker.lend" in caught.value.hint()
        with (
            WorkerClient(world.socket) as client,
            pytest.raises(TrunkLostError, match="went away"),
        ):
            await _forward(client, np.ones(3, np.float32))
        assert world.worker.begun == 0


async def test_places_are_kept_whatever_is_repeated(net, tmp_path):
    async with Hosting.open(net, tmp_path) as world:
        frame = _frame("forward", x=np.arange(5, dtype=np.float32))
        for part in (Give(ONE, 0, frame[:9]), Give(ONE, 0, frame[:9])):
            assert await world.ask(part) == Piece()
        assert await world.ask(Give(ONE, 9, frame[9:])) == Piece()
        first = (await world.ask(Take(ONE, 0))).data
        assert (await world.ask(Take(ONE, 0))).data == first
        gap = await world.ask(Give(ONE, len(frame) + 1, b"x"))
        assert "a piece for" in gap.over
        assert "no such session" in (await world.ask(Take(ONE, len(first)))).over
        assert "no such session" in (await world.ask(Give(ONE, 7, b"x"))).over


async def test_sessions_and_pieces_are_bounded(net, tmp_path, monkeypatch):
    async with Hosting.open(net, tmp_path) as world:
        names = [bytes([number]) * 16 for number in range(3)]
        for name in names[:2]:
            await world.ask(Give(name, 0, b"\0"))
        with pytest.raises(AccessError, match="2 sessions of this member"):
            await world.ask(Give(names[2], 0, b"\0"))
        await world.ask(Leave(names[0]))
        assert await world.ask(Give(names[2], 0, b"\0")) == Piece()
        for odd in (Give(b"short", 0, b"x"), Give(ONE, 0, b""), Take(ONE, -1)):
            with pytest.raises(TransportError):
                await world.ask(odd)


async def test_a_session_that_is_left_while_it_begins_keeps_no_worker(
    net, tmp_path, monkeypatch
):
    connected, may_go_on = trio.Event(), trio.Event()
    connect = lending._connected

    async def slowly(path):
        stream = await connect(path)
        connected.set()
        await may_go_on.wait()
        return stream

    monkeypatch.setattr(lending, "_connected", slowly)
    async with Hosting.open(net, tmp_path) as world, trio.open_nursery() as nursery:
        said = []

        async def give():
            said.append(await world.ask(Give(ONE, 0, b"\0")))

        nursery.start_soon(give)
        await connected.wait()
        await world.ask(Leave(ONE))
        may_go_on.set()
        await net.until(lambda: world.worker.ended == 1)
        await net.until(lambda: said)
        assert "was ended" in said[0].over


async def test_a_session_nobody_asks_about_is_closed(net, tmp_path, monkeypatch):
    monkeypatch.setattr(lending, "IDLE_LIMIT_S", 0.0)
    monkeypatch.setattr(lending, "_SWEEP_EVERY_S", 0.05)
    async with Hosting.open(net, tmp_path) as world:
        await world.ask(Give(ONE, 0, b"\0"))
        await net.until(lambda: world.worker.ended == 1)
        assert "no such session" in (await world.ask(Take(ONE, 0))).over
