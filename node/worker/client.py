"""The key holder's side of a worker session; satisfies `ee.session.TrunkPort`.

Blocking: it is used in the compute child, and in a thread of the daemon.  One client is one
session: closing it makes the worker forget the trunk.  A session that has failed is over,
because nobody can say what the next byte on its socket would mean; `node.worker.snapshot`
has what another one goes on from.
"""

import socket
import time
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from node.errors import ComputeError
from node.worker import wire
from node.worker.session import MOMENT

Floats = NDArray[np.float32]
Weights = dict[str, NDArray[Any]]

REPLY_TIMEOUT_S = 120.0


class WorkerRefusedError(ComputeError):
    """The worker would not do what was asked; the session goes on."""


class TrunkLostError(ComputeError):
    """The trunk that was loaded is gone; it can be loaded again, here or elsewhere."""


class WorkerClient:
    """One session with the worker behind a unix socket."""

    def __init__(self, path: str, *, timeout_s: float = REPLY_TIMEOUT_S) -> None:
        """`timeout_s`: the longest one request may take, from its first byte to its
        answer's last.
        """
        self._path = path
        self._timeout_s = timeout_s
        self._sock = _PatientSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(timeout_s)
        try:
            self._sock.connect(path)
        except OSError as error:
            self._sock.close()
            raise ComputeError(
                f"no worker answers at {path}: {error.strerror or error}",
                hint=f"start one with `rexis worker serve --socket {path}`",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session."""
        self._sock.close()

    def load(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, Any],
        adapters: Mapping[str, Any] | None = None,
        moments: Mapping[str, Any] | None = None,
    ) -> None:
        """Hand over a keyed trunk: of a table model, or any that names its `model_type`.

        `adapters` (layers, rank, scale): only those are trained (`ee.hosted`).  `moments`:
        what the optimiser knew when the same trunk was last trained.
        """
        params: dict[str, Any] = {"config": dict(config)}
        if adapters is not None:
            params["adapters"] = dict(adapters)
        memory = {MOMENT + name: tensor for name, tensor in (moments or {}).items()}
        self._ask("load", params, {**weights, **memory})

    def forward(
        self, x: Floats, *, train: bool, mask: NDArray[np.int32] | None = None
    ) -> Floats:
        """(batch, tokens, width) keyed rows through the trunk; `mask` is 0 at padding."""
        tensors: dict[str, NDArray[Any]] = {"x": x}
        if mask is not None:
            tensors["mask"] = mask
        return self._ask("forward", {"train": train}, tensors)[1]["y"]

    def backward(self, gy: Floats) -> Floats:
        """Gradient at the trunk's input; its weights' gradients stay at the worker."""
        return self._ask("backward", {}, {"gy": gy})[1]["gx"]

    def step(self, lr: float, hyper: Mapping[str, Any]) -> None:
        """One step of the trunk's optimiser."""
        self._ask("step", {"lr": lr, "hyper": dict(hyper)}, {})

    def export(self) -> Weights:
        """What was trained, keyed, as it is now."""
        return self._ask("export", {}, {})[1]

    def moments(self) -> Weights:
        """The optimiser's memory, keyed, as it is now."""
        return self._ask("moments", {}, {})[1]

    def unload(self) -> None:
        """Forget the trunk."""
        self._ask("unload", {}, {})

    def load_integer(self, trunk: bytes) -> bytes:
        """Hand over a released integer trunk; returns its root as the worker sees it."""
        blob = np.frombuffer(trunk, np.uint8)
        return bytes(self._ask("load_integer", {}, {"trunk": blob})[0]["root"])

    def infer(
        self, rows: bytes, shape: tuple[int, int, int], *, start: int = 0
    ) -> list[bytes]:
        """Packed rows after each layer from `start` on (docs/verify.md)."""
        params = {"shape": list(shape), "start": start}
        blob = np.frombuffer(rows, np.uint8)
        after = self._ask("infer", params, {"rows": blob})[1]["boundaries"]
        return [boundary.tobytes() for boundary in after]

    def _ask(
        self, op: str, params: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]
    ) -> tuple[dict[str, Any], wire.Tensors]:
        self._sock.give(self._timeout_s)
        try:
            wire.send(self._sock, {"op": op, "params": dict(params)}, tensors)
            header, answer = wire.receive(self._sock)
        except TimeoutError as error:
            self.close()
            raise TrunkLostError(
                f"the worker at {self._path} did not answer {op} within {self._timeout_s:g} s",
                hint="look at the worker's log; the session can be started again",
            ) from error
        except (OSError, wire.WorkerGone) as error:
            self.close()
            raise TrunkLostError(
                f"the worker at {self._path} went away during {op}",
                hint="start it again; the session resumes from the last stored state",
            ) from error
        if "error" in header:
            said = f"worker refused {op}: {header['error']}"
            if header.get("lost"):
                raise TrunkLostError(
                    said,
                    hint="load it again with a smaller batch, or where there is more memory",
                )
            raise WorkerRefusedError(said)
        return header, answer


class _PatientSocket(socket.socket):
    """Bounds a whole exchange: a worker that drips bytes is as slow as one that is silent."""

    def give(self, seconds: float) -> None:
        """From now on, for all that follows."""
        self._until = time.monotonic() + seconds

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        self._wait_no_longer()
        super().sendall(data, flags)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0, /) -> int:
        self._wait_no_longer()
        return super().recv_into(buffer, nbytes, flags)

    def _wait_no_longer(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for this exchange is over")
        self.settimeout(left)
