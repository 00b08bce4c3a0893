"""Who may read what: given by the owner, or asked for, decided and paid."""

from typing import Any

import click

from node.cli import groups as column_groups
from node.cli.data import numbers
from node.cli.shell import (
    CHAIN_S,
    Noun,
    Number,
    Row,
    Shell,
    absolute,
    print_fields,
    units,
    verb,
)
from node.cli.words import moment, until

_CHAIN: dict[str, Any] = {"doing": "waiting for the chain", "timeout_s": CHAIN_S}


@click.group(cls=Noun)
def grant() -> None:
    """Who may read which units of a dataset, and how long."""


@verb(grant)
@click.argument("number", type=Number(min=0), metavar="DATASET")
@click.argument("grantee", metavar="MEMBER")
@click.option("--days", type=Number(min=1), required=True, help="Until the grant ends.")
@click.option(
    "--units", callback=units, metavar="LIST", help="Such as 0,3-5; default: all."
)
@click.option(
    "--purpose",
    "purposes",
    multiple=True,
    metavar="DUO:NNNNNNN",
    help="For this only; may be repeated; default: all that the terms allow.",
)
@column_groups.named
def give(
    shell: Shell,
    number: int,
    grantee: str,
    groups: tuple[str, ...],
    purposes: tuple[str, ...],
    **said: Any,
) -> None:
    """Let a member read units of a dataset of this node.

    A member has one grant of a dataset: this one stands in for the one before, so name all units
    that it is to read.
    """

    def one(dataset: int) -> Row:
        return shell.ask(
            "grants.give",
            dataset=dataset,
            grantee=grantee,
            purposes=list(purposes) or None,
            **said,
            **_CHAIN,
        )

    asked = column_groups.datasets(shell, number, groups)
    column_groups.each(shell, "grants", asked, one, _print_grant)


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
            "units": lambda row: numbers(row["units"]),
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


def _show_grant(shell: Shell, answer: Row) -> None:
    shell.result(answer, lambda: _print_grant(answer))


def _print_grant(answer: Row) -> None:
    print_fields(
        [
            ("grant", answer["grant"]),
            ("dataset", answer["dataset"]),
            ("grantee", answer["grantee"]),
            ("units", numbers(answer["units"])),
            ("for", ", ".join(answer["purposes"])),
            ("ends", f"{moment(answer['until'])} UTC, {until(answer['until'])}"),
            ("state", _state(answer)),
            *_replaced(answer),
        ],
    )


def _replaced(answer: Row) -> list[tuple[str, object]]:
    """Of a grant just given, what it took the place of."""
    before = answer.get("replaced")
    if before is None:
        return []
    lost = sorted(set(before) - set(answer["units"]))
    taken = f"; units {numbers(lost)} are no longer granted" if lost else ""
    return [("instead of", f"a grant of units {numbers(before)}{taken}")]


def _state(row: Row) -> str:
    if row["revoked"]:
        return "revoked"
    return "active" if row["active"] else "ended"


@verb(grant)
@click.argument("number", type=Number(min=0), metavar="DATASET")
@click.option("--days", type=Number(min=1), required=True, help="From the approval on.")
@click.option(
    "--purpose",
    "purposes",
    multiple=True,
    required=True,
    metavar="DUO:NNNNNNN",
    help="What the data are for; may be repeated.",
)
@click.option(
    "--acknowledge",
    "acknowledged",
    multiple=True,
    metavar="DUO:NNNNNNN",
    help="A condition you keep to; may be repeated.",
)
@click.option(
    "--max-price",
    type=Number(min=0),
    default=0,
    help="The most it may cost, in the token's smallest unit.",
)
@click.option(
    "--units", callback=units, metavar="LIST", help="Such as 0,3-5; default: all."
)
@column_groups.named
def request(
    shell: Shell, number: int, max_price: int, groups: tuple[str, ...], **said: Any
) -> None:
    """Ask for access to another member's dataset; of several groups, for each at --max-price.

    Its price goes into escrow. It comes back if the request is refused, cancelled or not answered
    in time.
    """
    given: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in said.items()
    }

    def one(dataset: int) -> Row:
        return shell.ask(
            "requests.make",
            dataset=dataset,
            max_price=str(max_price),
            **{**given, **_CHAIN},
        )

    asked = column_groups.datasets(shell, number, groups)
    column_groups.each(shell, "requests", asked, one, _print_request)


