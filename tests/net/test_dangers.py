"""What a peer, the network or the library may do to a node (docs/network.md, R1-R18)."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from importlib.metadata import version

import libp2p
import pytest
import trio
import trio.lowlevel
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.custom_types import TProtocol
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.stream.exceptions import StreamError
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from libp2p.security.insecure.transport import (
    PLAINTEXT_PROTOCOL_ID,
    InsecureTransport,
)
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as StockNoise
from libp2p.stream_muxer.yamux import yamux as stock_yamux
from multiaddr import Multiaddr

from node.adapters.libp2p import exchange, links
from node.adapters.libp2p.gossip import Gossip
from node.adapters.libp2p.host import LIBRARY_VERSION, PROTOCOL, Host
from node.adapters.libp2p.yamux import FRAME_BYTES, Muxer
from node.errors import TransportError

LISTEN = Multiaddr("/ip4/127.0.0.1/tcp/0")


async def echo(peer, payload):
    return payload


def info_of(node):
    return info_from_p2p_addr(Multiaddr(node.addresses()[0]))


async def works(a, b):
    """A request from `a` to `b` is answered."""
    got = await a.request(b.peer_id, "echo", b"ok", timeout_s=10, limit_bytes=2)
    return got == b"ok"


def attacker():
    """A member that runs py-libp2p as it comes, without our rules."""
    keys = create_new_key_pair()
    noise = StockNoise(keys, noise_privkey=create_noise_key().private_key)
    return libp2p.new_host(key_pair=keys, sec_opt={NOISE_ID: noise})


def liar():
    """A dialler that offers only the security protocol that proves nothing."""
    keys = create_new_key_pair()
    name = TProtocol(PLAINTEXT_PROTOCOL_ID)
    return libp2p.new_host(key_pair=keys, sec_opt={name: InsecureTransport(keys)})


def test_the_library_is_the_one_our_repairs_were_made_for():
    assert version("libp2p") == LIBRARY_VERSION
    for owner, name in (
        (stock_yamux.YamuxStream, "_auto_tune_and_send_window_update"),
        (stock_yamux.Yamux, "_write_frame"),
        (stock_yamux.Yamux, "_cleanup_on_error"),
        (Swarm, "_do_handle_inbound_connection"),
        (Swarm, "unblock_peer"),
        (AutoConnector, "maybe_connect"),
    ):
        assert callable(getattr(owner, name))
    assert stock_yamux.MAX_WINDOW_SIZE > FRAME_BYTES


async def test_r1_whoever_offers_no_noise_is_not_heard(net):
    a = net.make(1)
    stock, bad = libp2p.new_host(), liar()
    async with net.running(a), bad.run([LISTEN]), stock.run([LISTEN]):
        await bad.connect(PeerInfo(stock.get_id(), stock.get_addrs()))
        assert stock.get_connected_peers() == [bad.get_id()]  # the control
        with pytest.raises(Exception, match=r".*"):
            await bad.connect(info_of(a))
        assert not a.connected()
        await bad.close()
        await stock.close()


async def test_a_stranger_is_refused_in_both_directions(net):
    c = net.make(3)
    members = {net.make(1).peer_id, net.make(2).peer_id}
    a = net.make(1, allowed=members.__contains__)
    b = net.make(2, allowed=members.__contains__)
    b.serve("echo", echo, limit_bytes=10)
    async with net.running(a, b, c):
        await net.until(lambda: a.connected() == {b.peer_id})
        host = c._host
        with pytest.raises(Exception, match=r".*"):
            with trio.fail_after(10):
                await host.dial(a.peer_id, a.addresses())
                await host.open(a.peer_id)
        with pytest.raises(TransportError, match="not a member"):
            await a.request(c.peer_id, "echo", b"", timeout_s=1, limit_bytes=1)
        assert c.peer_id not in a.connected() | b.connected()
        assert await works(a, b)


async def test_r2_a_closed_connection_gives_its_place_back(net):
    a = net.make(1)
    network = a._host.library_host.get_network()
    network._inbound_limiter.total_tokens = 4
    async with net.running(a):
        for _ in range(12):
            other = Host(os.urandom(32), lambda peer: True)
            async with other.running(("/ip4/127.0.0.1/tcp/0",)):
                await other.dial(a.peer_id, a.addresses())
                await net.until(lambda: len(a.connected()) == 1)
            await net.until(lambda: not a.connected())
        await net.until(lambda: network._inbound_limiter.borrowed_tokens == 0)


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\x00",
        b"\x00\x00",
        b"\xff\xff" + bytes(70_000),
        b"\x00\x05\xff\xff\xff\xff\xff",
        b"\x00\x04\x93\xa3ask",
        b"\x00\x0f\x93\xa3ask\xa4echo\xd3" + b"\x80" + bytes(7),
        b"\x00\x12\x93\xa3ask\xa4echo\xcf" + b"\x7f" * 8 + bytes(1000),
        hashlib.sha256(b"junk").digest() * 3,
    ],
)
async def test_r3_r5_bad_bytes_cost_the_sender_its_stream_and_nothing_else(net, junk):
    b, bad = net.make(2), net.make(9)
    b.serve("echo", echo, limit_bytes=10)
    async with net.running(b, bad):
        await net.meshed(b, bad)
        stream = await bad._host.open(b.peer_id)
        await stream.write(junk)
        await stream.close()
        with pytest.raises(StreamError):
            while True:
                assert await stream.read(1)
        assert await works(bad, b)


async def test_r5_pubsub_cannot_be_poisoned_because_it_is_not_spoken(net):
    b, bad = net.make(2), attacker()
    async with net.running(b), bad.run([LISTEN]):
        await bad.connect(info_of(b))
        with pytest.raises(Exception, match=r".*"):
            await bad.new_stream(info_of(b).peer_id, [TProtocol("/meshsub/1.1.0")])
        await bad.close()


async def test_a_flood_of_half_open_streams_is_cut_and_others_are_served(net):
    a, b, bad = net.make(1), net.make(2), net.make(9)
    b.serve("echo", echo, limit_bytes=10)
    async with net.running(a, b, bad):
        await net.meshed(a, b, bad)
        (connection, *_) = b._host._network.get_connections(ID.from_base58(bad.peer_id))
        (theirs, *_) = bad._host._network.get_connections(ID.from_base58(b.peer_id))
        for _ in range(150):
            await theirs.muxed_conn.open_stream()
        # The library gives each of them ten seconds to name a protocol.
        await net.until(lambda: len(connection.muxed_conn.streams) <= 75, seconds=5)
        assert await works(a, b)


@pytest.mark.slow
async def test_r6_a_reader_may_rest_longer_than_the_library_waits(net):
    a, b = net.make(1), net.make(2)
    digest = b.blobs.put(os.urandom(12 << 20))
    async with net.running(a, b):
        await net.meshed(a, b)
        hasher = hashlib.sha256()
        async with a._exchange.answer(
            b.peer_id, "rexis/blob/1", digest, timeout_s=60, limit_bytes=12 << 20
        ) as (_, parts):
            await trio.sleep(6)
            async for part in parts:
                hasher.update(part)
        assert hasher.digest() == digest


async def test_r7_cancelled_writes_leave_the_connection_alive(net):
    a, b = net.make(1), net.make(2)
    b.serve("echo", echo, limit_bytes=50_000_000)
    async with net.running(a, b):
        await net.meshed(a, b)
        before = a._host._network.get_connections()
        for number in range(30):
            with trio.move_on_after(0.001 + number / 1000):
                await a.request(
                    b.peer_id,
                    "echo",
                    bytes(20 << 20),
                    timeout_s=9,
                    limit_bytes=20 << 20,
                )
            assert await works(a, b)
        assert a._host._network.get_connections() == before


async def test_r8_bytes_may_come_in_crumbs(net):
    a, b = net.make(1), net.make(2)
    b.serve("echo", echo, limit_bytes=400_000)
    content = os.urandom(300_000)

    async def relay(near):
        far = await trio.open_tcp_stream("127.0.0.1", port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, near, far, 300)
            nursery.start_soon(pump, far, near, 300)

    async def pump(source, sink, size):
        try:
            async for data in source:
                for start in range(0, len(data), size):
                    await sink.send_all(data[start : start + size])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await sink.aclose()

    async with net.running(a), net.running(b), trio.open_nursery() as nursery:
        port = int(b.addresses()[0].split("/")[4])
        (listener,) = await nursery.start(
            partial(trio.serve_tcp, relay, 0, host="127.0.0.1")
        )
        middle = listener.socket.getsockname()[1]
        a.keep_connected(b.peer_id, (f"/ip4/127.0.0.1/tcp/{middle}",))
        await net.meshed(a, b)
        got = await a.request(
            b.peer_id, "echo", content, timeout_s=20, limit_bytes=400_000
        )
        assert got == content
        nursery.cancel_scope.cancel()


async def test_r9_whoever_sends_beyond_its_window_is_cut_off(net, monkeypatch):
    async def never(peer, payload):
        await trio.sleep_forever()

    monkeypatch.setattr(links, "BEAT_PERIOD_S", 60)  # only the window may cut
    a, b, bad = net.make(1), net.make(2), net.make(9)
    b.serve("never", never, limit_bytes=0)
    b.serve("echo", echo, limit_bytes=10)
    async with net.running(a, b, bad):
        await net.meshed(a, b, bad)
        before = b._host._network.get_connections(ID.from_base58(bad.peer_id))
        stream = await bad._host.open(b.peer_id)
        await stream.write(b"\x00\x0c\x93\xa3ask\xa5never\x00")
        await stream.write(bytes(200_000))
        assert await works(bad, b)  # within the window nothing happens
        stream.muxed_stream.send_window = 1 << 30
        with pytest.raises(StreamError):
            for _ in range(64):
                await stream.write(bytes(1 << 20))
        await net.until(lambda: any(connection.is_closed for connection in before))
        assert await works(a, b)


async def test_r11_r15_a_restarted_peer_is_redialled_and_heard(net):
    a, b = net.make(1), net.make(2)
    async with net.running(a):
        async with net.running(b):
            listen = b.addresses()
            a.keep_connected(b.peer_id, listen)
            await net.meshed(a, b)
            for _ in range(50):
                await b.announce("topic", b"old")
            with trio.fail_after(10):
                for _ in range(50):
                    await anext(a.announcements())
        await net.until(lambda: not a.connected())
        await trio.sleep(0.5)  # at least one dial fails
        again = net.make(2, listen=(listen[0].split("/p2p/")[0],))
        async with net.running(again):
            await net.until(lambda: a.connected() == {b.peer_id})
            await again.announce("topic", b"new")
            with trio.fail_after(10):
                assert (await anext(a.announcements())).payload == b"new"


async def test_r12_a_push_that_is_lost_is_repaired(net, monkeypatch):
    async def lose(self, peer, data):
        pass

    monkeypatch.setattr(Gossip, "_push", lose)
    monkeypatch.setattr(links, "REPAIR_PERIOD_S", 0.2)
    a, b, c = net.make(1), net.make(2), net.make(3)
    async with net.running(a, b), net.running(c):
        c.keep_connected(b.peer_id, b.addresses())
        await net.until(lambda: len(b.connected()) == 2)
        for number in range(60):
            await a.announce("topic", bytes([number]))
        for node in (b, c):  # c hears a only through b
            with trio.fail_after(20):
                got = [(await anext(node.announcements())).payload for _ in range(60)]
            assert got == [bytes([number]) for number in range(60)]


@pytest.mark.slow
async def test_r10_r12_a_burst_reaches_all_of_ten_nodes(net):
    nodes = [net.make(number) for number in range(10)]
    async with net.running(*nodes):
        await net.meshed(*nodes)
        for number in range(200):
            await nodes[number % 10].announce("topic", bytes([number]))
        for index, node in enumerate(nodes):
            with trio.fail_after(30):
                got = [(await anext(node.announcements())).payload for _ in range(180)]
            assert sorted(got) == [bytes([n]) for n in range(200) if n % 10 != index]


async def test_a_consumer_that_rests_loses_nothing(net, monkeypatch):
    monkeypatch.setattr("node.adapters.libp2p.gossip.QUEUE_LENGTH", 8)
    monkeypatch.setattr(links, "REPAIR_PERIOD_S", 0.1)
    a, b = net.make(1), net.make(2)
    async with net.running(a, b):
        await net.meshed(a, b)
        for number in range(40):
            await a.announce("topic", bytes([number]))
        await trio.sleep(0.3)
        with trio.fail_after(20):
            got = {(await anext(b.announcements())).payload for _ in range(40)}
        assert got == {bytes([number]) for number in range(40)}


async def test_r14_a_peer_that_answers_no_beat_is_dropped(net, monkeypatch):
    monkeypatch.setattr(links, "BEAT_TIMEOUT_S", 0.3)

    async def never(stream):
        await trio.sleep_forever()

    b, bad = net.make(2), attacker()
    bad.set_stream_handler(PROTOCOL, never)
    async with net.running(b), bad.run([LISTEN]):
        await bad.connect(info_of(b))
        await net.until(lambda: str(bad.get_id()) in b.connected())
        await net.until(lambda: not b.connected())
        await bad.close()


@pytest.mark.slow
async def test_r14_a_stopped_process_is_dropped_and_found_again(
    net, monkeypatch, tmp_path
):
    monkeypatch.setattr(links, "BEAT_PERIOD_S", 0.3)
    monkeypatch.setattr(links, "BEAT_TIMEOUT_S", 0.7)
    a = net.make(1)
    with subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [
            sys.executable,
            "-m",
            "node.bench.transport_peer",
            "serve",
            "node",
            "1024",
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            line = await trio.to_thread.run_sync(process.stdout.readline)
            peer, address = line.decode().split('\\"')[1:4:2]
            async with net.running(a):
                a.keep_connected(peer, (address,))
                await net.until(lambda: a.connected() == {peer})
                process.send_signal(signal.SIGSTOP)
                await net.until(lambda: not a.connected())
                process.send_signal(signal.SIGCONT)
                await net.until(lambda: a.connected() == {peer})
        finally:
            process.kill()


async def test_r16_both_directions_at_once_keep_every_byte(net):
    a, b = net.make(1), net.make(2)
    for node in (a, b):
        node.serve("echo", echo, limit_bytes=10_000_000)
    async with net.running(a, b):
        await net.meshed(a, b)

        async def fetch(taker, giver, size):
            digest = giver.blobs.put(os.urandom(size))
            await taker.fetch(giver.peer_id, digest, limit_bytes=size, timeout_s=60)
            assert taker.blobs.held[digest] == giver.blobs.held[digest]

        async def ask(taker, giver, size):
            content = os.urandom(size)
            got = await taker.request(
                giver.peer_id, "echo", content, timeout_s=60, limit_bytes=size
            )
            assert got == content

        async with trio.open_nursery() as nursery:
            for taker, giver in ((a, b), (b, a)):
                for size in (1, 65_519, 65_520, 262_144, 8_000_001):
                    nursery.start_soon(fetch, taker, giver, size)
                    nursery.start_soon(ask, taker, giver, size)


async def test_r17_streams_are_used_again(net):
    a, b = net.make(1), net.make(2)
    b.serve("echo", echo, limit_bytes=10)
    async with net.running(a, b):
        await net.meshed(a, b)
        for _ in range(200):
            assert await works(a, b)
        assert len(a._exchange._idle[b.peer_id]) < exchange.STREAMS_PER_PEER
        (connection, *_) = a._host._network.get_connections()
        assert len(connection.muxed_conn.streams) < 12


async def test_r18_a_node_that_stopped_holds_no_port(net):
    a, b = net.make(1), net.make(2)
    with trio.fail_after(20):
        async with net.running(a, b):
            await net.meshed(a, b)
            port = int(a.addresses()[0].split("/")[4])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


async def test_only_our_muxer_is_offered(net):
    a, b = net.make(1), net.make(2)
    async with net.running(a, b):
        await net.meshed(a, b)
        for connection in a._host._network.get_connections():
            assert type(connection.muxed_conn) is Muxer
