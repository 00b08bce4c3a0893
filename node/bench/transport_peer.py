"""One end of a measured connection, in a process of its own.

`serve KIND BYTES FOLDER` prints its address and works until its standard input ends;
`measure KIND ADDRESS BYTES FOLDER` prints the result.  Each kind moves a file of so many
bytes into a file of the other process: `stock` over one stream of py-libp2p as it comes,
`ours` over one stream of our adapter's host with the very same two programs, `synced` the same
with the file on the disk before it is said to be there, `node` by the `fetch` of the whole
adapter, which does that too.
"""

import json
import os
import secrets
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NoReturn

import libp2p
import nacl.signing
import numpy as np
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

from node.adapters.blob_dir import BlobDir
from node.adapters.libp2p import Libp2pTransport
from node.adapters.libp2p.host import Host
from node.bench.memory import Growth
from node.ports.storage import Blobs
from protocol.types import Digest, PeerId

LISTEN = "/ip4/127.0.0.1/tcp/0"
SINK = TProtocol("/rexis/bench/sink/1")
WRITE_BYTES = 1 << 20
READ_BYTES = 1 << 18
REQUESTS = 300


def make_node(blobs: Blobs) -> Libp2pTransport:
    """A node that trusts everyone, for measurements."""
    key = nacl.signing.SigningKey.generate()
    return Libp2pTransport(
        identity_seed=bytes(key),
        sign=lambda message: bytes(key.sign(message).signature),
        listen=(LISTEN,),
        allowed=lambda _peer: True,
        blobs=blobs,
        may_fetch=lambda _peer, _digest: True,
    )


def _library_host(kind: str) -> tuple[Any, AbstractAsyncContextManager[Any]]:
    """A libp2p host, and the context in which it listens."""
    if kind == "stock":
        host = libp2p.new_host()
        return host, host.run([Multiaddr(LISTEN)])
    ours = Host(secrets.token_bytes(32), lambda _peer: True)
    return ours.library_host, ours.running((LISTEN,))


def _sink(folder: Path, *, synced: bool) -> Callable[[Any], Awaitable[None]]:
    """Take an 8-byte count and as many bytes, put them into a file, and say so."""

    async def take(stream: Any) -> None:
        left = int.from_bytes(await _exactly(stream, 8), "big")
        with (folder / "sink").open("wb", buffering=0) as file:
            while left:
                data = await stream.read(min(left, READ_BYTES))
                file.write(data)
                left -= len(data)
            if synced:
                os.fsync(file.fileno())
        await stream.write(b"k")
        await stream.close()

    return take


async def _exactly(stream: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.read(size - len(data))
    return data


async def _serve_stream(kind: str, folder: Path) -> None:
    host, running = _library_host(kind)
    host.set_stream_handler(SINK, _sink(folder, synced=kind == "synced"))
    async with running:
        _say(str(host.get_addrs()[0]))
        await trio.lowlevel.wait_readable(sys.stdin.fileno())
        _leave()


async def _measure_stream(kind: str, address: str, size: int, folder: Path) -> None:
    host, running = _library_host(kind)
    source = folder / "source"
    source.write_bytes(_content(size))
    async with running:
        info = info_from_p2p_addr(Multiaddr(address))
        await host.connect(info)
        rates = []
        for part in (size // 4, size):  # the first opens the windows
            stream = await host.new_stream(info.peer_id, [SINK])
            started = time.perf_counter()
            await stream.write(part.to_bytes(8, "big"))
            with source.open("rb", buffering=0) as file:
                for _ in range(part // WRITE_BYTES):
                    await stream.write(file.read(WRITE_BYTES))
            await _exactly(stream, 1)
            rates.append(part / 1e6 / (time.perf_counter() - started))
        _say({"mb_per_s": rates[-1]})
        _leave()


def _content(size: int) -> bytes:
    """The same for every process; the bytes only need to be many and quickly made."""
    return np.random.default_rng(size).bytes(size)


async def _serve_node(size: int, folder: Path) -> None:
    blobs = BlobDir(folder)
    node = make_node(blobs)
    offered = [blobs.put(_content(part)) for part in (size // 4, size)]

    async def echo(_peer: PeerId, payload: bytes) -> bytes:
        return payload

    node.serve("bench/echo", echo, limit_bytes=1024)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        digests = [digest.hex() for digest in offered]
        _say(json.dumps([node.peer_id, node.addresses()[0], *digests]))
        await trio.lowlevel.wait_readable(sys.stdin.fileno())
        _leave()


async def _measure_node(addresses: str, size: int, folder: Path) -> None:
    """Requests to the first holder, then a small and a large blob from all of them."""
    holders = [json.loads(address) for address in json.loads(addresses)]
    blobs = BlobDir(folder)
    node = make_node(blobs)
    for peer, where, *_ in holders:
        node.keep_connected(PeerId(peer), (where,))
    peers = [PeerId(peer) for peer, *_ in holders]
    digests = [Digest(bytes.fromhex(digest)) for digest in holders[0][2:]]
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        while len(node.connected()) < len(holders):
            await trio.sleep(0.02)
        times = [await _request_once(node, peers[0]) for _ in range(REQUESTS)]
        rate = peak = 0.0
        for digest in digests:
            growth = Growth()
            started = time.perf_counter()
            await node.fetch(
                peers[0], digest, others=peers[1:], limit_bytes=size, timeout_s=300
            )
            rate = blobs.size(digest) / 1e6 / (time.perf_counter() - started)
            peak = growth.megabytes()
        _say(
            {
                "mb_per_s": rate,
                "request_ms": 1e3 * statistics.median(times),
                "peak_mb": peak,
            }
        )
        _leave()


async def _request_once(node: Libp2pTransport, peer: PeerId) -> float:
    started = time.perf_counter()
    await node.request(peer, "bench/echo", bytes(64), timeout_s=10, limit_bytes=64)
    return time.perf_counter() - started


def _leave() -> NoReturn:
    """End at once: the stock host has no orderly way out that ends soon."""
    sys.stdout.flush()
    os._exit(0)


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


def main() -> None:
    role, kind, *where, size, folder = sys.argv[1:]
    arguments = (*where, int(size), Path(folder))
    if kind == "node":
        trio.run(_serve_node if role == "serve" else _measure_node, *arguments)
    elif role == "serve":
        trio.run(_serve_stream, kind, arguments[-1])
    else:
        trio.run(_measure_stream, kind, *arguments)


if __name__ == "__main__":
    main()
