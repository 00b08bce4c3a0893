"""An auditor without weights: honest sums pass, a single wrong one does not."""

import numpy as np
import pytest

from ee.integer import IntegerModelError, freivalds, known
from ee.integer.freivalds import P, WrongSumError

SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def trunk():
    return known.drawn_trunk(causal=True)


@pytest.fixture(scope="module")
def rows(trunk):
    return known.drawn_rows(trunk.config)


def test_honest_sums_give_the_rows_of_the_layer(trunk, rows):
    for index, layer in enumerate(trunk.layers):
        key = freivalds.layer_key(layer, index, SECRET)
        after, sums = freivalds.shown(trunk.header, layer, rows)
        wanted = trunk.replay_layer(index, rows)
        np.testing.assert_array_equal(after, wanted)
        found = freivalds.checked(trunk.header, key, rows, sums)
        np.testing.assert_array_equal(found, wanted)
        assert [s.shape[1] for s in sums] == [24, 12, 12, 24, 40, 40, 24]


def test_any_single_wrong_sum_is_found_and_its_matrix_named(trunk, rows):
    layer = trunk.layers[0]
    key = freivalds.layer_key(layer, 0, SECRET)
    _, sums = freivalds.shown(trunk.header, layer, rows)
    generator = np.random.default_rng(19)
    names = ["q", "k", "v", "o", "gate", "up", "down"]
    for number in range(140):
        place = number % 7
        bent = [one.copy() for one in sums]
        row, column = (int(generator.integers(n)) for n in bent[place].shape)
        step = int(generator.integers(1, 1 << int(generator.integers(1, 40))))
        bent[place][row, column] += step if number % 2 else -step
        with pytest.raises(WrongSumError) as caught:
            freivalds.checked(trunk.header, key, rows, tuple(bent))
        assert (caught.value.matrix, caught.value.row) == (names[place], row)


def test_sums_of_another_layer_or_other_rows_are_found(trunk, rows):
    key = freivalds.layer_key(trunk.layers[0], 0, SECRET)
    _, sums = freivalds.shown(trunk.header, trunk.layers[1], rows)
    with pytest.raises(WrongSumError):
        freivalds.checked(trunk.header, key, rows, sums)
    _, sums = freivalds.shown(trunk.header, trunk.layers[0], rows // 2)
    with pytest.raises(WrongSumError):
        freivalds.checked(trunk.header, key, rows, sums)


def test_whoever_knows_the_secret_can_cheat(trunk, rows):
    """Why r is kept from hosts: with it, two wrong sums cancel."""
    layer = trunk.layers[0]
    key = freivalds.layer_key(layer, 0, SECRET)
    _, sums = freivalds.shown(trunk.header, layer, rows)
    r = [int(one) for one in freivalds._drawn(SECRET, 0, 6, 24)]
    # A short vector orthogonal to r, by the pigeonhole of sums of many channels.
    bent = [one.copy() for one in sums]
    change = short_relation(r)
    assert sum(a * b for a, b in zip(change, r, strict=True)) % P == 0
    bent[6][0] += np.array(change, dtype=np.int64)
    found = freivalds.checked(trunk.header, key, rows, tuple(bent))
    assert not np.array_equal(found, trunk.replay_layer(0, rows))


def short_relation(r):
    """Small integers c, not all 0, with c . r = 0 mod p: the extended Euclid on two of r.

    With r[0] x = r[1] mod p, remainders halfway down are near the square root of p.
    """
    ratio = r[1] * pow(r[0], -1, P) % P
    a, b, x, y = P, ratio, 0, 1
    while b >= 1 << 31:
        q = a // b
        a, b, x, y = b, a - q * b, y, x - q * y
    # b = y * ratio mod p, so b * r[0] - y * r[1] = 0 mod p.
    return [b, -y, *([0] * (len(r) - 2))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[:6], "sums of 6 matrices"),
        (lambda s: (s[0][:-1], *s[1:]), "sums of q are int64"),
        (lambda s: (s[0].astype(np.int32), *s[1:]), "sums of q are int32"),
        (lambda s: (s[0] + (1 << 60), *s[1:]), "beyond"),
        (lambda s: (s[0] - (1 << 60), *s[1:]), "beyond"),
    ],
)
def test_sums_that_cannot_be_are_refused(trunk, rows, change, message):
    key = freivalds.layer_key(trunk.layers[0], 0, SECRET)
    _, sums = freivalds.shown(trunk.header, trunk.layers[0], rows)
    with pytest.raises(IntegerModelError, match=message):
        freivalds.checked(trunk.header, key, rows, change(sums))


def test_a_secret_of_another_length_is_refused(trunk):
    with pytest.raises(IntegerModelError, match="secret has 31 bytes, needs 32"):
        freivalds.layer_key(trunk.layers[0], 0, bytes(31))


def test_field_products_are_those_of_long_integers():
    generator = np.random.default_rng(23)
    vector = generator.integers(0, P, 300)
    sums = generator.integers(-(1 << 46) + 1, 1 << 46, (5, 300))
    exact = [
        sum(int(a) * int(b) for a, b in zip(row, vector, strict=True)) % P
        for row in sums
    ]
    assert freivalds._sum_products(sums, vector) == exact
    short = generator.integers(-8192, 8193, (5, 300))
    exact = [
        sum(int(a) * int(b) for a, b in zip(row, vector, strict=True)) % P
        for row in short
    ]
    assert freivalds._field_products(short.astype(np.float64), vector) == exact


def test_the_key_is_much_smaller_than_the_layer(trunk):
    key = freivalds.layer_key(trunk.layers[0], 0, SECRET)
    inputs, outputs = 6 * 24 + 40, 24 * 3 + 12 * 2 + 40 * 2
    assert key.size_bytes == 8 * (inputs + outputs)
