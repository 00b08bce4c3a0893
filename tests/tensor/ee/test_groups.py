"""Transforms are what they claim: invertible, dual to themselves where orthogonal, exact."""

import pytest
import torch

from ee.arch.sites import Attention, Hidden, Norm, Options, Rank, Stream, Strength, Turn
from ee.draw import Draw
from ee.errors import EncryptionError, KeyMismatchError
from ee.groups import Dense, Hadamard, Identity, Reflection, centred, is_orthogonal

SEED = bytes(range(32))
SITES = {
    "rms": Stream(24, Norm.RMS),
    "layer": Stream(24, Norm.LAYER),
    "odd": Stream(7, Norm.LAYER),
    "gained": Stream(24, Norm.GAINED),
    "rotary": Attention(6, 3, 8, rotary=True),
    "free": Attention(4, 4, 6, rotary=False),
    "gated": Hidden(20, gated=True),
    "plain": Hidden(20, gated=False),
    "rank": Rank(5),
}
OPTIONS = [
    Options(strength, turn)
    for strength in Strength
    for turn in Turn
    if turn is Turn.DENSE or strength is not Strength.PERMUTATION
]


def _drawn(name, options, seed=SEED):
    return SITES[name].draw(Draw(seed, name), options)


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.strength}-{o.turn}")
def test_every_part_has_its_inverse_and_its_dual(name, options):
    for part, transform in _drawn(name, options).items():
        matrix, eye = transform.matrix(), torch.eye(transform.size).double()
        assert transform.size == SITES[name].sizes()[part]
        torch.testing.assert_close(transform.inverse().matrix() @ matrix, eye)
        torch.testing.assert_close(transform.dual().matrix().T @ matrix, eye)
        torch.testing.assert_close(transform.inverse().inverse().matrix(), matrix)
        assert is_orthogonal(transform) == transform.orthogonal


@pytest.mark.parametrize("name", SITES)
def test_only_general_keys_leave_the_orthogonal_group(name):
    for options in OPTIONS:
        for transform in _drawn(name, options).values():
            if options.strength is not Strength.GENERAL:
                assert is_orthogonal(transform)


def test_a_layer_norms_key_keeps_the_mean_direction():
    for turn in Turn:
        matrix = _drawn("layer", Options(turn=turn))["x"].matrix()
        torch.testing.assert_close(matrix.sum(1).abs(), torch.ones(24).double())
        assert float((matrix - torch.eye(24)).norm()) > 3  # and turns all the rest


def test_a_scores_key_commutes_with_every_rotation():
    transform = _drawn("rotary", Options(Strength.GENERAL))
    angle = torch.linspace(0.1, 2.0, 4).double()
    cos, sin = torch.diag(torch.cos(angle)), torch.diag(torch.sin(angle))
    turn = torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])
    for part, heads in (("q", 6), ("k", 3)):
        rotate = torch.block_diag(*[turn] * heads)
        key = transform[part].matrix()
        torch.testing.assert_close(key @ rotate, rotate @ key)


def test_scores_are_what_they_were():
    transform = _drawn("rotary", Options(Strength.GENERAL))
    q, k = torch.randn(6, 8).double(), torch.randn(3, 8).double()
    plain = {torch.dot(q[h], k[h // 2]).item() for h in range(6)}
    qk, kk = (
        transform["q"].act(q.flatten()).reshape(6, 8),
        transform["k"].act(k.flatten()).reshape(3, 8),
    )
    keyed = {torch.dot(qk[h], kk[h // 2]).item() for h in range(6)}
    torch.testing.assert_close(sorted(plain), sorted(keyed))


@pytest.mark.parametrize("count", [1, 2, 64, 96, 128, 767])
def test_hadamard_blocks_are_an_orthonormal_involution(count):
    x = torch.randn(3, count).double()
    transform = Hadamard(count)
    torch.testing.assert_close(transform.act(transform.act(x)), x)
    torch.testing.assert_close(transform.act(x).norm(), x.norm())


def test_the_fast_turn_spreads_one_feature_over_all():
    transform = _drawn("layer", Options(turn=Turn.HADAMARD))["x"]
    row = Stream(256, Norm.RMS).draw(Draw(SEED, "x"), Options(turn=Turn.HADAMARD))["x"]
    spread = row.act(torch.eye(256).double()[3]).abs()
    assert float(spread.max()) < 0.4
    assert not isinstance(transform, Dense)


def test_a_reflection_swaps_the_first_axis_and_the_mean():
    mean = torch.full((9,), 1 / 3).double()
    torch.testing.assert_close(Reflection(9).act(torch.eye(9).double()[0]), mean)
    torch.testing.assert_close(Reflection(1).matrix(), torch.eye(1).double())


def test_a_centred_map_may_turn_the_mean_around():
    flipped = centred(Identity(4), -1.0).matrix()
    torch.testing.assert_close(flipped.sum(1), -torch.ones(5).double())


def test_any_axis_and_any_float_may_be_acted_on():
    transform = _drawn("rms", Options())["x"]
    wide = torch.randn(2, 24, 3).double()
    there = transform.act(wide, 1)
    torch.testing.assert_close(transform.inverse().act(there, 1), wide)
    half = transform.act(wide.bfloat16(), 1)
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.double(), there, atol=0.1, rtol=0.05)


def test_the_wrong_number_of_features_is_refused():
    with pytest.raises(KeyMismatchError, match=r"has 23 features, the key is for 24"):
        _drawn("rms", Options())["x"].act(torch.zeros(2, 23))


def test_a_stream_of_numbers_belongs_to_its_seed_and_name():
    one = Draw(SEED, "a").gaussian(4)
    assert torch.equal(one, Draw(SEED, "a").gaussian(4))
    assert not torch.equal(one, Draw(SEED, "b").gaussian(4))
    assert not torch.equal(one, Draw(bytes(32), "a").gaussian(4))
    stream = Draw(SEED, "a")
    assert not torch.equal(stream.gaussian(4), stream.gaussian(4))


def test_draws_have_the_law_they_should():
    draw = Draw(SEED, "law")
    numbers = draw.gaussian(40_001)
    assert abs(float(numbers.mean())) < 0.02
    assert abs(float(numbers.std()) - 1) < 0.02
    assert sorted(draw.permutation(50).tolist()) == list(range(50))
    assert 0.4 < float((draw.signs(2000) > 0).double().mean()) < 0.6
    scales = draw.stretch(1000, reach=2.0)
    assert 0.5 <= float(scales.min()) < 0.6
    assert 1.8 < float(scales.max()) <= 2.0


def test_haar_matrices_have_no_favourite_direction():
    """The mean of many is zero, where a QR with loose signs would lean to one side."""
    many = Draw(SEED, "haar").orthogonal(3, 4000)
    assert float(many.mean(0).abs().max()) < 0.05


def test_a_seed_of_another_length_is_refused():
    with pytest.raises(EncryptionError, match="31 bytes, needs 32"):
        Draw(bytes(31), "x")
