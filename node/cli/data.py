"""Datasets: find, read what is granted, withdraw."""

import base64
from pathlib import Path
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
    units,
    verb,
)
from node.cli.words import count, moment, short, size
from node.market.ranges import ranges


@click.group(cls=Noun)
def dataset() -> None:
    """Encrypted data: publish, find, read what is granted, withdraw."""


@verb(dataset, "list")
def dataset_list(shell: Shell) -> None:
    """Every dataset on the chain."""
    _rows(shell, shell.ask("datasets.list", timeout_s=CHAIN_S))


@verb(dataset)
@click.argument("words", nargs=-1, metavar="[WORD…]")
@click.option(
    "--purpose",
    metavar="DUO:NNNNNNN",
    help="What the study needs; broader permissions match.",
)
@click.option("--commercial", is_flag=True, help="Leave out what forbids it.")
@click.option("--format", metavar="NAME", help="Such as csv, dicom or vcf.")
@click.option("--licence", metavar="NAME", help="Exactly this one.")
@click.option("--disease", metavar="MONDO:NNNNNNN", help="Exactly this one.")
@click.option(
    "--column", "columns", multiple=True, metavar="NAME", help="May be repeated."
)
@click.option("--rows", type=Number(min=0), help="Records shown, at least.")
def search(shell: Shell, words: tuple[str, ...], **wanted: Any) -> None:
    """Datasets with all these words, best first.

    Looks through what this node has heard of and asks nobody, so nobody learns what was sought.
    """
    given = {**wanted, "columns": list(wanted["columns"])}
    _rows(shell, shell.ask("datasets.search", text=" ".join(words), **given))


def _rows(shell: Shell, answer: Row) -> None:
    shell.table(
        answer,
        "datasets",
        {
            "dataset": lambda row: row["dataset"],
            "title": _title,
            "owner": lambda row: row["owner"],
            "mine": lambda row: row["mine"],
            "units": _left,
            "record": lambda row: short(row["record"]),
        },
    )
    _say_age(shell, answer["datasets"])


def _say_age(shell: Shell, rows: list[Row]) -> None:
    """To a person: what is shown is not of today."""
    ages = [row["as_of"] for row in rows if row.get("as_of")]
    if ages and not shell.as_json:
        say(f"the chain does not answer; it said so on {moment(min(ages))} UTC")


@verb(dataset)
@click.argument("number", type=Number(min=0), metavar="DATASET")
def show(shell: Shell, number: int) -> None:
    """One dataset with its listing."""
    show_dataset(
        shell, shell.ask("datasets.show", dataset=number, doing="asking its owner")
    )


@verb(dataset)
@click.argument("number", type=Number(min=0), metavar="DATASET")
@click.option(
    "--to",
    "path",
    required=True,
    callback=absolute,
    metavar="PATH",
    help="A file for a table (Parquet as CSV if it ends in .csv), a new folder for files; readable "
    "by you only.",
)
@click.option("--owner", metavar="NAME", help="Refuse unless this member owns it.")
@click.option(
    "--units",
    callback=units,
    metavar="LIST",
    help="Such as 0,3-5; default: all granted.",
)
@click.option(
    "--crypt4gh-key",
    "key_file",
    metavar="KEY.pub",
    help="Write Crypt4GH files for this key; nothing is decrypted on the node.",
)
def fetch(
    shell: Shell,
    number: int,
    path: str,
    owner: str | None,
    units: list[int] | None,
    key_file: str | None,
) -> None:
    """Read what was granted, from all who hold it at once.

    What has arrived when it is cut stays; the same call again goes on from there.
    """
    answer = shell.ask_long(
        "datasets.fetch",
        work=path,
        timeout_s=BULK_S,
        dataset=number,
        path=path,
        owner=owner,
        units=units,
        crypt4gh_key=None if key_file is None else _public_key(key_file),
    )
    shell.fields(
        answer,
        [
            ("dataset", f"{answer['dataset']}, {answer['title']}"),
            ("units", numbers(answer["units"])),
            ("columns", len(answer["columns"])),
            ("written", f"{answer['path']} ({size(answer['bytes'])})"),
        ],
    )


def _public_key(path: str) -> str:
    """The X25519 key in a file of `crypt4gh-keygen --pk`, as hex."""
    try:
        lines = Path(path).read_text(encoding="ascii").split("\n")
        key = base64.b64decode(lines[1], validate=True)
    except (OSError, ValueError, IndexError) as error:
        raise WrongValueError(
            f"{path} is not a Crypt4GH public key",
            hint="make one with `crypt4gh-keygen --sk key.sec --pk key.pub`",
        ) from error
    if lines[0] != "-----BEGIN CRYPT4GH PUBLIC KEY-----" or len(key) != 32:
        raise WrongValueError(
            f"{path} is not a Crypt4GH public key",
            hint="it begins with -----BEGIN CRYPT4GH PUBLIC KEY-----",
        )
    return key.hex()


