"""What a host and a verifier say on a machine that computes otherwise, as their users meet it.

The machine is another: a `sitecustomize` on the path rounds products to 11 bits, as an accumulator
in half precision does.  The programs are what is installed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ee import integer
from ee.integer import known

HALF = """
import numpy as np
import ee.integer.arith as arith
exact = arith.products
def products(left, right, limit):
    with np.errstate(over="ignore"):
        return exact(left, right, limit).astype(np.float16).astype(np.float64)
arith.products = products
"""
PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def run(tmp_path):
    def go(machine, *arguments, timeout=120):
        (tmp_path / "sitecustomize.py").write_text(machine)
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [PROGRAMS / arguments[0], *arguments[1:]],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    return go


@pytest.mark.slow
def test_a_host_does_not_begin_to_serve(run, tmp_path):
    socket = tmp_path / "w.sock"
    found = run(HALF, "rexis", "worker", "serve", "--socket", str(socket))
    assert found.returncode != 0
    assert "ready" not in found.stdout
    assert not socket.exists()
    error, hint = found.stderr.splitlines()[-2:]
    assert "error: products of small integers are not exact" in error
    assert hint.endswith("hint: run the worker elsewhere")


@pytest.mark.slow
def test_a_verifiers_daemon_does_not_start(run, tmp_path, monkeypatch):
    """A machine without a chain, which alone keeps no daemon from starting."""
    secret, home = tmp_path / "passphrase", str(tmp_path / "home")
    secret.write_text("correct horse")
    monkeypatch.setenv("REXIS_PASSPHRASE_FILE", str(secret))
    monkeypatch.setenv("REXIS_CHAIN__URL", "http://127.0.0.1:9")
    for number, name in enumerate(("REGISTRY", "DATASETS", "ANCHORS"), 1):
        address = f"0x{number:040x}"
        monkeypatch.setenv(f"REXIS_CHAIN__CONTRACTS__{name}", address)
    words = ["--name", "AUD", "--role", "verifier", "--listen", "/ip4/127.0.0.1/tcp/0"]
    assert run("", "rexis", "--home", home, "init", *words).returncode == 0
    found = run(HALF, "rexisd", "--home", home)
    assert found.returncode == 1
    assert "error: products of small integers are not exact" in found.stderr
    assert "ready" not in found.stdout + found.stderr
    # On this machine it is ready, and has to be told to stop.
    with pytest.raises(subprocess.TimeoutExpired) as waited:
        run("", "rexisd", "--home", home, timeout=20)
    assert b"ready" in (waited.value.stdout or b"") + (waited.value.stderr or b"")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["bundle", "case", "self-test"])
def test_a_verifier_says_nothing_about_a_file(run, tmp_path, command):
    file = tmp_path / "x.bundle"
    file.write_bytes(integer.encode(known.drawn_trunk(causal=True)))
    arguments = [] if command == "self-test" else [str(file)]
    found = run(HALF, "rexis-verify", command, *arguments)
    assert (found.returncode, found.stdout) == (4, "")
    error, hint = found.stderr.splitlines()
    assert error.startswith(
        "rexis-verify: error: products of small integers are not exact"
    )
    assert hint == "rexis-verify: hint: audit on another machine, or another BLAS"
    # The same programs on this machine, so that it was the other one they refused.
    assert run("", "rexis-verify", command, *arguments).returncode in (0, 2)
