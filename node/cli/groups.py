"""Groups of columns: one table as several datasets that are published, granted and asked for together.

Each group is a dataset of its own, with keys, terms and grants of its own; what is here says one
thing to several of them.  A command that was cut is given again: what is done already stays.
"""

from collections.abc import Callable, Sequence
from typing import Any

import click

from node.cli.shell import Row, Shell, WrongValueError, say


def named(function: Any) -> Any:
    """The option by which a verb takes groups instead of the one dataset."""
    return click.option(
        "--group",
        "groups",
        multiple=True,
        metavar="NAME",
        help="Of the same table, this group of columns; may be repeated.",
    )(function)


def parsed(said: Sequence[str]) -> dict[str, list[str]]:
    """`vitals=age,lactate` as names and columns."""
    found: dict[str, list[str]] = {}
    for text in said:
        name, _, columns = text.partition("=")
        cut = [one for one in columns.split(",") if one]
        if not name or not cut:
            raise WrongValueError(
                f"{text!r} is no group of columns",
                hint="such as --group vitals=age,lactate",
            )
        if name in found:
            raise WrongValueError(
                f"group {name} is named twice", hint="name all of its columns at once"
            )
        found[name] = cut
    return found


def datasets(shell: Shell, number: int, names: Sequence[str]) -> list[int]:
    """The datasets of these groups of `number`'s table; `number` itself where none is named."""
    if not names:
        return [number]
    shown = shell.ask("datasets.show", dataset=number)
    known = {one["name"]: one["dataset"] for one in shown["groups"]}
    for name in names:
        if name not in known:
            raise WrongValueError(
                f"dataset {number} has no group {name!r}",
                hint=f"its groups are {', '.join(known)}" if known else "it has none",
            )
    return [known[name] for name in names]


def each(
    shell: Shell,
    noun: str,
    numbers: Sequence[int],
    ask: Callable[[int], Row],
    show: Callable[[Row], None],
) -> None:
    """Every answer as it comes; as JSON one, or all under `noun`."""
    answers = []
    for place, number in enumerate(numbers):
        answers.append(ask(number))
        if not shell.as_json:
            if place:
                say("")
            show(answers[-1])
    if shell.as_json:
        (only, *more) = answers
        shell.result({noun: answers} if more else only, lambda: None)
