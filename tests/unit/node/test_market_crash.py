"""kill -9 in the middle of a publishing, on real files, and the same call again."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import crypt4gh.lib
import pytest

from node.adapters.blob_dir import BlobDir
from node.market.shelf import OwnDataset, chunk_list
from protocol.listing import open_listing
from protocol.manifest import CHUNK_PLAIN_BYTES, open_manifest
from protocol.types import digest
from protocol.wire import decode

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
CHUNKS = 24

# One institution in a process of its own: real store, real blobs, a chain in memory.
PUBLISH = """
import json, sys
from pathlib import Path
import nacl.public, nacl.signing, trio
from node.adapters.blob_dir import BlobDir
from node.adapters.memory_chain import Ledger, MemoryChain
from node.adapters.memory_transport import MemoryNetwork, MemoryTransport
from node.adapters.sqlite_store import SqliteStore
from node.market import sealed
from node.services.market import Market
from protocol.members import Member, peer_id

signing = nacl.signing.SigningKey(bytes([1]) * 32)

class Signer:
    public_key = bytes(signing.verify_key)
    peer_id = peer_id(bytes(signing.verify_key))
    secret = bytes([2]) * 32
    seal_key = sealed.public_half(bytes([2]) * 32)
    def sign(self, message):
        return signing.sign(message).signature

async def main():
    home, source = map(Path, sys.argv[1:])
    store, blobs, me = SqliteStore.open(home / "s.sqlite"), BlobDir(home / "b"), Signer()
    ledger = Ledger(bytes([9]) * 20)
    member = Member(me.public_key, me.seal_key, bytes([1]) * 20, 15, "clinic")
    await MemoryChain(ledger, ledger.owner).register(member, 15)
    transport = MemoryTransport(
        network=MemoryNetwork(), peer=me.peer_id, allowed=lambda _: True, blobs=blobs,
        may_fetch=lambda *_: False,
    )
    market = Market(
        store=store, blobs=blobs, signer=me, chain=MemoryChain(ledger, bytes([1]) * 20),
        transport=transport, now=lambda: 1, open_key=lambda: me.secret,
    )
    shown = await market.publish([source], "scans", "MIT", ["DUO:0000042"], "x")
    print(json.dumps(shown["units"]))
    store.close()

trio.run(main)
"""


def publish(home, source):
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISH, str(home), str(source)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )


def rows(home, namespace):
    path = home / "s.sqlite"
    if not path.exists():
        return []
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute(
            "SELECT value FROM record WHERE namespace = ? ORDER BY key", (namespace,)
        ).fetchall()
    except sqlite3.OperationalError:
        return []  # not made yet
    finally:
        connection.close()


def test_a_killed_publishing_goes_on_and_what_it_makes_is_whole(tmp_path):
    home, source = tmp_path / "home", tmp_path / "source"
    home.mkdir()
    source.mkdir()
    whole = source / "a.bin"
    with whole.open("wb") as file:
        for _ in range(CHUNKS):
            file.write(os.urandom(1 << 16) * (CHUNK_PLAIN_BYTES >> 16))
        file.write(b"end")
    first = publish(home, source)
    try:
        deadline = time.monotonic() + 60
        while not (noted := rows(home, "market.chunk")):
            assert first.poll() is None, "it was too fast to be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait(10)
        first.stdout.close()
    assert rows(home, "market.own") == []
    before = {path.stat().st_ino for path in (home / "b").glob("??/*")}
    second = publish(home, source)
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 0
    assert json.loads(out) == 1
    ((value,),) = rows(home, "market.own")
    record = decode(value, OwnDataset)
    (entry,) = open_manifest(record.manifest, open_listing(record.listing)).entries
    blobs = BlobDir(home / "b")
    chunks = chunk_list(blobs, entry).chunks
    assert len(chunks) == CHUNKS + 1
    kept = [one for one in chunks if blobs.path(one.sha256).stat().st_ino in before]
    assert len(kept) >= len(noted), "what was noted is not made again"
    body = b"".join(blobs.read(one.sha256, 0, 1 << 24) for one in chunks)
    plain = io.BytesIO()
    file = io.BytesIO(record.headers[0] + body)
    crypt4gh.lib.decrypt([(0, bytes([2]) * 32, None)], file, plain)
    assert digest(plain.getvalue()) == digest(whole.read_bytes())
