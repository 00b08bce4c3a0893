import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.aggregate import shamir
from protocol.errors import LocalProtocolError


@given(st.data())
def test_any_threshold_of_shares_gives_the_secret_back(data):
    holders = data.draw(st.integers(1, 12))
    threshold = data.draw(st.integers(1, holders))
    secret = data.draw(st.binary(min_size=1, max_size=40))
    coins = data.draw(
        st.binary(
            min_size=(threshold - 1) * len(secret),
            max_size=(threshold - 1) * len(secret),
        )
    )
    shares = shamir.split(secret, holders, threshold, coins)
    chosen = data.draw(st.permutations(range(1, holders + 1)))[:threshold]
    assert shamir.join({x: shares[x - 1] for x in chosen}) == secret


@pytest.mark.slow
def test_fewer_shares_fit_every_secret():
    """Perfect secrecy, counted: over all coins, two shares of three-of-five take each
    pair of values equally often whatever the secret."""
    for secret in (0, 1, 77):
        seen = {
            (shares[1], shares[3])
            for a, b in itertools.product(range(256), repeat=2)
            if (shares := shamir.split(bytes([secret]), 5, 3, bytes([a, b])))
        }
        assert len(seen) == 65536


def test_one_share_too_few_does_not_give_the_secret():
    chance = random.Random(1)
    secret = chance.randbytes(32)
    shares = shamir.split(secret, 7, 5, chance.randbytes(4 * 32))
    assert shamir.join({x: shares[x - 1] for x in (1, 2, 4, 6)}) != secret


def test_a_changed_share_changes_the_secret():
    secret = bytes(range(32))
    shares = shamir.split(secret, 3, 2, random.Random(2).randbytes(32))
    wrong = bytes([shares[0][0] ^ 1]) + shares[0][1:]
    assert shamir.join({1: wrong, 2: shares[1]}) != secret


def test_the_field_is_the_one_of_aes():
    # FIPS 197 §4.2: {57} · {83} = {c1}, {57} · {13} = {fe}.
    assert shamir._ROWS[0x57][0x83] == 0xC1
    assert shamir._ROWS[0x57][0x13] == 0xFE
    assert all(shamir._ROWS[a][shamir._INVERSE[a]] == 1 for a in range(1, 256))


@pytest.mark.parametrize(
    ("holders", "threshold", "coins"), [(3, 0, 0), (3, 4, 96), (256, 2, 32), (3, 2, 31)]
)
def test_impossible_sharings_are_refused(holders, threshold, coins):
    with pytest.raises(LocalProtocolError):
        shamir.split(bytes(32), holders, threshold, bytes(coins))


def test_shares_of_unequal_length_or_number_zero_are_refused():
    with pytest.raises(LocalProtocolError, match="joined"):
        shamir.join({1: bytes(3), 2: bytes(4)})
    with pytest.raises(LocalProtocolError, match="holder numbers"):
        shamir.join({0: bytes(3), 2: bytes(3)})
    with pytest.raises(LocalProtocolError, match="no share"):
        shamir.join({})
