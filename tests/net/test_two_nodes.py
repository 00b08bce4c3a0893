"""Two real nodes: ask, answer, refuse, announce, fetch."""

import hashlib
import os

import pytest

from node.errors import AccessError, StorageError, TransportError


async def echo(peer, payload):
    return payload[::-1]


async def test_a_request_is_answered(net):
    a, b = net.make(1), net.make(2)
    b.serve("echo", echo, limit_bytes=100)
    async with net.running(a, b):
        await net.meshed(a, b)
        got = await a.request(b.peer_id, "echo", b"abc", timeout_s=5, limit_bytes=3)
        assert got == b"cba"


async def test_sizes_are_bounded_on_both_sides(net):
    a, b = net.make(1), net.make(2)
    b.serve("echo", echo, limit_bytes=100)
    async with net.running(a, b):
        await net.meshed(a, b)
        with pytest.raises(TransportError, match="limit is 100"):
            await a.request(
                b.peer_id, "echo", bytes(5_000_000), timeout_s=5, limit_bytes=3
            )
        with pytest.raises(TransportError, match="limit is 2"):
            await a.request(b.peer_id, "echo", b"abc", timeout_s=5, limit_bytes=2)
        with pytest.raises(TransportError, match="not served"):
            await a.request(b.peer_id, "other", b"abc", timeout_s=5, limit_bytes=2)
        got = await a.request(b.peer_id, "echo", b"abc", timeout_s=5, limit_bytes=3)
        assert got == b"cba"


async def test_a_refusal_travels_and_a_bug_does_not(net):
    async def refuse(peer, payload):
        if payload == b"access":
            raise AccessError("no grant covers unit 3", hint="ask for it")
        if payload == b"storage":
            raise StorageError("disk is full")
        return 1 // 0

    a, b = net.make(1), net.make(2)
    b.serve("refuse", refuse, limit_bytes=100)
    async with net.running(a, b):
        await net.meshed(a, b)
        with pytest.raises(AccessError, match="no grant covers unit 3") as caught:
            await a.request(b.peer_id, "refuse", b"access", timeout_s=5, limit_bytes=1)
        assert caught.value.hint() == "ask for it"
        with pytest.raises(TransportError, match="disk is full"):
            await a.request(b.peer_id, "refuse", b"storage", timeout_s=5, limit_bytes=1)
        with pytest.raises(TransportError, match="internal error"):
            await a.request(b.peer_id, "refuse", b"bug", timeout_s=5, limit_bytes=1)


async def test_an_announcement_reaches_the_other_once(net):
    a, b = net.make(1), net.make(2)
    async with net.running(a, b):
        await net.meshed(a, b)
        await a.announce("topic", b"one")
        await a.announce("topic", b"two")
        arrivals = b.announcements()
        first, second = await anext(arrivals), await anext(arrivals)
        assert (first.origin, first.topic) == (a.peer_id, "topic")
        assert [first.payload, second.payload] == [b"one", b"two"]


async def test_a_blob_arrives_whole_and_checked(net):
    a, b = net.make(1), net.make(2)
    digest = b.blobs.put(os.urandom(5_000_001))
    async with net.running(a, b):
        await net.meshed(a, b)
        await a.fetch(b.peer_id, digest, limit_bytes=6_000_000, timeout_s=20)
        assert hashlib.sha256(a.blobs.held[digest]).digest() == digest


async def test_a_blob_is_refused_that_is_forbidden_large_missing_or_wrong(net):
    a = net.make(1)
    b = net.make(2, may_fetch=lambda peer, digest: digest != hidden)
    hidden, big = b.blobs.put(b"hidden"), b.blobs.put(bytes(1000))
    forged = hashlib.sha256(b"what a asked for").digest()
    b.blobs.held[forged] = b"what b sent"
    async with net.running(a, b):
        await net.meshed(a, b)
        with pytest.raises(AccessError, match="not allowed"):
            await a.fetch(b.peer_id, hidden, limit_bytes=1000, timeout_s=5)
        with pytest.raises(TransportError, match="limit is 999"):
            await a.fetch(b.peer_id, big, limit_bytes=999, timeout_s=5)
        with pytest.raises(TransportError, match="is not here"):
            await a.fetch(b.peer_id, bytes(32), limit_bytes=1000, timeout_s=5)
        with pytest.raises(TransportError, match="has digest"):
            await a.fetch(b.peer_id, forged, limit_bytes=1000, timeout_s=5)
        assert not a.blobs.held


async def test_a_taken_port_is_named(net):
    a = net.make(1)
    async with net.running(a):
        port = a.addresses()[0].split("/")[4]
        b = net.make(2, listen=(f"/ip4/127.0.0.1/tcp/{port}",))
        with pytest.raises(TransportError, match=f"127.0.0.1/tcp/{port}") as caught:
            await b.run()
        assert "another process" in caught.value.hint()
