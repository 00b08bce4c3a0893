"""Texts of a table as numbers: what is blank, and what is not there at all."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from ee.recipe import StockSpec
from node.compute.stock import Stock
from node.compute.texts import cut, spelt
from node.errors import ComputeError

SPEC = {
    "kind": "stock",
    "text": "note",
    "classes": ["a", "b"],
    "config": {
        "model_type": "gpt2",
        "vocab_size": 16,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 32,
    },
    "letters": "ACGT",
    "tokens": 8,
    "learns": "all",
}


@pytest.fixture
def bare(tmp_path):
    """A tokenizer that puts nothing around a text, as GPT-2's does not."""
    words = models.WordLevel({"[UNK]": 0, "red": 4, "blue": 5}, unk_token="[UNK]")
    made = Tokenizer(words)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_blank_text_is_a_row_of_one_token(bare):
    rows = cut(bare, 8, ["red blue red", "", "  "])
    assert rows.ids.tolist() == [[4, 5, 4], [0, 0, 0], [0, 0, 0]]
    assert rows.mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]
    alone = cut(bare, 8, [""])
    assert (alone.ids.tolist(), alone.mask.tolist()) == ([[0]], [[1]])
    assert spelt("ACGT", 8, [""]).ids.tolist() == [[0, 2]]


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_a_blank_text_has_a_finite_answer_of_its_own(bare, pool):
    model = Stock(StockSpec.from_dict({**SPEC, "pool": pool}), None, Path()).model
    state = np.random.default_rng(0).normal(size=model.size).astype(np.float32)
    together = model.scores(state, cut(bare, 8, ["red blue red", ""]))
    alone = model.scores(state, cut(bare, 8, [""]))
    assert np.isfinite(together).all()
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("table", [b"note\n", b"id,note\n"])
def test_a_table_without_a_record_is_refused_by_name(table):
    with pytest.raises(ComputeError, match="the table has a header and no record"):
        Stock(StockSpec.from_dict(SPEC), None, Path()).rows_of(table)
