"""`python -m node.compute --fd N`: frames in, frames out, one call at a time.

Started by `node.adapters.compute_child` and ended by end of file.  A signal meant for the
daemon (Ctrl-C reaches the whole group) is left to the daemon, which hangs up when it is done.
"""

import argparse
import signal
import socket
import struct
import sys
import traceback
from typing import Any

import msgpack

from ee.errors import EncryptionError
from node.compute.methods import find
from node.errors import NodeError
from protocol.errors import ProtocolError

FRAME_LIMIT_BYTES = 64 << 20
EXPECTED = (NodeError, EncryptionError, ProtocolError, OSError, MemoryError)
"""What may go wrong without a bug: told to the daemon, not printed with a traceback."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="node.compute", description=__doc__)
    parser.add_argument("--fd", required=True, type=int)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=options.fd) as sock:
        while (frame := _receive(sock)) is not None:
            _send(sock, _answer(sock, frame))
    return 0


def _answer(sock: socket.socket, frame: dict[str, Any]) -> dict[str, Any]:
    call_id, name = frame["id"], frame["method"]
    method = find(name)
    if method is None:
        return _error(call_id, f"the compute child has no method {name!r}", "")

    def progress(data: dict[str, Any]) -> None:
        _send(sock, {"id": call_id, "progress": data})

    try:
        return {"id": call_id, "result": method(frame["params"], progress)}
    except EXPECTED as error:
        hint = error.hint() if isinstance(error, NodeError) else ""
        return _error(call_id, str(error) or type(error).__name__, hint)
    except (
        Exception
    ) as error:  # a bug must reach the log and the caller, not end the child
        traceback.print_exc(file=sys.stderr)
        return _error(
            call_id, f"{name}: {type(error).__name__}: {error}", "this is a bug"
        )


def _error(call_id: int, message: str, hint: str) -> dict[str, Any]:
    return {"id": call_id, "error": {"message": message, "hint": hint}}


def _send(sock: socket.socket, answer: dict[str, Any]) -> None:
    frame = msgpack.packb(answer)
    if len(frame) > FRAME_LIMIT_BYTES:
        frame = msgpack.packb(
            _error(answer["id"], f"answer of {len(frame)} bytes is too large", "")
        )
    sock.sendall(struct.pack(">I", len(frame)) + frame)


def _receive(sock: socket.socket) -> dict[str, Any] | None:
    head = _exactly(sock, 4)
    if head is None:
        return None
    (length,) = struct.unpack(">I", head)
    if length > FRAME_LIMIT_BYTES:
        raise SystemExit(f"frame of {length} bytes, limit is {FRAME_LIMIT_BYTES}")
    body = _exactly(sock, length)
    return None if body is None else msgpack.unpackb(body)


def _exactly(sock: socket.socket, length: int) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        chunk = sock.recv(min(length - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


if __name__ == "__main__":
    sys.exit(main())
