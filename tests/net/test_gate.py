"""Who gets in, and what those may do who do not (docs/network.md: R1, R5, R20, G1-G5)."""

import os
from importlib.metadata import version

import libp2p
import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.protocol_muxer import multiselect_communicator
from libp2p.stream_muxer.yamux import yamux as stock_yamux
from libp2p.utils import read_delim

from node.adapters.libp2p import gate
from node.adapters.libp2p.host import LIBRARY_VERSION
from node.adapters.libp2p.yamux import FRAME_BYTES, Muxer
from node.errors import TransportError

ANY_ERROR = r"(?s).*"


def test_the_library_is_the_one_our_repairs_were_made_for():
    assert version("libp2p") == LIBRARY_VERSION
    for owner, name in (
        (stock_yamux.YamuxStream, "_auto_tune_and_send_window_update"),
        (stock_yamux.Yamux, "_write_frame"),
        (stock_yamux.Yamux, "_read_data_body"),
        (stock_yamux.Yamux, "_cleanup_on_error"),
        (Swarm, "_do_handle_inbound_connection"),
        (Swarm, "upgrade_inbound_raw_conn"),
        (Swarm, "unblock_peer"),
        (AutoConnector, "maybe_connect"),
        (multiselect_communicator, "read_delim"),
    ):
        assert callable(getattr(owner, name))
    assert stock_yamux.MAX_WINDOW_SIZE > FRAME_BYTES


@pytest.mark.slow
async def test_r1_nobody_speaks_in_another_ones_name(net, stock):
    victim = create_new_key_pair()
    naive, bad = libp2p.new_host(), stock.impostor(victim)
    async with stock.running(naive, bad):
        await bad.connect(stock.info(naive))
        name = ID.from_pubkey(victim.public_key)
        await net.until(lambda: naive.get_connected_peers() == [name])  # the danger
        await naive.disconnect(name)
        a = net.make(1)
        async with net.running(a):
            with pytest.raises(Exception, match=ANY_ERROR):
                await bad.connect(net.info(a))
            assert not a._host.connected()


async def test_r1_a_dial_is_not_talked_down_to_plaintext(net, stock):
    victim = create_new_key_pair()
    naive, bad = libp2p.new_host(), stock.impostor(victim)
    async with stock.running(naive, bad):
        lie = PeerInfo(ID.from_pubkey(victim.public_key), bad.get_addrs())
        await naive.connect(lie)  # the danger
        assert naive.get_connected_peers() == [lie.peer_id]
        await naive.disconnect(lie.peer_id)
        a = net.make(1)
        async with net.running(a):
            with pytest.raises(Exception, match=ANY_ERROR):
                await a._host.dial(str(lie.peer_id), tuple(map(str, lie.addrs)))
            assert not a._host.connected()


async def test_r20_a_stranger_is_refused_in_both_directions(net):
    members = {net.make(1).peer_id, net.make(2).peer_id}
    a = net.make(1, allowed=members.__contains__)
    b = net.make(2, allowed=members.__contains__)
    c = net.make(3)
    b.serve("echo", net.echo, limit_bytes=10)
    async with net.running(a, b), net.running(c):
        await net.until(lambda: a.connected() == {b.peer_id})
        with pytest.raises(Exception, match=ANY_ERROR):
            with trio.fail_after(10):
                await c._host.dial(a.peer_id, a.addresses())
                await c._host.open(a.peer_id)
        with pytest.raises(TransportError, match="not a member"):
            await a.request(c.peer_id, "echo", b"", timeout_s=1, limit_bytes=1)
        assert c.peer_id not in a.connected() | b.connected()
        assert await net.works(a, b)
        members.add(c.peer_id)  # the same peer, once it is one
        c.keep_connected(b.peer_id, b.addresses())
        await net.until(lambda: b.peer_id in c.connected())
        assert await net.works(c, b)


@pytest.mark.slow
async def test_r2_a_closed_connection_gives_its_place_back(net):
    a, b = net.make(1), net.make(2)
    network = a._host.library_host.get_network()
    network._inbound_limiter.total_tokens = 2
    async with net.running(a), net.running(b):
        for _ in range(5):
            await b._host.dial(a.peer_id, a.addresses())
            await net.until(lambda: a._host.connected() == {b.peer_id})
            await b._host.drop(a.peer_id)
            await net.until(lambda: not a._host.connected())
        await net.until(lambda: network._inbound_limiter.borrowed_tokens == 0)


async def send_endless_line(port):
    """Announce a line of 256 MiB; how much of it is taken, up to 64 MiB."""
    taken = 0
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(b"\x80\x80\x80\x80\x01")
        try:
            with trio.move_on_after(30):
                while taken < 64 << 20:
                    await stream.send_all(bytes(1 << 20))
                    taken += 1 << 20
        except trio.BrokenResourceError:
            pass
    return taken


