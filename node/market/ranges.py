"""Numbers of units as a person writes and reads them."""

from collections.abc import Iterable


def ranges(units: Iterable[int]) -> str:
    """`0,3-5`, the way `--units` reads it."""
    found: list[list[int]] = []
    for unit in sorted(units):
        if found and found[-1][1] == unit - 1:
            found[-1][1] = unit
        else:
            found.append([unit, unit])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)