@verb(grant)
@click.argument("number", type=Number(min=0), required=False, metavar="[DATASET]")
def requests(shell: Shell, number: int | None) -> None:
    """Every request, with what became of it."""
    shell.table(
        shell.ask("requests.list", dataset=number, timeout_s=CHAIN_S),
        "requests",
        {
            "request": lambda row: row["request"],
            "dataset": lambda row: row["dataset"],
            "of": lambda row: row["owner"],
            "by": lambda row: row["grantee"],
            "for": lambda row: row["purposes"],
            "price": lambda row: row["price"],
            "state": lambda row: row["status"],
            "until (UTC)": lambda row: moment(row["deadline"]),
        },
    )


def _deciding(name: str, about: str) -> None:
    """A verb of `grant` that takes a request's number and nothing else."""

    def run(shell: Shell, number: int) -> None:
        answer = shell.ask(f"requests.{name}", request=number, **_CHAIN)
        _show(shell, answer, said="refused" if name == "refuse" else "agreed")

    run.__doc__ = about
    argument = click.argument("number", type=Number(min=0), metavar="REQUEST")
    verb(grant, name)(argument(run))


_deciding(
    "approve",
    "Agree to a request, alone or as one of a committee; the grant begins with it.",
)
_deciding("refuse", "Say no to a request; its price goes back.")
_deciding("cancel", "Take back a request of this node.")
_deciding("accept", "The keys were read here: pay the owner now.")
_deciding("close", "Refund what nobody answered in time, pay what nobody disputed.")


@verb(grant)
@click.argument("number", type=Number(min=0), metavar="REQUEST")
@click.option("--reason", required=True, help="What is wrong; auditors read it.")
@click.option(
    "--to",
    "path",
    required=True,
    callback=absolute,
    metavar="FILE",
    help="The claim. Its digest goes on the chain: keep it, give it to auditors.",
)
def dispute(shell: Shell, number: int, reason: str, path: str) -> None:
    """Say that the keys did not come, or wrong ones; auditors decide. Costs a bond."""
    answer = shell.ask(
        "requests.dispute", request=number, reason=reason, path=path, **_CHAIN
    )
    _show(shell, answer)


def _show(shell: Shell, answer: Row, said: str = "agreed") -> None:
    shell.result(answer, lambda: _print_request(answer, said))


def _print_request(answer: Row, said: str = "agreed") -> None:
    """`said` is what the seats that are counted have said."""
    paid = (
        answer["price"]
        if answer["token"] is None
        else (f"{answer['price']} of {answer['token']}")
    )
    pairs: list[tuple[str, object]] = [
        ("request", answer["request"]),
        ("dataset", f"{answer['dataset']} of {answer['owner']}"),
        ("by", answer["grantee"]),
        ("units", numbers(answer["units"])),
        ("for", ", ".join(answer["purposes"])),
        ("keeps to", ", ".join(answer["acknowledged"]) or "-"),
        ("days", answer["days"]),
        ("price", paid),
        ("state", answer["status"]),
    ]
    if answer["status"] in {"open", "approved"}:
        ends = answer["deadline"]
        pairs.append(("until", f"{moment(ends)} UTC, {until(ends)}"))
    if answer["threshold"] is not None:
        pairs.append((said, f"{answer['signed']} of {answer['threshold']}"))
    if answer["case"] is not None:
        pairs += [("case", answer["case"]), ("claim", answer["path"])]
    print_fields(pairs)


COMMANDS = (grant,)
