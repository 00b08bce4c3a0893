"""What the daemon says of a chain that is not there, not ours, or not a chain."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import trio

from node.adapters import evm_contracts
from node.adapters.evm_chain import EvmChain
from node.adapters.evm_contracts import artifact, is_ours
from node.errors import ChainDownError, ChainError
from protocol.types import digest

KEY = b"\x05" * 32
NOWHERE = dict.fromkeys(("registry", "datasets", "anchors"), "0x" + "11" * 20)

Reply = Callable[[BaseHTTPRequestHandler, bytes], None]


@contextmanager
def server(reply: Reply) -> Iterator[str]:
    """An HTTP server that is no chain."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            reply(self, body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


def says(status: int, body: bytes) -> Reply:
    def reply(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def cuts_off(handler: BaseHTTPRequestHandler, _: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"jsonrpc"')


def on(url: str, **changes: object) -> EvmChain:
    fields = {
        "url": url,
        "chain_id": 5,
        "contracts": NOWHERE,
        "account_key": KEY,
        "poll_s": 0.01,
    }
    return EvmChain(**{**fields, **changes})


CHAIN_6 = b'{"jsonrpc": "2.0", "id": 0, "result": "0x6"}'


@pytest.mark.parametrize(
    ("reply", "temporary", "words"),
    [
        (says(200, CHAIN_6), False, "chain id is 6, expected 5"),
        (says(503, b""), True, "answered HTTP 503"),
        (says(429, b""), True, "answered HTTP 429"),
        (says(404, b""), False, "answered HTTP 404"),
        (says(401, b"who?"), False, "answered HTTP 401"),
        (says(200, b"<html>a router's page</html>"), False, "not JSON-RPC"),
        (says(200, b"\xff\xfe"), False, "not JSON-RPC"),
        (says(200, b"{}"), False, "not JSON-RPC"),
        (says(200, b"[]"), False, "not JSON-RPC"),
        (says(200, b"5"), False, "not JSON-RPC"),
        (
            says(200, b'{"jsonrpc": "2.0", "id": 0, "result": "soon"}'),
            False,
            "cannot be encoded or decoded",
        ),
        (cuts_off, True, "does not answer"),
    ],
)
async def test_a_wrong_or_broken_chain_is_one_line_with_a_hint(reply, temporary, words):
    with server(reply) as url, pytest.raises(ChainError) as caught:
        await on(url).check()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.temporary is temporary
    assert caught.value.hint()


async def test_a_chain_that_is_down_is_temporary_and_has_a_hint():
    with pytest.raises(ChainDownError, match="does not answer") as caught:
        await on("http://127.0.0.1:1").check()
    assert caught.value.temporary
    assert caught.value.hint()


async def test_following_survives_a_chain_that_is_down():
    chain = on("http://127.0.0.1:1")
    with trio.move_on_after(0.2) as scope:
        async for _ in chain.follow(0):
            pass
    assert scope.cancelled_caught


async def test_a_daemon_that_stops_does_not_wait_for_a_silent_chain(monkeypatch):
    """All of a send but the send itself may be left."""
    monkeypatch.setattr(evm_contracts, "REQUEST_TIMEOUT_S", 1)
    silence = threading.Event()
    with server(lambda *_: silence.wait(5)) as url:
        chain = on(url)
        started = trio.current_time()
        with trio.move_on_after(0.1):
            await chain.anchor_model(digest(b"root"), digest(b"record"))
        assert trio.current_time() - started < 0.5
        silence.set()


def test_code_is_ours_only_as_it_was_compiled():
    code = bytearray.fromhex(artifact("datasets")["runtime"][2:])
    start, length = artifact("datasets")["immutables"][0]
    code[start : start + length] = b"\x07" * length
    assert is_ours("datasets", bytes(code))
    code[start - 1] ^= 1
    assert not is_ours("datasets", bytes(code))
    assert not is_ours("datasets", bytes(code[:-1]))
    assert not is_ours("registry", bytes(code))
