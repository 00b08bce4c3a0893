"""Stock models in the trusted child: bases from disk, texts from tables, local steps."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from ee.recipe import FIRST_LETTER, StockSpec
from ee.spec import Vector
from ee.stock import Rows, StockModel, drawn_state, of_part
from ee.stock_config import stock_config
from ee.tuning import train_stock
from node.compute import table
from node.compute.models import NOTHING_HELD, Steps, Trained
from node.compute.texts import cutter, labelled_texts, spelt
from node.errors import ComputeError
from node.model.base import TOKENIZER, files_seen, read_base
from node.model.checkpoint import CheckpointWriter
from node.model.convert import new_folder
from node.worker.client import WorkerClient


class Stock:
    """One stock model of a run."""

    def __init__(
        self, spec: StockSpec, task: Mapping[str, Any] | None, models: Path
    ) -> None:
        """`models`: the folder of this node's bases."""
        self._spec = spec
        self._task = table.class_task(task) if task is not None else None
        self.folder: Path | None = None
        if spec.checkpoint is not None:
            self.folder = (models / spec.checkpoint.name).resolve()
        seen = () if self.folder is None else files_seen(self.folder)
        self.model = _assembled(msgspec.json.encode(spec), self.folder, seen)
        _require_room(spec, self.model)

    @property
    def size(self) -> int:
        return self.model.size

    def initial(self) -> Vector:
        return np.zeros(self.model.size, np.float32)

    def samples(self, data: bytes) -> int:
        return int((~self._records(data)[2]).sum())

    def train(self, before: Vector, data: bytes, steps: Steps) -> Trained:
        rows, labels, held = self._records(data)
        with WorkerClient(steps.worker) as worker:
            return train_stock(
                self.model,
                before,
                rows.part(np.flatnonzero(~held)),
                labels[~held],
                steps.hyper,
                worker,
                steps.key_seed,
                batch_seed=steps.batch_seed,
                elapsed=steps.elapsed,
                progress=steps.tell,
            )

    def tests(
        self, data: bytes, *, every: bool = False
    ) -> Callable[[Vector], dict[str, Any]]:
        rows, labels, held = self._records(data)
        if not every:
            rows, labels = rows.part(np.flatnonzero(held)), labels[held]

        def tried(state: Vector) -> dict[str, Any]:
            if not len(labels):
                return NOTHING_HELD
            scores = self.model.scores(state, rows).astype(np.float64)
            scores -= scores.max(1, keepdims=True)
            logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
            return {
                "held_out": len(labels),
                "auc": macro_auc(logs, labels),
                "loss": float(-logs[np.arange(len(labels)), labels].mean()),
            }

        return tried

    def write(self, state: Vector, folder: Path) -> None:
        """A stock checkpoint with its tokenizer, and the head beside it."""
        config, tensors = self.model.whole(state)
        head = of_part(self.model.tensors(state), "head")
        with new_folder(folder) as made:
            config.save_pretrained(made)
            shapes = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
            writer = CheckpointWriter(made, shapes, {})
            for name, tensor in tensors.items():
                writer.write(name, tensor)
            writer.close()
            save_file(head, made / "head.safetensors")
            about: dict[str, Any] = {"classes": self._spec.classes}
            about["pool"] = self._spec.pool
            if self._spec.letters:
                about |= {"letters": self._spec.letters, "first": FIRST_LETTER}
            (made / "head.json").write_text(json.dumps(about))
            if self.folder is not None and (self.folder / TOKENIZER).exists():
                shutil.copyfile(self.folder / TOKENIZER, made / TOKENIZER)

    def _records(
        self, data: bytes
    ) -> tuple[Rows, NDArray[np.int64], NDArray[np.bool_]]:
        """(texts, classes, held out) of every record whose class is known."""
        if self._task is None:
            raise ComputeError("no task says what is asked")
        spec = self._spec
        texts, labels, held = labelled_texts(data, self._task, spec.text, spec.classes)
        return self._rows(texts), labels, held

    def rows_of(self, data: bytes) -> Rows:
        """The texts of every record of a CSV file, which needs no other column."""
        header, lines = table.read_csv(data)
        if self._spec.text not in header:
            raise ComputeError(f"the table has no column {self._spec.text!r}")
        place = header.index(self._spec.text)
        return self._rows([line[place].strip() for line in lines])

    def scorer(self, state: Vector) -> Callable[[list[str]], NDArray[np.float32]]:
        """From texts to the logits of each class, for whoever may open no file later."""
        score, rows = self.model.scorer(state), self._rows
        return lambda texts: score(rows(texts))

    def _rows(self, texts: list[str]) -> Rows:
        if self._cut is None:
            return spelt(self._spec.letters, self._spec.tokens, texts)
        return self._cut(texts)

    @cached_property
    def _cut(self) -> Callable[[Sequence[str]], Rows] | None:
        """The base's tokenizer, where there is one and no letters are given."""
        if self._spec.letters or self.folder is None:
            return None
        return cutter(self.folder / TOKENIZER, self._spec.tokens)


def macro_auc(scores: NDArray[Any], labels: NDArray[np.int64]) -> float | None:
    """Mean area under the curve of each class against the others, of those that occur."""
    areas = [
        table.auc(scores[:, each], (labels == each).astype(np.float64))
        for each in range(scores.shape[1])
    ]
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if known else None


@lru_cache(maxsize=1)
def _assembled(encoded: bytes, folder: Path | None, _seen: object) -> StockModel:
    """A round asks for the same model four times; reading and checking one takes a second."""
    spec = msgspec.json.decode(encoded, type=StockSpec)
    if folder is None or spec.checkpoint is None:
        config = stock_config(spec)
        return StockModel(spec, config, drawn_state(config, spec.seed))
    return StockModel(spec, *read_base(folder, spec.checkpoint.digest))


def _require_room(spec: StockSpec, model: StockModel) -> None:
    """Numbers and places for every token there can be."""
    config = model.parts.cut.config
    needed = FIRST_LETTER + len(spec.letters)
    if spec.letters and config.vocab_size < needed:
        raise ComputeError(
            f"vocab_size is {config.vocab_size}, {len(spec.letters)} letters need {needed}"
        )
    # Two places are taken before the first token where positions are learned.
    places = getattr(config, "max_position_embeddings", None)
    if places is not None and spec.tokens + 2 > places:
        raise ComputeError(
            f"tokens is {spec.tokens}, a model of {places} positions takes {places - 2}"
        )
