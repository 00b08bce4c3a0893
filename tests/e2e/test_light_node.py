"""A verifier's node as an institution runs it: how soon it is ready, and what memory it takes.

The trunk is of the size of BERT-base (`node.bench.verify`), two layers of it.  The bench measures
the replay alone; here is the whole of it: daemon, compute child, network, chain, and a layer that
was fetched from the host.
"""

import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest
import trio
from dispute_scene import Scene, until

from ee import integer
from node.bench import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MEMORY_MB = 300

log = logging.getLogger(__name__)


@pytest.fixture
def scene(bench, tmp_path):
    state, config = verify.weights(2), verify.config(2)
    trunk = integer.quantise(state, config, tokens=verify.TOKENS)
    drawn = np.random.default_rng(1).normal(size=(1, verify.TOKENS, verify.WIDTH))
    rows = integer.encode_rows(drawn)
    made = Scene(bench, tmp_path, trunk, rows, ("honest", "honest"))
    trio.run(made.write_homes)
    made.configure(audit__tier="replay", audit__full=0.0)
    return made


def test_a_verifiers_node_is_ready_soon_and_stays_small(scene):
    began = time.monotonic()
    daemon = scene.start("AUD").pid
    until(lambda: scene.connected("AUD") is not None, every_s=0.02)
    waited = time.monotonic() - began
    worked = sum(map(seconds, [daemon, *children(daemon)]))
    scene.start("HOST")

    def audits():
        return scene.call("AUD", "audits.list")["audits"]

    until(lambda: len(audits()) == 2)
    assert {(row["verdict"], row["layers_replayed"]) for row in audits()} == {
        ("passed", 1)
    }
    (child,) = children(daemon)
    # At its start the daemon stretches a passphrase in 64 MiB, and has no child yet.
    starting, resident = peak_mb(daemon), now_mb(daemon) + peak_mb(child)
    log.info(
        "ready in %.2f s (%.2f of processor); %d MB at its start, %d auditing",
        *(waited, worked, starting, resident),
    )
    assert max(starting, resident) < MEMORY_MB
    # It is the child that had a layer in its hands.
    assert peak_mb(child) > 60


def children(pid):
    """Processes that `pid` started."""
    return [
        int(one)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for one in (task / "children").read_text().split()
    ]


def seconds(pid):
    """Of the processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid):
    return _memory_mb(pid, "VmHWM")


def now_mb(pid):
    return _memory_mb(pid, "VmRSS")


def _memory_mb(pid, what):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(what)]
    return int(line.split()[1]) * 1024 // 10**6
