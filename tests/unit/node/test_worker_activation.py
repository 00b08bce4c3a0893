"""The socket systemd passes to the worker: taken if it is ours, refused if it is odd."""

import os
import socket
import subprocess
import sys

import pytest

from node.worker.activation import inherited

# exec keeps the process id, so the launcher can name it as systemd would.
PASS = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-c", sys.argv[2]])
"""
TAKE = """
from node.worker.activation import inherited
with inherited() as listener:
    connection, _ = listener.accept()
    connection.sendall(b"here")
"""


def started(listener, code, fds="1"):
    return subprocess.Popen(
        [sys.executable, "-c", PASS, str(listener.fileno()), code],
        env={**os.environ, "LISTEN_FDS": fds},
        pass_fds=[listener.fileno()],
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_passed_socket_is_served(tmp_path):
    path = str(tmp_path / "worker.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as us:
        listener.bind(path)
        listener.listen()
        worker = started(listener, TAKE)
        us.settimeout(10)
        us.connect(path)
        assert us.recv(4) == b"here"
        assert worker.wait(10) == 0
        worker.stderr.close()


@pytest.mark.parametrize(
    ("family", "fds", "said"),
    [(socket.AF_INET, "1", "family AF_INET"), (socket.AF_UNIX, "2", "2 sockets")],
)
def test_anything_else_is_refused(family, fds, said):
    with socket.socket(family) as listener:
        worker = started(listener, TAKE, fds)
        assert said in worker.communicate(timeout=10)[1]


def test_what_was_meant_for_the_parent_is_left_alone(monkeypatch):
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert inherited() is None
