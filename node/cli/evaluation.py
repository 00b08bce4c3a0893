"""Released models, encrypted inference, receipts, audits."""

from collections.abc import Sequence

import click

from node.cli.shell import (
    BULK_S,
    CHAIN_S,
    NotFoundError,
    Noun,
    Number,
    Row,
    Shell,
    absolute,
    print_fields,
    say,
    verb,
)
from node.cli.words import count, moment, short, size, until
from node.errors import NodeError
from node.model import cli as disk

_SHOWN = 10
"""Scores, and receipts, of an inference; all are in the JSON, and the scores in `--out`."""
_AUDITS = ("audit list", "audits.list", "audits")
_RECEIPTS = (("receipt certificates", "receipts.certificates", "certificates"), _AUDITS)
"""Where a receipt's digest stands besides the list of those this node signed."""


class StoppedError(NodeError):
    """An inference that has answers for some of its rows."""


@click.group(cls=Noun)
def model() -> None:
    """Models: released to hosts as integers, or keyed on disk for one of them."""


@click.group(cls=Noun)
def receipt() -> None:
    """Signed answers: those this node gave as a host, those it got."""


@click.group(cls=Noun)
def audit() -> None:
    """What verifiers found."""


@click.group(cls=Noun)
def dispute() -> None:
    """Receipts proved wrong before the contract."""


@verb(model)
@click.argument("run_id", metavar="RUN")
@click.option(
    "--days",
    type=Number(min=1),
    help="How long hosts answer. Default: for good.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Who may serve it; repeated. Default: any compute host.",
)
def release(
    shell: Shell, run_id: str, days: int | None, hosts: tuple[str, ...]
) -> None:
    """Key the final state of a run, round it to integers, anchor it, give it away."""
    answer = shell.ask(
        "models.release",
        doing="keying and rounding",
        timeout_s=CHAIN_S,
        run=shell.resolve("run", run_id),
        hosts=list(hosts),
        **({} if days is None else {"days": days}),
    )
    _show(shell, answer)


@verb(model, "list")
def model_list(shell: Shell) -> None:
    """Released models this node knows."""
    shell.table(
        shell.ask("models.list"),
        "models",
        {
            "model": lambda row: short(row["model"]),
            "run": lambda row: short(row["run"]),
            "released by": lambda row: row["released_by"],
            "hosts": lambda row: row["hosts"] or "any",
            "licence": _licence,
            "size": lambda row: size(row["bytes"]),
            "here": lambda row: row["here"],
        },
    )


@verb(model)
def keys(shell: Shell) -> None:
    """The key of every training session of this node: none serves twice."""
    shell.table(
        shell.ask("keys.list"),
        "keys",
        {
            "session": lambda row: row["session"],
            "host": lambda row: row["host"],
            "print": lambda row: short(row["print"]),
            "life": lambda row: row["life"],
        },
    )


@verb(model)
@click.argument("model_id", metavar="MODEL")
def show(shell: Shell, model_id: str) -> None:
    """One released model. MODEL is its root, or how the root begins."""
    _show(shell, shell.ask("models.show", model=shell.resolve("model", model_id)))


@click.group()
def _top() -> None:
    """Holds the command that has no noun."""


