"""Questions to data that stay where they are, and what a steward lets be asked."""

from collections.abc import Sequence
from typing import Any

import click

from node.cli.shell import (
    BULK_S,
    CHAIN_S,
    Noun,
    Number,
    Row,
    Shell,
    WrongValueError,
    absolute,
    agreed,
    print_fields,
    say,
    verb,
)
from node.cli.words import count as counted
from node.cli.words import moment, short, shown

_KINDS = (
    *("count", "histogram", "quantiles", "correlation", "survival"),
    *("evaluation", "training"),
)


@click.group(cls=Noun)
def query() -> None:
    """Ask data that stay where they are: noisy sums, within a privacy budget."""


@verb(query)
@click.argument("number", type=Number(min=0), metavar="DATASET")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    required=True,
    type=click.Choice(_KINDS),
    help="What it answers; may be repeated.",
)
@click.option(
    "--epsilon",
    required=True,
    type=click.FloatRange(min=0, min_open=True),
    help="All answers together tell of one row at most this, for ever.",
)
@click.option(
    "--delta", type=float, help="But for this chance; default: one in a million."
)
@click.option(
    "--floor",
    type=Number(min=0),
    help="A count below it is answered as 0; default: 10.",
)
def allow(shell: Shell, number: int, kinds: tuple[str, ...], **bounds: Any) -> None:
    """Let researchers ask about a dataset of this node.

    Said again it stands in for what was said before; what is spent stays spent.
    """
    answer = shell.ask(
        "queries.allow", dataset=number, kinds=list(kinds), timeout_s=CHAIN_S, **bounds
    )
    _show_policy(shell, answer)
    for other in () if shell.as_json else answer["same_rows"]:
        say(
            f"warning: dataset {other} has the same rows and answers too: of one row both tell "
            "what their budgets add up to"
        )


@verb(query)
@click.argument("number", type=Number(min=0), metavar="DATASET")
def stop(shell: Shell, number: int) -> None:
    """Answer nothing about a dataset any more; what is spent stays spent."""
    _show_policy(shell, shell.ask("queries.stop", dataset=number))


@verb(query, "list")
def query_list(shell: Shell) -> None:
    """Datasets of this node that answer, and questions of it without a result yet."""
    answer = shell.ask("queries.list", timeout_s=CHAIN_S)
    shell.table(
        answer,
        "policies",
        {
            "dataset": lambda row: row["dataset"],
            "kinds": lambda row: row["kinds"],
            "epsilon": lambda row: row["epsilon"],
            "spent": lambda row: round(row["epsilon_spent"], 3),
            "rho left": lambda row: row["rho_left"],
            "questions": lambda row: row["questions"],
        },
    )
    for row in () if shell.as_json else answer["open"]:
        say("")
        print_fields(
            [
                ("query", short(row["query"])),
                ("asks", f"{row['kind']} of datasets {shown(row['datasets'])}"),
                ("begun", f"{moment(row['begun'])} UTC"),
                ("awaits", row["awaits"]),
                ("hint", row["hint"]),
            ]
        )


def asking(function: Any) -> Any:
    """Arguments and options that every question has."""
    for add in (
        click.argument("datasets", nargs=-1, required=True, type=Number(min=0)),
        click.option(
            "--rho",
            type=float,
            default=0.05,
            show_default=True,
            help="Privacy each dataset pays; noise has variance 1/(2 rho).",
        ),
        click.option(
            "--where",
            multiple=True,
            metavar="COLUMN=TEXT",
            help="Only such rows; may be repeated.",
        ),
        click.option(
            "--to",
            "path",
            callback=absolute,
            metavar="FILE",
            help="Write question, answers and attestations as well.",
        ),
    ):
        function = add(function)
    return function


def _column(function: Any) -> Any:
    for add in (
        click.option("--column", required=True, metavar="NAME"),
        click.option("--low", type=float, help="Where the values begin."),
        click.option("--high", type=float, help="Where they end."),
        click.option("--bins", type=Number(min=1), help="Equal parts."),
    ):
        function = add(function)
    return function


@verb(query)
@asking
def count(shell: Shell, **asked: Any) -> None:
    """How many rows there are."""
    answer = _ask(shell, "count", asked)
    shell.result(answer, lambda: show_any(answer))


