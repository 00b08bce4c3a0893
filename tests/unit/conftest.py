"""What is tested here needs no PyTorch; whatever does lies under `tests/tensor`.

Collecting a module that imports torch costs every process of `make check` seconds.
"""

import sys

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    alone = all(
        "tests/unit" in str(path) or "tests/sim" in str(path)
        for path in session.config.args
    )
    if alone and "torch" in sys.modules:
        raise pytest.UsageError(
            "a module of tests/unit imports torch: move it to tests/tensor"
        )
