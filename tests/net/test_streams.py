"""What a peer may do on its connection (docs/network.md: R3, R5-R9, R16, R17, S1-S4)."""

import hashlib
import os
import struct
from functools import partial

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamError

from node.adapters.libp2p import exchange, links, yamux
from node.adapters.libp2p.yamux import WINDOW_LIMIT_BYTES, Muxer

FRAME = struct.Struct("!BBHII")


def ask(protocol, size):
    """The header of a request, as frames.py writes it."""
    name = protocol.encode()
    body = b"\x93\xa3ask" + bytes([0xA0 | len(name)]) + name
    body += bytes([size]) if size < 128 else b"\xce" + size.to_bytes(4, "big")
    return len(body).to_bytes(2, "big") + body


JUNK = [
    b"",
    b"\x00",
    b"\x00\x00",
    b"\xff\xff" + bytes(70_000),
    b"\x00\x05\xff\xff\xff\xff\xff",
    b"\x00\x04\x93\xa3ask",
    b"\x00\x12\x93\xa3ask\xa4echo\xd3" + b"\x80" + bytes(7),
    b"\x00\x12\x93\xa3ask\xa4echo\xcf" + b"\x7f" * 8 + bytes(1000),
    hashlib.sha256(b"junk").digest() * 3,
]


async def test_r3_r5_bad_bytes_cost_the_sender_its_stream_and_nothing_else(net):
    b, bad = net.make(2), net.make(9)
    b.serve("echo", net.echo, limit_bytes=10)
    async with net.mesh(b, bad):
        before = net.links(b, bad)
        for junk in JUNK:
            stream = await bad._host.open(b.peer_id)
            await stream.write(junk)
            await stream.close()
            with pytest.raises(StreamError):
                while True:
                    assert await stream.read(1), junk
            assert await net.works(bad, b), junk
        assert net.links(b, bad) == before


async def test_r3_an_error_in_a_stream_handler_stays_in_its_stream(net):
    a, b = net.make(1), net.make(2)
    b.serve("echo", net.echo, limit_bytes=10)
    name = TProtocol("/test/fails/1")

    async def fail(stream):
        await stream.read(1)
        raise RuntimeError("a bug")

    b._host.library_host.set_stream_handler(name, fail)
    async with net.mesh(a, b):
        stream = await a._host.library_host.new_stream(net.info(b).peer_id, [name])
        await stream.write(b"x")
        with pytest.raises(StreamError):
            await stream.read(1)
        assert await net.works(a, b)


@pytest.mark.slow
async def test_r6_a_reader_may_rest_longer_than_the_library_waits(net):
    a, b = net.make(1), net.make(2)
    content = os.urandom(12 << 20)

    async def give(peer, payload):
        return content

    b.serve("give", give, limit_bytes=0)
    async with (
        net.mesh(a, b),
        a._exchange.answer(
            b.peer_id, "give", b"", timeout_s=60, limit_bytes=12 << 20
        ) as body,
    ):
        await trio.sleep(6)
        assert b"".join(await body.take(body.left)) == content


async def test_r7_cancelled_writes_leave_the_connection_alive(net):
    a, b = net.make(1), net.make(2)
    b.serve("echo", net.echo, limit_bytes=50_000_000)
    async with net.mesh(a, b):
        before = net.links(a, b)
        for number in range(15):
            with trio.move_on_after(0.001 + number / 500):
                await a.request(
                    b.peer_id,
                    "echo",
                    bytes(20 << 20),
                    timeout_s=9,
                    limit_bytes=20 << 20,
                )
            assert await net.works(a, b)
        assert net.links(a, b) == before


async def test_r8_bytes_may_come_in_crumbs(net):
    a, b = net.make(1), net.make(2)
    b.serve("echo", net.echo, limit_bytes=400_000)
    content = os.urandom(300_000)

    async def relay(near):
        far = await trio.open_tcp_stream("127.0.0.1", net.port(b))
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
        (listener,) = await nursery.start(
            partial(trio.serve_tcp, relay, 0, host="127.0.0.1")
        )
        middle = listener.socket.getsockname()[1]
        a.keep_connected(b.peer_id, (f"/ip4/127.0.0.1/tcp/{middle}",))
        await net.meshed(a, b)
        got = await a.request(
            b.peer_id, "echo", content, timeout_s=60, limit_bytes=400_000
        )
        assert got == content
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.slow
async def test_r9_whoever_sends_beyond_its_window_is_cut_off(net, monkeypatch, guarded):
    async def never(peer, payload):
        await trio.sleep_forever()

    monkeypatch.setattr(links, "BEAT_PERIOD_S", 60)  # only the window may cut
    if not guarded:
        monkeypatch.setattr(Muxer, "overrun", lambda self, stream_id: None)
    a, b, bad = net.make(1), net.make(2), net.make(9)
    b.serve("never", never, limit_bytes=0)
    b.serve("echo", net.echo, limit_bytes=10)
    async with net.mesh(a, b, bad):
        before = net.links(b, bad)
        stream = await bad._host.open(b.peer_id)
        await stream.write(ask("never", 0))
        await stream.write(bytes(200_000))
        assert await net.works(bad, b)  # within the window nothing happens
        stream.muxed_stream.send_window = 1 << 30
        try:
            for _ in range(16):
                await stream.write(bytes(1 << 20))
            await net.works(bad, b)
        except Exception:
            assert guarded
        else:
            assert not guarded  # the danger: 16 MiB that nobody reads are kept
            (muxer,) = {c.muxed_conn for c in before if not c.is_closed}
            assert max(map(len, muxer.stream_buffers.values())) >= 16 << 20
        if guarded:
            await net.until(lambda: any(c.is_closed for c in before))
        assert await net.works(a, b)


