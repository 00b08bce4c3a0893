"""Nodes for the network tests: real hosts with real sockets on the loopback interface."""

import hashlib
import importlib.util
from contextlib import asynccontextmanager
from pathlib import Path

import libp2p
import nacl.signing
import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.protocol_muxer import multiselect_communicator
from libp2p.security.insecure.transport import (
    PLAINTEXT_PROTOCOL_ID,
    InsecureTransport,
)
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as StockNoise
from libp2p.stream_muxer import muxer_multistream
from libp2p.stream_muxer.yamux import yamux as stock_yamux
from libp2p.utils import read_delim
from multiaddr import Multiaddr

from node.adapters.libp2p import Libp2pTransport
from node.adapters.libp2p.yamux import Muxer, Stream
from protocol.types import Digest

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


class DictBlobs:
    """Blobs in memory, as small as the port."""

    def __init__(self):
        self.held = {}

    def has(self, digest):
        return digest in self.held

    def size(self, digest):
        return len(self.held[digest])

    def read(self, digest, offset, length):
        return self.held[digest][offset : offset + length]

    def put(self, data):
        digest = Digest(hashlib.sha256(data).digest())
        self.held[digest] = bytes(data)
        return digest


class Net:
    """What the tests share; tests are not packages and cannot import each other."""

    @staticmethod
    def make(number, *, allowed=None, may_fetch=None, listen=None, blobs=None):
        """A transport with its blobs; `number` fixes the identity."""
        seed = hashlib.sha256(b"node %d" % number).digest()
        key = nacl.signing.SigningKey(seed)
        blobs = blobs or DictBlobs()
        transport = Libp2pTransport(
            identity_seed=seed,
            sign=lambda message: key.sign(message).signature,
            listen=listen or (LOOPBACK,),
            allowed=allowed or (lambda peer: True),
            blobs=blobs,
            may_fetch=may_fetch or (lambda peer, digest: True),
        )
        transport.blobs = blobs
        transport.sign = lambda message: key.sign(message).signature
        transport.key = bytes(key.verify_key)
        return transport

    @staticmethod
    async def until(condition, seconds=90):
        """Wait for `condition`; a failure names it by the line that called."""
        with trio.fail_after(seconds):
            while not condition():
                await trio.sleep(0.01)

    @staticmethod
    @asynccontextmanager
    async def running(*nodes):
        """Run the nodes, all dialling all."""
        async with trio.open_nursery() as nursery:
            for node in nodes:
                await nursery.start(node.run)
            for index, node in enumerate(nodes):
                for other in nodes[index + 1 :]:
                    node.keep_connected(other.peer_id, other.addresses())
            yield nursery
            nursery.cancel_scope.cancel()

    @classmethod
    async def meshed(cls, *nodes):
        await cls.until(
            lambda: all(len(n.connected()) == len(nodes) - 1 for n in nodes)
        )

    @classmethod
    @asynccontextmanager
    async def mesh(cls, *nodes):
        """Run the nodes, all connected to all."""
        async with cls.running(*nodes) as nursery:
            await cls.meshed(*nodes)
            yield nursery

    @staticmethod
    async def echo(peer, payload):
        return payload

    @staticmethod
    async def works(a, b):
        """A request from `a` to `b`, which serves "echo", is answered."""
        got = await a.request(b.peer_id, "echo", b"ok", timeout_s=60, limit_bytes=2)
        return got == b"ok"

    @staticmethod
    async def take(node, count, seconds=90):
        """The payloads of the next announcements."""
        with trio.fail_after(seconds):
            return [(await anext(node.announcements())).payload for _ in range(count)]

    @staticmethod
    def info(node):
        return info_from_p2p_addr(Multiaddr(node.addresses()[0]))

    @staticmethod
    def port(node):
        return int(node.addresses()[0].split("/")[4])

    @staticmethod
    def links(node, other):
        """The library's connections from one node to another."""
        return node._host._network.get_connections(ID.from_base58(other.peer_id))


@pytest.fixture
def net():
    return Net


@pytest.fixture
def make_relay():
    """`Relay` of relay.py, whose file pytest's importlib mode puts on no path."""
    path = Path(__file__).with_name("relay.py")
    spec = importlib.util.spec_from_file_location("net_relay", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Relay


class Stock:
    """py-libp2p as it comes, to show what a danger does without our answer to it."""

    listen = Multiaddr(LOOPBACK)
    protocol = TProtocol("/test/1")

    @staticmethod
    def host(**options):
        """Noise only; otherwise the library's defaults."""
        keys = create_new_key_pair()
        noise = StockNoise(keys, noise_privkey=create_noise_key().private_key)
        return libp2p.new_host(key_pair=keys, sec_opt={NOISE_ID: noise}, **options)

    @staticmethod
    def impostor(victim):
        """A host without `victim`'s secret key that offers to speak in its name."""

        class PublicHalf:
            def __init__(self, own):
                self._own = own

            def get_public_key(self):
                return victim.public_key

            def __getattr__(self, name):
                return getattr(self._own, name)

        keys = create_new_key_pair()
        plain = InsecureTransport(keys)
        plain.local_peer = ID.from_pubkey(victim.public_key)
        plain.local_private_key = PublicHalf(keys.private_key)
        name = TProtocol(PLAINTEXT_PROTOCOL_ID)
        return libp2p.new_host(key_pair=keys, sec_opt={name: plain})

    @staticmethod
    def info(host):
        return info_from_p2p_addr(host.get_addrs()[0])

    @asynccontextmanager
    async def running(self, *hosts):
        async with trio.open_nursery() as nursery:

            async def run(host, task_status):
                async with host.run([self.listen]):
                    task_status.started()
                    await trio.sleep_forever()

            for host in hosts:
                await nursery.start(run, host)
            try:
                yield
            finally:
                with trio.move_on_after(5) as scope:
                    scope.shield = True
                    for host in hosts:
                        await host.close()
            nursery.cancel_scope.cancel()


@pytest.fixture
def stock(monkeypatch):
    """Undoes for one test what our adapter has replaced in the library."""
    monkeypatch.setattr(stock_yamux, "YamuxStream", Stream.__bases__[0])
    monkeypatch.setattr(muxer_multistream, "Yamux", Muxer.__bases__[0])
    monkeypatch.setattr(multiselect_communicator, "read_delim", read_delim)
    return Stock()
