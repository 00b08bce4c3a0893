"""Worlds that the suites beside this one share; modules, no package."""

import sys
from pathlib import Path

import pytest

from node.bench.disputes import DisputeWorld

sys.path.insert(0, str(Path(__file__).parent))

from dispute_scenes import BERT, small


@pytest.fixture(
    params=["causal", "encoder", pytest.param("bert", marks=pytest.mark.long)]
)
def world(request) -> DisputeWorld:
    style = BERT if request.param == "bert" else None
    return small(causal=request.param == "causal", style=style)
