"""Controls: what each danger does to py-libp2p as it comes.

Where a repair of ours can be switched off, the control stands beside the test; here are
those that need the library itself.  One that stops failing means that upstream has changed
and that a repair may go.
"""

import random
import time
from functools import partial

import pytest
import trio
import trio.lowlevel
from libp2p.network.config import ConnectionConfig
from libp2p.network.stream.exceptions import StreamError
from libp2p.network.swarm import Swarm
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils import encode_varint_prefixed
from multiaddr import Multiaddr

pytestmark = pytest.mark.slow

ANY_ERROR = r"(?s).*"


def same_error_inside(group, kind):
    """Whether an error of `kind` is in a tree of exception groups."""
    if isinstance(group, BaseExceptionGroup):
        return any(same_error_inside(error, kind) for error in group.exceptions)
    return isinstance(group, kind)


async def exchange(stock, a, b, size=4):
    """A few bytes there and back on a new stream."""
    with trio.fail_after(30):
        stream = await a.new_stream(b.get_id(), [stock.protocol])
        await stream.write(bytes(size))
        got = b""
        while len(got) < size:
            got += await stream.read(size - len(got))
        await stream.close()


async def echo(stream):
    try:
        while True:
            await stream.write(await stream.read(65_536))
    except Exception:
        await stream.reset()


async def test_r2_places_are_never_given_back(net, stock):
    limits = ConnectionConfig(
        max_connections=4, min_connections=2, low_watermark=2, high_watermark=4
    )
    a, b = stock.host(connection_config=limits), stock.host()
    limiter = a.get_network()._inbound_limiter
    async with stock.running(a, b):
        for count in (1, 2):
            await b.connect(stock.info(a))
            await b.disconnect(a.get_id())
            await net.until(lambda: not a.get_network().get_connections())
            assert limiter.borrowed_tokens == count
        with pytest.raises(Exception, match=ANY_ERROR):
            await b.get_network().dial_addr(a.get_addrs()[0], a.get_id())


async def test_r3_an_error_in_a_stream_handler_ends_the_host(stock):
    class BugError(Exception):
        pass

    async def fail(stream):
        raise BugError

    a, b = stock.host(), stock.host()
    b.set_stream_handler(stock.protocol, fail)
    with pytest.raises(BaseExceptionGroup) as caught:
        with trio.fail_after(60):
            async with stock.running(a, b):
                await a.connect(stock.info(b))
                await a.new_stream(b.get_id(), [stock.protocol])
                await trio.sleep_forever()
    assert same_error_inside(caught.value, BugError)


async def test_r5_six_bytes_end_a_host_that_speaks_pubsub(stock):
    a, b = stock.host(), stock.host()
    pubsub = Pubsub(
        b, GossipSub([PROTOCOL_ID_V11], degree=6, degree_low=4, degree_high=12)
    )
    with pytest.raises(BaseException, match=ANY_ERROR) as caught:
        with trio.fail_after(60):
            async with stock.running(a, b), background_trio_service(pubsub):
                await pubsub.wait_until_ready()
                await a.connect(stock.info(b))
                stream = await a.new_stream(b.get_id(), [PROTOCOL_ID_V11])
                await stream.write(encode_varint_prefixed(b"\xff" * 5))
                await trio.sleep_forever()
    assert not same_error_inside(caught.value, trio.TooSlowError)


async def test_r11_a_restarted_pubsub_counts_from_the_second_it_started_in(stock):
    first = Pubsub(stock.host(), GossipSub([PROTOCOL_ID_V11], 6, 4, 12))
    assert abs(first.counter - time.time()) < 5


@pytest.mark.slow
async def test_r6_a_reader_that_rests_loses_its_stream(stock):
    failed = trio.Event()

    async def rest(stream):
        await failed.wait()

    a, b = stock.host(), stock.host()
    b.set_stream_handler(stock.protocol, rest)
    async with stock.running(a, b):
        await a.connect(stock.info(b))
        stream = await a.new_stream(b.get_id(), [stock.protocol])
        with pytest.raises(StreamError):
            with trio.fail_after(60):
                while True:
                    await stream.write(bytes(1 << 20))
        failed.set()


