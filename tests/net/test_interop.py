"""Our host speaks libp2p: streams to and from the library as it comes, every byte."""

import json
import subprocess
import sys

import pytest

PEER = [sys.executable, "-m", "node.bench.transport_peer"]
SIZE = 24 << 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "client"), [("stock", "ours"), ("ours", "stock"), ("ours", "ours")]
)
def test_a_file_goes_through_one_stream(tmp_path, server, client):
    theirs, own = tmp_path / "theirs", tmp_path / "own"
    theirs.mkdir()
    own.mkdir()
    with subprocess.Popen(
        [*PEER, "serve", server, str(SIZE), str(theirs)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            address = json.loads(process.stdout.readline())
            answer = subprocess.run(
                [*PEER, "measure", client, address, str(SIZE), str(own)],
                stdout=subprocess.PIPE,
                text=True,
                timeout=240,
                check=True,
            )
        finally:
            process.kill()
    assert json.loads(answer.stdout)["mb_per_s"] > 0
    assert (theirs / "sink").read_bytes() == (own / "source").read_bytes()
