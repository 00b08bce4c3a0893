"""The key of a trunk over table columns: the Llama plan of a model specification.

The federation's own models are described by a `ModelSpec` and live in flat numpy vectors;
this is `ee.keys.key` for them.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ee.arch.plan import Plan
from ee.keys.key import Key
from ee.spec import Arrays, ModelSpec, trunk_config


class TrunkKey:
    """Everything that opens one keyed trunk; made for one session, then destroyed."""

    def __init__(self, spec: ModelSpec, key: Key) -> None:
        self.spec = spec
        self._key = key

    @classmethod
    def generate(cls, seed: bytes, spec: ModelSpec) -> "TrunkKey":
        """The key of `seed`; 32 secret bytes, never used twice."""
        return cls(spec, Key(seed, table_plan(spec)))

    @cached_property
    def residual(self) -> NDArray[np.float64]:
        """(width, width): a plain row x is the keyed row x @ residual."""
        return np.asarray(self._key.enter(torch.eye(self.spec.width).double()).numpy())

    def fingerprint(self) -> bytes:
        """Names the key without telling anything about it."""
        return self._key.fingerprint()

    @cached_property
    def _narrow(self) -> NDArray[np.float32]:
        return self.residual.astype(np.float32)

    def enter(self, x: NDArray[Any]) -> NDArray[Any]:
        """Plain rows (..., width) to keyed rows; gradients go the same way."""
        return np.asarray(x @ self._turn(x))

    def leave(self, y: NDArray[Any]) -> NDArray[Any]:
        """Keyed rows to plain rows."""
        return np.asarray(y @ self._turn(y).T)

    def _turn(self, x: NDArray[Any]) -> NDArray[Any]:
        """In the dtype of the rows: they cross it twice in every step."""
        return self._narrow if x.dtype == np.float32 else self.residual

    def mapped(self, trunk: Arrays, *, inverse: bool) -> Arrays:
        """Keyed or unkeyed weights, in the dtype they came in."""
        act = self._key.unkey if inverse else self._key.key
        return {
            name: act(name, torch.from_numpy(np.array(array))).numpy()
            for name, array in trunk.items()
        }


def table_plan(spec: ModelSpec) -> Plan:
    """The layer plan of a table model's trunk."""
    from transformers import LlamaConfig

    from ee.arch.llama import Llama

    return Llama().plan(LlamaConfig(**trunk_config(spec)))


def key_trunk(trunk: Arrays, key: TrunkKey) -> Arrays:
    """The keyed weights, in the dtype they came in."""
    return key.mapped(trunk, inverse=False)


def unkey_trunk(trunk: Arrays, key: TrunkKey) -> Arrays:
    """The inverse of `key_trunk`; also brings weight gradients and updates home."""
    return key.mapped(trunk, inverse=True)
