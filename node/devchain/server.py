"""HTTP on 127.0.0.1 around the methods: one POST, one answer, always JSON.

Browsers are refused (they send an Origin): a web page must not write to a chain that
happens to run on the reader's machine.
"""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from node.devchain.methods import INVALID_REQUEST, PARSE_ERROR, Methods, error

BODY_LIMIT = 1 << 20
_IDLE_S = 60


class Server(ThreadingHTTPServer):
    """Serves until `shutdown`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, methods: Methods) -> None:
        self.methods = methods
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise an answer waits 40 ms for an ACK
    timeout = _IDLE_S
    server: Server

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Origin") is not None:
            self._answer(403, error(None, INVALID_REQUEST, "not for browsers"))
        elif not length.isdigit() or int(length) > BODY_LIMIT:
            self.close_connection = True  # the body stays unread
            self._answer(413, error(None, INVALID_REQUEST, f"body over {BODY_LIMIT}"))
        else:
            self._answer(
                200, _parsed(self.rfile.read(int(length)), self.server.methods.answer)
            )

    def do_GET(self) -> None:
        self._answer(405, error(None, INVALID_REQUEST, "POST a JSON-RPC request"))

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
