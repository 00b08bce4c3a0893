"""The two clocks of the daemon; nothing else asks the operating system for the time."""

import time

from protocol.types import Millis


def now_s() -> int:
    """Unix seconds, as the chain counts."""
    return int(time.time())


def now_millis() -> Millis:
    """Unix milliseconds, for the event log."""
    return Millis(time.time_ns() // 1_000_000)


def monotonic_millis() -> Millis:
    """Never goes back; only differences mean anything."""
    return Millis(time.monotonic_ns() // 1_000_000)
