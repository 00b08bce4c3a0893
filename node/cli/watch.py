"""`rexis run watch`: a run as it goes, redrawn in a terminal, told line by line elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from node.cli.shell import NotFoundError, Row, Shell, print_json, say
from node.cli.words import count, decimal, short, size
from node.errors import RoundError

# Two small calls over a local socket; a person sees no difference below this.
_EVERY_S = 1.0
_ROUNDS_SHOWN = 12
_ENDED = ("finished", "failed", "ended")


def members_in(row: Row) -> str:
    """Whose updates are in a round's sum."""
    return ", ".join(row["survivors"])


def outcome(row: Row, accepted: str) -> str:
    """What became of a round's sum, and why it was rejected where this node saw it."""
    if row["accepted"]:
        return accepted
    cause = row.get("rejected_for")
    return f"rejected: {cause}" if cause else "rejected"


ROUND_COLUMNS: Mapping[str, Callable[[Row], object]] = {
    "round": lambda row: row["round"],
    "attempt": lambda row: row["attempt"],
    "sum": lambda row: outcome(row, "accepted"),
    "of": members_in,
    "seconds": lambda row: f"{row['seconds']:.1f}",
    "training loss": lambda row: (
        f"{decimal(row['loss_first'])} → {decimal(row['loss_last'])}"
    ),
    "held-out loss": lambda row: decimal(row["loss"]),
    "AUC": lambda row: decimal(row["auc"]),
    "received": lambda row: size(row["bytes_received"]),
    "cut": lambda row: row["cut"],
    "state": lambda row: short(row["state_root"]),
}


def watch(shell: Shell, run: str) -> None:
    """Until the run has ended; raises `RoundError` if it failed."""
    if shell.as_json:
        last = _told(shell, run, _tell_json)
    elif sys.stdout.isatty():
        last = _drawn(shell, run)
    else:
        last = _told(shell, run, _tell_line)
    if last["phase"] == "failed":
        raise RoundError(
            f"run {short(run)} failed: {last['reason'] or 'no reason given'}",
            hint="`rexis events` shows what led to it",
        )


def progress(now: Row) -> str:
    """What a node is doing for a run."""
    step = "" if now["step"] is None else f", step {now['step']} of {now['of']}"
    loss = "" if now["loss"] is None else f", loss {decimal(now['loss'])}"
    return f"{now['what']}{step}{loss}"


def privacy(row: Row | None) -> str:
    """What the run's sums have told so far, and what they may tell."""
    if row is None:
        return "no noise, no bound"
    return (
        f"ε {decimal(row['spent'])} of {decimal(row['budget'])} a record,"
        f" δ {row['delta']:g}, good for {count(row['rounds'], 'round')}"
    )


def away(row: Row) -> str:
    """Members without whom the next round of a run would open; "" if all are heard from."""
    return f"{', '.join(row['away'])} away" if row["away"] else ""


def wish(row: Row) -> str:
    """How far a change of members has come."""
    if row["wish"] == "out" and row["itself"]:
        return "leaves of itself with the next round"
    by = ", ".join(row["by"]) or "nobody"
    told = f"wanted by {by}: {len(row['by'])} of {row['needed']}"
    exposed = ", ".join(row["exposed_by"])
    return f"{told}; may be exposed, say {exposed}" if exposed else told


def wishes(row: Row) -> str:
    """Who asks for a seat or is to give one up; "" if nobody."""
    words = {"in": "asks for a seat", "out": "is to go"}
    return "; ".join(
        f"{one['member']} {words[one['wish']]}, {wish(one)}" for one in row["seats"]
    )


def sketch(row: Row | None) -> str:
    """Whose update was unlike the others' in a rejected round; "" if none was looked into."""
    if row is None:
        return ""
    told = [f"{name} said what is shown to be wrong" for name in row["false"]]
    for name in row["outliers"]:
        each = row["lengths"][name]
        told.append(f"{name} {_times(max(each['whole'], each['block']))}")
    told += [f"{name} said nothing" for name in row["silent"]]
    if not row["lengths"]:
        told.append("lengths unknown")
    elif not row["outliers"]:
        told.append("no update stands out")
    return f"round {row['round']} rejected: {', '.join(told)}"


