"""A trunk is trained without dropout, whichever architecture, and whoever cuts it is told."""

import copy

import pytest
import torch

from ee.arch.sites import Options, Strength
from ee.keys import Key, state_keyed
from ee.split import canonical_config, split_model

SEED = bytes(range(32))
ENDS = {"classifier_dropout", "summary_first_dropout", "token_dropout"}
"""What drops something before the trunk or behind it."""


def _rates(config):
    """Every rate of dropout a stock configuration has, by the look of its name."""
    named = {n for n in config.to_dict() if "drop" in n} - ENDS
    assert named
    return named


def _dropping(name, stock):
    """A stock model whose every dropout is on, as its checkpoint would say."""
    model = stock.make(name)
    for rate in _rates(model.config):
        setattr(model.config, rate, 0.3)
    return model


def test_all_rates_are_zero_in_a_trunk_and_named(architecture, stock):
    model = _dropping(architecture, stock)
    parts = split_model(model, stem_layers=1)
    rates = _rates(model.config)
    assert parts.cut.dropped == dict.fromkeys(rates, 0.3)
    assert {getattr(parts.cut.trunk_config, n) for n in rates} == {0.0}
    # The model itself, and what comes home, ask for what they asked for.
    home = canonical_config(parts.cut)
    assert {getattr(home, n) for n in rates} == {0.3}
    quiet = copy.deepcopy(model.config)
    for rate in rates:
        setattr(quiet, rate, 0.0)
    assert parts.cut.architecture.dropped(quiet) == {}


def test_a_trunk_in_training_drops_nothing(architecture, stock):
    """The control is the stock class with the same settings, which does."""
    model = _dropping(architecture, stock)
    parts = split_model(model)
    trunk = parts.build_trunk().train()
    config = copy.deepcopy(parts.cut.trunk_config)
    for rate in _rates(config):
        setattr(config, rate, 0.3)
    dropping = parts.cut.architecture.build(config).train()
    rows = torch.randn(2, 6, parts.plan.width)
    run = parts.cut.architecture.run
    one, two = (run(trunk, rows, None) for _ in range(2))
    assert torch.equal(one, two)
    one, two = (run(dropping, rows, None) for _ in range(2))
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    ("strength", "alike"), [(Strength.PERMUTATION, True), (Strength.ORTHOGONAL, False)]
)
def test_dropout_on_the_stream_follows_permutations_alone(strength, alike, stock):
    """A feature that is zero stays zero when it may be dropped; under a rotation it does not."""
    parts = split_model(stock.make("llama"))
    key = Key(SEED, parts.plan, Options(strength))
    rows = torch.zeros(1, 8, parts.plan.width)
    rows[..., 3] = 1.0
    torch.manual_seed(0)
    dropped = torch.nn.functional.dropout(key.enter(rows), 0.3)
    home = key.leave(dropped)
    home[..., 3] = 0.0
    assert (float(home.abs().max()) < 1e-6) is alike


def test_keyed_weights_do_not_depend_on_dropout(stock):
    """So that a checkpoint opens whatever its configuration says of training."""
    plain, dropping = stock.make("bert"), _dropping("bert", stock)
    one, two = split_model(plain), split_model(dropping)
    assert one.plan.digest() == two.plan.digest()
    keys = [state_keyed(p.trunk, Key(SEED, p.plan)) for p in (one, two)]
    assert all(torch.equal(keys[0][n], keys[1][n]) for n in keys[0])
