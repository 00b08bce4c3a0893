"""Measurements a user can repeat: each module has `run(quick) -> dict`."""