async def test_g1_a_line_of_256_mib_is_not_read(net, monkeypatch):
    a = net.make(1)
    async with net.running(a):
        assert await send_endless_line(net.port(a)) < 16 << 20  # socket buffers
        monkeypatch.setattr(multiselect_communicator, "read_delim", read_delim)
        # The danger: it is read for as long as it comes, which is all of it or the handshake's time.
        assert await send_endless_line(net.port(a)) > 16 << 20


async def test_g2_silent_strangers_do_not_take_the_places_of_members(net, monkeypatch):
    a, b = net.make(1), net.make(2)
    network = a._host.library_host.get_network()
    network._inbound_limiter.total_tokens = 80
    streams = []
    async with net.running(a), net.running(b):

        async def knock(count):
            for _ in range(count):
                stream = await trio.open_tcp_stream(
                    "127.0.0.1", net.port(a), local_address="127.0.0.2"
                )
                streams.append(stream)

        await knock(100)
        await net.until(lambda: network._inbound_limiter.borrowed_tokens <= 32)
        await b._host.dial(a.peer_id, a.addresses())
        await net.until(lambda: a._host.connected() == {b.peer_id})
        await b._host.drop(a.peer_id)
        monkeypatch.setattr(gate, "AT_THE_GATE", 1000)
        monkeypatch.setattr(gate, "AT_THE_GATE_PER_ADDRESS", 1000)
        await knock(100)
        await net.until(lambda: network._inbound_limiter.borrowed_tokens == 80)
        with pytest.raises(Exception, match=ANY_ERROR):  # the danger
            await b._host.dial(a.peer_id, a.addresses())
        for stream in streams:
            await stream.aclose()


async def test_g3_a_member_holds_two_connections_however_often_it_dials(net):
    a, b = net.make(1), net.make(2)
    a.serve("echo", net.echo, limit_bytes=10)
    async with net.running(a), net.running(b):
        target = net.info(a)
        dial = b._host.library_host.get_network().dial_addr
        for _ in range(8):
            await dial(target.addrs[0], target.peer_id)
        await net.until(lambda: len(net.links(a, b)) <= gate.CONNECTIONS_PER_PEER)
        await net.until(lambda: b.connected() == {a.peer_id})
        await net.until(lambda: a.connected() == {b.peer_id})
        assert await net.works(b, a)


GREETINGS = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20" + bytes(32),
    b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff" + os.urandom(65_535),
    b"\x13/multistream/1.0.0\n\x04\xff\xff\xff\n",
    b"\x00" * 64,
]


async def test_g4_a_socket_that_speaks_something_else_is_closed(net):
    a = net.make(1)
    async with net.running(a):
        for greeting in GREETINGS:
            stream = await trio.open_tcp_stream("127.0.0.1", net.port(a))
            async with stream:
                with trio.fail_after(60):
                    try:
                        await stream.send_all(greeting)
                        await stream.send_eof()
                        while await stream.receive_some(65_536):
                            pass
                    except (trio.BrokenResourceError, OSError):
                        pass
        async with await trio.open_tcp_stream("127.0.0.1", net.port(a)) as again:
            assert await again.receive_some(1)


async def test_g5_r4_r5_no_service_of_the_library_is_spoken(net):
    a, b = net.make(1), net.make(2)
    async with net.mesh(a, b):
        for name in ("/meshsub/1.1.0", "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"):
            with pytest.raises(Exception, match=ANY_ERROR):
                await a._host.library_host.new_stream(
                    net.info(b).peer_id, [TProtocol(name)]
                )


async def test_only_our_muxer_is_offered(net):
    a, b = net.make(1), net.make(2)
    async with net.mesh(a, b):
        (connection, *_) = net.links(a, b)
        assert type(connection.muxed_conn) is Muxer


async def test_r18_a_node_that_stopped_holds_no_port(net):
    a, b = net.make(1), net.make(2)
    with trio.fail_after(90):
        async with net.mesh(a, b):
            address = a.addresses()[0].split("/p2p/")[0]
    again = net.make(1, listen=(address,))
    async with net.running(again):
        assert again.addresses()[0].startswith(address)


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("taken", "another process"),
        ("/ip4/192.0.2.1/tcp/4001", "not ours"),
        ("/ip4/127.0.0.1/udp/4001/quic-v1", "/ip4/0.0.0.0/tcp/4001"),
        ("127.0.0.1:4001", "/ip4/192.0.2.1/tcp/4001"),
    ],
)
async def test_an_address_that_cannot_be_had_is_named(net, address, hint):
    a = net.make(1)
    async with net.running(a):
        taken = a.addresses()[0].split("/p2p/")[0]
        wanted = taken if address == "taken" else address
        b = net.make(2, listen=(wanted,))
        with pytest.raises(TransportError) as caught:
            await b.run()
        assert wanted in str(caught.value)
        assert "\n" not in str(caught.value)
        assert hint in caught.value.hint()