def accused(row: Mapping[str, str]) -> str:
    """Members that were shown to break a rule, and how; "" if none was."""
    return "; ".join(f"{name}, {what}" for name, what in row.items())


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times the typical update"


def _states(shell: Shell, run: str) -> Iterator[tuple[Row, list[dict[str, Any]]]]:
    """The run and its rounds, once a second, the last time when it has ended."""
    while True:
        row = shell.ask("runs.show", run=run)
        rounds = shell.ask("rounds.list", run=run)["rounds"]
        yield row, rounds
        if row["phase"] in _ENDED:
            return
        time.sleep(_EVERY_S)


def _told(
    shell: Shell, run: str, tell: Callable[[Row, list[dict[str, Any]]], None]
) -> Row:
    """Tell what is new: rounds closed since the last look, or another phase."""
    last: Row | None = None
    known = 0
    for row, rounds in _states(shell, run):
        fresh = rounds[known:]
        if last is None or fresh or _changed(last, row):
            tell(row, fresh)
        last, known = row, len(rounds)
    return _required(last, run)


def _changed(last: Row, row: Row) -> bool:
    keys = ("phase", "consents", "reason", "stances", "seats", "members")
    return any(last[key] != row[key] for key in keys)


def _required(last: Row | None, run: str) -> Row:
    if last is None:
        raise NotFoundError(f"run {short(run)} is not known here")
    return last


def _tell_json(row: Row, rounds: list[dict[str, Any]]) -> None:
    print_json({"run": row, "rounds": rounds}, indent=None)


def _tell_line(row: Row, rounds: list[dict[str, Any]]) -> None:
    for one in rounds:
        losses = (
            f"training loss {decimal(one['loss_first'])} to {decimal(one['loss_last'])}"
        )
        auc = "" if one["auc"] is None else f", AUC {decimal(one['auc'])}"
        # A rejected sum changes nothing: told like the others it would pass for progress.
        end = outcome(one, "closed")
        say(
            f"round {one['round']} {end} ({one['round'] + 1} of {row['rounds']}): "
            f"{losses}{auc}, {one['seconds']:.1f} s, sum of {members_in(one)},"
            f" state {short(one['state_root'])}"
        )
        if one.get("sketch"):
            say(sketch(one["sketch"]))
        if one.get("accused"):
            say(_evidence(one["accused"]))
    if not rounds or row["phase"] in _ENDED:
        say(_phase(row))


def _evidence(against: Mapping[str, str]) -> str:
    return f"evidence against {accused(against)}" if against else ""


def _phase(row: Row) -> str:
    missing = [name for name in row["members"] if name not in row["consents"]]
    if row["phase"] == "proposed" and missing:
        return f"proposed, waits for {', '.join(missing)}"
    reason = "".join(f": {why}" for why in (row["reason"], wishes(row)) if why)
    spent = f", {privacy(row['privacy'])}" if row["privacy"] else ""
    return f"{row['phase']}{spent}{reason}"


def _drawn(shell: Shell, run: str) -> Row:
    from node.cli import render

    last: Row | None = None
    with render.live() as draw:
        for row, rounds in _states(shell, run):
            last = row
            shown_rounds = rounds[-_ROUNDS_SHOWN:]
            draw(
                heading=f"{row['title']}  {short(row['run'])}",
                state="; ".join(
                    filter(
                        None,
                        (
                            _phase(row),
                            away(row),
                            sketch(row["sketch"]),
                            _evidence(row["accused"]),
                        ),
                    )
                ),
                done=(row["round"], row["rounds"]),
                now=progress(row["progress"]) if row["progress"] else "",
                step=_step(row),
                columns=list(ROUND_COLUMNS),
                rows=[
                    [read(one) for read in ROUND_COLUMNS.values()]
                    for one in shown_rounds
                ],
            )
    return _required(last, run)


def _step(row: Row) -> tuple[int, int]:
    now = row["progress"]
    return (now["step"] or 0, now["of"] or 0) if now else (0, 0)
