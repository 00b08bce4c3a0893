"""How fast the network part is, and against what: `python -m node.bench transport --json`.

Each rate is that of moving a file into a file of another fresh process; the kinds take
turns, so that whatever else the machine does falls on all of them, and the ratios are
medians over the turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio

from node.adapters.blob_dir import BlobDir
from node.adapters.libp2p import Libp2pTransport
from node.bench.transport_peer import make_node

NODES = 10
BURST = 200
TIMED = 20
PAYLOAD = bytes(1000)
BURST_LIMIT_S = 60.0


def run(quick: bool) -> dict[str, Any]:
    """Ratios of bulk rates, latencies, and the share of a burst that arrived."""
    size = (32 if quick else 256) << 20
    turns = [_turn(size) for _ in range(1 if quick else 5)]
    announce_ms, delivered = trio.run(_measure_gossip)

    def median(key: str) -> float:
        return statistics.median(turn[key] for turn in turns)

    return {
        "stream_vs_stock": round(median("stream_vs_stock"), 2),
        "blob_vs_stream": round(median("blob_vs_stream"), 2),
        "request_ms": round(median("request_ms"), 2),
        "announce_ms": round(announce_ms, 2),
        "delivered": delivered,
        "stock_mb_per_s": round(median("stock"), 1),
        "stream_mb_per_s": round(median("stream"), 1),
        "blob_mb_per_s": round(median("blob"), 1),
        "megabytes": size / 1e6,
        "turns": len(turns),
        "nodes": NODES,
        "burst": BURST,
    }


def _turn(size: int) -> dict[str, float]:
    stock = pair("stock", size)["mb_per_s"]
    stream = pair("ours", size)["mb_per_s"]
    node = pair("node", size)
    return {
        "stock": stock,
        "stream": stream,
        "blob": node["mb_per_s"],
        "stream_vs_stock": stream / stock,
        "blob_vs_stream": node["mb_per_s"] / stream,
        "request_ms": node["request_ms"],
    }


def pair(kind: str, size: int, holders: int = 1) -> dict[str, float]:
    """Start server processes, measure from another one, end them."""
    program = [sys.executable, "-m", "node.bench.transport_peer"]
    with TemporaryDirectory() as folder, ExitStack() as stack:
        servers = []
        for number in range(holders):
            home = Path(folder, str(number))
            home.mkdir()
            command = [*program, "serve", kind, str(size), str(home)]
            server = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.callback(server.wait)
            stack.callback(server.kill)
            servers.append(server)
        addresses = [
            json.loads(server.stdout.readline()) for server in servers if server.stdout
        ]
        address = json.dumps(addresses) if kind == "node" else addresses[0]
        answer = subprocess.run(
            [*program, "measure", kind, address, str(size), folder],
            stdout=subprocess.PIPE,
            text=True,
            timeout=600,
            check=True,
        )
    measured: dict[str, float] = json.loads(answer.stdout)
    return measured


async def _measure_gossip() -> tuple[float, float]:
    """Median time to the last of ten nodes, and the share of a burst that arrived."""
    with TemporaryDirectory() as folder:
        return await _gossip_among([make_node(BlobDir(folder)) for _ in range(NODES)])


async def _gossip_among(nodes: list[Libp2pTransport]) -> tuple[float, float]:
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.run)
        for index, node in enumerate(nodes):
            for other in nodes[index + 1 :]:
                node.keep_connected(other.peer_id, other.addresses())
        while any(len(node.connected()) < NODES - 1 for node in nodes):
            await trio.sleep(0.05)
        times = [await _announce_once(nodes) for _ in range(TIMED)]
        delivered = await _burst(nodes)
        nursery.cancel_scope.cancel()
    return 1e3 * statistics.median(times), delivered


async def _announce_once(nodes: list[Libp2pTransport]) -> float:
    started = time.perf_counter()
    await nodes[0].announce("bench", PAYLOAD)
    for node in nodes[1:]:
        await anext(node.announcements())
    return time.perf_counter() - started


async def _burst(nodes: list[Libp2pTransport]) -> float:
    for number in range(BURST):
        await nodes[number % NODES].announce("bench", number.to_bytes(4, "big"))
    seen: list[set[bytes]] = [set() for _ in nodes]

    async def collect(index: int) -> None:
        wanted = BURST - BURST // NODES
        while len(seen[index]) < wanted:
            arrived = await anext(nodes[index].announcements())
            seen[index].add(arrived.payload)

    with trio.move_on_after(BURST_LIMIT_S):
        async with trio.open_nursery() as nursery:
            for index in range(NODES):
                nursery.start_soon(collect, index)
    return sum(map(len, seen)) / (NODES * (BURST - BURST // NODES))


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="rexis bench transport", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one small turn")
    options = parser.parse_args(argv)
    result = run(options.quick)
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:18} {value}")
