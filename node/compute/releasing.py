"""A trained state as an integer release: made, vouched for, asked.

A table model and a stock model differ in how records become rows and rows become numbers; a
release knows only this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ee import integer
from ee.integer import IntegerTrunk
from ee.integer.agreement import check_agreement
from ee.recipe import StockSpec, is_stock
from ee.spec import ModelSpec, part, size, split
from ee.table import final_norm, head_scores, parse, stem_tokens
from node.compute import state, table
from node.errors import ComputeError


@dataclass(frozen=True)
class Group:
    """Cases of one length, since no row of a trunk may be filler."""

    places: list[int]
    """Which records they are, from 0."""
    rows: integer.RowArray


@dataclass(frozen=True)
class Told:
    """What a model says of some cases."""

    scores: list[float]
    """Log-odds."""
    answers: list[str]
    """The class they are of; empty where there is one question and no classes."""


class Released(Protocol):
    """One state under one specification."""

    def quantised(self, seed: bytes) -> IntegerTrunk:
        """The trunk under the release key, in integers."""

    def check(self, trunk: IntegerTrunk, seed: bytes) -> None:
        """Raise `IntegerModelError` unless `trunk` is what `quantised` makes, up to ties."""

    def entered(self, records: bytes, seed: bytes) -> list[Group]:
        """Keyed integer rows of every record of a CSV file."""

    def left(self, rows: NDArray[np.float32], seed: bytes) -> Told:
        """What the head makes of keyed rows behind the trunk."""


def released(params: Mapping[str, Any]) -> Released:
    """The state `params["root"]` in `folder`; a stock base lies under `models`."""
    spec, folder, root = params["spec"], Path(params["folder"]), params["root"]
    if is_stock(spec):
        # Stock classes take seconds to import, and no table model needs them.
        from node.compute.stock_release import StockRelease

        return StockRelease(
            StockSpec.from_dict(spec), folder, root, Path(params["models"])
        )
    return TableRelease(ModelSpec.from_dict(spec), folder, root)


class TableRelease:
    """A transformer over columns: trunks of op-spec 1."""

    def __init__(self, spec: ModelSpec, folder: Path, root: bytes) -> None:
        self._spec = spec
        self._arrays = split(spec, state.read(folder, root, size(spec)))

    def quantised(self, seed: bytes) -> IntegerTrunk:
        config = _configuration(self._spec)
        return integer.quantise(self._keyed(seed), config, tokens=self._spec.tokens)

    def check(self, trunk: IntegerTrunk, seed: bytes) -> None:
        check_agreement(trunk, self._keyed(seed), _configuration(self._spec))

    def entered(self, records: bytes, seed: bytes) -> list[Group]:
        from ee.keys import TrunkKey

        values = parse(self._spec, *table.read_csv(records))
        plain = stem_tokens(self._spec, part(self._arrays, "stem"), values)
        rows = integer.encode_rows(TrunkKey.generate(seed, self._spec).enter(plain))
        return [Group(list(range(len(rows))), rows)]

    def left(self, rows: NDArray[np.float32], seed: bytes) -> Told:
        from ee.keys import TrunkKey

        spec = self._spec
        if rows.shape[1:] != (spec.tokens, spec.width):
            raise ComputeError(
                f"the host answered rows of shape {rows.shape}, the model has"
                f" {spec.tokens} tokens of {spec.width}"
            )
        plain = TrunkKey.generate(seed, spec).leave(rows[:, -1])
        scores = head_scores(part(self._arrays, "head"), final_norm(spec, plain))
        return Told([float(score) for score in np.asarray(scores)], [])

    def _keyed(self, seed: bytes) -> Any:
        from ee.keys import TrunkKey, key_trunk

        key = TrunkKey.generate(seed, self._spec)
        return key_trunk(part(self._arrays, "trunk"), key)


def _configuration(spec: ModelSpec) -> dict[str, Any]:
    """The sizes by the names of a stock checkpoint; `ee.trunk` has them too, with torch."""
    return {
        "hidden_size": spec.width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "intermediate_size": spec.inner,
        "rms_norm_eps": spec.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_base},
    }
