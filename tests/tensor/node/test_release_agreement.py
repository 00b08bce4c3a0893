"""A member vouches for one trunk of a state: nothing about it is the releaser's to choose."""

from pathlib import Path

import numpy as np
import pytest

from ee import integer
from ee.integer import IntegerModelError
from ee.recipe import StockSpec
from ee.spec import Column, ModelSpec, initial_state, trunk_config
from node.compute import state
from node.compute.stock import Stock
from node.compute.stock_release import StockRelease
from node.compute.table_release import TableRelease

SEED = bytes(range(32))
TABLE = ModelSpec(
    columns=(*(Column(f"n{i}") for i in range(3)), Column("c", levels=("a", "b"))),
    width=16, layers=2, heads=2, kv_heads=1, inner=24, seed=3,
)  # fmt: skip
STOCK = StockSpec.from_dict(
    {
        "kind": "stock",
        "text": "sequence",
        "classes": ["a", "b"],
        "config": {
            "model_type": "gpt2",
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 40,
        },
        "letters": "ACGT",
        "tokens": 12,
        "rank": 2,
    }
)
OTHERS = {
    "more tokens": {"tokens": 17},
    "fewer tokens": {"tokens": 3},
    "a coarser residual": {"residual_bits": 10},
    "a finer residual": {"residual_bits": 13},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    root = state.write(folder, initial_state(TABLE))
    return TableRelease(TABLE, folder, root)


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    size = Stock(STOCK, None, Path()).size
    vector = 0.5 * np.random.default_rng(1).standard_normal(size)
    root = state.write(folder, vector.astype(np.float32))
    return StockRelease(STOCK, folder, root, Path())


def test_a_trunk_as_its_release_makes_it_is_vouched_for(table, stock):
    for release in (table, stock):
        trunk = integer.decode(integer.encode(release.quantised(SEED)))
        release.check(trunk, SEED)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("kind", ["table", "stock"])
def test_a_trunk_with_other_numbers_is_not(request, monkeypatch, kind, other):
    """Each is well formed, made of the right weights, and answers; it is another model."""
    release = request.getfixturevalue(kind)
    name = "quantise" if kind == "table" else "quantise_stock"
    lie = releasing_with(monkeypatch, name, OTHERS[other], release)
    (changed,) = OTHERS[other]
    with pytest.raises(IntegerModelError, match=changed):
        release.check(lie, SEED)


def test_a_table_model_whose_rows_see_what_is_behind_them_is_not(monkeypatch, table):
    lie = releasing_with(monkeypatch, "quantise", {"causal": False}, table)
    with pytest.raises(IntegerModelError, match="causal"):
        table.check(lie, SEED)


def test_a_table_model_under_the_other_op_spec_is_not(table):
    """Its trunk is a stock Llama's: op-spec 2 can hold it, with tables of its own."""
    keyed = table._keyed(SEED)
    config = {"model_type": "llama", "hidden_act": "silu", **trunk_config(TABLE)}
    named = {name.removeprefix("model."): value for name, value in keyed.items()}
    for index in range(TABLE.layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            named[f"layers.{index}.{norm}.weight"] = np.ones(TABLE.width)
    lie = integer.quantise_stock(named, config, tokens=TABLE.tokens)
    with pytest.raises(IntegerModelError, match="op_spec"):
        table.check(integer.decode(integer.encode(lie)), SEED)


def releasing_with(monkeypatch, name, change, release):
    """The trunk of a releaser who calls the quantiser with `change`, by way of its bytes."""
    honest = getattr(integer, name)
    with monkeypatch.context() as patch:
        patch.setattr(
            integer, name, lambda *given, **told: honest(*given, **(told | change))
        )
        lie = release.quantised(SEED)
    return integer.decode(integer.encode(lie))
