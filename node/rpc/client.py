"""Ask a daemon, from a program that does not run trio: one call, one connection.

Standard library only, so that a command line starts at once.  What the daemon refuses and
what never reached it are different errors, because a script does different things then.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from node.errors import RpcError

TIMEOUT_S = 120.0
# As the server has it (node.rpc.wire); repeated because that module needs msgspec.
ANSWER_LIMIT_BYTES = 1 << 24
_READ_BYTES = 1 << 16


class RefusedError(RpcError):
    """The daemon understood, or nearly, and said no."""

    def __init__(self, message: str, *, hint: str, number: int) -> None:
        super().__init__(message, hint=hint)
        self.number = number
        """The error's code, as node/rpc/codes.py lists them."""


class UnreachableError(RpcError):
    """There was no answer; whether the call was carried out is not known."""


def call(
    path: str | Path,
    method: str,
    params: Mapping[str, Any],
    *,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """The result of `method` from the daemon whose socket is at `path`.

    Raises `RefusedError` or `UnreachableError`, both with a hint for a person.
    """
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": dict(params)}
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.settimeout(timeout_s)
            sock.connect(os.fsencode(path))
        except OSError as error:
            raise _unreachable(Path(path), error) from error
        try:
            line = _exchanged(sock, json.dumps(request).encode() + b"\n", deadline)
        except TimeoutError as error:
            raise UnreachableError(
                f"no answer to {method} within {timeout_s:g} s",
                hint="the daemon may still be at it; `rexis events` shows what it did",
            ) from error
        except OSError as error:
            raise _hung_up(method) from error
    return _result(method, line)


def _exchanged(sock: socket.socket, request: bytes, deadline: float) -> bytes:
    """Send a line, read a line; what came before the end where there is no newline."""
    # Where it hung up on us, it may have said why before.
    with suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(request)
    received = bytearray()
    while not received.endswith(b"\n") and len(received) <= ANSWER_LIMIT_BYTES:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        sock.settimeout(remaining)
        data = sock.recv(_READ_BYTES)
        if not data:
            break
        received += data
    return bytes(received)


def _result(method: str, line: bytes) -> dict[str, Any]:
    if not line:
        raise _hung_up(method)
    try:
        answer = json.loads(line)
        if "error" in answer:
            error = answer["error"]
            hint = str((error.get("data") or {}).get("hint", ""))
            raise RefusedError(error["message"], hint=hint, number=int(error["code"]))
        result: dict[str, Any] = _said(dict(answer["result"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnreachableError(
            f"the answer to {method} is not JSON-RPC ({len(line)} bytes)",
            hint="something else listens there, or the daemon is another version",
        ) from error
    return result


class _Said(dict[str, Any]):
    """What the daemon says; what it does not say is an error that a person can act on."""

    def __missing__(self, key: str) -> Any:
        raise RpcError(
            f"the daemon's answer says nothing of {key!r}",
            hint="it is of another version than this program: restart it; `rexis status` names its version",
        )


def _said(value: Any) -> Any:
    match value:
        case dict():
            return _Said({key: _said(one) for key, one in value.items()})
        case list():
            return [_said(one) for one in value]
        case _:
            return value


def _unreachable(path: Path, error: OSError) -> UnreachableError:
    if isinstance(error, PermissionError):
        return UnreachableError(
            f"may not open {path}",
            hint="run as the user the daemon runs as",
        )
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return UnreachableError(
            f"no daemon answers at {path}",
            hint=f"start it with `rexisd --home {path.parent}`",
        )
    return UnreachableError(f"cannot reach {path}: {error.strerror or error}")


def _hung_up(method: str) -> UnreachableError:
    return UnreachableError(
        f"the daemon hung up before it answered {method}",
        hint="it may be stopping; look at its log",
    )
