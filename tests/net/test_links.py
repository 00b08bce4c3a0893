"""Staying connected (docs/network.md: R14, R15, R19, L1)."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
import trio
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm

from node.adapters.libp2p import links
from node.adapters.libp2p.host import PROTOCOL


@pytest.mark.parametrize("beating", [True, False])
@pytest.mark.slow
async def test_r14_r19_a_peer_that_answers_nothing_is_dropped(
    net, monkeypatch, beating
):
    """Its sockets are open and it even opens streams; only an answer is missing."""
    monkeypatch.setattr(links, "BEAT_TIMEOUT_S", 0.05 if beating else 60)
    monkeypatch.setattr(links, "AGAIN_S", 0.01)

    async def never(stream):
        await trio.sleep_forever()

    b, mute = net.make(2), net.make(9)
    async with net.running(b), net.running(mute):
        mute._host.library_host.set_stream_handler(PROTOCOL, never)
        mute._links.run = trio.sleep_forever
        await mute._host.dial(b.peer_id, b.addresses())
        await net.until(lambda: b.connected() == {mute.peer_id})
        with trio.move_on_after(60 if beating else 1) as scope:
            await net.until(lambda: not b.connected())
        assert scope.cancelled_caught is not beating


async def test_r15_a_failed_dial_does_not_bar_the_next(net, monkeypatch):
    a, b = net.make(1), net.make(2)
    async with net.running(b):
        address = b.addresses()[0]
    async with net.running(a):

        async def dial():
            await a._host.dial(b.peer_id, (address,))

        with pytest.raises(SwarmException):
            await dial()
        again = net.make(2, listen=(address.split("/p2p/")[0],))
        async with net.running(again):
            with monkeypatch.context() as patch:
                patch.setattr(Swarm, "unblock_peer", lambda self, peer: None)
                with pytest.raises(SwarmException):  # the danger, for a minute
                    await dial()
            await dial()
            await net.until(lambda: a.connected() == {b.peer_id})


@pytest.mark.slow
async def test_r11_r15_a_restarted_peer_is_redialled_and_heard(net):
    a, b = net.make(1), net.make(2)
    async with net.running(a):
        async with net.running(b):
            listen = b.addresses()
            a.keep_connected(b.peer_id, listen)
            await net.meshed(a, b)
            for _ in range(50):
                await b.announce("topic", b"old")
            assert await net.take(a, 50) == [b"old"] * 50
        await net.until(lambda: not a.connected())
        await trio.sleep(0.5)  # at least one dial fails
        again = net.make(2, listen=(listen[0].split("/p2p/")[0],))
        async with net.running(again):
            await net.until(lambda: a.connected() == {b.peer_id})
            await again.announce("topic", b"new")
            assert await net.take(a, 1) == [b"new"]


async def test_l1_every_address_of_a_peer_is_tried(net):
    a, b = net.make(1), net.make(2)
    async with net.running(a), net.running(b):
        dead = "/ip4/127.0.0.1/tcp/1"
        a.keep_connected(b.peer_id, (dead,))
        await trio.sleep(0.2)
        with pytest.raises(SwarmException):  # the danger: only the oldest is tried
            await a._host.library_host.connect(net.info(b))
        a.keep_connected(b.peer_id, (dead, *b.addresses()))
        await net.until(lambda: a.connected() == {b.peer_id})


@contextlib.asynccontextmanager
async def process(folder):
    """A node in a process of its own: the process, its peer id, its address."""
    with subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [
            *(sys.executable, "-m", "node.bench.transport_peer"),
            *("serve", "node", "1024", str(folder)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as running:
        try:
            line = await trio.to_thread.run_sync(running.stdout.readline)
            peer, address = line.decode().split('\\"')[1:4:2]
            yield running, peer, address
        finally:
            running.kill()


@pytest.mark.slow
async def test_r14_a_stopped_process_is_dropped_and_found_again(
    net, monkeypatch, tmp_path
):
    monkeypatch.setattr(links, "BEAT_PERIOD_S", 0.3)
    monkeypatch.setattr(links, "BEAT_TIMEOUT_S", 2.0)
    a = net.make(1)
    async with process(tmp_path) as (other, peer, address), net.running(a):
        a.keep_connected(peer, (address,))
        await net.until(lambda: a.connected() == {peer})
        other.send_signal(signal.SIGSTOP)
        await net.until(lambda: not a.connected())
        other.send_signal(signal.SIGCONT)
        await net.until(lambda: a.connected() == {peer})


@pytest.mark.slow
async def test_r14_a_killed_process_is_noticed_and_its_successor_found(net, tmp_path):
    a = net.make(1)
    async with net.running(a):
        async with process(tmp_path) as (other, peer, address):
            a.keep_connected(peer, (address,))
            await net.until(lambda: a.connected() == {peer})
            other.send_signal(signal.SIGKILL)
            await net.until(lambda: not a.connected(), seconds=30)
        os.stat(tmp_path)  # noqa: PTH116 - what it stored outlives it
        async with process(tmp_path) as (_, peer, address):
            a.keep_connected(peer, (address,))
            await net.until(lambda: a.connected() == {peer})
