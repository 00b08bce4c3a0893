"""`rexis bench data --json`: our publishing against the field's reference package.

Both read one file and leave a whole Crypt4GH file's worth of ciphertext, synced, on the
same disk, turn by turn in one run; what ours does besides (chunks under their digests, a
Merkle root over the segments, a journal to go on from) is inside its time.  Memory is
measured in a process of its own for two sizes: flat means the same peak for both.  What a
grantee then waits for is `fetch_vs_raw_stream`: a verified, resumable fetch to disk against our
own bare stream, between processes, and `fetch_vs_synced_stream` against one whose file is on the
disk in the end as well (`node.bench.fetch` has more of it).
"""

import argparse
import json
import multiprocessing
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from crypt4gh import lib as c4gh

from node.adapters.blob_dir import BlobDir
from node.bench import fetch, gas
from node.bench.memory import Growth
from node.market import body, sealed
from node.market.source import File, Stream

SIZE_BYTES = 256 << 20
ROUNDS = 5
_PIECE_BYTES = 1 << 20


def _make(path: Path, size: int) -> None:
    """Random bytes: neither package compresses, so any content is as good."""
    piece = secrets.token_bytes(_PIECE_BYTES)
    with path.open("wb") as file:
        for _ in range(size // _PIECE_BYTES):
            file.write(piece)


def _ours(path: Path, folder: Path, secret: bytes) -> None:
    header = sealed.new_header(secret_seal_key=secret)
    key = sealed.session_key(
        header, secret_seal_key=secret, sender=sealed.public_half(secret)
    )
    with Stream([File.found(path, path.name)]) as stream:
        body.encrypt(stream, 0, key, BlobDir(folder / "blobs"))


def _reference(path: Path, folder: Path, secret: bytes) -> None:
    keys = [(0, secret, sealed.public_half(secret))]
    with path.open("rb") as source, (folder / "whole.c4gh").open("wb") as file:
        c4gh.encrypt(keys, source, file)
        file.flush()
        os.fsync(file.fileno())


def _timed(
    work: Callable[[Path, Path, bytes], None], path: Path, secret: bytes
) -> float:
    """Seconds into a fresh folder beside the source."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        begun = time.perf_counter()
        work(path, Path(folder), secret)
        return time.perf_counter() - begun


def _peak(path: Path, secret: bytes, answer: "multiprocessing.Queue[int]") -> None:
    growth = Growth()
    _timed(_ours, path, secret)
    answer.put(growth.bytes())


def _peak_mb(path: Path, secret: bytes) -> float:
    """What encrypting adds to a process that has only imported us."""
    context = multiprocessing.get_context("spawn")
    answer: multiprocessing.Queue[int] = context.Queue()
    child = context.Process(target=_peak, args=(path, secret, answer))
    child.start()
    grown = answer.get(timeout=600)
    child.join()
    return grown / (1 << 20)


def measure(folder: Path, size: int, rounds: int) -> dict[str, float | int]:
    """The figures, from `rounds` turns over a file of `size` bytes below `folder`."""
    secret = secrets.token_bytes(32)
    path, half = folder / "source.bin", folder / "half.bin"
    _make(path, size)
    _make(half, size // 2)
    _timed(_ours, half, secret)  # code and caches are warm for both
    _timed(_reference, half, secret)
    ours, reference = [], []
    for _ in range(rounds):
        ours.append(_timed(_ours, path, secret))
        reference.append(_timed(_reference, path, secret))
    megabytes = size / 1e6
    return {
        "encrypt_vs_reference": round(
            statistics.median(r / o for r, o in zip(reference, ours, strict=True)), 3
        ),
        "encrypt_mb_s": round(megabytes / statistics.median(ours), 1),
        "reference_mb_s": round(megabytes / statistics.median(reference), 1),
        "peak_mb": round(_peak_mb(path, secret), 1),
        "peak_half_mb": round(_peak_mb(half, secret), 1),
        "bytes": size,
        "rounds": rounds,
        "processors": os.cpu_count() or 0,
    }


def run(quick: bool) -> dict[str, Any]:
    """The figures on the disk of the temporary folder; `quick` for a first look."""
    with tempfile.TemporaryDirectory() as folder:
        size, rounds = (SIZE_BYTES // 8, 1) if quick else (SIZE_BYTES, ROUNDS)
        return figures(Path(folder), size, rounds)


def figures(folder: Path, size: int, rounds: int) -> dict[str, Any]:
    """Publishing below `folder`, fetching between processes, gas."""
    return {
        **measure(folder, size, rounds),
        **fetch.against_stream(size, rounds),
        "gas": gas.measure(),
    }


def main(argv: Sequence[str]) -> int:
    """Print the figures; exit status 0."""
    parser = argparse.ArgumentParser(prog="rexis bench data", description=__doc__)
    parser.add_argument("--json", action="store_true", help="for a program to read")
    parser.add_argument("--bytes", type=int, default=SIZE_BYTES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = figures(Path(folder), options.bytes, options.rounds)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:22} {value}")
    return 0
