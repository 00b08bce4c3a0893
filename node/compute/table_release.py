"""A table model as an integer release: trunks of op-spec 1."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee import integer
from ee.integer import IntegerTrunk
from ee.integer.agreement import check_agreement
from ee.spec import ModelSpec, part, size, split, trunk_config
from ee.table import final_norm, head_scores, parse, stem_tokens
from node.compute import state, table
from node.compute.releasing import Group, Told
from node.errors import ComputeError


class TableRelease:
    """One state under one specification."""

    def __init__(self, spec: ModelSpec, folder: Path, root: bytes) -> None:
        self._spec = spec
        self._arrays = split(spec, state.read(folder, root, size(spec)))

    def quantised(self, seed: bytes) -> IntegerTrunk:
        config = trunk_config(self._spec)
        return integer.quantise(self._keyed(seed), config, tokens=self._spec.tokens)

    def check(self, trunk: IntegerTrunk, seed: bytes) -> None:
        config = trunk_config(self._spec)
        check_agreement(trunk, self._keyed(seed), config, tokens=self._spec.tokens)

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
