"""What a training session goes on from when its worker has died.

The key holder takes one now and then: the keyed weights and the optimiser's memory, as they
were after a step.  It loads them into a new session under the same key, and the steps that
follow are those that would have followed.  The file holds nothing that a host has not seen;
the fingerprint in it says which key it is for.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from node.errors import ModelError
from node.worker.client import WorkerClient
from node.worker.session import MOMENT

Tensors = Mapping[str, NDArray[Any]]
_KIND = "rexis-session-1"


@dataclass(frozen=True)
class Snapshot:
    """One session between two steps."""

    fingerprint: bytes
    """Of the key that the tensors are under (`Key.fingerprint`)."""
    config: Mapping[str, Any]
    weights: Tensors
    """Every tensor of the trunk, keyed."""
    adapters: Mapping[str, Any] | None = None
    moments: Tensors = field(default_factory=dict)
    step: int = 0
    """Steps made; the key holder's own stem, head and place in its data go with it."""

    def open(self, worker: WorkerClient) -> None:
        """Load it into a session."""
        worker.load(self.config, self.weights, self.adapters, self.moments)

    def taken(self, worker: WorkerClient, step: int) -> Self:
        """The same session as it is at the worker now, after `step` steps."""
        return type(self)(
            self.fingerprint,
            self.config,
            {**self.weights, **worker.export()},
            self.adapters,
            worker.moments(),
            step,
        )

    def write(self, path: Path) -> None:
        """Replace the file at once, or leave the one before."""
        about = {
            "fingerprint": self.fingerprint.hex(),
            "config": dict(self.config),
            "adapters": None if self.adapters is None else dict(self.adapters),
            "step": self.step,
        }
        tensors = {
            **self.weights,
            **{MOMENT + name: array for name, array in self.moments.items()},
        }
        whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        data = save(whole, {"kind": _KIND, "about": json.dumps(about)})
        draft = path.with_name(path.name + ".new")
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)

    @classmethod
    def read(cls, path: Path, fingerprint: bytes) -> Self:
        """What `write` wrote; `ModelError` for another key's session or a broken file."""
        try:
            with safe_open(path, "numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            if metadata.get("kind") != _KIND:
                raise ModelError(
                    f"{path} is no stored session",
                    hint="`rexis model inspect` tells what it is",
                )
            about = json.loads(metadata["about"])
            found = bytes.fromhex(about["fingerprint"])
            config, adapters, step = about["config"], about["adapters"], about["step"]
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
        if found != fingerprint:
            raise ModelError(
                f"{path} is a session under key {found.hex()[:16]},"
                f" not {fingerprint.hex()[:16]}",
                hint="a session goes on under the key it began with",
            )
        moments = {
            name.removeprefix(MOMENT): array
            for name, array in tensors.items()
            if name.startswith(MOMENT)
        }
        weights = {n: a for n, a in tensors.items() if not n.startswith(MOMENT)}
        return cls(found, config, weights, adapters, moments, step)
