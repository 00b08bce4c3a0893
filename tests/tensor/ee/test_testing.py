"""The check can fail: without this, a suite that uses it proves nothing."""

import pytest
import torch
from torch import nn

from ee.arch.sites import Norm, Options, Stream
from ee.draw import Draw
from ee.errors import EncryptionError, EquivarianceError
from ee.keys import Key, state_keyed
from ee.split import split_model
from ee.testing import assert_equivariant, equivariance_error, float64_throughout

WIDTH = 16


class Door:
    """A bare rotation of rows."""

    def __init__(self, seed=bytes(32)):
        turn = Stream(WIDTH, Norm.RMS).draw(Draw(seed, "x"), Options())["x"]
        self.enter, self.leave = turn.act, turn.inverse().act


def _rows(count=2, dtype=torch.float64):
    return [torch.randn(3, WIDTH, dtype=dtype) for _ in range(count)]


def test_it_accepts_what_commutes():
    def norm(x):
        return x / x.norm(dim=-1, keepdim=True)

    assert assert_equivariant(norm, norm, Door(), _rows()) < 1e-13


@pytest.mark.parametrize(
    "function",
    [torch.relu, torch.tanh, lambda x: x + 1, lambda x: x.abs().sqrt()],
    ids=["relu", "tanh", "shift", "root"],
)
def test_it_rejects_what_does_not_commute(function):
    with pytest.raises(EquivarianceError, match="equivariance error is") as caught:
        assert_equivariant(function, function, Door(), _rows())
    assert caught.value.error > 0.1
    assert caught.value.tolerance == 1e-12


def test_it_rejects_a_small_error_that_only_some_rows_have():
    def plain(x):
        return x

    def keyed(x):
        return torch.cat([x[:-1], x[-1:] * (1 + 1e-6)])

    with pytest.raises(EquivarianceError):
        assert_equivariant(plain, keyed, Door(), _rows())
    assert_equivariant(plain, keyed, Door(), _rows(), tolerance=1e-5)


def test_it_rejects_a_right_value_with_a_wrong_gradient():
    def keyed(x):
        return x.detach() + 0.5 * (x - x.detach())

    with pytest.raises(EquivarianceError):
        assert_equivariant(lambda x: x, keyed, Door(), _rows())
    assert_equivariant(lambda x: x, keyed, Door(), _rows(), gradients=False)


def test_it_rejects_numbers_that_are_none():
    with pytest.raises(EquivarianceError):
        assert_equivariant(lambda x: x, lambda x: x * float("nan"), Door(), _rows())
    with pytest.raises(EncryptionError, match="not finite"):
        assert_equivariant(lambda x: x / 0, lambda x: x, Door(), _rows())


def test_it_will_not_check_nothing():
    with pytest.raises(EncryptionError, match="no inputs"):
        equivariance_error(lambda x: x, lambda x: x, Door(), [])


def test_a_forgotten_key_on_one_matrix_is_found(stock):
    parts = split_model(stock.make("llama"))
    key = Key(bytes(32), parts.plan)
    keyed = state_keyed(parts.trunk, key)
    name = "layers.1.mlp.down_proj.weight"
    keyed[name] = parts.trunk[name]
    plain, wrong = parts.build_trunk(), parts.build_trunk(keyed)
    run = parts.cut.architecture.run
    with pytest.raises(EquivarianceError):
        assert_equivariant(
            lambda x: run(plain, x, None),
            lambda x: run(wrong, x, None),
            key,
            [torch.randn(1, 4, parts.plan.width)],
        )


def test_a_layer_norm_model_under_a_key_that_moves_the_mean_is_found(stock):
    parts = split_model(stock.make("gpt2"))
    loose = {**parts.plan.sites, "stream": Stream(parts.plan.width, Norm.RMS)}
    object.__setattr__(parts.plan, "sites", loose)
    key = Key(bytes(32), parts.plan)
    plain, wrong = (
        parts.build_trunk(),
        parts.build_trunk(state_keyed(parts.trunk, key)),
    )
    run = parts.cut.architecture.run
    with pytest.raises(EquivarianceError):
        assert_equivariant(
            lambda x: run(plain, x, None),
            lambda x: run(wrong, x, None),
            key,
            [torch.randn(1, 4, parts.plan.width)],
        )


def test_stock_float64_has_islands_of_float32_and_the_lift_removes_them():
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm, x = LlamaRMSNorm(WIDTH, eps=0.0).double(), _rows(1)[0]
    exact = x / x.pow(2).mean(-1, keepdim=True).sqrt()
    stock_error = float((norm(x) - exact).detach().norm())
    with float64_throughout():
        lifted_error = float((norm(x) - exact).detach().norm())
    assert stock_error > 1e-9
    assert lifted_error < 1e-14
    assert nn.Linear(2, 2)(torch.zeros(2)).dtype is torch.float32