async def test_s1_a_flood_of_half_open_streams_is_cut_and_others_are_served(net):
    a, b, bad = net.make(1), net.make(2), net.make(9)
    b.serve("echo", net.echo, limit_bytes=10)
    # The library would wait ten seconds for each to name a protocol; here for ever.
    config = b._host._network.connection_config
    config.inbound_stream_protocol_negotiation_timeout = 1000.0
    async with net.mesh(a, b, bad):
        (connection, *_) = net.links(b, bad)
        (theirs, *_) = net.links(bad, b)
        for _ in range(150):
            await theirs.muxed_conn.open_stream()
        await net.until(lambda: len(connection.muxed_conn.streams) <= 75)
        assert await net.works(a, b)


@pytest.mark.parametrize(
    ("kind", "flags", "stream_id", "length"),
    [
        (0, 0, 3, WINDOW_LIMIT_BYTES + 1),
        (0, 0, 77_777, 0xFFFFFFFF),
        (0, 1, 999, 15 << 20),
        (3, 0, 0, 1),
        (9, 0xFF, 5, 7),
    ],
)
async def test_s2_a_frame_that_breaks_the_rules_costs_the_connection_at_most(
    net, kind, flags, stream_id, length
):
    a, b, bad = net.make(1), net.make(2), net.make(9)
    b.serve("echo", net.echo, limit_bytes=10)
    async with net.mesh(a, b, bad):
        (connection, *_) = net.links(b, bad)
        (theirs, *_) = net.links(bad, b)
        session = theirs.muxed_conn.secured_conn
        await session.write(FRAME.pack(0, kind, flags, stream_id, length))
        if kind != 9:
            await net.until(lambda: connection.is_closed)
        await net.until(lambda: bad.connected() >= {b.peer_id})
        assert await net.works(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [True, False])
async def test_s3_what_one_peer_can_put_into_memory_is_bounded(
    net, monkeypatch, guarded
):
    """A member opens its windows as wide as they get and then fills them all."""
    monkeypatch.setattr(links, "BEAT_PERIOD_S", 60)
    monkeypatch.setattr(yamux.Stream, "_effective_rtt", lambda self: 10.0)
    limit = yamux.CONNECTION_LIMIT_BYTES
    if not guarded:
        monkeypatch.setattr(yamux, "CONNECTION_LIMIT_BYTES", 1 << 40)
    served = 0

    async def sink(peer, payload):
        return b""

    async def busy(peer, payload):
        nonlocal served
        served += len(payload)
        await trio.sleep_forever()

    a, b, bad = net.make(1), net.make(2), net.make(9)
    b.serve("sink", sink, limit_bytes=8 << 20)
    b.serve("busy", busy, limit_bytes=8 << 20)
    b.serve("echo", net.echo, limit_bytes=10)
    async with net.mesh(a, b, bad), trio.open_nursery() as nursery:

        async def flood(stream):
            await stream.write(ask("busy", 8 << 20))
            while True:
                await stream.write(bytes(1 << 20))

        streams = [await bad._host.open(b.peer_id) for _ in range(14)]
        for stream in streams:
            await stream.write(ask("sink", 8 << 20) + bytes(8 << 20))
            assert await stream.read(1)
        for stream in streams:
            nursery.start_soon(flood, stream)
        (muxer,) = [c.muxed_conn for c in net.links(b, bad)]

        def unread():
            return sum(map(len, muxer.stream_buffers.values()))

        await net.until(lambda: served == exchange.INBOUND_BYTES_PER_PEER)
        if guarded:
            await trio.sleep(0.5)
            assert unread() <= limit
        else:
            await net.until(lambda: unread() > limit)
        assert await net.works(a, b)
        assert served == exchange.INBOUND_BYTES_PER_PEER
        nursery.cancel_scope.cancel()


async def test_r16_both_directions_at_once_keep_every_byte(net):
    a, b = net.make(1), net.make(2)
    for node in (a, b):
        node.serve("echo", net.echo, limit_bytes=10_000_000)
    async with net.mesh(a, b):

        async def fetch(taker, giver, size):
            digest = giver.blobs.put(os.urandom(size))
            await taker.fetch(giver.peer_id, digest, limit_bytes=size, timeout_s=60)
            assert taker.blobs.held[digest] == giver.blobs.held[digest]

        async def request(taker, giver, size):
            content = os.urandom(size)
            got = await taker.request(
                giver.peer_id, "echo", content, timeout_s=60, limit_bytes=size
            )
            assert got == content

        async with trio.open_nursery() as nursery:
            for taker, giver in ((a, b), (b, a)):
                for size in (1, 65_519, 65_520, 262_144, 4_000_001):
                    nursery.start_soon(fetch, taker, giver, size)
                    nursery.start_soon(request, taker, giver, size)


async def test_r17_streams_are_used_again(net):
    a, b = net.make(1), net.make(2)
    b.serve("echo", net.echo, limit_bytes=10)
    async with net.mesh(a, b):
        for _ in range(100):
            assert await net.works(a, b)
        assert len(a._exchange._idle[b.peer_id]) < exchange.STREAMS_PER_PEER
        (connection, *_) = net.links(a, b)
        assert len(connection.muxed_conn.streams) < 12
