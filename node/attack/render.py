"""The table of the suite, for a person and for a program."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.table import Table

from node.attack.rows import Row

TARGET = 0.05
"""Tokens a host may recover where the base is private."""


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Plain dictionaries; `broken` and `conclusive` say what the functions below do."""
    return [
        {
            **msgspec.to_builtins(row),
            "broken": is_broken(row),
            "conclusive": is_conclusive(row),
        }
        for row in rows
    ]


def as_table(rows: Sequence[Row]) -> Table:
    """One line a row."""
    table = Table("attack", "model", "base", "mode", "value", "chance", "control", "")
    for row in rows:
        table.add_row(
            row.attack, row.model, row.base, row.mode, f"{row.value:.3f}",
            f"{row.chance:.3f}", f"{row.control:.3f}", _verdict(row),
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


def is_conclusive(row: Row) -> bool:
    """Whether a failure here would mean anything: the same attack wins where nothing is keyed.

    Behind a block some attacks have nothing to work on, and a quick run may have too few words
    to tell luck from success; such a row says nothing for the key.
    """
    return is_broken(msgspec.structs.replace(row, value=row.control))


def _verdict(row: Row) -> str:
    if is_broken(row):
        return "broken"
    return "" if is_conclusive(row) else "says nothing"


def as_markdown(rows: Sequence[Row]) -> str:
    """The table of docs/attacks.md: a line an attack and model, a column a view."""
    views = list(dict.fromkeys((row.base, row.mode) for row in rows))
    head = ["attack", "model", "chance", "control", *(" ".join(view) for view in views)]
    lines = [_line(head), _line(["---"] * len(head))]
    for attack, model in dict.fromkeys((row.attack, row.model) for row in rows):
        own = [row for row in rows if (row.attack, row.model) == (attack, model)]
        cells = {(row.base, row.mode): _cell(row) for row in own}
        # By depth: k = 0, then k = 1 where it is another figure.
        controls = dict.fromkeys(f"{row.control:.3f}" for row in own)
        chances = dict.fromkeys(f"{row.chance:.3f}" for row in own)
        named = [attack, model, " / ".join(chances), " / ".join(controls)]
        lines.append(_line([*named, *(cells.get(view, "") for view in views)]))
    return "\n".join(lines)


def _cell(row: Row) -> str:
    if is_broken(row):
        return f"**{row.value:.3f}**"
    return f"{row.value:.3f}" if is_conclusive(row) else f"({row.value:.3f})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