@pytest.mark.slow
async def test_r7_a_cancelled_write_leaves_a_dead_connection(stock):
    async def swallow(stream):
        try:
            while True:
                await stream.read(1 << 18)
        except Exception:
            await stream.reset()

    a, b = stock.host(), stock.host()
    other = type(stock.protocol)("/test/swallow/1")
    b.set_stream_handler(stock.protocol, echo)
    b.set_stream_handler(other, swallow)
    chance = random.Random(1)
    async with stock.running(a, b):
        await a.connect(stock.info(b))
        for _ in range(60):
            stream = await a.new_stream(b.get_id(), [other])
            with trio.move_on_after(chance.uniform(0.002, 0.05)):
                while True:
                    await stream.write(bytes(1 << 20))
            try:
                with trio.fail_after(5):
                    await stream.reset()
                    await exchange(stock, a, b)
            except Exception:
                return
    pytest.fail("60 cancelled writes did no harm")


async def test_r8_crumbs_end_the_connection(stock):
    a, b = stock.host(), stock.host()
    b.set_stream_handler(stock.protocol, echo)

    async def relay(port, near):
        far = await trio.open_tcp_stream("127.0.0.1", port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, near, far)
            nursery.start_soon(pump, far, near)

    async def pump(source, sink):
        try:
            async for data in source:
                for start in range(0, len(data), 200):
                    await sink.send_all(data[start : start + 200])
                    await trio.lowlevel.checkpoint()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await sink.aclose()

    async with stock.running(a, b), trio.open_nursery() as nursery:
        port = int(b.get_addrs()[0].value_for_protocol("tcp"))
        (listener,) = await nursery.start(
            partial(trio.serve_tcp, partial(relay, port), 0, host="127.0.0.1")
        )
        middle = listener.socket.getsockname()[1]
        address = Multiaddr(f"/ip4/127.0.0.1/tcp/{middle}")
        await a.connect(PeerInfo(b.get_id(), [address]))
        with pytest.raises(Exception, match=ANY_ERROR):
            for _ in range(8):
                await exchange(stock, a, b, size=200_000)
        nursery.cancel_scope.cancel()


async def test_r15_a_failed_dial_bars_the_peer(net, stock):
    a, b = stock.host(), stock.host()
    async with stock.running(b):
        info = stock.info(b)
    async with stock.running(a):
        with pytest.raises(Exception, match=ANY_ERROR):
            await a.connect(info)
        assert a.get_network()._negative_peer_cache.is_blocked(str(info.peer_id))
    assert callable(Swarm.unblock_peer)


async def test_r18_the_listener_outlives_the_host(stock):
    a = stock.host()
    async with a.run([stock.listen]):
        port = int(a.get_addrs()[0].value_for_protocol("tcp"))
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port):
            pass
    finally:
        await a.close()


@pytest.mark.slow
async def test_r12_a_burst_is_lost(stock):
    received = []

    def gossip(host):
        router = GossipSub(
            [PROTOCOL_ID_V11],
            degree=6,
            degree_low=4,
            degree_high=12,
            heartbeat_interval=1,
            heartbeat_initial_delay=0.1,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
        )
        return Pubsub(host, router), router

    a, b = stock.host(), stock.host()
    (pa, ra), (pb, rb) = gossip(a), gossip(b)
    services = [background_trio_service(service) for service in (pa, ra, pb, rb)]
    async with stock.running(a, b), services[0], services[1], services[2], services[3]:
        await pa.wait_until_ready()
        await pb.wait_until_ready()
        await pa.subscribe("t")
        subscription = await pb.subscribe("t")
        await a.connect(stock.info(b))
        await pa.wait_for_subscription(b.get_id(), "t")
        await trio.sleep(1.5)

        async def collect():
            while True:
                received.append((await subscription.get()).data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            for number in range(200):
                await pa.publish("t", b"%d" % number)
            await trio.sleep(3)
            nursery.cancel_scope.cancel()
    assert len(received) < 200
