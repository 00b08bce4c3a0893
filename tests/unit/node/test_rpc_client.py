"""The blocking client against sockets that behave badly."""

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from node.errors import RpcError
from node.rpc import client, wire
from node.rpc.client import RefusedError, UnreachableError, call


@contextmanager
def answering(path, answer):
    """One connection: `answer(sock)` speaks on it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen()

    def serve():
        sock, _ = listener.accept()
        with sock:
            sock.recv(1 << 16)
            answer(sock)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.close()
        thread.join(5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rpc.sock"


def test_nobody_there(path):
    with pytest.raises(
        UnreachableError, match=f"no daemon answers at {path}"
    ) as caught:
        call(path, "status.get", {})
    assert caught.value.hint() == f"start it with `rexisd --home {path.parent}`"


def test_a_socket_nobody_listens_on(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    with pytest.raises(UnreachableError, match="no daemon answers"):
        call(path, "status.get", {})


def test_a_path_too_long_for_a_socket(tmp_path):
    with pytest.raises(UnreachableError, match="too long"):
        call(tmp_path / ("x" * 200), "status.get", {})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "hung up"),
        (b"<html>\n", "not JSON-RPC"),
        (b"[]\n", "not JSON-RPC"),
        (b'{"jsonrpc":"2.0","id":1}\n', "not JSON-RPC"),
        (b'{"jsonrpc":"2.0","id":1,"error":5}\n', "not JSON-RPC"),
        (b'{"jsonrpc":"2.0","id":1,"result":5}\n', "not JSON-RPC"),
        (b'{"jsonrpc":"2.0","id":1,"result":{}', "not JSON-RPC"),
    ],
)
def test_an_answer_that_is_none(path, line, words):
    with (
        answering(path, lambda sock: sock.sendall(line)),
        pytest.raises(UnreachableError, match=words),
    ):
        call(path, "status.get", {})


def test_an_error_without_a_hint(path):
    line = b'{"jsonrpc":"2.0","id":1,"error":{"code":7,"message":"no"}}\n'
    with (
        answering(path, lambda sock: sock.sendall(line)),
        pytest.raises(RefusedError, match=r"^no$") as caught,
    ):
        call(path, "status.get", {})
    assert (caught.value.number, caught.value.hint()) == (7, "")


def test_an_answer_that_does_not_come_in_time(path):
    done = threading.Event()
    with answering(path, lambda _sock: done.wait(5)):
        with pytest.raises(
            UnreachableError, match=r"no answer to runs.list within 0.2 s"
        ):
            call(path, "runs.list", {}, timeout_s=0.2)
        done.set()


def test_the_time_is_for_the_whole_answer_not_for_each_byte(path):
    def drip(sock):
        for _ in range(100):
            try:
                sock.sendall(b" ")
            except OSError:
                return
            time.sleep(0.02)

    with answering(path, drip), pytest.raises(UnreachableError, match="within"):
        call(path, "runs.list", {}, timeout_s=0.2)


def test_the_client_takes_as_long_an_answer_as_the_server_may_send():
    assert client.ANSWER_LIMIT_BYTES == wire.ANSWER_LIMIT_BYTES


def test_the_client_needs_the_standard_library_only():
    code = (
        "import sys; import node.rpc.client; "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "{'msgspec', 'trio', 'click', 'rich', 'structlog', 'nacl', 'numpy'}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_what_an_older_daemon_does_not_say_is_named(path):
    line = b'{"jsonrpc":"2.0","id":1,"result":{"rows":[{"title":"x"}]}}\n'
    with answering(path, lambda sock: sock.sendall(line)):
        answer = call(path, "datasets.list", {})
    assert answer == {"rows": [{"title": "x"}]}
    (row,) = answer["rows"]
    assert (row["title"], row.get("group")) == ("x", None)
    with pytest.raises(RpcError, match="says nothing of 'group'") as caught:
        row["group"]
    assert "another version" in caught.value.hint()
    with pytest.raises(RpcError, match="says nothing of 'groups'"):
        answer["groups"]
