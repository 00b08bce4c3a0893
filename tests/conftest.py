"""For every test: no property fails because the machine was busy; long ones are asked for."""

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "rexis", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("rexis")


def pytest_collection_modifyitems(items):
    """Long tests want the machine for themselves: beside others their deadlines pass."""
    if os.environ.get("REXIS_LONG"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="long: `make test-long` runs it"))
