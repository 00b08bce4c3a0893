"""Committees, and the market's money, records and disputes."""

from typing import Any

import click

from node.cli.shell import (
    CHAIN_S,
    Noun,
    Number,
    Row,
    Shell,
    WrongValueError,
    absolute,
    verb,
)
from node.cli.words import count, moment, span

_CHAIN: dict[str, Any] = {"doing": "waiting for the chain", "timeout_s": CHAIN_S}


@click.group(cls=Noun)
def market() -> None:
    """Money, records and disputes of the data market."""


@click.group(cls=Noun)
def committee() -> None:
    """Data access committees: several members decide together."""


# --- committee ----------------------------------------------------------------------


@verb(committee)
@click.argument("seats", nargs=-1, required=True, metavar="MEMBER…")
@click.option(
    "--threshold", type=Number(min=1), required=True, help="How many decide together."
)
def make(shell: Shell, seats: tuple[str, ...], threshold: int) -> None:
    """Put a committee of these members on the chain; name its address as --committee."""
    answer = shell.ask(
        "committees.make", seats=list(seats), threshold=threshold, **_CHAIN
    )
    shell.fields(
        answer,
        [
            ("committee", answer["committee"]),
            ("seats", ", ".join(answer["seats"])),
            ("decide", f"{answer['threshold']} of {len(answer['seats'])}"),
        ],
    )


# --- market -------------------------------------------------------------------------


@verb(market, "show")
def market_show(shell: Shell) -> None:
    """What the node has and how it stands, and the market's rules."""
    answer = shell.ask("market.show", timeout_s=CHAIN_S)
    rules = answer["rules"]
    shell.fields(
        answer,
        [
            ("account", answer["account"]),
            *(
                (
                    "token",
                    f"{one['token']}: {one['balance']}, and {one['held']} to collect"
                    + ("" if one["accepted"] else "; not accepted for prices"),
                )
                for one in answer["purses"]
            ),
            *_scores(answer["scores"]),
            *(
                (_RULES[name], span(value))
                for name, value in rules.items()
                if _is_time(name)
            ),
            ("quorum", f"{count(rules['quorum'], 'auditor')} decide a case"),
            ("open requests", f"at most {rules['open_requests']} of one member"),
            ("bond", _bond(rules)),
        ],
    )


_RULES = {
    "answer_s": "to answer",
    "dispute_s": "to dispute",
    "challenge_s": "to challenge",
    "vote_s": "to vote",
    "unbonding_s": "to unstake",
}


def _is_time(name: str) -> bool:
    return name in _RULES


def _bond(rules: Row) -> str:
    token = f" of {rules['bond_token']}" if rules["bond_token"] else ""
    return f"{rules['bond']}{token}, of a dispute or a challenge"


@verb(market)
@click.argument("member", metavar="MEMBER")
def scores(shell: Shell, member: str) -> None:
    """What a member's record says: deliveries, disputes, challenged receipts."""
    answer = shell.ask("market.scores", member=member, timeout_s=CHAIN_S)
    shell.fields(answer, [("member", answer["member"]), *_scores(answer)])


def _scores(answer: Row) -> list[tuple[str, object]]:
    return [
        (
            f"as {one['role']}",
            f"{one['score']} of 100, from {count(one['cases'], 'case')}",
        )
        for one in answer["roles"]
    ]


@verb(market)
@click.argument("token", metavar="0x…")
def collect(shell: Shell, token: str) -> None:
    """Fetch what the contracts hold for this node in one token."""
    answer = shell.ask("market.collect", token=token, **_CHAIN)
    shell.fields(
        answer,
        [
            ("token", answer["token"]),
            ("balance", answer["balance"]),
            ("held", answer["held"]),
        ],
    )


@verb(market)
def cases(shell: Shell) -> None:
    """Disputed deliveries and challenged receipts."""
    _cases(shell, shell.ask("cases.list", timeout_s=CHAIN_S))


def _cases(shell: Shell, answer: Row) -> None:
    shell.table(
        answer,
        "cases",
        {
            "case": lambda row: row["case"],
            "about": lambda row: row["about"],
            "request": lambda row: row["request"],
            "by": lambda row: row["plaintiff"],
            "against": lambda row: row["defendant"],
            "votes": lambda row: f"{row['upholding']} to {row['rejecting']}",
            "outcome": lambda row: row["outcome"],
            "until (UTC)": lambda row: moment(row["closes"]),
        },
    )


@verb(market)
@click.argument("number", type=Number(min=0), metavar="CASE")
def check(shell: Shell, number: int) -> None:
    """As an auditor: have the owner show the message, and check it against the chain."""
    answer = shell.ask("cases.check", case=number, timeout_s=CHAIN_S)
    shell.fields(
        answer,
        [
            ("case", answer["case"]),
            ("request", answer["request"]),
            ("committed", answer["committed"] or "-"),
            ("shown", answer["shown"] or "-"),
            ("sound", "yes" if answer["sound"] else f"no: {answer['why']}"),
        ],
    )


@verb(market)
@click.argument("number", type=Number(min=0), metavar="CASE")
@click.option("--uphold/--reject", default=None, help="Is who opened it right?")
@click.option(
    "--report",
    required=True,
    callback=absolute,
    metavar="FILE",
    help="What the finding rests on; its digest goes on the chain.",
)
def vote(shell: Shell, number: int, uphold: bool | None, report: str) -> None:
    """As an auditor: say who is right in a case."""
    if uphold is None:
        raise WrongValueError("a vote says who is right", hint="--uphold or --reject")
    answer = shell.ask(
        "cases.vote", case=number, uphold=uphold, report=report, **_CHAIN
    )
    _cases(shell, {"cases": [answer]})


@verb(market, "close")
@click.argument("number", type=Number(min=0), metavar="CASE")
def close_case(shell: Shell, number: int) -> None:
    """Close a case whose time is over without a quorum."""
    _cases(shell, {"cases": [shell.ask("cases.close", case=number, **_CHAIN)]})


COMMANDS = (market, committee)
