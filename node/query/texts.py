"""A stock model's state tried on texts, in the sandbox.

The base, the tokenizer and all that torch imports late are loaded before the process is shut in
and before a record is there.  Each text is scored alone: in a batch the last bit of a score can
depend on the texts beside it, and a row may move one cell of the answer, not its neighbours'.
"""

import math
from pathlib import Path

import numpy as np
import torch

from ee.recipe import StockSpec
from node.compute import table
from node.compute.stock import Stock
from node.query.scoring import Given, Rows, Scores
from protocol.queries.models import RunState
from protocol.queries.spec import Query


class TextModel:
    """A stock architecture that reads one column and tells classes apart."""

    def __init__(self, given: Given) -> None:
        # A thread could not be started later.
        torch.set_num_threads(1)
        self._spec = StockSpec.from_dict(given.spec)
        self._task = table.class_task(given.task)
        stock = Stock(self._spec, given.task, Path(given.models))
        self._score = stock.scorer(np.frombuffer(given.state, "<f4").copy())
        for text in ("", "a " * self._spec.tokens):
            self._score([text])

    @property
    def columns(self) -> tuple[str, ...]:
        return self._spec.text, self._task.id, self._task.label

    def scores(self, query: Query, rows: Rows) -> Scores:
        assert isinstance(query.model, RunState)
        yes = self._spec.classes.index(query.model.answer)
        known: dict[str, float] = {}
        found, answers = [], []
        for row in rows:
            label, name = row[self._task.label].strip(), row[self._task.id]
            seen = query.every or table.is_held_out(name, self._task.held_out_percent)
            if label not in self._spec.classes or not seen:
                continue
            text = row[self._spec.text].strip()
            if text not in known:
                known[text] = self._log_odds(text, yes)
            found.append(known[text])
            answers.append(label == self._spec.classes[yes])
        return np.array(found, np.float64), np.array(answers, np.bool_)

    def _log_odds(self, text: str, yes: int) -> float:
        """Of one class against all others together."""
        logits = self._score([text])[0].astype(np.float64)
        others = np.delete(logits, yes)
        top = float(others.max())
        return float(logits[yes]) - top - math.log(float(np.exp(others - top).sum()))
