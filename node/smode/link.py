"""The key holder's wire to both hosts; an `ee.smode.Carry`."""

import socket
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ee.smode import Arithmetic, Reply, Request
from node.errors import ComputeError
from node.smode.host import SEED, as_bytes
from node.worker import wire

REPLY_TIMEOUT_S = 120.0


class HostLink:
    """One session on each of two hosts."""

    def __init__(
        self,
        first: str,
        second: str,
        arithmetic: Arithmetic,
        weights: Mapping[str, NDArray[Any]],
        seed: bytes,
    ) -> None:
        """Connect and hand over: the weights to both, the seed to the second alone."""
        self._arithmetic = arithmetic
        self._hosts: list[_Host] = []
        begin = {"op": "load", "arithmetic": arithmetic.name}
        secret = {SEED: np.frombuffer(seed, np.uint8)}
        try:
            for path, extra in ((first, {}), (second, secret)):
                host = _Host(path)
                self._hosts.append(host)
                host.send(begin, {**weights, **extra})
                host.receive()
        except ComputeError:
            self.close()
            raise
        self._loaded = self.bytes_moved

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End both sessions."""
        for host in self._hosts:
            host.close()

    @property
    def bytes_moved(self) -> int:
        """Everything on both wires so far, frames and all."""
        return sum(host.bytes_moved for host in self._hosts)

    @property
    def bytes_computing(self) -> int:
        """The same without the hand-over of weights."""
        return self.bytes_moved - self._loaded

    def __call__(self, first: Request, second: Request) -> tuple[Reply, Reply]:
        """Both requests out before either reply is awaited: the hosts work at one time."""
        for host, request in zip(self._hosts, (first, second), strict=True):
            host.send(_header(request), _share(request))
        word = self._arithmetic.word
        one, two = (host.receive()["product"].view(word) for host in self._hosts)
        return Reply(one), Reply(two)


def _header(request: Request) -> dict[str, Any]:
    return {
        "op": "multiply",
        "layer": request.layer,
        "backward": request.backward,
        "pad": request.pad,
        "rows": request.rows,
    }


def _share(request: Request) -> dict[str, NDArray[Any]]:
    return {} if request.share is None else {"share": as_bytes(request.share)}


class _Host:
    """One connection, counting its bytes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._sock = _CountedSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(REPLY_TIMEOUT_S)
        try:
            self._sock.connect(path)
        except OSError as error:
            self._sock.close()
            raise ComputeError(
                f"no S-mode host answers at {path}: {error.strerror or error}",
                hint=f"start one with `rexis smode serve --socket {path}`",
            ) from error

    @property
    def bytes_moved(self) -> int:
        return self._sock.moved

    def close(self) -> None:
        self._sock.close()

    def send(self, header: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        try:
            wire.send(self._sock, header, tensors)
        except OSError as error:
            raise self._gone() from error

    def receive(self) -> wire.Tensors:
        try:
            header, tensors = wire.receive(self._sock)
        except (OSError, wire.WorkerGone) as error:
            raise self._gone() from error
        if "error" in header:
            raise ComputeError(f"the host at {self._path} refused: {header['error']}")
        return tensors

    def _gone(self) -> ComputeError:
        return ComputeError(
            f"the S-mode host at {self._path} went away",
            hint="start it again; a new session needs a new seed",
        )


class _CountedSocket(socket.socket):
    """Counts what passes, both ways."""

    moved = 0

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        super().sendall(data, flags)
        self.moved += memoryview(data).nbytes

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0, /) -> int:
        count = super().recv_into(buffer, nbytes, flags)
        self.moved += count
        return count
