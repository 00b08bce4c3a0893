"""The block that EZKL is given is the block that we run: else the two prove different things."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from ee import integer
from node.bench import peer
from node.bench.ezkl_child import Block


@pytest.fixture(scope="module")
def drawn():
    """Weights by the stock names, and rows, as `peer.run` draws them."""
    generator = np.random.default_rng(0)
    weights = {
        name: (generator.normal(size=shape) / shape[1] ** 0.5).astype(np.float32)
        for name, shape in peer.SHAPES.items()
    }
    shape = (1, peer.TOKENS, peer.WIDTH)
    return weights, generator.normal(size=shape).astype(np.float32)


def theirs(weights, x, *, epsilon=peer.EPSILON):
    short = peer.short_names(weights)
    named = {name: torch.from_numpy(value) for name, value in short.items()}
    return Block(named, peer.HEADS, epsilon)(torch.from_numpy(x)).numpy()


def stock(weights, x):
    config = LlamaConfig(
        **peer.CONFIG, vocab_size=1, bos_token_id=None, eos_token_id=None
    )
    model = LlamaModel(config).eval()
    named = {
        f"layers.0.{name}.weight": torch.from_numpy(value)
        for name, value in weights.items()
    }
    missing, extra = model.load_state_dict(named, strict=False)
    assert not extra
    assert all("norm" in name or "embed" in name for name in missing)
    model.norm = nn.Identity()
    with torch.no_grad():
        return model(inputs_embeds=torch.from_numpy(x)).last_hidden_state.numpy()


def error(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def test_it_is_the_stock_block_and_the_integer_one(drawn):
    weights, x = drawn
    wanted = stock(weights, x)
    assert error(theirs(weights, x), wanted) < 1e-6
    ours = peer.trunk_of(weights).forward(integer.encode_rows(x)).output
    assert error(integer.decode_rows(ours), wanted) < 0.03


@pytest.mark.parametrize("name", peer.SHAPES)
def test_a_block_with_one_matrix_changed_is_another(drawn, name):
    """The measure sees each matrix, beyond what rounding to integers costs."""
    weights, x = drawn
    other = {**weights, name: -weights[name]}
    assert error(theirs(other, x), theirs(weights, x)) > 0.05


def test_a_block_that_turns_nothing_or_sees_ahead_is_another(drawn, monkeypatch):
    weights, x = drawn
    wanted = stock(weights, x)
    assert error(theirs(weights, x, epsilon=1.0), wanted) > 0.05
    with monkeypatch.context() as patch:
        patch.setattr(Block, "_turned", lambda _, y: y)
        assert error(theirs(weights, x), wanted) > 0.01
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "triu", lambda y, _: 0 * y)
        assert error(theirs(weights, x), wanted) > 0.05
