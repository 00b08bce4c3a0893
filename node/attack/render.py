"""The table of the suite, for a person and for a program."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.table import Table

from node.attack.suite import Row

TARGET = 0.05
"""Tokens a host may recover where the base is private."""


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Plain dictionaries; what is not finite has no place in JSON and becomes null."""
    return [_finite(msgspec.to_builtins(row)) for row in rows]


def as_table(rows: Sequence[Row]) -> Table:
    """One line a row."""
    table = Table("attack", "model", "base", "mode", "value", "chance", "control", "")
    for row in rows:
        table.add_row(
            row.attack, row.model, row.base, row.mode, f"{row.value:.3f}",
            f"{row.chance:.3f}", f"{row.control:.3f}", "broken" if is_broken(row) else "",
        )  # fmt: skip
    return table


def is_broken(row: Row) -> bool:
    """Whether the attack has won something here.

    Won is: more than the target allows, and more than chance explains, which is four standard
    deviations of as many guesses as there were.  An accuracy has no target but chance.
    """
    spread = math.sqrt(row.chance * (1 - row.chance) / row.trials)
    explained = row.chance + 4 * spread
    return row.value > (
        explained if row.measure == "accuracy" else max(TARGET, explained)
    )


def as_markdown(rows: Sequence[Row]) -> str:
    """The table of docs/attacks.md."""
    head = ("attack", "model", "base", "mode", "value", "chance", "control")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        value = f"**{row.value:.3f}**" if is_broken(row) else f"{row.value:.3f}"
        cells = (row.attack, row.model, row.base, row.mode, value,
                 f"{row.chance:.3f}", f"{row.control:.3f}")  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
