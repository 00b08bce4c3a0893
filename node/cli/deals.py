"""Requests for access and what they cost: asking, deciding, paying, disputing, governing."""

from typing import Any

import click

from node.cli.data import asked, dataset, grant, numbers, offered, show_dataset
from node.cli.shell import (
    CHAIN_S,
    Noun,
    Number,
    Row,
    Shell,
    WrongValueError,
    absolute,
    units,
    verb,
)
from node.cli.words import moment, until

_CHAIN: dict[str, Any] = {"doing": "waiting for the chain", "timeout_s": CHAIN_S}


@click.group(cls=Noun)
def market() -> None:
    """Money, records and disputes of the data market."""


@click.group(cls=Noun)
def committee() -> None:
    """Data access committees: several members decide together."""


@click.group(cls=Noun)
def council() -> None:
    """All members: which tokens and parameters the market has."""


@verb(dataset)
@click.argument("number", type=Number(min=0), metavar="DATASET")
@offered
def terms(shell: Shell, number: int, **said: Any) -> None:
    """Change price, longest grant or who decides, for what is asked from now on."""
    if all(value is None for value in said.values()):
        raise WrongValueError(
            "nothing to change", hint="name --price, --token, --max-days or --committee"
        )
    answer = shell.ask("datasets.terms", dataset=number, **asked(said), **_CHAIN)
    show_dataset(shell, answer)


# --- requests ---------------------------------------------------------------------


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
def request(shell: Shell, number: int, max_price: int, **said: Any) -> None:
    """Ask for access to another member's dataset.

    Its price goes into escrow. It comes back if the request is refused, cancelled or not answered
    in time.
    """
    given: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in said.items()
    }
    answer = shell.ask(
        "requests.make", dataset=number, max_price=str(max_price), **{**given, **_CHAIN}
    )
    _show(shell, answer)


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
        _show(shell, shell.ask(f"requests.{name}", request=number, **_CHAIN))

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


def _show(shell: Shell, answer: Row) -> None:
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
        pairs.append(("agreed", f"{answer['signed']} of {answer['threshold']}"))
    if answer["case"] is not None:
        pairs += [("case", answer["case"]), ("claim", answer["path"])]
    shell.fields(answer, pairs)


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
            *((name, value) for name, value in rules.items() if value is not None),
        ],
    )


@verb(market)
@click.argument("member", metavar="MEMBER")
def scores(shell: Shell, member: str) -> None:
    """What a member's record says: deliveries, disputes, challenged receipts."""
    answer = shell.ask("market.scores", member=member, timeout_s=CHAIN_S)
    shell.fields(answer, [("member", answer["member"]), *_scores(answer)])


def _scores(answer: Row) -> list[tuple[str, object]]:
    return [
        (f"as {one['role']}", f"{one['score']} of 100, from {one['cases']}")
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


# --- council ------------------------------------------------------------------------


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


COMMANDS = (market, committee, council)
