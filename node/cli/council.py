"""What the members vote on: tokens and parameters of the market."""

from typing import Any

import click

from node.cli.shell import (
    CHAIN_S,
    Noun,
    Number,
    Row,
    Shell,
    WrongValueError,
    verb,
)
from node.cli.words import until

_CHAIN: dict[str, Any] = {"doing": "waiting for the chain", "timeout_s": CHAIN_S}


@click.group(cls=Noun)
def council() -> None:
    """All members: which tokens and parameters the market has."""


@verb(council, "list")
def motions(shell: Shell) -> None:
    """What was proposed, and how the members voted."""
    _motions(shell, shell.ask("council.list", timeout_s=CHAIN_S))


def _rules(
    _context: click.Context, _option: click.Parameter, value: tuple[str, ...]
) -> dict[str, int]:
    found = {}
    for one in value:
        name, equals, number = one.partition("=")
        if not equals or not number.isdecimal():
            raise click.BadParameter(f"{one!r} is not NAME=NUMBER")
        found[name] = int(number)
    return found


@verb(council)
@click.option("--take", metavar="0x…", help="Accept this ERC-20 for prices.")
@click.option("--drop", metavar="0x…", help="Accept it no longer.")
@click.option(
    "--set",
    "rules",
    multiple=True,
    callback=_rules,
    metavar="NAME=NUMBER",
    help="Such as dispute_s=1209600; may be repeated.",
)
def propose(
    shell: Shell, take: str | None, drop: str | None, rules: dict[str, int]
) -> None:
    """Propose a token or other values; more than half of all members pass it."""
    if sum(map(bool, (take, drop, rules))) != 1:
        raise WrongValueError(
            "one proposal is about one thing", hint="--take, --drop or --set"
        )
    about: dict[str, Any] = {"rules": rules} if rules else {"token": take or drop}
    if drop:
        about["accepted"] = False
    _motions(shell, shell.ask("council.propose", **about, **_CHAIN))


@verb(council, "vote")
@click.argument("number", type=Number(min=0), metavar="MOTION")
def agree(shell: Shell, number: int) -> None:
    """Agree to a proposal."""
    _motions(shell, shell.ask("council.vote", motion=number, **_CHAIN))


@verb(council)
@click.argument("number", type=Number(min=0), metavar="MOTION")
def execute(shell: Shell, number: int) -> None:
    """Carry out a proposal that has passed, once its delay is over."""
    _motions(shell, shell.ask("council.execute", motion=number, **_CHAIN))


def _motions(shell: Shell, answer: Row) -> None:
    shell.table(
        answer,
        "motions",
        {
            "motion": lambda row: row["motion"],
            "about": lambda row: row["text"],
            "agreed": lambda row: f"{row['yes']} of {row['electorate']}",
            "state": _motion_state,
        },
    )


def _motion_state(row: Row) -> str:
    if row["done"]:
        return "done"
    return "open" if row["ready"] is None else f"ready {until(row['ready'])}"


COMMANDS = (council,)
