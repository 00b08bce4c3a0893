"""One blob from many holders that die, hang, lie or are slow (docs/network.md, B3-B8)."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from node.adapters.blob_dir import BlobDir
from node.adapters.libp2p import collection, pool
from node.errors import AccessError, StorageError, TransportError
from protocol.types import Digest

MIB = 1 << 20
SIZE = 13 * MIB + 77


def content(seed, size=SIZE):
    return hashlib.shake_128(b"content %d" % seed).digest(size)


GOOD = content(0)
DIGEST = Digest(hashlib.sha256(GOOD).digest())


def lying(data, at, size=None):
    """`data` with one byte changed in each of the chunks `at`."""
    changed = bytearray(data if size is None else data[:size].ljust(size, b"\0"))
    for index in at:
        changed[index * MIB + 5] ^= 1
    return bytes(changed)


@asynccontextmanager
async def taker_and(net, *held, blobs=None, may_fetch=None):
    """One node without the blob, connected to one holder for each of `held`."""
    taker = net.make(1, blobs=blobs)
    holders = [
        net.make(number, may_fetch=may_fetch) for number, _ in enumerate(held, start=2)
    ]
    for holder, data in zip(holders, held, strict=True):
        if data is not None:
            holder.blobs.held[DIGEST] = data
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(net.running(taker))
        for holder in holders:
            await stack.enter_async_context(net.running(holder))
            taker.keep_connected(holder.peer_id, holder.addresses())
        await net.until(lambda: len(taker.connected()) == len(holders))
        yield taker, holders


def fetched(taker, holders, *, timeout_s=90, limit_bytes=SIZE):
    first, *others = [holder.peer_id for holder in holders]
    return taker.fetch(
        first, DIGEST, others=others, limit_bytes=limit_bytes, timeout_s=timeout_s
    )


async def test_a_fetch_that_is_under_way_is_not_begun_twice(net):
    async with taker_and(net, GOOD) as (taker, holders):
        results = []

        async def one():
            results.append(await fetched(taker, holders))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
        assert sorted(sum(r.sources.values()) for r in results) == [0, 0, SIZE]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("held", "liars"),
    [
        ((lying(GOOD, [3]), GOOD), {0}),
        ((GOOD, lying(GOOD, range(13))), {1}),
        ((lying(GOOD, [0]), lying(GOOD, [0, 5]), GOOD), {0, 1}),
        ((content(1), GOOD), {0}),
        ((lying(GOOD, [], SIZE - 1), GOOD), {0}),
        ((GOOD, lying(GOOD, [], SIZE - 2 * MIB)), {1}),
    ],
)
async def test_b3_a_liar_is_named_and_the_blob_is_right(net, held, liars):
    async with taker_and(net, *held) as (taker, holders):
        result = await fetched(taker, holders)
        assert taker.blobs.held[DIGEST] == GOOD
        assert result.liars <= {holders[number].peer_id for number in liars}


@pytest.mark.slow
async def test_b3_whoever_gave_only_lies_is_named(net):
    everywhere = lying(GOOD, range(14))
    async with taker_and(net, everywhere, GOOD, everywhere) as (taker, holders):
        result = await fetched(taker, holders)
        assert taker.blobs.held[DIGEST] == GOOD
        both = {holders[0].peer_id, holders[2].peer_id}
        assert result.liars == both & result.sources.keys()


async def test_b3_a_blob_nobody_has_is_refused_and_everybody_named(net):
    async with taker_and(net, lying(GOOD, [1]), lying(GOOD, [2])) as (taker, holders):
        with pytest.raises(TransportError, match="no holder gave") as caught:
            await fetched(taker, holders)
        for holder in holders:
            assert holder.peer_id in str(caught.value)
        assert DIGEST not in taker.blobs.held


async def test_b4_holders_that_have_nothing_or_may_not_are_passed_over(net):
    async with taker_and(net, None, GOOD) as (taker, holders):
        result = await fetched(taker, holders)
        assert set(result.sources) == {holders[1].peer_id}
    refuse = {"may_fetch": lambda peer, digest: False}
    async with taker_and(net, GOOD, GOOD, **refuse) as (taker, holders):
        with pytest.raises(AccessError, match="not allowed"):
            await fetched(taker, holders)


async def test_b4_a_larger_blob_than_allowed_is_refused_by_size(net):
    async with taker_and(net, GOOD, GOOD) as (taker, holders):
        with pytest.raises(TransportError, match=f"limit is {SIZE - 1}"):
            await fetched(taker, holders, limit_bytes=SIZE - 1)
        assert not taker.blobs.held


@asynccontextmanager
async def behind_relays(net, make_relay, blobs, *, rates):
    """A taker whose holders are each behind a relay."""
    taker = net.make(1, blobs=blobs)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(net.running(taker))
        holders, relays = [], []
        for number, rate in enumerate(rates, start=2):
            holder = net.make(number)
            holder.blobs.held[DIGEST] = GOOD
            await stack.enter_async_context(net.running(holder))
            relay = make_relay(net.port(holder), bytes_per_s=rate)
            await stack.enter_async_context(relay.running())
            taker.keep_connected(holder.peer_id, (relay.address,))
            holders.append(holder)
            relays.append(relay)
        await net.until(lambda: len(taker.connected()) == len(holders))
        yield taker, holders, relays


async def test_all_holders_give(net, make_relay, tmp_path):
    blobs = BlobDir(tmp_path)
    rates = (16 * MIB, 16 * MIB, 16 * MIB)
    async with behind_relays(net, make_relay, blobs, rates=rates) as setting:
        taker, holders, _ = setting
        result = await fetched(taker, holders)
        assert blobs.read(DIGEST, 0, SIZE) == GOOD
        assert sum(result.sources.values()) == SIZE
        assert set(result.sources) == {holder.peer_id for holder in holders}
        assert result.liars == frozenset()
        again = await fetched(taker, holders)
        assert again.sources == {}


@pytest.mark.slow
async def test_b5_a_holder_that_dies_in_the_middle_is_replaced(
    net, make_relay, tmp_path
):
    blobs = BlobDir(tmp_path)
    setting = behind_relays(net, make_relay, blobs, rates=(4 * MIB, 20 * MIB))
    async with setting as (taker, holders, relays):

        async def die():
            await net.until(lambda: relays[0].carried[1] > MIB)
            relays[0].cut()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(die)
            result = await fetched(taker, holders)
        assert blobs.has(DIGEST)
        assert sum(result.sources.values()) == SIZE
        assert result.sources[holders[1].peer_id] > SIZE // 2


@pytest.mark.slow
@pytest.mark.parametrize("helped", [True, False])
async def test_b5_a_holder_that_hangs_is_overtaken(
    net, make_relay, tmp_path, monkeypatch, helped
):
    monkeypatch.setattr(pool, "LATE_S", 0.2 if helped else 60)
    blobs = BlobDir(tmp_path)
    setting = behind_relays(net, make_relay, blobs, rates=(8 * MIB, 20 * MIB))
    async with setting as (taker, holders, relays):

        async def hang():
            await net.until(lambda: relays[0].carried[1] > MIB)
            relays[0].freeze()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang)
            if helped:
                await fetched(taker, holders)
                assert blobs.has(DIGEST)
            else:
                with pytest.raises(TransportError, match="took longer"):
                    await fetched(taker, holders, timeout_s=3)


async def interrupted(net, taker, holders, relay):
    """A fetch that its caller gives up after some megabytes."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetched, taker, holders)
        await net.until(lambda: relay.carried[1] > 5 * MIB)
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_b6_what_has_arrived_is_not_fetched_again(net, make_relay, tmp_path):
    blobs = BlobDir(tmp_path)
    async with behind_relays(net, make_relay, blobs, rates=(8 * MIB,)) as setting:
        taker, holders, (relay,) = setting
        await interrupted(net, taker, holders, relay)
        relay.bytes_per_s = None
        result = await fetched(taker, holders)
        assert blobs.read(DIGEST, 0, SIZE) == GOOD
        assert 0 < sum(result.sources.values()) < SIZE - MIB


