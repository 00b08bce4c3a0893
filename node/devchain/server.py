"""HTTP on 127.0.0.1 around the methods: one POST, one answer, always JSON.

Browsers are refused (they send an Origin): a web page must not write to a chain that
happens to run on the reader's machine.
"""

import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from node.devchain.methods import INVALID_REQUEST, PARSE_ERROR, Methods, error
from node.errors import ConfigError

LOOPBACK = "127.0.0.1"
# The largest thing anyone sends is a deployment: 24 KiB of code twice, as hex.
BODY_LIMIT = 1 << 20
STACK_BYTES = 128 << 20
_LENGTH_DIGITS = 10
_IDLE_S = 60


class Server(ThreadingHTTPServer):
    """Serves until `shutdown`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, methods: Methods) -> None:
        self.methods = methods
        # For the threads that answer: py-evm raises Python's recursion limit tenfold, so
        # deep JSON or deep calls would run off a usual 8 MiB stack and kill the chain.
        threading.stack_size(STACK_BYTES)
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {LOOPBACK}:{port}: {error.strerror}",
                hint="choose another --port; 0 takes a free one",
            ) from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is its own affair; anything else is told on stderr."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise an answer waits 40 ms for an ACK
    timeout = _IDLE_S
    server: Server

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Origin") is not None:
            self._refuse(403, "not for browsers")
        elif not (length.isascii() and length.isdigit()):
            self._refuse(411, "a request has a Content-Length")
        elif len(length) > _LENGTH_DIGITS or int(length) > BODY_LIMIT:
            self._refuse(413, f"the body is over the limit of {BODY_LIMIT} bytes")
        else:
            self._answer(
                200, _parsed(self.rfile.read(int(length)), self.server.methods.answer)
            )

    def do_GET(self) -> None:
        self._answer(405, error(None, INVALID_REQUEST, "POST a JSON-RPC request"))

    def _refuse(self, status: int, message: str) -> None:
        self.close_connection = True  # the body stays unread
        self._answer(status, error(None, INVALID_REQUEST, message))

    def _answer(self, status: int, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Quiet: errors travel to the client."""


def _parsed(raw: bytes, answer: Callable[[object], object]) -> object:
    try:
        request = json.loads(raw)
    except (ValueError, RecursionError):
        return error(None, PARSE_ERROR, "the body is not JSON")
    return answer(request)
