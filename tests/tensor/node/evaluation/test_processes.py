"""The same over a real worker and a real compute child."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from evaluation_world import CSV, audited

from node.adapters.compute_child import open_compute_child


@pytest.fixture
def worker_process(tmp_path):
    # Beside pytest's own folder, because a unix socket's path is short.
    path = Path(tempfile.mkdtemp(prefix="rexis-")) / "w"
    command = [sys.executable, "-m", "node.worker", "--socket", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout.readline().startswith(b"ready")
        yield path
        worker.terminate()
    shutil.rmtree(path.parent)


def libraries(pid):
    """What a process has mapped, as one text."""
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.slow
async def test_over_real_processes_and_the_child_that_replays_loads_no_torch(
    federation, worker_process
):
    async with federation() as nodes, open_compute_child() as child:
        nodes.host.host._socket = str(worker_process)
        nodes.auditor.verifier._replayer._compute = child
        await nodes.clinic.requester.run(nodes.model, "host", CSV)
        await nodes.host.receipts.anchor()
        reports = await audited(nodes.clinic, 2)
        assert {row["verdict"] for row in reports} == {"passed"}
        assert "numpy" in libraries(child.pid)
        assert "torch" not in libraries(child.pid)
