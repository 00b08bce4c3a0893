"""What is announced arrives (docs/network.md: R4, R5, R10-R13, R21, A1-A3)."""

import hashlib
from itertools import pairwise

import pytest
import trio

from node.adapters.libp2p import links
from node.adapters.libp2p.gossip import PUSH_PROTOCOL, Gossip
from node.errors import TransportError
from protocol.envelope import seal
from protocol.errors import LocalProtocolError
from protocol.gossip import DOMAIN, PAYLOAD_LIMIT_BYTES, Batch, Note
from protocol.members import public_key
from protocol.wire import encode


@pytest.mark.parametrize("repairing", [True, False])
@pytest.mark.slow
async def test_r12_a_push_that_is_lost_is_repaired(net, monkeypatch, repairing):
    async def lose(self, peer, data):
        pass

    monkeypatch.setattr(Gossip, "_push", lose)
    monkeypatch.setattr(links, "REPAIR_PERIOD_S", 0.2 if repairing else 60)
    a, b, c = net.make(1), net.make(2), net.make(3)
    async with net.mesh(a, b), net.running(c):
        c.keep_connected(b.peer_id, b.addresses())
        await net.until(lambda: len(b.connected()) == 2)
        await trio.sleep(0.3)  # the first comparison is over
        for number in range(60):
            await a.announce("topic", bytes([number]))
        if repairing:
            for node in (b, c):  # c hears a only through b
                assert await net.take(node, 60) == [bytes([n]) for n in range(60)]
        else:
            with pytest.raises(trio.TooSlowError):
                await net.take(b, 1, seconds=1)


async def test_r10_nobody_starves_however_few_neighbours_it_has(net, monkeypatch):
    monkeypatch.setattr(links, "REPAIR_PERIOD_S", 0.2)
    nodes = [net.make(number) for number in range(5)]
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run)
        for one, next_ in pairwise(nodes):  # a chain
            one.keep_connected(next_.peer_id, next_.addresses())
        await net.until(lambda: all(node.connected() for node in nodes))
        for number in range(10):
            await nodes[0].announce("topic", bytes([number]))
        assert await net.take(nodes[-1], 10) == [bytes([n]) for n in range(10)]
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_r10_r12_a_burst_reaches_all_of_ten_nodes(net):
    nodes = [net.make(number) for number in range(10)]
    async with net.mesh(*nodes):
        for number in range(200):
            await nodes[number % 10].announce("topic", bytes([number]))
        for index, node in enumerate(nodes):
            got = await net.take(node, 180, seconds=200)
            assert sorted(got) == [bytes([n]) for n in range(200) if n % 10 != index]


@pytest.mark.slow
async def test_a1_a_consumer_that_rests_loses_nothing(net, monkeypatch):
    monkeypatch.setattr("node.adapters.libp2p.gossip.QUEUE_LENGTH", 8)
    monkeypatch.setattr(links, "REPAIR_PERIOD_S", 0.1)
    a, b = net.make(1), net.make(2)
    async with net.mesh(a, b):
        for number in range(40):
            await a.announce("topic", bytes([number]))
        await trio.sleep(0.3)
        assert set(await net.take(b, 40)) == {bytes([n]) for n in range(40)}


async def test_r21_the_largest_announcement_arrives_and_a_larger_one_is_an_error(net):
    a, b = net.make(1), net.make(2)
    async with net.mesh(a, b):
        largest = hashlib.shake_128(b"x").digest(PAYLOAD_LIMIT_BYTES)
        await a.announce("topic", largest)
        assert await net.take(b, 1) == [largest]
        with pytest.raises(LocalProtocolError, match="limit is 65536"):
            await a.announce("topic", largest + b"x")


async def test_r4_r5_bad_announcements_are_refused_and_the_next_good_one_heard(net):
    a, bad = net.make(1), net.make(9)
    key = public_key(bad.peer_id)
    good = seal(bad.sign, DOMAIN, key, b"topic", encode(Note(7, b"good")))
    other = seal(bad.sign, DOMAIN, key, b"topic", encode(Note(7, b"other")))
    forged = seal(
        bad.sign,
        DOMAIN,
        public_key(a.peer_id),
        b"topic",
        encode(Note(8, b"in your name")),
    )
    stranger = net.make(5)
    foreign = seal(
        stranger.sign,
        DOMAIN,
        public_key(stranger.peer_id),
        b"topic",
        encode(Note(1, b"from outside")),
    )
    a._gossip._log._is_member = lambda sender: sender == key

    async def push(data):
        await bad.request(a.peer_id, PUSH_PROTOCOL, data, timeout_s=60, limit_bytes=0)

    async with net.mesh(a, bad):
        for junk in (b"", b"\xff" * 9, encode(Batch((b"junk",), more=False))[:-1]):
            with pytest.raises(TransportError):
                await push(junk)
        batch = (
            b"\xff\xff",
            forged,
            foreign,
            good[:-1] + bytes([good[-1] ^ 1]),
            good,
            other,
            good,
        )
        await push(encode(Batch(batch, more=False)))
        assert await net.take(a, 1) == [b"good"]
        await bad.announce("topic", b"next")
        assert await net.take(a, 1) == [b"next"]