@verb(query)
@asking
@_column
@click.option(
    "--level", "levels", multiple=True, metavar="TEXT", help="Of text; may be repeated."
)
def histogram(shell: Shell, column: str, **asked: Any) -> None:
    """How many rows have a value in each part of a range, or each of some texts."""
    if not asked["levels"]:
        _require_range(column, asked, ", or each text with --level")
    answer = _ask(shell, "histogram", {**asked, "columns": [column]})
    shell.result(answer, lambda: show_any(answer))


@verb(query)
@asking
@_column
@click.option(
    "--at", "probabilities", multiple=True, type=float, metavar="P", help="Such as 0.5."
)
def quantiles(shell: Shell, column: str, **asked: Any) -> None:
    """Below which value a share of the rows lies."""
    _require_range(column, asked, "; the answer is as fine as a bin")
    asked["probabilities"] = asked["probabilities"] or (0.25, 0.5, 0.75)
    answer = _ask(shell, "quantiles", {**asked, "columns": [column]})
    shell.result(answer, lambda: show_any(answer))


@verb(query)
@asking
@click.option("--column", "columns", multiple=True, metavar="NAME", help="Two or more.")
@click.option("--low", type=float, required=True, help="Where the values begin.")
@click.option("--high", type=float, required=True, help="Where they end.")
def correlation(shell: Shell, **asked: Any) -> None:
    """Pearson's correlation of each pair of columns."""
    answer = _ask(shell, "correlation", asked)
    shell.result(answer, lambda: show_any(answer, asked["columns"]))


@verb(query)
@asking
@click.option("--time", required=True, metavar="COLUMN", help="Until event or loss.")
@click.option("--event", required=True, metavar="COLUMN=TEXT", help="Seen, not lost.")
@click.option(
    "--until", "high", type=float, required=True, help="Where the curve ends."
)
@click.option("--bins", type=Number(min=1), default=24, show_default=True)
@click.option("--by", metavar="COLUMN", help="A curve for each of the levels of it.")
@click.option(
    "--level",
    "levels",
    multiple=True,
    metavar="TEXT",
    help="One text of that column; may be repeated.",
)
def survival(shell: Shell, time: str, event: str, by: str | None, **asked: Any) -> None:
    """Kaplan and Meier's curve, with what the noise may have moved it."""
    event_column, seen = pair(event, "--event")
    if bool(by) != bool(asked["levels"]):
        given, lacking = ("--by", "--level") if by else ("--level", "--by")
        raise WrongValueError(
            f"{given} without {lacking}",
            hint="name the column and each of its texts: --by sex --level f --level m",
        )
    columns = [time, event_column, *([by] if by else [])]
    answer = _ask(shell, "survival", {**asked, "columns": columns, "event": seen})
    shell.result(answer, lambda: show_any(answer))


@verb(query)
@click.argument("name", metavar="QUERY")
@click.option(
    "--to", "path", callback=absolute, metavar="FILE", help="As where it was asked."
)
def resume(shell: Shell, name: str, path: str | None) -> None:
    """Go on with a question that was cut; nobody pays again."""
    answer = shell.ask(
        "queries.resume",
        doing="asking the institutions",
        timeout_s=BULK_S,
        query=name,
        path=path,
    )
    from node.cli import query_models

    shell.result(answer, lambda: query_models.show(answer))


@verb(query)
@click.argument("name", metavar="QUERY")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(shell: Shell, name: str, yes: bool) -> None:
    """Give up a question that cannot end; the privacy it has cost stays spent."""
    if not yes and not agreed(
        f"forget {name}, without getting back what was paid for it?"
    ):
        raise WrongValueError(
            f"nobody agreed to forget {name}", hint="give --yes to agree"
        )
    answer = shell.ask("queries.forget", timeout_s=CHAIN_S, query=name)
    shell.result(answer, lambda: _show_forgotten(answer))


def _show_forgotten(answer: Row) -> None:
    print_fields([("query", short(answer["query"])), ("forgotten", answer["kind"])])
    for one in answer["freed"]:
        paid = f"rho {one['rho']:g} stays paid" if one["rho"] else "nothing was paid"
        say(f"  freed      dataset {one['dataset']} of {one['owner']}, {paid}")
    for one in answer["unreached"]:
        say(f"  unreached  dataset {one['dataset']}: {one['reason']}")


