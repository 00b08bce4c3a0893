"""What every `Transport` promises, asked of both adapters."""

import hashlib
import os
from contextlib import asynccontextmanager

import nacl.signing
import pytest
import trio

from node.adapters.libp2p import Libp2pTransport
from node.adapters.memory_transport import MemoryNetwork, MemoryTransport
from node.errors import AccessError, StorageError, TransportError
from protocol.errors import GossipIgnore, LocalProtocolError
from protocol.members import peer_id
from protocol.types import Digest


class DictBlobs:
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


class Federation:
    """Makes nodes of one kind; `strangers` and `forbidden` may change at any time."""

    def __init__(self, kind):
        self.kind = kind
        self.network = MemoryNetwork()
        self.strangers = set()
        self.forbidden = set()

    def node(self, number):
        seed = hashlib.sha256(b"conformance %d" % number).digest()
        key = nacl.signing.SigningKey(seed)
        common = {
            "allowed": lambda peer: peer not in self.strangers,
            "blobs": DictBlobs(),
            "may_fetch": lambda peer, digest: digest not in self.forbidden,
        }
        if self.kind == "memory":
            peer = peer_id(bytes(key.verify_key))
            node = MemoryTransport(network=self.network, peer=peer, **common)
        else:
            node = Libp2pTransport(
                identity_seed=seed,
                sign=lambda message: key.sign(message).signature,
                listen=("/ip4/127.0.0.1/tcp/0",),
                **common,
            )
        node.blobs = common["blobs"]
        return node


@asynccontextmanager
async def running(*nodes):
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run)
        for index, node in enumerate(nodes):
            for other in nodes[index + 1 :]:
                node.keep_connected(other.peer_id, other.addresses())
        await until(lambda: all(len(n.connected()) == len(nodes) - 1 for n in nodes))
        yield nursery
        nursery.cancel_scope.cancel()


async def until(condition):
    with trio.fail_after(90):
        while not condition():
            await trio.sleep(0.01)


async def take(node, count):
    with trio.fail_after(90):
        return [await anext(node.announcements()) for _ in range(count)]


@pytest.fixture(params=["memory", "libp2p"])
def federation(request):
    return Federation(request.param)


async def echo(peer, payload):
    return peer.encode() + payload


def ask(node, peer, protocol, payload, *, limit=1000, timeout=60):
    return node.request(peer, protocol, payload, timeout_s=timeout, limit_bytes=limit)


async def test_the_peer_id_is_that_of_the_key(federation):
    seed = hashlib.sha256(b"conformance 1").digest()
    key = bytes(nacl.signing.SigningKey(seed).verify_key)
    assert federation.node(1).peer_id == peer_id(key)


async def test_a_request_names_the_asker_and_is_answered(federation):
    a, b = federation.node(1), federation.node(2)
    b.serve("echo", echo, limit_bytes=10)
    async with running(a, b):
        assert await ask(a, b.peer_id, "echo", b"x") == a.peer_id.encode() + b"x"
        assert a.connected() == {b.peer_id}


@pytest.mark.parametrize(
    ("protocol", "payload", "limit", "message"),
    [
        ("echo", bytes(11), 1000, "request has 11 bytes, limit is 10"),
        ("echo", b"", 5, "limit is 5"),
        ("other", b"", 1000, "'other' is not served"),
        ("bug", b"", 1000, "internal error"),
        ("storage", b"", 1000, "disk is full"),
        ("protocol", b"", 1000, "seen"),
    ],
)
async def test_what_cannot_be_answered_is_a_transport_error(
    federation, protocol, payload, limit, message
):
    async def bug(peer, payload):
        return 1 // 0

    async def storage(peer, payload):
        raise StorageError("disk is full")

    async def ignore(peer, payload):
        raise GossipIgnore("seen")

    a, b = federation.node(1), federation.node(2)
    for name, answer in {
        "echo": echo,
        "bug": bug,
        "storage": storage,
        "protocol": ignore,
    }.items():
        b.serve(name, answer, limit_bytes=10)
    async with running(a, b):
        with pytest.raises(TransportError, match=message):
            await ask(a, b.peer_id, protocol, payload, limit=limit)
        assert await ask(a, b.peer_id, "echo", b"")


async def test_a_missing_grant_arrives_as_one_with_its_hint(federation):
    async def refuse(peer, payload):
        raise AccessError("no grant covers unit 3", hint="ask the owner")

    a, b = federation.node(1), federation.node(2)
    b.serve("refuse", refuse, limit_bytes=10)
    async with running(a, b):
        with pytest.raises(AccessError, match="unit 3") as caught:
            await ask(a, b.peer_id, "refuse", b"")
        assert caught.value.hint() == "ask the owner"


async def test_a_slow_answer_is_given_up(federation):
    async def never(peer, payload):
        await trio.sleep_forever()

    a, b = federation.node(1), federation.node(2)
    b.serve("never", never, limit_bytes=10)
    b.serve("echo", echo, limit_bytes=10)
    async with running(a, b):
        with pytest.raises(TransportError, match=r"longer than 0.1 s"):
            await ask(a, b.peer_id, "never", b"", timeout=0.1)
        assert await ask(a, b.peer_id, "echo", b"")


