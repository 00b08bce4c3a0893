"""Bytes that wait to be read: nothing lost, nothing doubled, little overhead."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from node.adapters.libp2p.unread import SMALL_BYTES, TAIL_BYTES, Unread

pieces = st.one_of(
    st.binary(max_size=5), st.integers(0, 3).map(lambda n: bytes([n]) * 5000)
)


@given(st.lists(st.one_of(pieces, st.integers(0, 6000)), max_size=40))
def test_what_comes_out_is_what_went_in(steps):
    unread, put, got = Unread(), b"", b""
    for step in steps:
        if isinstance(step, bytes):
            put += step
            unread.append(step)
        else:
            parts = unread.take(step)
            assert all(type(part) is bytes for part in parts)
            assert sum(map(len, parts)) == min(step, len(put) - len(got))
            got += b"".join(parts)
        assert len(unread) == len(put) - len(got)
    assert got + b"".join(unread.take(len(put))) == put
    assert not unread


def test_a_large_piece_leaves_as_it_came():
    unread = Unread()
    large = bytes(SMALL_BYTES + 1)
    unread.append(b"small")
    unread.append(large)
    assert unread.take(1 << 20)[1] is large


def test_single_bytes_are_put_together():
    unread = Unread()
    for _ in range(200_000):
        unread.append(b"x")
    held = sum(map(sys.getsizeof, unread._pieces))
    assert held < 2 * 200_000
    assert max(map(len, unread._pieces)) <= TAIL_BYTES


def test_clearing_leaves_nothing():
    unread = Unread()
    unread.append(b"abc")
    unread.take(1)
    unread.clear()
    assert (len(unread), unread.take(5)) == (0, [])
