"""The simulator is a program of its own (`python tests/sim`); its tests import from it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from federation_sim import keys


@pytest.fixture(autouse=True)
def real_curve_afterwards():
    """A seed with stand-ins must not leave them behind for other tests of the process."""
    yield
    keys.use_curve(real=True)