async def test_b6_a_fetch_that_takes_too_long_says_how_to_go_on(
    net, make_relay, tmp_path
):
    blobs = BlobDir(tmp_path)
    async with behind_relays(net, make_relay, blobs, rates=(MIB,)) as setting:
        taker, holders, _ = setting
        with pytest.raises(TransportError, match="took longer") as caught:
            await fetched(taker, holders, timeout_s=0.5)
        assert "is kept" in caught.value.hint()


@pytest.mark.slow
async def test_b6_a_chunk_the_disk_spoilt_meanwhile_is_found(net, make_relay, tmp_path):
    blobs = BlobDir(tmp_path)
    async with behind_relays(net, make_relay, blobs, rates=(8 * MIB,)) as setting:
        taker, holders, (relay,) = setting
        await interrupted(net, taker, holders, relay)
        with (tmp_path / "partial" / DIGEST.hex()).open("r+b") as file:
            file.write(b"spoilt")
        relay.bytes_per_s = None
        result = await fetched(taker, holders)
        assert blobs.read(DIGEST, 0, SIZE) == GOOD
        assert result.liars == frozenset()


async def test_b7_a_full_disk_is_ours_and_no_holder_is_blamed(
    net, tmp_path, monkeypatch
):
    def full(descriptor, offset, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    async with taker_and(net, GOOD, GOOD, blobs=BlobDir(tmp_path)) as (taker, holders):
        with pytest.raises(StorageError, match="no space left"):
            await fetched(taker, holders)


@pytest.mark.slow
async def test_b8_memory_stays_flat_however_slow_the_disk_is(
    net, tmp_path, monkeypatch
):
    """64 MiB from four holders that give faster than the disk takes."""
    here = most = 0
    land, landed = pool.Pool.land, pool.Pool.landed

    def count_land(self, index):
        nonlocal here, most
        new = land(self, index)
        here += new
        most = max(most, here)
        return new

    def count_landed(self, index):
        nonlocal here
        here -= 1
        landed(self, index)

    monkeypatch.setattr(pool.Pool, "land", count_land)
    monkeypatch.setattr(pool.Pool, "landed", count_landed)
    data = content(3, 64 * MIB)
    digest = Digest(hashlib.sha256(data).digest())
    slow = BlobDir(tmp_path)
    real_write = os.pwrite

    def pwrite(*args):
        time.sleep(0.02)
        return real_write(*args)

    monkeypatch.setattr(os, "pwrite", pwrite)
    async with taker_and(net, data, data, data, data, blobs=slow) as (taker, holders):
        for holder in holders:
            holder.blobs.held[digest] = data
        first, *others = [holder.peer_id for holder in holders]
        await taker.fetch(
            first, digest, others=others, limit_bytes=len(data), timeout_s=90
        )
    assert slow.has(digest)
    assert most <= 2 * collection.WAITING + len(holders)


CHILD = """
import sys, trio
from node.adapters.blob_dir import BlobDir
from node.bench.transport_peer import make_node
peer, address, digest, folder = sys.argv[1:]

async def main():
    node = make_node(BlobDir(folder))
    node.keep_connected(peer, (address,))
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        while not node.connected():
            await trio.sleep(0.02)
        print("connected", flush=True)
        result = await node.fetch(
            peer, bytes.fromhex(digest), limit_bytes=1 << 30, timeout_s=100
        )
        print(sum(result.sources.values()), flush=True)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@pytest.mark.slow
async def test_b6_a_fetch_goes_on_after_kill_9(net, make_relay, tmp_path):
    holder = net.make(2)
    holder.blobs.held[DIGEST] = GOOD
    async with net.running(holder):
        relay = make_relay(net.port(holder), bytes_per_s=4 * MIB)
        async with relay.running():
            command = [
                *(sys.executable, "-c", CHILD),
                *(holder.peer_id, relay.address, DIGEST.hex(), str(tmp_path)),
            ]

            def start():
                return subprocess.Popen(command, stdout=subprocess.PIPE)

            with start() as child:
                line = await trio.to_thread.run_sync(child.stdout.readline)
                assert line == b"connected\n"
                await net.until(lambda: relay.carried[1] > 5 * MIB)
                child.send_signal(signal.SIGKILL)
            relay.bytes_per_s = None
            with start() as child:
                await trio.to_thread.run_sync(child.stdout.readline)
                count = await trio.to_thread.run_sync(child.stdout.readline)
            assert 0 < int(count) <= SIZE - 3 * MIB
    assert BlobDir(tmp_path).read(DIGEST, 0, SIZE) == GOOD
