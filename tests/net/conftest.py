"""Nodes for the network tests: real hosts with real sockets on the loopback interface."""

import hashlib
from contextlib import asynccontextmanager

import nacl.signing
import pytest
import trio

from node.adapters.libp2p import Libp2pTransport
from protocol.types import Digest


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


def make_node(number, *, allowed=None, may_fetch=None, listen=None):
    """A transport with its blobs; `number` fixes the identity."""
    seed = hashlib.sha256(b"node %d" % number).digest()
    blobs = DictBlobs()
    key = nacl.signing.SigningKey(seed)
    transport = Libp2pTransport(
        identity_seed=seed,
        sign=lambda message: key.sign(message).signature,
        listen=listen or ("/ip4/127.0.0.1/tcp/0",),
        allowed=allowed or (lambda peer: True),
        blobs=blobs,
        may_fetch=may_fetch or (lambda peer, digest: True),
    )
    transport.blobs = blobs
    return transport


async def until(condition, seconds=20):
    """Wait for `condition`; a failure names it by the line that called."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)


@asynccontextmanager
async def running(*nodes):
    """Run the nodes, all connected to all."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run)
        for index, node in enumerate(nodes):
            for other in nodes[index + 1 :]:
                node.keep_connected(other.peer_id, other.addresses())
        yield nursery
        nursery.cancel_scope.cancel()


async def meshed(*nodes):
    await until(lambda: all(len(n.connected()) == len(nodes) - 1 for n in nodes))


@pytest.fixture
def net():
    """The helpers above; tests are not packages and cannot import each other."""

    class Net:
        pass

    Net.make, Net.until, Net.running, Net.meshed = (
        staticmethod(make_node),
        staticmethod(until),
        staticmethod(running),
        staticmethod(meshed),
    )
    return Net