@verb(dataset)
@click.argument("number", type=Number(min=0), metavar="DATASET")
@click.option(
    "--units", callback=units, metavar="LIST", help="Such as 0,3-5; default: all."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def withdraw(shell: Shell, number: int, units: list[int] | None, yes: bool) -> None:
    """Erase units of a dataset of this node, or all of it.

    Keys and ciphertext are destroyed here, grants end, coming rounds train without them. It
    cannot be taken back, and does not reach what others have read already: the answer says what.
    """
    part = f"units {numbers(units)}" if units else "all units"
    what = f"{part} of dataset {number}"
    if not yes and not agreed(f"destroy the keys of {what}, for ever?"):
        raise WrongValueError(
            f"nobody agreed to destroy {what}", hint="give --yes to agree"
        )
    answer = shell.ask(
        "datasets.withdraw",
        doing="destroying keys, waiting for the chain",
        timeout_s=CHAIN_S,
        dataset=number,
        units=units,
    )

    def human() -> None:
        print_fields(
            [
                ("dataset", answer["dataset"]),
                ("destroyed", f"keys of units {numbers(answer['units'])}"),
                ("left", numbers(answer["left"])),
                *(
                    (
                        f"grant {one['grant']}",
                        f"now covers {numbers(one['left']) if one['left'] else 'nothing'}",
                    )
                    for one in answer["grants"]
                ),
            ]
        )
        for one in answer["same_rows"]:
            say(
                f"warning: the same rows are in dataset {one['dataset']}: withdraw its units "
                f"{numbers(one['units'])} as well"
            )
        for other in answer["versions"]:
            say(
                f"warning: dataset {other} is another version: withdraw there too what is of the "
                "same person, whose unit may have another number"
            )
        say("what cannot be undone:")
        for line in answer["cannot_be_undone"]:
            say(f"- {line}")

    shell.result(answer, human)


def show_dataset(shell: Shell, answer: Row) -> None:
    def human() -> None:
        print_dataset(answer)
        _say_age(shell, [answer])

    shell.result(answer, human)


def print_dataset(answer: Row) -> None:
    listing = answer["listing"]
    mine = " (this node)" if answer["mine"] else ""
    print_fields(
        [
            ("dataset", answer["dataset"]),
            ("title", answer["title"] or "not known"),
            ("owner", f"{answer['owner']}{mine}"),
            ("units", _units(answer)),
            *_groups(answer),
            *_slices(answer),
            *_replaced(answer),
            ("record", answer["record"]),
            *([("keys", f"number {answer['keys']}")] if answer["keys"] > 1 else []),
            *_terms(answer),
            *(described(listing) if listing else [("listing", answer["why"])]),
        ]
    )
    for warning in answer["warnings"]:
        say(f"warning: {warning}")


def _groups(answer: Row) -> list[tuple[str, object]]:
    return [
        (
            "this group" if one["dataset"] == answer["dataset"] else "group",
            f"{one['name']}, dataset {one['dataset']}: {', '.join(one['columns'])}",
        )
        for one in answer["groups"]
    ]


def _slices(answer: Row) -> list[tuple[str, object]]:
    """To their owner only: nothing public says which listings share their rows."""
    others = answer.get("slices", [])
    return (
        [("also in", ", ".join(f"dataset {one}" for one in others))] if others else []
    )


def _replaced(answer: Row) -> list[tuple[str, object]]:
    newer = answer["replaced_by"]
    return [] if newer is None else [("replaced", f"by dataset {newer}")]


def _title(row: Row) -> object:
    newer, group = row["replaced_by"], row["group"]
    title = row["title"] if group is None else f"{row['title']}: {group}"
    return title if newer is None else f"{title} (replaced by {newer})"


def _left(row: Row) -> object:
    gone = len(row["withdrawn"])
    return f"{row['units'] - gone} of {row['units']}" if gone else row["units"]


def _units(answer: Row) -> object:
    gone = answer["withdrawn"]
    if len(gone) == answer["units"]:
        return f"{answer['units']}, all withdrawn"
    return f"{answer['units']}, withdrawn {numbers(gone)}" if gone else answer["units"]


def _terms(answer: Row) -> list[tuple[str, object]]:
    terms = answer["terms"]
    free = answer["price"] == "0"
    price = "nothing" if free else f"{answer['price']} of {terms['token']}"
    return [
        ("price", f"{price}, for at most {terms['max_days']} days"),
        ("decides", terms["committee"]),
    ]


def described(listing: Row) -> list[tuple[str, object]]:
    """What a listing says, made already or not."""
    known = [rows for rows in listing["rows"] if rows is not None]
    hidden = len(listing["rows"]) - len(known)
    fewer = f"{count(hidden, 'unit')} of fewer than ten" if hidden else ""
    rows = ", and ".join(filter(None, (str(sum(known)) if known else "", fewer)))
    columns = [f"{column['name']} ({column['kind']})" for column in listing["columns"]]
    parts = [
        f"{part['format']}"
        + (f": {', '.join(part['details'])}" if part["details"] else "")
        for part in listing["parts"]
    ]
    version = f"{listing['version']}"
    if listing["previous"]:
        version += f", after {short(listing['previous'])}"
    return [
        ("version", version),
        *[("part", part) for part in parts],
        ("rows", rows),
        ("licence", listing["licence"]),
        ("use", ", ".join(listing["duo"])),
        *([("disease", listing["disease"])] if listing["disease"] else []),
        ("source", listing["source"]),
        *(
            [("listed", f"{moment(listing['created'])} UTC")]
            if "created" in listing
            else []
        ),
        *([("columns", ", ".join(columns))] if columns else []),
    ]


def numbers(units: list[int]) -> str:
    """As `--units` reads them."""
    return ranges(units) or "-"


COMMANDS = (dataset,)