async def test_an_unknown_peer_is_not_reached(federation):
    a, b = federation.node(1), federation.node(2)
    async with running(a):
        with pytest.raises(TransportError, match="not connected"):
            await ask(a, b.peer_id, "echo", b"")


async def test_a_former_member_is_neither_asked_nor_answered(federation):
    a, b = federation.node(1), federation.node(2)
    b.serve("echo", echo, limit_bytes=10)
    async with running(a, b):
        assert await ask(a, b.peer_id, "echo", b"")
        federation.strangers.add(b.peer_id)
        with pytest.raises(TransportError, match="not a member"):
            await ask(a, b.peer_id, "echo", b"")
        await until(lambda: not a.connected())


async def test_every_announcement_arrives_once_and_in_order(federation):
    nodes = [federation.node(number) for number in range(3)]
    async with running(*nodes):
        for number in range(20):
            await nodes[0].announce("topic", bytes([number]))
        for node in nodes[1:]:
            arrived = await take(node, 20)
            assert [a.payload[0] for a in arrived] == list(range(20))
            assert {(a.origin, a.topic) for a in arrived} == {
                (nodes[0].peer_id, "topic")
            }
        await nodes[1].announce("topic", b"last")
        assert [a.payload for a in await take(nodes[2], 1)] == [b"last"]


async def test_what_was_said_before_two_meet_is_repaired(federation):
    a, b = federation.node(1), federation.node(2)
    async with running(a) as nursery:
        await a.announce("topic", b"early")
        await nursery.start(b.run)
        b.keep_connected(a.peer_id, a.addresses())
        assert [x.payload for x in await take(b, 1)] == [b"early"]


async def test_an_announcement_too_large_is_our_own_fault(federation):
    a = federation.node(1)
    async with running(a):
        with pytest.raises(LocalProtocolError, match="limit is 65536"):
            await a.announce("topic", bytes(65_537))


async def test_a_blob_is_fetched_whole(federation):
    a, b = federation.node(1), federation.node(2)
    digest = b.blobs.put(os.urandom(3_000_001))
    empty = b.blobs.put(b"")
    async with running(a, b):
        for wanted in (digest, empty):
            await a.fetch(b.peer_id, wanted, limit_bytes=3_000_001, timeout_s=60)
        assert a.blobs.held == b.blobs.held


async def test_a_blob_is_refused_that_is_forbidden_large_missing_or_forged(federation):
    a, b = federation.node(1), federation.node(2)
    hidden, big = b.blobs.put(b"hidden"), b.blobs.put(bytes(1000))
    federation.forbidden.add(hidden)
    forged = Digest(hashlib.sha256(b"what was asked").digest())
    b.blobs.held[forged] = b"what was sent"
    async with running(a, b):
        for digest, kind, message in (
            (hidden, AccessError, "not allowed"),
            (big, TransportError, "limit is 999"),
            (Digest(bytes(32)), TransportError, "is not here"),
            (forged, TransportError, "has digest"),
        ):
            with pytest.raises(kind, match=message):
                await a.fetch(b.peer_id, digest, limit_bytes=999, timeout_s=60)
        assert not a.blobs.held


async def test_a_blob_comes_from_whoever_has_it_and_liars_are_named(federation):
    taker, liar, empty, good = (federation.node(number) for number in range(4))
    digest = good.blobs.put(os.urandom(2_500_000))
    liar.blobs.held[digest] = os.urandom(2_500_000)
    async with running(taker, liar, empty, good):
        fetched = await taker.fetch(
            liar.peer_id,
            digest,
            others=(empty.peer_id, good.peer_id, good.peer_id),
            limit_bytes=2_500_000,
            timeout_s=60,
        )
        assert taker.blobs.held[digest] == good.blobs.held[digest]
        assert fetched.liars <= {liar.peer_id}
        assert set(fetched.sources) <= {liar.peer_id, good.peer_id}
        again = await taker.fetch(
            liar.peer_id, digest, limit_bytes=2_500_000, timeout_s=60
        )
        assert (again.sources, again.liars) == ({}, frozenset())


async def test_a_blob_nobody_gives_is_an_error_that_names_everybody(federation):
    taker, liar, empty = (federation.node(number) for number in range(3))
    digest = Digest(hashlib.sha256(b"what was asked").digest())
    liar.blobs.held[digest] = b"what was sent"
    peers = (liar.peer_id, empty.peer_id)
    async with running(taker, liar, empty):
        with pytest.raises(TransportError, match="no holder gave") as caught:
            await taker.fetch(
                peers[0], digest, others=peers[1:], limit_bytes=99, timeout_s=60
            )
        assert all(peer in str(caught.value) for peer in peers)
        assert not taker.blobs.held
        federation.forbidden.add(digest)
        with pytest.raises(AccessError, match="not allowed"):
            await taker.fetch(
                peers[0], digest, others=peers[1:], limit_bytes=99, timeout_s=60
            )


async def test_a_protocol_is_served_by_one_only(federation):
    a = federation.node(1)
    a.serve("echo", echo, limit_bytes=10)
    with pytest.raises(TransportError, match="served already"):
        a.serve("echo", echo, limit_bytes=10)
