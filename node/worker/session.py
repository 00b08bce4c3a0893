"""What one connection to a worker may do: load a trunk, run it, take it home.

A refusal is an answer and leaves the session as it was.  Running out of memory is one too,
but the trunk is dropped with it: half of its gradients may be there, and what it holds is
what is short.  The key holder has its own state and loads it again.
"""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from ee import integer
from ee.economy import NO_ECONOMY, Economy
from ee.errors import EncryptionError
from ee.integer import IntegerTrunk, SelfTestError
from node.errors import ComputeError
from node.worker.wire import Tensors

TWIN_FROM_BYTES = 1 << 20
"""Below a megabyte of weights a product takes less time than calling torch for it."""
MOMENT = "moment."
"""What the names of an optimiser's tensors begin with where they travel with weights."""
Answer = tuple[dict[str, Any], Tensors]


class Forward(Protocol):
    """What `IntegerTrunk` and its torch twin have in common."""

    def forward(self, rows: integer.RowArray, *, start: int = 0) -> integer.Trace: ...


class Trunks(Protocol):
    """Where the trunks of sessions are: this process, or several of them."""

    def open(
        self,
        config: Mapping[str, Any],
        weights: Tensors,
        adapters: Mapping[str, Any] | None,
        moments: Tensors,
    ) -> Any: ...

    def close(self, trunk: Any) -> None:
        """The session is done with it."""


class LocalTrunks:
    """Each session's trunk in this process, on one device."""

    def __init__(self, device: str = "cpu", economy: Economy = NO_ECONOMY) -> None:
        self._device, self._economy = device, economy

    def open(
        self,
        config: Mapping[str, Any],
        weights: Tensors,
        adapters: Mapping[str, Any] | None,
        moments: Tensors,
    ) -> Any:
        # torch is needed for training only.
        if "model_type" not in config:
            from ee.trunk import Trunk

            return Trunk(config, weights)
        from ee.hosted import HostedTrunk

        return HostedTrunk(
            config,
            weights,
            adapters,
            moments=moments,
            device=self._device,
            economy=self._economy,
        )

    def close(self, trunk: Any) -> None:
        del trunk


class Session:
    """What one connection may do."""

    def __init__(self, trunks: Trunks | None = None) -> None:
        self._trunks = LocalTrunks() if trunks is None else trunks
        self._trunk: Any = None
        self._integer: Forward | None = None
        self._ops: dict[str, Callable[[dict[str, Any], Tensors], Answer]] = {
            "load": self._load,
            "forward": self._forward,
            "backward": self._backward,
            "step": self._step,
            "export": self._export,
            "moments": self._moments,
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
        except MemoryError as error:
            return self.out_of_memory(str(op), error)
        except (ValueError, TypeError, RuntimeError) as error:
            if _is_memory(error):
                return self.out_of_memory(str(op), error)
            return {"error": f"{op} failed: {error}"}, {}

    def out_of_memory(self, op: str, error: Exception) -> Answer:
        """Give up the trunk and say so; `error` says how much was asked for."""
        self.close()
        said = str(error).partition("\n")[0] or "an allocation was refused"
        return {"error": f"out of memory during {op}: {said}", "lost": True}, {}

    def close(self) -> None:
        """Forget everything."""
        trunk, self._trunk, self._integer = self._trunk, None, None
        if trunk is not None:
            self._trunks.close(trunk)

    def _load(self, params: dict[str, Any], tensors: Tensors) -> Answer:
        self.close()
        weights = {n: t for n, t in tensors.items() if not n.startswith(MOMENT)}
        moments = {
            n.removeprefix(MOMENT): t
            for n, t in tensors.items()
            if n.startswith(MOMENT)
        }
        self._trunk = self._trunks.open(
            params["config"], weights, params.get("adapters"), moments
        )
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

    def _moments(self, _params: dict[str, Any], _tensors: Tensors) -> Answer:
        return {"ok": True}, self._loaded().moments()

    def _unload(self, _params: dict[str, Any], _tensors: Tensors) -> Answer:
        self.close()
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


def _is_memory(error: Exception) -> bool:
    """Torch raises a plain RuntimeError where the processor's memory is refused."""
    if type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


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
