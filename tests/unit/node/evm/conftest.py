"""A development chain with the contracts, in this process, for the suites beside this one."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from evm_world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World(tmp_path_factory.mktemp("chain") / "chain.sqlite") as made:
        yield made
