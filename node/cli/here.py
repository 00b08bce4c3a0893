"""The node itself and its neighbours: status, peers, members, events, stop."""

import time
from typing import Any

import click

from node.cli.shell import Noun, Number, Shell, print_fields, print_json, say, verb
from node.cli.words import count, moment, plain, span
from node.errors import NodeError

_PAGE = 1000
# Below the daemon's limit of 60 s; how long an interrupted `--follow` keeps its connection.
_WAIT_S = 20.0
_STOP_S = 20.0


@click.group(cls=Noun)
def peers() -> None:
    """Other members as this node sees them."""


@click.group(cls=Noun)
def members() -> None:
    """The federation as the chain has it."""


@verb(peers, "list")
def peers_list(shell: Shell) -> None:
    """Every other member, and whether it is connected."""
    shell.table(
        shell.ask("peers.list"),
        "peers",
        {
            "name": lambda row: row["name"],
            "connected": lambda row: row["connected"],
            "roles": lambda row: row["roles"],
            "peer id": lambda row: row["peer_id"],
        },
    )


@verb(members, "list")
def members_list(shell: Shell) -> None:
    """Every member, with its keys and roles."""
    shell.table(
        shell.ask("members.list"),
        "members",
        {
            "name": lambda row: row["name"],
            "roles": lambda row: row["roles"],
            "account": lambda row: row["account"],
            "peer id": lambda row: row["peer_id"],
        },
    )


@click.group()
def _top() -> None:
    """Holds the commands that have no noun."""


@verb(_top)
def status(shell: Shell) -> None:
    """Who this node is and how it stands."""
    answer = shell.ask("status.get")

    def human() -> None:
        chain = answer["chain"]
        head = "does not answer" if chain["head"] is None else f"block {chain['head']}"
        waiting = chain["waiting"]
        held = [count(answer[f"{noun}s"], noun) for noun in ("dataset", "run", "model")]
        print_fields(
            [
                ("node", f"{answer['name']}, {answer['role']}"),
                ("peer id", answer["peer_id"]),
                ("listens", ", ".join(answer["addresses"]) or "nowhere"),
                ("peers", f"{answer['connected']} connected"),
                ("federation", count(answer["members"], "member")),
                ("chain", f"{chain['url']} (id {chain['chain_id']}), {head}"),
                (
                    "anchors",
                    f"{waiting} waiting for the chain" if waiting else "all sent",
                ),
                ("holds", ", ".join(held)),
                ("up", span(answer["uptime_s"])),
                ("version", answer["version"]),
            ]
        )

    shell.result(answer, human)


@verb(_top)
def stop(shell: Shell) -> None:
    """Stop the daemon gracefully, and wait until it has ended."""
    answer = shell.ask("node.stop")
    deadline = time.monotonic() + _STOP_S
    with shell.working("stopping"):
        while shell.home.rpc_socket.exists():
            if time.monotonic() > deadline:
                raise NodeError(
                    f"the daemon still runs {_STOP_S:.0f} s after it was told to stop",
                    hint="its log says what it waits for",
                )
            time.sleep(0.05)
    shell.result(answer, lambda: say("stopped"))


@verb(_top)
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens next.")
@click.option(
    "--after",
    type=Number(min=0),
    metavar="NUMBER",
    help="Only events with a higher number.",
)
@click.option(
    "--last",
    type=Number(min=0, max=100_000),
    default=50,
    show_default=True,
    metavar="N",
    help="Of the past, at most so many.",
)
def events(shell: Shell, follow: bool, after: int | None, last: int) -> None:
    """What happened on this node: a numbered log one can follow.

    With --follow and --json each event is one line.
    """
    found, newest = _past(shell, after or 0, last)
    if shell.as_json and not follow:
        print_json({"events": found})
        return
    for event in found:
        _print_event(shell, event)
    if not found and not follow:
        say("no events")
    while follow:
        answer = shell.ask(
            "events.list",
            after=newest,
            limit=_PAGE,
            wait_s=_WAIT_S,
            timeout_s=_WAIT_S + 30,
        )
        for event in answer["events"]:
            newest = event["number"]
            _print_event(shell, event)


def _past(shell: Shell, after: int, last: int) -> tuple[list[dict[str, Any]], int]:
    """The newest events, oldest first, and the number of the newest."""
    found: list[dict[str, Any]] = []
    while True:
        page = shell.ask("events.list", after=after, limit=_PAGE)["events"]
        found = [*found, *page][-last:] if last else []
        if page:
            after = page[-1]["number"]
        if len(page) < _PAGE:
            return found, after


def _print_event(shell: Shell, event: dict[str, Any]) -> None:
    if shell.as_json:
        print_json(event, indent=None)
        return
    values = " ".join(f"{key}={_value(item)}" for key, item in event["data"].items())
    at = moment(event["at_ms"] / 1000)
    say(f"{event['number']:>6}  {at}  {event['kind']:<18} {values}".rstrip())


def _value(item: Any) -> str:
    if isinstance(item, list):
        return ",".join(map(_value, item)) or "-"
    text = plain(str(item))
    return f"{text[:16]}…" if len(text) == 64 and " " not in text else text


COMMANDS = (status, events, stop, peers, members)
