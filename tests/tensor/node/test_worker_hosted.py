"""A worker process trains a stock trunk it cannot read, and may die, tarry or run short."""

import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from node.errors import ComputeError, ModelError
from node.worker.client import TrunkLostError, WorkerClient, WorkerRefusedError
from node.worker.snapshot import Snapshot

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small_worker(across, tmp_path_factory):
    """The socket of a worker that may have 700 MiB."""
    with across.worker(tmp_path_factory.mktemp("w"), "--memory", "700") as (_, path):
        yield path


def test_a_session_outlives_its_worker(across, small_worker, tmp_path):
    home = across.KeyHolder()
    with across.worker(tmp_path) as (process, path), WorkerClient(path) as worker:
        home.beginning().open(worker)
        wanted = [home.step(worker) for _ in range(8)]
        end = home.home(worker)
        assert set(end) == set(home.parts.plan.keyed())

        # The same session again, left after four steps of which three are stored.
        home.beginning().open(worker)
        found = [home.step(worker) for _ in range(3)]
        stored = home.beginning().taken(worker, 3)
        stored.write(tmp_path / "session")
        home.step(worker)
        process.kill()
        with pytest.raises(TrunkLostError, match="went away during forward") as caught:
            home.step(worker)
        assert "resumes" in caught.value.hint()
        with pytest.raises(ComputeError, match="went away"):
            home.step(worker)  # the session is over, not stuck
    with WorkerClient(small_worker) as worker:
        again = Snapshot.read(tmp_path / "session", home.key.fingerprint())
        assert again.step == 3
        again.open(worker)
        found += [home.step(worker) for _ in range(5)]
        for name, tensor in home.home(worker).items():
            torch.testing.assert_close(tensor, end[name], atol=1e-4, rtol=1e-3)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
        assert wanted[-1] < 0.95 * wanted[0]

        # Without the optimiser's memory it is another session.
        Snapshot(again.fingerprint, again.config, again.weights).open(worker)
        other = [home.step(worker) for _ in range(5)]
        assert abs(other[-1] - wanted[-1]) > 1e-3


def test_a_stored_session_opens_under_its_own_key_alone(across, tmp_path):
    home, path = across.KeyHolder(), tmp_path / "session"
    home.beginning().write(path)
    other = across.KeyHolder(seed=bytes(32)).key.fingerprint()
    with pytest.raises(ModelError, match="is a session under key"):
        Snapshot.read(path, other)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelError, match="cannot be read"):
        Snapshot.read(path, home.key.fingerprint())
    with pytest.raises(ModelError, match="cannot be read"):
        Snapshot.read(tmp_path / "none", other)


def test_memory_that_is_refused_ends_the_trunk_and_not_the_worker(across, small_worker):
    home = across.KeyHolder()
    with WorkerClient(small_worker) as worker:
        session = home.beginning()
        session.open(worker)
        first = home.step(worker)
        stored = session.taken(worker, 1)
        second = home.step(worker)
        # 32 times 1,000 rows: half a gigabyte for the scores of one block.
        many, mask = np.ones((32, 1000, 32), np.float32), np.ones((32, 1000), np.int32)
        mask[0, 0] = 0
        with pytest.raises(TrunkLostError, match="out of memory during forward") as no:
            worker.forward(many, train=True, mask=mask)
        assert "smaller batch" in no.value.hint()
        with pytest.raises(WorkerRefusedError, match="no trunk is loaded"):
            home.step(worker)
        # A frame there is no room for is read to its end and refused.
        with pytest.raises(TrunkLostError, match="out of memory during receiving"):
            worker.forward(np.zeros((150, 1000, 1000), np.float32), train=False)
        stored.open(worker)
        assert home.step(worker) == pytest.approx(second, rel=1e-4)
        assert first > second


def test_less_memory_than_a_worker_needs_is_refused(capfd, tmp_path):
    program = [sys.executable, "-m", "node.worker", "--memory", "10", "--socket", "s"]
    assert subprocess.run(program, check=False, cwd=tmp_path).returncode == 1
    assert "10 MiB, needs at least 256" in capfd.readouterr().err


@pytest.fixture
def slow_worker(tmp_path):
    """Takes a connection and drips the beginning of an answer that never ends."""
    path, stop = tmp_path / "slow.sock", threading.Event()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def drip():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"\x00\x00\xff\xff")
                while not stop.wait(0.02):
                    try:
                        connection.sendall(b"\x00")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        yield str(path)
        stop.set()
        thread.join()


def test_a_worker_that_drips_bytes_is_too_slow(slow_worker):
    with WorkerClient(slow_worker, timeout_s=0.3) as worker:
        with pytest.raises(
            TrunkLostError, match=r"did not answer export within 0\.3 s"
        ):
            worker.export()
        with pytest.raises(TrunkLostError, match="went away"):
            worker.export()


def test_a_checkpoint_that_does_not_fit_is_named(across, small_worker):
    home = across.KeyHolder()
    session = home.beginning()
    name = "encoder.layer.0.output.dense.weight"
    odd = [
        ({**session.weights, name: session.weights[name][1:]}, "the trunk needs"),
        ({n: a for n, a in session.weights.items() if n != name}, f"differ in {name}"),
        ({**session.weights, name: session.weights[name] * np.nan}, "are no numbers"),
    ]
    with WorkerClient(small_worker) as worker:
        for weights, said in odd:
            with pytest.raises(WorkerRefusedError, match=said):
                worker.load(session.config, weights)
        with pytest.raises(WorkerRefusedError, match="no keys are known for t5"):
            worker.load({"model_type": "t5"}, {})
        strange = {f"momentum.{name}": np.zeros((3, 3), np.float32)}
        with pytest.raises(WorkerRefusedError, match="needs"):
            worker.load(session.config, session.weights, None, strange)
        session.open(worker)
        assert home.step(worker) > 0
