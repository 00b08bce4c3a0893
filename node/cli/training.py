"""Training runs and their rounds."""

from pathlib import Path

import click

from node.cli import watch as live
from node.cli.shell import CHAIN_S, Noun, Number, Row, Shell, verb
from node.cli.words import decimal, short


@click.group(cls=Noun)
def run() -> None:
    """Training runs: propose, consent, watch."""


@click.group("round", cls=Noun)
def round_() -> None:
    """The closed rounds of a run."""


def _plan(_context: click.Context, _option: click.Parameter, value: str) -> str:
    from protocol.runs import PROPOSAL_LIMIT_BYTES

    path = Path(value).expanduser()
    try:
        with path.open("rb") as file:
            data = file.read(PROPOSAL_LIMIT_BYTES + 1)
        if len(data) > PROPOSAL_LIMIT_BYTES:
            raise click.BadParameter(
                f"{path} has more than {PROPOSAL_LIMIT_BYTES} bytes; that is no model file"
            )
        return data.decode()
    except OSError as error:
        raise click.BadParameter(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{path} is not UTF-8 text") from error


@verb(run)
@click.argument("plan", callback=_plan, metavar="MODEL.json")
@click.option("--rounds", type=Number(min=1), required=True)
@click.option(
    "--member",
    "members",
    multiple=True,
    required=True,
    metavar="NAME",
    help="Who trains, this node too; repeated, at least three.",
)
@click.option(
    "--dataset",
    type=Number(min=0),
    required=True,
    help="The dataset of this node that takes part.",
)
def propose(
    shell: Shell, plan: str, rounds: int, members: tuple[str, ...], dataset: int
) -> None:
    """Propose a run, and consent to it with a dataset of this node.

    Nothing trains before every member named has consented to exactly this model file.
    """
    answer = shell.ask(
        "runs.propose",
        doing="building the first state",
        timeout_s=CHAIN_S,
        plan=plan,
        rounds=rounds,
        members=list(members),
        dataset=dataset,
    )
    _show(shell, answer)


@verb(run)
@click.argument("run_id", metavar="RUN")
@click.option(
    "--dataset",
    type=Number(min=0),
    required=True,
    help="The dataset of this node that takes part.",
)
def join(shell: Shell, run_id: str, dataset: int) -> None:
    """Consent to a run. RUN is its id, or how the id begins.

    Where the run does not name this node and is under way, this asks its members for a seat:
    each of them says `rexis run admit`. Of a run that `rexis run list` does not show, give
    all 64 digits.
    """
    answer = shell.ask(
        "runs.join",
        doing="checking the first state",
        timeout_s=CHAIN_S,
        run=shell.resolve("run", run_id),
        dataset=dataset,
    )
    _show(shell, answer)


@verb(run)
@click.argument("run_id", metavar="RUN")
@click.argument("member", metavar="MEMBER")
def admit(shell: Shell, run_id: str, member: str) -> None:
    """Want a member in that has asked for a seat. RUN is its id, or how the id begins.

    It trains from the round after a quorum of the run's members has said so.
    """
    run = shell.resolve("run", run_id)
    _show(shell, shell.ask("runs.admit", run=run, member=member))


@verb(run)
@click.argument("run_id", metavar="RUN")
@click.argument("member", metavar="MEMBER")
@click.option(
    "--expose",
    is_flag=True,
    help="Even if the others can then work out what it sent in a rejected round.",
)
def dismiss(shell: Shell, run_id: str, member: str, expose: bool) -> None:
    """Want a member out of a run, for good. RUN is its id, or how the id begins.

    Its seat is gone from the round after a quorum of the run's members has said so.

    After a rejected round the others need a member that was in it once more: without it, a sum
    of theirs would tell what it had sent. Once a quorum says --expose they go on all the same,
    and each of them could work that out.
    """
    run = shell.resolve("run", run_id)
    _show(shell, shell.ask("runs.dismiss", run=run, member=member, expose=expose))


@verb(run)
@click.argument("run_id", metavar="RUN")
def leave(shell: Shell, run_id: str) -> None:
    """Give up this node's seat in a run, for good. RUN is its id, or how the id begins.

    The others go on from the next round; what this node's updates have brought stays in the
    model.
    """
    _show(shell, shell.ask("runs.leave", run=shell.resolve("run", run_id)))


@verb(run, "list")
def run_list(shell: Shell) -> None:
    """Every run this node knows."""
    shell.table(
        shell.ask("runs.list"),
        "runs",
        {
            "run": lambda row: short(row["run"]),
            "title": lambda row: row["title"],
            "phase": lambda row: row["phase"],
            "rounds": lambda row: f"{row['round']} of {row['rounds']}",
            "members": lambda row: row["members"],
            "consented": lambda row: (
                f"{len(set(row['consents']) & set(row['members']))} of {len(row['members'])}"
            ),
            "mine": lambda row: row["mine"],
        },
    )


@verb(run)
@click.argument("run_id", metavar="RUN")
def show(shell: Shell, run_id: str) -> None:
    """One run. RUN is its id, or how the id begins."""
    _show(shell, shell.ask("runs.show", run=shell.resolve("run", run_id)))


@verb(run)
@click.argument("run_id", metavar="RUN")
def pause(shell: Shell, run_id: str) -> None:
    """Hold this node's part in a run. RUN is its id, or how the id begins.

    The round under way ends; the run stands still once too few members go on for a quorum.
    """
    _show(shell, shell.ask("runs.pause", run=shell.resolve("run", run_id)))


@verb(run)
@click.argument("run_id", metavar="RUN")
def resume(shell: Shell, run_id: str) -> None:
    """Go on with a run this node has paused. RUN is its id, or how the id begins."""
    _show(shell, shell.ask("runs.resume", run=shell.resolve("run", run_id)))


@verb(run)
@click.argument("run_id", metavar="RUN")
def end(shell: Shell, run_id: str) -> None:
    """End this node's part in a run for good. RUN is its id, or how the id begins.

    The run has ended once too few members are left for a quorum; what it came to can then be
    released.
    """
    _show(shell, shell.ask("runs.end", run=shell.resolve("run", run_id)))


@verb(run)
@click.argument("run_id", metavar="RUN")
def watch(shell: Shell, run_id: str) -> None:
    """Look on until the run has ended; status 1 if it failed.

    In a terminal this is a live view; elsewhere a line for each change, with --json an object.
    """
    live.watch(shell, shell.resolve("run", run_id))


@verb(run)
@click.argument("run_id", metavar="RUN")
@click.argument("path", metavar="TABLE.csv")
def score(shell: Shell, run_id: str, path: str) -> None:
    """Try a run's newest state on a table, on this node. RUN is its id, or how it begins."""
    answer = shell.ask(
        "runs.score",
        doing="scoring",
        timeout_s=CHAIN_S,
        run=shell.resolve("run", run_id),
        path=str(Path(path).expanduser().absolute()),
    )
    auc, loss = answer["auc"], answer["loss"]
    shell.fields(
        answer,
        [
            ("records", answer["records"]),
            ("AUC", "-" if auc is None else decimal(auc)),
            ("loss", "-" if loss is None else decimal(loss)),
            ("rounds seen", answer["round"]),
            ("state", answer["state_root"]),
        ],
    )


@verb(run)
@click.argument("run_id", metavar="RUN")
@click.argument("path", metavar="FOLDER")
def export(shell: Shell, run_id: str, path: str) -> None:
    """Write a stock model a run has trained as a checkpoint. FOLDER must be new."""
    answer = shell.ask(
        "runs.export",
        doing="writing the checkpoint",
        timeout_s=CHAIN_S,
        run=shell.resolve("run", run_id),
        path=str(Path(path).expanduser().absolute()),
    )
    shell.fields(
        answer,
        [
            ("folder", answer["path"]),
            ("rounds seen", answer["round"]),
            ("state", answer["state_root"]),
        ],
    )


@verb(round_, "list")
@click.argument("run_id", metavar="RUN")
def round_list(shell: Shell, run_id: str) -> None:
    """The closed rounds of a run, as this node saw them."""
    shell.table(
        shell.ask("rounds.list", run=shell.resolve("run", run_id)),
        "rounds",
        live.ROUND_COLUMNS,
    )


def _show(shell: Shell, answer: Row) -> None:
    missing = [name for name in answer["members"] if name not in answer["consents"]]
    samples = answer["samples"]
    pairs: list[tuple[str, object]] = [
        ("run", answer["run"]),
        ("title", answer["title"]),
        ("phase", answer["phase"]),
        ("rounds", f"{answer['round']} of {answer['rounds']}"),
        ("members", ", ".join(answer["members"])),
        ("waits for", ", ".join(missing) or "nobody"),
        ("proposed by", answer["proposed_by"]),
    ]
    if samples:
        each = (f"{name} {number}" for name, number in samples.items())
        pairs.append(("records", ", ".join(each)))
    if answer["stances"]:
        said = (f"{name} {word}" for name, word in answer["stances"].items())
        pairs.append(("stances", ", ".join(said)))
    pairs += [
        (f"{one['member']} {_WISH[one['wish']]}", live.wish(one))
        for one in answer["seats"]
    ]
    pairs.append(("privacy", live.privacy(answer["privacy"])))
    if answer["privacy"]:
        each = (
            f"{name} {decimal(value)}"
            for name, value in answer["privacy"]["members"].items()
        )
        pairs.append(("ε by member", ", ".join(each)))
    if answer["sketch"]:
        pairs.append(("last rejection", live.sketch(answer["sketch"])))
        each = (
            f"{name} {length['whole']:.2f}"
            for name, length in answer["sketch"]["lengths"].items()
        )
        pairs.append(("lengths", ", ".join(each) or "unknown"))
    if answer["accused"]:
        pairs.append(("evidence against", live.accused(answer["accused"])))
    pairs.append(("state", answer["state_root"]))
    if answer["stage"]:
        pairs.append(("stage", answer["stage"]))
    if answer["away"]:
        pairs.append(("away", ", ".join(answer["away"])))
    if answer["progress"]:
        pairs.append(("now", live.progress(answer["progress"])))
    if answer["reason"]:
        pairs.append(("reason", answer["reason"]))
    shell.fields(answer, pairs)


_WISH = {"in": "asks in", "out": "is to go"}

COMMANDS = (run, round_)