@verb(_top)
@click.argument("model_id", metavar="MODEL")
@click.argument("table", callback=absolute, metavar="TABLE.csv")
@click.option("--host", required=True, metavar="NAME", help="The compute host to ask.")
@click.option(
    "--out",
    callback=absolute,
    metavar="FILE",
    help="Write the scores there too; readable by you only.",
)
def infer(shell: Shell, model_id: str, table: str, host: str, out: str | None) -> None:
    """Score the rows of a table on a host that sees keyed integers only."""
    answer = shell.ask_long(
        "inference.run",
        work=table,
        timeout_s=BULK_S,
        model=shell.resolve("model", model_id),
        host=host,
        path=table,
        out=out,
    )

    scores, named = answer["scores"], answer["answers"]
    done = sum(score is not None for score in scores)

    def human() -> None:
        first = ["-" if one is None else f"{one:.4f}" for one in scores[:_SHOWN]]
        if named:
            pairs = zip(named, first, strict=False)
            first = [one if name is None else f"{name} ({one})" for name, one in pairs]
        receipts = list(map(short, answer["receipts"][:_SHOWN]))
        print_fields(
            [
                ("model", short(answer["model"])),
                ("host", answer["host"]),
                ("receipts", _first(receipts, len(answer["receipts"]))),
                ("scores", _first(first, len(scores))),
            ]
        )
        if answer["path"]:
            say(f"{count(done, 'score')} written to {answer['path']}")

    shell.result(answer, human)
    if answer["stopped"] is not None:
        raise StoppedError(
            f"{done} of {count(len(scores), 'row')} answered: {answer['stopped']}",
            hint=answer["hint"] or "",
        )


@verb(receipt, "list")
def receipt_list(shell: Shell) -> None:
    """Receipts this node has signed."""
    shell.table(
        shell.ask("receipts.list"),
        "receipts",
        {
            "receipt": lambda row: short(row["receipt"]),
            "anchored": lambda row: row["anchored"],
            "batch": lambda row: short(row["batch"]),
        },
    )


@verb(receipt)
def certificates(shell: Shell) -> None:
    """Answers this node has got: what it can show a regulator, without the host."""
    shell.table(
        shell.ask("receipts.certificates"),
        "certificates",
        {
            "receipt": lambda row: short(row["receipt"]),
            "model": lambda row: short(row["model"]),
            "host": lambda row: row["host"] or "no member any more",
            "cases": lambda row: row["cases"],
            "at (UTC)": lambda row: moment(row["time"]),
            "batch": lambda row: short(row["batch"]) if row["batch"] else "not yet",
        },
    )


@verb(receipt)
def anchor(shell: Shell) -> None:
    """Close the open batch of receipts now."""
    answer = shell.ask("receipts.anchor", timeout_s=CHAIN_S)
    batch = answer["batch"]
    shell.result(
        answer, lambda: say(f"batch {batch}" if batch else "no receipt was waiting")
    )


@verb(receipt)
@click.argument("host", metavar="HOST")
@click.argument("batch", required=False, default="", metavar="BATCH")
def anchored(shell: Shell, host: str, batch: str) -> None:
    """Batches that HOST has on the chain: what `rexis-verify --anchored` takes.

    HOST is a member's name, or the peer id that `rexis-verify` prints. BATCH is how a root begins:
    the one that does is shown whole.
    """
    begins = batch.lower().removeprefix("0x")
    answer = shell.ask("receipts.anchored", host=host, begins=begins)
    if begins and not answer["batches"]:
        raise NotFoundError(
            f"{answer['host']} has no batch on the chain that begins {batch!r}",
            hint="a closed batch is there a few blocks later; a file of one that never comes "
            "proves nothing",
        )
    if len(answer["batches"]) == 1:
        (row,) = answer["batches"]
        shell.fields(
            answer,
            [
                ("batch", row["batch"]),
                ("of", count(row["receipts"], "receipt")),
                ("by", f"{answer['host']}, account {answer['account']}"),
                ("block", row["block"]),
            ],
        )
        return
    shell.table(
        answer,
        "batches",
        {
            "batch": lambda row: short(row["batch"]),
            "receipts": lambda row: row["receipts"],
            "block": lambda row: row["block"],
        },
    )
    if answer["older"] and not shell.as_json:
        say(f"and {answer['older']} older: BATCH finds them")


