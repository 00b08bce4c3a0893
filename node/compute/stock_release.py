"""A stock model of a run as an integer release: trunks of op-spec 2."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ee import integer
from ee.integer import IntegerTrunk
from ee.integer.agreement import check_stock_agreement
from ee.keys import Key, state_keyed
from ee.recipe import StockSpec
from node.compute import state
from node.compute.releasing import Group, Told
from node.compute.stock import Stock
from node.errors import ComputeError

Arrays = dict[str, NDArray[np.float64]]


class StockRelease:
    """One state of a run over a stock model; adapters are merged before anything is keyed."""

    def __init__(
        self, spec: StockSpec, folder: Path, root: bytes, models: Path
    ) -> None:
        self._spec, self._stock = spec, Stock(spec, None, models)
        self._model = self._stock.model
        self._tensors = self._model.tensors(state.read(folder, root, self._model.size))
        self._trunk = self._model.merged_trunk(self._tensors)
        self._config = self._model.parts.cut.trunk_config.to_dict()

    def quantised(self, seed: bytes) -> IntegerTrunk:
        keyed = _arrays(state_keyed(self._trunk, self._key(seed)))
        return integer.quantise_stock(keyed, self._config, tokens=self._spec.tokens)

    def check(self, trunk: IntegerTrunk, seed: bytes) -> None:
        keyed = _arrays(state_keyed(self._trunk, self._key(seed)))
        check_stock_agreement(trunk, keyed, self._config, tokens=self._spec.tokens)

    def entered(self, records: bytes, seed: bytes) -> list[Group]:
        rows, stem, key = (
            self._stock.rows_of(records),
            self._model.stem(self._tensors),
            self._key(seed),
        )
        by_length = defaultdict(list)
        for place, length in enumerate(rows.mask.sum(1).tolist()):
            by_length[int(length)].append(place)
        found = []
        for _, places in sorted(by_length.items()):
            part = rows.part(np.array(places))
            with torch.no_grad():
                x = stem(
                    input_ids=torch.from_numpy(part.ids),
                    attention_mask=torch.from_numpy(part.mask).long(),
                )
            found.append(Group(places, integer.encode_rows(key.enter(x).numpy())))
        return found

    def left(self, rows: NDArray[np.float32], seed: bytes) -> Told:
        width = self._model.plan.width
        if rows.shape[2] != width or rows.shape[1] > self._spec.tokens:
            raise ComputeError(
                f"the host answered rows of shape {rows.shape}, the model has at most"
                f" {self._spec.tokens} tokens of {width}"
            )
        plain = self._key(seed).leave(torch.from_numpy(rows))
        normed = integer.head_norm(plain.numpy(), _arrays(self._trunk), self._config)
        y = torch.from_numpy(normed.astype(np.float32))
        with torch.no_grad():
            logits: Tensor = self._model.head(self._tensors)(
                y, torch.ones(y.shape[:2], dtype=torch.long)
            )
        best = logits.argmax(1, keepdim=True)
        others = logits.scatter(1, best, -torch.inf).logsumexp(1)
        scores = logits.gather(1, best)[:, 0] - others
        answers = [self._spec.classes[place] for place in best[:, 0].tolist()]
        return Told([float(score) for score in scores], answers)

    def _key(self, seed: bytes) -> Key:
        return Key(seed, self._model.parts.plan)


def _arrays(tensors: dict[str, Tensor]) -> Arrays:
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}
