"""Datasets and grants."""

import click

from node.cli.shell import (
    BULK_S,
    CHAIN_S,
    Noun,
    Number,
    Row,
    Shell,
    absolute,
    print_fields,
    say,
    units,
    verb,
)
from node.cli.words import count, moment, short, size, until


@click.group(cls=Noun)
def dataset() -> None:
    """Encrypted tables: publish, look at, read what is granted."""


@click.group(cls=Noun)
def grant() -> None:
    """Who may read which units of a dataset, and how long."""


@verb(dataset)
@click.argument("table", callback=absolute, metavar="TABLE.csv")
@click.option("--title", required=True, help="Public, and for ever.")
@click.option(
    "--licence", required=True, help="An SPDX identifier, or LicenseRef-NAME."
)
@click.option(
    "--duo",
    required=True,
    multiple=True,
    metavar="DUO:NNNNNNN",
    help="Data Use Ontology code: one permission, any modifiers; may be repeated.",
)
@click.option("--source", required=True, help="Where the table comes from; public.")
@click.option(
    "--unit-column",
    metavar="NAME",
    help="Rows with one value of it are granted together.",
)
def publish(
    shell: Shell,
    table: str,
    title: str,
    licence: str,
    duo: tuple[str, ...],
    source: str,
    unit_column: str | None,
) -> None:
    """Encrypt a table, list it, mint its token.

    The rows stay on this node. Title, source, licence and column names become public. The same
    call again finds what the first one made.
    """
    answer = shell.ask(
        "datasets.add",
        doing="encrypting and listing",
        timeout_s=CHAIN_S,
        path=table,
        title=title,
        licence=licence,
        duo=list(duo),
        source=source,
        unit_column=unit_column,
    )
    _show(shell, answer)


@verb(dataset, "list")
def dataset_list(shell: Shell) -> None:
    """Every dataset on the chain."""
    shell.table(
        shell.ask("datasets.list", timeout_s=CHAIN_S),
        "datasets",
        {
            "dataset": lambda row: row["dataset"],
            "title": lambda row: row["title"],
            "owner": lambda row: row["owner"],
            "mine": lambda row: row["mine"],
            "units": lambda row: row["units"],
            "record": lambda row: short(row["record"]),
        },
    )


@verb(dataset)
@click.argument("number", type=Number(min=0), metavar="DATASET")
def show(shell: Shell, number: int) -> None:
    """One dataset with its listing."""
    _show(shell, shell.ask("datasets.show", dataset=number, doing="asking its owner"))


@verb(dataset)
@click.argument("number", type=Number(min=0), metavar="DATASET")
@click.option(
    "--to",
    "path",
    required=True,
    callback=absolute,
    metavar="FILE.csv",
    help="Where the rows go; readable by you only.",
)
@click.option("--owner", metavar="NAME", help="Refuse unless this member owns it.")
@click.option(
    "--units",
    callback=units,
    metavar="LIST",
    help="Such as 0,3-5; default: all granted.",
)
def fetch(
    shell: Shell, number: int, path: str, owner: str | None, units: list[int] | None
) -> None:
    """Read what was granted to this node."""
    answer = shell.ask(
        "datasets.fetch",
        doing="fetching and decrypting",
        timeout_s=BULK_S,
        dataset=number,
        path=path,
        owner=owner,
        units=units,
    )
    shell.fields(
        answer,
        [
            ("dataset", f"{answer['dataset']}, {answer['title']}"),
            ("units", _numbers(answer["units"])),
            ("columns", len(answer["columns"])),
            ("written", f"{answer['path']} ({size(answer['bytes'])})"),
        ],
    )


@verb(grant)
@click.argument("number", type=Number(min=0), metavar="DATASET")
@click.argument("grantee", metavar="MEMBER")
@click.option("--days", type=Number(min=1), required=True, help="Until the grant ends.")
@click.option(
    "--units", callback=units, metavar="LIST", help="Such as 0,3-5; default: all."
)
def give(
    shell: Shell, number: int, grantee: str, days: int, units: list[int] | None
) -> None:
    """Let a member read units of a dataset of this node."""
    answer = shell.ask(
        "grants.give",
        doing="waiting for the chain",
        timeout_s=CHAIN_S,
        dataset=number,
        grantee=grantee,
        days=days,
        units=units,
    )
    _show_grant(shell, answer)


@verb(grant, "list")
@click.argument("number", type=Number(min=0), metavar="DATASET")
def grant_list(shell: Shell, number: int) -> None:
    """All grants of a dataset, those that ended too."""
    shell.table(
        shell.ask("grants.list", dataset=number),
        "grants",
        {
            "grant": lambda row: row["grant"],
            "grantee": lambda row: row["grantee"],
            "units": lambda row: _numbers(row["units"]),
            "ends (UTC)": lambda row: moment(row["until"]),
            "state": _state,
        },
    )


@verb(grant)
@click.argument("number", type=Number(min=0), metavar="GRANT")
def revoke(shell: Shell, number: int) -> None:
    """End a grant; what was read before stays read."""
    answer = shell.ask(
        "grants.revoke", doing="waiting for the chain", timeout_s=CHAIN_S, grant=number
    )
    _show_grant(shell, answer)


def _show(shell: Shell, answer: Row) -> None:
    def human() -> None:
        listing = answer["listing"]
        mine = " (this node)" if answer["mine"] else ""
        print_fields(
            [
                ("dataset", answer["dataset"]),
                ("title", answer["title"] or "not known"),
                ("owner", f"{answer['owner']}{mine}"),
                ("units", answer["units"]),
                ("record", answer["record"]),
                *(_listed(listing) if listing else [("listing", answer["why"])]),
            ]
        )
        for warning in answer["warnings"]:
            say(f"warning: {warning}")

    shell.result(answer, human)


def _listed(listing: Row) -> list[tuple[str, object]]:
    known = [rows for rows in listing["rows"] if rows is not None]
    hidden = len(listing["rows"]) - len(known)
    fewer = f"{count(hidden, 'unit')} of fewer than ten" if hidden else ""
    rows = ", and ".join(filter(None, (str(sum(known)) if known else "", fewer)))
    columns = [f"{column['name']} ({column['kind']})" for column in listing["columns"]]
    return [
        ("rows", rows),
        ("licence", listing["licence"]),
        ("use", ", ".join(listing["duo"])),
        ("source", listing["source"]),
        ("listed", f"{moment(listing['created'])} UTC"),
        ("columns", ", ".join(columns)),
    ]


def _show_grant(shell: Shell, answer: Row) -> None:
    shell.fields(
        answer,
        [
            ("grant", answer["grant"]),
            ("dataset", answer["dataset"]),
            ("grantee", answer["grantee"]),
            ("units", _numbers(answer["units"])),
            ("ends", f"{moment(answer['until'])} UTC, {until(answer['until'])}"),
            ("state", _state(answer)),
        ],
    )


def _state(row: Row) -> str:
    if row["revoked"]:
        return "revoked"
    return "active" if row["active"] else "ended"


def _numbers(units: list[int]) -> str:
    """`[0, 3, 4, 5]` as `0,3-5`, the way `--units` reads it."""
    ranges: list[list[int]] = []
    for unit in units:
        if ranges and ranges[-1][1] == unit - 1:
            ranges[-1][1] = unit
        else:
            ranges.append([unit, unit])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges) or "-"


COMMANDS = (dataset, grant)