@verb(receipt)
@click.argument("receipt_id", metavar="RECEIPT")
@click.argument("path", callback=absolute, metavar="FILE")
@click.option("--case", type=Number(min=0), help="Only this case of it, from 0.")
def export(shell: Shell, receipt_id: str, path: str, case: int | None) -> None:
    """Write one receipt as a file that `rexis-verify` checks offline.

    RECEIPT is a digest, or how one begins of those this node signed, got or heard of.
    """
    answer = shell.ask(
        "receipts.export",
        doing="putting the file together",
        timeout_s=CHAIN_S,
        receipt=shell.resolve("receipt", receipt_id, *_RECEIPTS),
        path=path,
        case=case,
    )
    shell.result(
        answer, lambda: say(f"{size(answer['bytes'])} written to {answer['path']}")
    )


@verb(audit, "list")
def audit_list(shell: Shell) -> None:
    """Reports this node has made or heard, each under its verifier's signature."""
    shell.table(
        shell.ask("audits.list"),
        "audits",
        {
            "receipt": lambda row: short(row["receipt"]),
            "host": lambda row: row["host"],
            "verdict": lambda row: row["verdict"],
            "what": _finding,
            "verifier": lambda row: row["verifier"],
            "at (UTC)": lambda row: moment(row["time"]),
        },
    )


@verb(dispute, "open")
@click.argument("receipt_id", metavar="RECEIPT")
def dispute_open(shell: Shell, receipt_id: str) -> None:
    """Take the evidence this node holds against RECEIPT to the contract.

    Puts up the federation's bond. RECEIPT is a digest, or how one in the audits begins.
    """
    answer = shell.ask(
        "disputes.open",
        doing="opening the dispute",
        timeout_s=CHAIN_S,
        receipt=shell.resolve("receipt", receipt_id, _AUDITS),
    )
    shell.result(
        answer, lambda: say(f"dispute {answer['dispute']} with {answer['host']}")
    )


@verb(dispute, "list")
def dispute_list(shell: Shell) -> None:
    """Disputes of this node and of others."""
    shell.table(
        shell.ask("disputes.list"),
        "disputes",
        {
            "dispute": lambda row: row["dispute"],
            "challenger": lambda row: row["challenger"],
            "host": lambda row: row["host"],
            "about": lambda row: (
                f"layer {row['layer']}, case {row['case']}, token {row['token']}"
            ),
            "turn": lambda row: row["turn"],
            "outcome": lambda row: row["outcome"] or "open",
        },
    )


def _finding(row: Row) -> str:
    """What a report accuses the host of, to the number."""
    entry = row["entry"]
    if row["fault"] is None:
        layers = count(row["layers_replayed"], "layer")
        if row["tier"] == "freivalds":
            return f"{layers} checked by key, a lie passes with 2^-{row['error_bits']}"
        return f"{layers} replayed exactly"
    if row["fault"] != "layer":
        return {"shape": "rows the model does not have", "receipt": "no receipt"}[
            row["fault"]
        ]
    if entry is None:
        return f"layer {row['layer']} differs"
    return (
        f"layer {row['layer']}, case {entry['case']}, token {entry['token']}, column "
        f"{entry['column']}: {entry['committed']} instead of {entry['computed']}"
    )


def _first(shown: Sequence[str], count: int) -> str:
    more = count - len(shown)
    return f"{', '.join(shown) or 'none'}{f' and {more} more' if more else ''}"


def _licence(row: Row) -> str:
    return "for good" if row["until"] is None else until(row["until"])


def _show(shell: Shell, answer: Row) -> None:
    confirmed = answer.get("confirmed_by")
    vouched = (
        []
        if confirmed is None
        else [("confirmed by", ", ".join(confirmed) or "nobody yet")]
    )
    shell.fields(
        answer,
        [
            ("model", answer["model"]),
            ("run", answer["run"]),
            ("state", answer["state_root"]),
            ("released by", answer["released_by"]),
            *vouched,
            ("hosts", ", ".join(answer["hosts"]) or "any"),
            ("licence", _licence(answer)),
            ("size", size(answer["bytes"])),
            ("here", "yes" if answer["here"] else "no, fetched when it is needed"),
        ],
    )


for _command in disk.COMMANDS:
    model.add_command(_command)

COMMANDS = (model, infer, receipt, audit, dispute)