def _require_range(column: str, asked: dict[str, Any], otherwise: str) -> None:
    lacking = [f"--{name}" for name in ("low", "high", "bins") if asked[name] is None]
    if lacking:
        raise WrongValueError(
            f"the range of {column!r} is asked without {' and '.join(lacking)}",
            hint=f"name where its values begin and end and in how many parts{otherwise}",
        )


def _ask(shell: Shell, kind: str, asked: dict[str, Any]) -> dict[str, Any]:
    given = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asked.items()
    }
    given["where"] = dict(pair(one) for one in asked["where"])
    return shell.ask(
        "queries.ask",
        doing="asking the institutions",
        timeout_s=BULK_S,
        kind=kind,
        **given,
    )


def pair(text: str, option: str = "--where") -> tuple[str, str]:
    """Both sides of `COLUMN=TEXT`, as `option` was given it."""
    column, equals, value = text.partition("=")
    if not (column and equals):
        raise WrongValueError(
            f"{text!r} is not COLUMN=TEXT", hint=f"such as {option} sex=F"
        )
    return column, value


def show_any(answer: Row, names: Sequence[str] = ()) -> None:
    """An answer of whatever kind."""
    found = answer["result"]
    pairs: list[tuple[str, object]] = []
    if "count" in found:
        pairs.append(("rows", found["count"]))
    pairs += [
        (
            f"at {one['probability']:g}",
            f"{one['value']:.6g}, noise {one['noise_sd']:.2g}",
        )
        for one in found.get("quantiles", ())
    ]
    show_answer(answer, pairs)
    for one in found.get("bins", ()):
        named = one.get("level", f"{one.get('from')} to {one.get('to')}")
        say(f"  {named}: {'suppressed' if one['count'] is None else one['count']}")
    matrix = found.get("matrix", ())
    # Of a question that was gone on with the columns' names are not known here.
    for name, row, noise in zip(
        names or [""] * len(matrix), matrix, found.get("noise_sd", ()), strict=False
    ):
        say(f"  {'  '.join(map(_correlated, row, noise))}  {name}")
    for curve in found.get("curves", ()):
        if curve["group"]:
            say(f"  {curve['group']}")
        for one in curve["points"]:
            say(
                f"  {one['time']:10.6g}  {one['survival']:.3f}"
                f"  noise {one['noise_sd']:.3f}  at risk {one['at_risk']}"
            )


def _correlated(value: float | None, noise: float | None) -> str:
    return f"{'-':>14}" if value is None else f"{value:6.3f} ±{noise:<6.2g}"


def show_answer(answer: Row, pairs: list[tuple[str, object]]) -> None:
    """Who answered, how, and what was read."""
    answers = answer["answers"]
    owners = ", ".join(f"{one['dataset']} of {one['owner']}" for one in answers)
    form = "masked: only their sum was read" if answer["masked"] else "alone"
    print_fields(
        [
            ("query", short(answer["query"])),
            ("answered by", f"{counted(len(answers), 'dataset')}, {form}"),
            ("datasets", owners),
            *([("dropped", ", ".join(answer["dropped"]))] if answer["dropped"] else []),
            *(
                # Of these it is in units of a grid; what is read of them has its own.
                [("noise", f"standard deviation {answer['noise_sd']:.3g} in each sum")]
                if answer["kind"] not in {"training", "correlation"}
                else []
            ),
            *(
                (name, f"fewer than {answer['floor']}" if value is None else value)
                for name, value in pairs
            ),
            *([("written", answer["path"])] if answer["path"] else []),
        ]
    )


def _show_policy(shell: Shell, answer: Row) -> None:
    shell.fields(
        answer,
        [
            ("dataset", answer["dataset"]),
            ("answers", ", ".join(answer["kinds"])),
            ("budget", f"epsilon {answer['epsilon']:g} at delta {answer['delta']:g}"),
            ("spent", f"epsilon {answer['epsilon_spent']:.3f}"),
            ("rho left", f"{answer['rho_left']:g} of {answer['rho']:g}"),
            ("floor", answer["floor"]),
            ("questions", answer["questions"]),
        ],
    )


COMMANDS = (query,)
