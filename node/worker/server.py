"""Serve trunks over a unix socket: one session per connection, one trunk per session.

The worker is not trusted, so it is given nothing worth having: keyed weights and keyed
activations come in, the same go out.  It has no table, no token, no label, no key.  A
session lives in the connection; when that closes the trunk is dropped.
"""

import importlib.util
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ee import integer
from ee.errors import EncryptionError
from ee.integer import IntegerTrunk, SelfTestError
from node.errors import ComputeError
from node.worker import wire
from node.worker.activation import inherited
from node.worker.wire import Tensors

SESSIONS_AT_ONCE = 8
TWIN_FROM_BYTES = 1 << 20
"""Below a megabyte of weights a product takes less time than calling torch for it."""
Answer = tuple[dict[str, Any], Tensors]


class Forward(Protocol):
    """What `IntegerTrunk` and its torch twin have in common."""

    def forward(self, rows: integer.RowArray, *, start: int = 0) -> integer.Trace: ...


class Session:
    """What one connection may do."""

    def __init__(self) -> None:
        self._trunk: Any = None
        self._integer: Forward | None = None
        self._ops: dict[str, Callable[[dict[str, Any], Tensors], Answer]] = {
            "load": self._load,
            "forward": self._forward,
            "backward": self._backward,
            "step": self._step,
            "export": self._export,
            "unload": self._unload,
            "load_integer": self._load_integer,
            "infer": self._infer,
        }

    def answer(self, header: dict[str, Any], tensors: Tensors) -> Answer:
        """One request; every refusal is an answer, the session goes on."""
        op, params = header.get("op"), header.get("params")
        handler = self._ops.get(op) if isinstance(op, str) else None
        if handler is None or not isinstance(params, dict):
            return {"error": f"{op!r} is not one of {sorted(self._ops)}"}, {}
        try:
            return handler(params, tensors)
        except (EncryptionError, ComputeError) as error:
            return {"error": str(error)}, {}
        except KeyError as error:
            return {"error": f"{op} needs {error}"}, {}
        except MemoryError:
            return {"error": f"out of memory during {op}"}, {}
        except (ValueError, TypeError, RuntimeError) as error:
            return {"error": f"{op} failed: {error}"}, {}

    def _load(self, params: dict[str, Any], tensors: Tensors) -> Answer:
        # torch is needed for training only.
        config = params["config"]
        if "model_type" in config:
            from ee.hosted import HostedTrunk

            self._trunk = HostedTrunk(config, tensors, params.get("adapters"))
        else:
            from ee.trunk import Trunk

            self._trunk = Trunk(config, tensors)
        return {"ok": True}, {}

    def _loaded(self) -> Any:
        if self._trunk is None:
            raise ComputeError("no trunk is loaded in this session")
        return self._trunk

    def _forward(self, params: dict[str, Any], tensors: Tensors) -> Answer:
        seen = {"mask": tensors["mask"]} if "mask" in tensors else {}
        y = self._loaded().forward(tensors["x"], train=bool(params["train"]), **seen)
        return {"ok": True}, {"y": y}

    def _backward(self, _params: dict[str, Any], tensors: Tensors) -> Answer:
        return {"ok": True}, {"gx": self._loaded().backward(tensors["gy"])}

    def _step(self, params: dict[str, Any], _tensors: Tensors) -> Answer:
        self._loaded().step(float(params["lr"]), params["hyper"])
        return {"ok": True}, {}

    def _export(self, _params: dict[str, Any], _tensors: Tensors) -> Answer:
        return {"ok": True}, self._loaded().export()

    def _unload(self, _params: dict[str, Any], _tensors: Tensors) -> Answer:
        self._trunk = None
        self._integer = None
        return {"ok": True}, {}

    def _load_integer(self, _params: dict[str, Any], tensors: Tensors) -> Answer:
        trunk = integer.decode(tensors["trunk"].tobytes())
        self._integer = _quickest(trunk, tensors["trunk"].nbytes)
        return {"ok": True, "root": integer.model_root(trunk)}, {}

    def _infer(self, params: dict[str, Any], tensors: Tensors) -> Answer:
        trunk, start = self._integer, int(params["start"])
        if trunk is None:
            raise ComputeError("no integer trunk is loaded in this session")
        shape = tuple(int(extent) for extent in params["shape"])
        rows = integer.unpack_rows(tensors["rows"].tobytes(), shape)
        after = trunk.forward(rows, start=start).boundaries[1:]
        packed = [np.frombuffer(integer.pack_rows(one), np.uint8) for one in after]
        return {"ok": True}, {"boundaries": np.stack(packed)}


def _quickest(trunk: IntegerTrunk, size: int) -> Forward:
    """The torch twin for a trunk it is worth it for, where torch is there and exact."""
    if size < TWIN_FROM_BYTES or importlib.util.find_spec("torch") is None:
        return trunk
    from ee import integer_torch

    try:
        integer_torch.self_test()
        return integer_torch.TorchTrunk(trunk)
    except SelfTestError as error:
        sys.stderr.write(f"numpy serves instead of torch: {error}\n")
        return trunk


def serve(path: Path) -> None:
    """Listen until the process is ended; a stale socket of a dead worker is replaced.

    Raises `ComputeError` on a machine that would give answers no auditor can confirm.
    """
    try:
        integer.self_test()
    except SelfTestError as error:
        raise ComputeError(str(error), hint="run the worker elsewhere") from error
    with inherited() or _bound(path) as listener:
        sys.stdout.write(f"ready {path}\n")
        sys.stdout.flush()
        slots = threading.BoundedSemaphore(SESSIONS_AT_ONCE)
        while True:
            connection, _ = listener.accept()
            slots.acquire()
            threading.Thread(
                target=_serve_one, args=(connection, slots), daemon=True
            ).start()


def _serve_one(connection: socket.socket, slots: threading.BoundedSemaphore) -> None:
    session = Session()
    try:
        with connection:
            while True:
                header, tensors = wire.receive(connection)
                answer, out = session.answer(header, tensors)
                wire.send(connection, answer, out)
    except wire.WorkerGone:
        pass
    except (ComputeError, OSError) as error:
        sys.stderr.write(f"session ended: {error}\n")
    finally:
        slots.release()


def _bound(path: Path) -> socket.socket:
    _clear_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(SESSIONS_AT_ONCE)
    return listener


def _clear_stale(path: Path) -> None:
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise ComputeError(
        f"a worker already listens at {path}",
        hint="stop it, or choose another --socket",
    )
