"""What the federation is measured against: each clinic alone, and all records in one place.

The same model, the same number of local steps, the same held-out patients; only the
records differ.  It runs outside every node, in a process that holds all four tables, as
nobody in the federation does.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ee.hyper import TrainHyper
from ee.session import LocalTrunk, predict, train_local
from ee.spec import ModelSpec, Vector, initial_state
from node.compute import table
from node.demo import opt
from protocol.runs import Plan


class Yardstick:
    """The trial's records, split as every node splits them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._spec = ModelSpec.from_dict(plan.spec)
        self._task = table.task(plan.task)
        self._all = self._records(opt.CLINICS)

    def auc_of(self, state: Vector, clinics: Sequence[str] = opt.CLINICS) -> float:
        """AUC of a state on the held-out patients of these clinics."""
        values, labels = self._records(clinics).testing()
        return self.auc(predict(self._spec, state, values), labels)

    def auc(self, scores: Any, labels: Any) -> float:
        """Area under the curve, to four digits."""
        found = table.auc(np.asarray(scores), np.asarray(labels, np.float64))
        if found is None:
            raise ValueError("the held-out patients all have the same answer")
        return round(found, 4)

    def trained_on(self, clinics: Sequence[str], rounds: int) -> float:
        """AUC after training on these clinics' records in one place."""
        values, labels = self._records(clinics).training()
        state = initial_state(self._spec)
        for number in range(rounds):
            result = train_local(
                self._spec,
                state,
                values,
                labels,
                TrainHyper.from_dict(self._plan.train),
                LocalTrunk(),
                number.to_bytes(32, "big"),
                batch_seed=number,
                elapsed=number / rounds,
            )
            state = state + result.delta
        return self.auc_of(state)

    def logistic(self) -> float:
        """AUC of logistic regression on all records: what a statistician would do."""
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        (values, labels), (held, answers) = self._all.training(), self._all.testing()
        model = make_pipeline(
            SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=1000)
        )
        model.fit(values, labels)
        return self.auc(model.decision_function(held), answers)

    def held_out(self) -> int:
        """How many patients nobody trains on."""
        return int(self._all.held_out.sum())

    def _records(self, clinics: Sequence[str]) -> table.Records:
        return table.records(self._spec, self._task, opt.csv_bytes(clinics))
