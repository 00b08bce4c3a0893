"""What the suites beside this one share; modules, no package."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from query_world import SMALL, World


@pytest.fixture
async def world(nursery, tmp_path):
    made = World(3, tmp_path)
    await made.start(nursery, SMALL)
    return made
