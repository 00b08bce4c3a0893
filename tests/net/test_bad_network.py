"""Partitions, lost connections, thin and long links (docs/network.md, N1-N4)."""

import hashlib
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import combinations

import pytest
import trio

from node.adapters.libp2p import links

pytestmark = pytest.mark.slow

MIB = 1 << 20


@asynccontextmanager
async def relayed(net, make_relay, count, **relay_options):
    """Nodes of which each pair has a relay of its own: the nodes, and relays by pair."""
    nodes = [net.make(number) for number in range(count)]
    relays = {}
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(net.running(node))
        for seed, (i, j) in enumerate(combinations(range(count), 2)):
            relay = make_relay(net.port(nodes[j]), seed=seed, **relay_options)
            relays[i, j] = await stack.enter_async_context(relay.running())
            nodes[i].keep_connected(nodes[j].peer_id, (relay.address,))
        await net.meshed(*nodes)
        yield nodes, relays


async def heard(net, node, expected, seconds=60):
    got = await net.take(node, len(expected), seconds=seconds)
    assert sorted(got) == sorted(expected)


async def test_n1_a_partition_loses_no_announcement(net, make_relay, monkeypatch):
    monkeypatch.setattr(links, "REPAIR_PERIOD_S", 0.3)
    monkeypatch.setattr(links, "REDIAL_LAST_S", 0.5)
    async with relayed(net, make_relay, 4) as (nodes, relays):
        across = [relay for (i, j), relay in relays.items() if (i < 2) != (j < 2)]
        for relay in across:
            relay.cut()
        await net.until(lambda: all(len(node.connected()) == 1 for node in nodes))
        for number, node in enumerate(nodes):
            for count in range(25):
                await node.announce("topic", bytes([number, count]))
        near = {0: 1, 1: 0, 2: 3, 3: 2}
        for number, node in enumerate(nodes):  # each half goes on by itself
            await heard(net, node, [bytes([near[number], n]) for n in range(25)])
        for relay in across:
            relay.mend()
        for number, node in enumerate(nodes):
            far = [2, 3] if number < 2 else [0, 1]
            await heard(net, node, [bytes([f, n]) for f in far for n in range(25)])


@pytest.mark.slow
async def test_n2_five_percent_of_the_connections_lost_each_second(net, make_relay):
    """Two hundred announcements over ten seconds, more than two cuts a second."""
    async with relayed(net, make_relay, 5) as (nodes, relays):

        async def drop():
            while True:
                await trio.sleep(0.2)
                for relay in relays.values():
                    relay.drop(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drop)
            for number in range(200):
                await nodes[number % 5].announce("topic", bytes([number]))
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        assert sum(relay.connections for relay in relays.values()) > len(relays)
        for index, node in enumerate(nodes):
            await heard(
                net, node, [bytes([n]) for n in range(200) if n % 5 != index], 120
            )


@pytest.mark.slow
async def test_n3_a_link_of_30_mbit_and_200_ms_is_used_well(net, make_relay):
    rate = 30_000_000 / 8
    async with relayed(net, make_relay, 2, delay_s=0.1, bytes_per_s=rate) as (nodes, _):
        a, b = nodes
        b.serve("echo", net.echo, limit_bytes=10)
        assert await net.works(a, b)  # the stream is open from here on
        started = trio.current_time()
        assert await net.works(a, b)
        assert 0.2 <= trio.current_time() - started < 3.0
        data = hashlib.shake_128(b"thin").digest(12 * MIB)
        digest = b.blobs.put(data)
        started = trio.current_time()
        await a.fetch(b.peer_id, digest, limit_bytes=len(data), timeout_s=90)
        took = trio.current_time() - started
        assert a.blobs.held[digest] == data
        assert len(data) / took > 0.4 * rate
        await a.announce("topic", b"far")
        assert await net.take(b, 1) == [b"far"]


@pytest.mark.slow
async def test_n4_a_pulled_cable_is_noticed_and_a_new_path_taken(
    net, make_relay, monkeypatch
):
    monkeypatch.setattr(links, "BEAT_PERIOD_S", 0.3)
    monkeypatch.setattr(links, "BEAT_TIMEOUT_S", 1.5)
    async with relayed(net, make_relay, 2) as (nodes, relays):
        a, b = nodes
        relays[0, 1].freeze()
        await a.announce("topic", b"into the void")
        await net.until(lambda: not a.connected() and not b.connected())
        async with make_relay(net.port(b)).running() as other:
            a.keep_connected(b.peer_id, (other.address,))
            await net.meshed(a, b)
            assert await net.take(b, 1) == [b"into the void"]
