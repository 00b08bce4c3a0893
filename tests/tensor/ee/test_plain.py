"""Two programs that score a table model in the clear must say the same: torch's and numpy's."""

import numpy as np
import pytest

from ee import plain
from ee.session import predict
from ee.spec import Column, ModelSpec, initial_state, join, split

SPEC = ModelSpec(
    columns=(*(Column(f"n{i}") for i in range(4)), Column("c", levels=("a", "b", "c"))),
    width=32, layers=3, heads=4, kv_heads=2, inner=40, seed=7,
)  # fmt: skip


def state(seed):
    """No entry is at its beginning, where parts of a model are still without effect."""
    begun = initial_state(SPEC)
    moved = begun + 0.3 * np.random.default_rng(seed).standard_normal(begun.size)
    return moved.astype(np.float32)


def values(count, seed=0):
    """A tenth of all cells missing, some numbers a hundred times as large as usual."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((count, 5)).astype(np.float32)
    rows[:, 4] = generator.integers(0, 3, count)
    rows[generator.random((count, 5)) < 0.1] = np.nan
    rows[:: count // 3, 0] *= 100
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_both_score_alike_beyond_one_batch(seed):
    told = values(plain.BATCH + 5, seed)
    found, wanted = (
        plain.log_odds(SPEC, state(seed), told),
        predict(SPEC, state(seed), told),
    )
    assert np.isfinite(wanted).all()
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_of_no_record_there_is_no_score():
    assert plain.log_odds(SPEC, state(0), values(3)[:0]).shape == (0,)


@pytest.mark.parametrize("name", ["q", "k", "v", "o", "gate", "up", "down"])
def test_every_matrix_of_a_layer_counts(name):
    """Else the comparison could not tell that one of them is used rightly."""
    told, one = values(8), state(1)
    arrays = dict(split(SPEC, one))
    (path,) = (
        each for each in arrays if "layers.1." in each and f".{name}_proj" in each
    )
    arrays[path] = arrays[path] * np.float32(1.5)
    other = join(SPEC, arrays)
    moved = plain.log_odds(SPEC, other, told) - plain.log_odds(SPEC, one, told)
    assert np.abs(moved).max() > 1e-4


def test_a_records_score_does_not_depend_on_the_others_to_the_last_bit():
    """What a query's noise is measured for: one row more moves one row's cell."""
    told = values(plain.BATCH + 45)
    whole = plain.log_odds(SPEC, state(0), told)
    alone = [plain.log_odds(SPEC, state(0), told[i : i + 1]) for i in range(len(told))]
    assert whole.tolist() == np.concatenate(alone).tolist()
    for gone in (0, 1, 7):
        kept = np.delete(told, gone, axis=0)
        assert plain.log_odds(SPEC, state(0), kept).tolist() == (
            np.delete(whole, gone).tolist()
        )
