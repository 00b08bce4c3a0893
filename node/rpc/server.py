"""The admin socket: one task a connection, one request after the other on each.

The folder that holds the socket is the whole access control, so the server does not start in
one that others may enter.  It is one of the four places that catch everything: whatever a
handler raises becomes an error object for its caller and, where the daemon is at fault, a log
line with the trace.  Work goes on when its caller leaves; a half-made transaction would serve
nobody.
"""

import difflib
import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from node.errors import NodeError, RpcError
from node.rpc import codes, wire
from node.rpc.method import Method
from node.rpc.methods import METHODS
from node.rpc.wire import Fault, Lines, Request
from protocol.errors import ProtocolError

Handler = Callable[[Any], Awaitable[Any]]
"""Takes the method's params Struct; returns what converts to its result Struct."""

CONNECTIONS = 32
# A program that has said nothing for this long has forgotten us; it may connect again.
IDLE_S = 600.0
# A local program that takes no bytes for this long is stopped or stuck.
SEND_S = 10.0
_READ_BYTES = 1 << 16
# Linux: sun_path has 108 bytes, the last of which is zero (unix(7)).
PATH_LIMIT_BYTES = 107

log = structlog.get_logger()


class RpcServer:
    """Serves handlers by method name; a known method without a handler is refused."""

    def __init__(
        self, methods: Mapping[str, Handler], *, connections: int = CONNECTIONS
    ) -> None:
        unknown = sorted(set(methods) - set(METHODS))
        if unknown:
            raise ValueError(f"no schema for {', '.join(unknown)}")
        self._handlers = dict(methods)
        self._limit = connections
        self._open = 0

    async def serve(
        self,
        path: Path,
        *,
        task_status: Any = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen until cancelled; the socket file is there exactly as long."""
        listener = trio.SocketListener(await _bound(path, self._limit))
        try:
            await trio.serve_listeners(
                self._connection, [listener], task_status=task_status
            )
        finally:
            _remove(path)

    async def answer(self, line: bytes) -> bytes | None:
        """The line that answers `line`; None for a notification."""
        request = wire.parse(line)
        if isinstance(request, Fault):
            return wire.refuse(request.id, request)
        outcome = await self._outcome(request)
        if not request.wants_answer:
            return None
        if isinstance(outcome, Fault):
            return wire.refuse(request.id, outcome)
        try:
            return wire.answer(request, outcome)
        except Exception as error:
            # What no JSON can be made of is this one method's mistake, and no reason to end.
            return wire.refuse(request.id, _fault(METHODS[request.method], error))

    async def _connection(self, stream: trio.SocketStream) -> None:
        try:
            async with stream:
                if self._open >= self._limit:
                    await _send(stream, wire.refuse(None, self._busy()))
                    return
                self._open += 1
                try:
                    await self._converse(stream)
                finally:
                    self._open -= 1
        except trio.BrokenResourceError:
            pass  # the program went away; there is nobody to tell

    async def _converse(self, stream: trio.SocketStream) -> None:
        lines = Lines()
        while True:
            with trio.move_on_after(IDLE_S) as waited:
                data = bytes(await stream.receive_some(_READ_BYTES))
            if waited.cancelled_caught:
                return
            # The end of the stream ends the last line: `printf ... | nc -U` needs no newline.
            for line in lines.feed(data or b"\n"):
                if isinstance(line, Fault):
                    await _send(stream, wire.refuse(None, line))
                    return
                answer = await self.answer(line)
                if answer is not None:
                    await _send(stream, answer)
            if not data:
                return

    async def _outcome(self, request: Request) -> msgspec.Struct | Fault:
        method = METHODS.get(request.method)
        handler = self._handlers.get(request.method)
        if method is None or handler is None:
            return self._missing(request.method)
        try:
            params = msgspec.convert(request.params, method.params)
        except msgspec.ValidationError as error:
            return _bad_params(method, request.params, error)
        try:
            return msgspec.convert(await handler(params), method.result)
        except Exception as error:
            return _fault(method, error)

    def _missing(self, name: str) -> Fault:
        if name in METHODS:
            return Fault(
                codes.METHOD_NOT_FOUND,
                f"this node does not serve {name}",
                "its role has no part in that; ask another node",
            )
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]}?" if near else "docs/rpc.md lists the methods"
        return Fault(codes.METHOD_NOT_FOUND, f"there is no method {name!r:.80}", hint)

    def _busy(self) -> Fault:
        return Fault(
            codes.BUSY,
            f"{self._open} programs are connected, limit is {self._limit}",
            "try again, or raise limits.rpc_connections",
        )


def _bad_params(
    method: Method, params: Mapping[str, Any], error: msgspec.ValidationError
) -> Fault:
    said = wire.refusal(error, params)
    field = said.split(" ", 1)[0].split("[", 1)[0]
    if said.startswith(("missing required field", "contains unknown field")):
        field = said.rsplit(" ", 1)[-1]
    description = method.described(field)
    known = ", ".join(method.params.__struct_fields__)
    return Fault(
        codes.INVALID_PARAMS,
        f"bad params of {method.name}: {said}",
        f"{field} is {description}"
        if description
        else f"it takes {known or 'no parameters'}",
    )


def _fault(method: Method, error: Exception) -> Fault:
    """What the caller is told; our own mistakes are logged, theirs are not."""
    expected = _expected(error)
    if expected is not None:
        said = " ".join(str(expected).split())  # one line, whatever a library wrote
        if isinstance(expected, NodeError):
            return Fault(expected.code, said, expected.hint())
        return Fault(codes.PROTOCOL_RULE, said)
    log.error("rpc.failed", method=method.name, exc_info=error)
    return Fault(
        codes.INTERNAL_ERROR,
        f"{method.name} failed inside the daemon",
        "its log has the trace under rpc.failed; please report it",
    )


def _expected(error: BaseException) -> NodeError | ProtocolError | None:
    """The one foreseen error in what was raised, out of the groups trio makes."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, NodeError | ProtocolError) else None


async def _send(stream: trio.SocketStream, line: bytes) -> None:
    # Shielded: the answer to `node.stop` leaves although everything is being cancelled.
    with trio.CancelScope(shield=True, deadline=trio.current_time() + SEND_S) as scope:
        await stream.send_all(line)
    if scope.cancelled_caught:
        raise trio.BrokenResourceError(f"no byte was taken for {SEND_S:.0f} s")


async def _bound(path: Path, backlog: int) -> trio.socket.SocketType:
    """A listening socket at `path`; what a dead daemon left there is replaced."""
    name = os.fsencode(path)
    if len(name) > PATH_LIMIT_BYTES:
        raise RpcError(
            f"the path {path} has {len(name)} bytes, limit for a socket is {PATH_LIMIT_BYTES}",
            hint="give the node a home with a shorter path",
        )
    _require_private(path.parent)
    _remove_stale(path)
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await sock.bind(name)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise RpcError(
            f"cannot listen on {path}: {error.strerror}",
            hint="check the free space and the owner of the folder",
        ) from error
    return sock


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _require_private(folder: Path) -> None:
    try:
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError as error:
        raise RpcError(f"cannot look into {folder}: {error.strerror}") from error
    if mode & 0o077:
        raise RpcError(
            f"{folder} has mode {mode:04o}: others could reach the admin socket",
            hint=f"run `chmod 700 {folder}`",
        )


def _remove_stale(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise RpcError(
            f"{path} is in the way and is no socket", hint="move it elsewhere"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        found = probe.connect_ex(os.fsencode(path))
    if found != errno.ECONNREFUSED:
        raise RpcError(
            f"another daemon answers at {path}",
            hint="stop it with `rexis stop`, or give this one its own --home",
        )
    path.unlink()
