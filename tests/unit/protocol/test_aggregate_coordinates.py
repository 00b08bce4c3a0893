"""Which entries travel: the same for all, each as likely, drawn in parts or at once."""

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocol.aggregate.coordinates import ONE_IN_AT_MOST, Chosen, count, kept, seed
from protocol.errors import LocalProtocolError

SEED = seed(b"r" * 32, 3)


def test_the_choice_is_what_the_specification_says():
    """Written a second time, entry by entry, from docs/protocol.md §5.12."""
    key = hashlib.sha256(b"rexis-coordinates-1" + b"r" * 32 + (3).to_bytes(8, "big"))
    cipher = Cipher(algorithms.AES256(key.digest()), modes.CTR(bytes(16)))
    stream = cipher.encryptor().update(bytes(4 * 40))
    size, one_in, expected = 277, 7, []
    for stretch in range(40):
        drawn = int.from_bytes(stream[4 * stretch : 4 * stretch + 4], "little")
        width = min(one_in, size - one_in * stretch)
        expected.append(one_in * stretch + drawn % width)
    assert Chosen(SEED, size, one_in).places().tolist() == expected
    assert count(size, one_in) == 40


@pytest.mark.parametrize(("size", "one_in"), [(1, 2), (64, 8), (65, 8), (10_001, 64)])
def test_one_entry_of_each_stretch_is_chosen(size, one_in):
    places = Chosen(SEED, size, one_in).places()
    assert len(places) == count(size, one_in)
    assert (places // one_in).tolist() == list(range(len(places)))
    assert places[-1] < size


def test_a_part_is_chosen_as_it_is_within_the_whole():
    chosen = Chosen(SEED, 10_001, 3)
    whole = chosen.places()
    for first, many in ((0, 4), (4, 1), (1024, 777), (3332, 2)):
        assert (
            chosen.places(first, many).tolist() == whole[first : first + many].tolist()
        )
        start, stop = chosen.span(first, many)
        assert all(start <= place < stop for place in whole[first : first + many])


def test_every_entry_is_as_likely_and_each_round_draws_anew():
    size, one_in, rounds = 80, 8, 4_000
    times = np.zeros(size)
    for number in range(rounds):
        times[Chosen(seed(b"r" * 32, number), size, one_in).places()] += 1
    expected = rounds / one_in
    assert np.abs(times - expected).max() < 5 * np.sqrt(expected)


def test_what_is_kept_and_what_travels_are_the_update():
    update = np.arange(1, 101, dtype=np.float32)
    places = Chosen(SEED, 100, 5).places()
    left = kept(update, places)
    assert left[places].tolist() == [0.0] * 20
    left[places] = update[places]
    assert left.tolist() == update.tolist()


@pytest.mark.parametrize("one_in", [0, ONE_IN_AT_MOST + 1])
def test_a_choice_out_of_range_is_refused_with_its_limit(one_in):
    with pytest.raises(
        LocalProtocolError, match=f"one entry in {one_in}, need 1 to 64"
    ):
        Chosen(SEED, 100, one_in).places()
