"""What the trusted child sends of a run with noise: clipped, noisy, and never twice the same."""

import secrets
from pathlib import Path

import numpy as np
import pytest

from node.adapters.blob_dir import BlobDir
from node.compute import rounds
from protocol.aggregate.ring import Ring
from protocol.errors import LocalProtocolError

SIZE = 20_000
RING = Ring(32, 24)
NOISE = {"clip": 1.0, "multiplier": 2.0, "largest_factor": 1.0, "shares": 4}
GRID = 2.0**rounds.FIRST_EXPONENT


@pytest.fixture
def sent(tmp_path):
    """The update as it is masked, in its own units."""
    blobs = BlobDir(tmp_path / "blobs")
    folder = tmp_path / "states"
    scales = rounds.scales(
        {"length": SIZE, "velocities": 0, "folder": str(folder)}, print
    )["root"]

    def masked(update, noise, seed=None):
        found = rounds.mask(
            {
                "update": blobs.put(update.astype("<f4").tobytes()),
                "scales": scales,
                "weight": 1,
                "total": 4,
                "members": 4,
                "noise": noise,
                "thin": None,
                "seed": seed or secrets.token_bytes(32),
                "noise_seed": seed or secrets.token_bytes(32),
                "slices": [[0, SIZE]],
                "plus": [],
                "minus": [],
                "ring": [RING.bits, RING.input_bits],
                "folder": str(folder),
                "blobs": str(tmp_path / "blobs"),
            },
            print,
        )
        data = Path(blobs.path(found["shards"][0])).read_bytes()
        return RING.signed(np.frombuffer(data, RING.dtype)) * GRID

    return masked


def test_an_update_is_clipped_and_then_carries_its_share_of_noise(sent):
    update = np.full(SIZE, 5.0 / np.sqrt(SIZE))  # five times too long
    noisy = sent(update, NOISE)
    share = 2.0 * 1.0 / np.sqrt(4)
    assert np.std(noisy) == pytest.approx(share, rel=0.05)
    assert np.mean(noisy) == pytest.approx(1 / np.sqrt(SIZE), abs=4 * share / 140)


def test_without_noise_the_update_is_sent_as_it_is(sent):
    update = np.full(SIZE, 5.0 / np.sqrt(SIZE))
    plain = sent(update, None)
    assert np.abs(plain - update).max() <= GRID
    assert np.linalg.norm(plain) == pytest.approx(5.0, rel=0.01)


def test_the_noise_is_drawn_anew_each_time(sent):
    zero = np.zeros(SIZE)
    one, other = sent(zero, NOISE), sent(zero, NOISE)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05
    assert not (sent(zero, None)).any()


def test_a_recipe_makes_the_same_bytes_again(sent):
    update = np.full(SIZE, 0.3 / np.sqrt(SIZE))
    for noise in (NOISE, None):
        one, again, other = (sent(update, noise, bytes([n]) * 32) for n in (1, 1, 2))
        assert (one == again).all()
        assert (one != other).any()


def test_noise_finer_than_the_grid_is_refused(sent):
    with pytest.raises(LocalProtocolError, match="finer than a grid"):
        sent(np.zeros(SIZE), {**NOISE, "multiplier": 1e-5})
