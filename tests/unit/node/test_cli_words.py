"""Values as a person reads them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.adapters.evm_chain import account_address
from node.cli import words
from node.cli.account import address
from node.cli.data import numbers


@given(st.text())
def test_nothing_plain_steers_a_terminal(text):
    shown = words.plain(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (2_500_000, "2.5 MB"),
        (10**12, "1.0 TB"),
        (10**16, "10000.0 TB"),
    ],
)
def test_sizes(number, text):
    assert words.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (93784, "1 d 2 h"),
    ],
)
def test_spans(seconds, text):
    assert words.span(seconds) == text


def test_until_says_on_which_side_of_now_a_moment_lies():
    assert words.until(time.time() + 3700).startswith("in 1 h 1 min")
    assert words.until(time.time() - 61).endswith("ago")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ([], "-"),
        (0, "0"),
        (True, "yes"),
        (float("nan"), "-"),
        (0.60212, "0.6021"),
        (["a", "b"], "a, b"),
    ],
)
def test_cells(value, text):
    assert words.shown(value) == text


def test_decimals_line_up():
    assert words.decimal(0.61) == "0.6100"
    assert words.decimal(None) == words.decimal(float("nan")) == "-"


@given(st.sets(st.integers(0, 63), min_size=1))
def test_units_are_shown_the_way_they_are_typed(chosen):
    from node.cli.shell import units

    assert units(None, None, numbers(sorted(chosen))) == sorted(chosen)


@pytest.mark.parametrize("key", [bytes(31) + b"\x01", bytes(range(32)), b"\x7f" * 32])
def test_the_account_is_the_one_the_chain_library_finds(key):
    assert address(key) == account_address(key)


def test_the_account_of_secret_one_is_the_well_known_address():
    expected = "7e5f4552091a69125d5dfcb7b8c2659029395bdf"
    assert address(bytes(31) + b"\x01").hex() == expected
