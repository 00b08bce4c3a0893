"""Datasets: what would become public, publishing, and the terms on which they are given."""

from collections.abc import Callable
from typing import Any

import click

from node.cli import groups as column_groups
from node.cli.data import dataset, described, print_dataset, show_dataset
from node.cli.shell import (
    BULK_S,
    CHAIN_S,
    Number,
    Row,
    Shell,
    WrongValueError,
    absolute,
    print_fields,
    say,
    verb,
)
from node.cli.words import count, size

_TERMS = (
    click.option(
        "--price",
        type=Number(min=0),
        help="Of a request, in the token's smallest unit; default: nothing.",
    ),
    click.option("--token", metavar="0x…", help="The ERC-20 of the price."),
    click.option(
        "--max-days", type=Number(min=1), help="The longest a grant may last."
    ),
    click.option(
        "--committee",
        metavar="MEMBER|0x…",
        help="Who decides on access instead of you.",
    ),
)


def offered(function: Any) -> Any:
    """Options that say on what terms a dataset is given."""
    for add in reversed(_TERMS):
        function = add(function)
    return function


def asked(said: dict[str, Any]) -> dict[str, Any]:
    """Amounts travel as text."""
    return {**said, "price": None if said["price"] is None else str(said["price"])}


def _paths(context: click.Context, option: click.Parameter, value: Any) -> Any:
    return [absolute(context, option, one) for one in value]


_SAID = (
    click.argument(
        "paths", nargs=-1, required=True, callback=_paths, metavar="DIR|FILE…"
    ),
    click.option("--title", required=True, help="Public, and for ever."),
    click.option(
        "--licence",
        required=True,
        help="An SPDX identifier, or LicenseRef-NAME.",
    ),
    click.option(
        "--duo",
        required=True,
        multiple=True,
        metavar="DUO:NNNNNNN",
        help="Data Use Ontology code: one permission, any modifiers; may be repeated.",
    ),
    click.option("--source", required=True, help="Where the data come from; public."),
    click.option(
        "--unit-by",
        metavar="HOW",
        help="What is granted together: file, folder, patient (DICOM), or a column of one table.",
    ),
    click.option(
        "--column",
        "columns",
        multiple=True,
        metavar="NAME",
        help="Of one table, publish only this one; may be repeated.",
    ),
    click.option(
        "--group",
        "groups",
        multiple=True,
        metavar="NAME=COLUMN,…",
        help="Of one table, publish these columns as a dataset of their own that can be granted and "
        "asked for together with the other groups; may be repeated.",
    ),
    click.option(
        "--disease",
        metavar="MONDO:NNNNNNN",
        help="Beside DUO:0000007, if it may be known.",
    ),
    click.option(
        "--replaces",
        type=Number(min=0),
        metavar="DATASET",
        help="Of this node; this is its next version, under new keys.",
    ),
)


def said_of_it(function: Any) -> Any:
    """What is published and what is said of it; the same for a look and for the deed."""
    for add in reversed((*_SAID, offered)):
        function = add(function)
    return function


def _each(
    shell: Shell,
    said: dict[str, Any],
    ask: Callable[..., Row],
    show: Callable[[Row], None],
) -> None:
    """What `ask` answers for the whole, or for each group of columns."""
    cut = column_groups.parsed(said.pop("groups"))
    if cut and said["columns"]:
        raise WrongValueError(
            "--group and --column", hint="name the columns of each group in --group"
        )
    if len(cut) > 1 and said["replaces"] is not None:
        raise WrongValueError(
            f"--replaces with {len(cut)} groups",
            hint="each group replaces a dataset of its own: one command for each",
        )

    def one(group: str | None) -> Row:
        columns = cut[group] if group else list(said["columns"])
        return ask(
            group=group,
            **{**asked(said), "duo": list(said["duo"]), "columns": columns},
        )

    names: list[str | None] = [*cut] or [None]
    column_groups.each(
        shell, "datasets", range(len(names)), lambda place: one(names[place]), show
    )


@verb(dataset)
@said_of_it
@click.option(
    "--who",
    metavar="NAME",
    help="Say whose unit: a value of the unit's column, a patient, folder or file.",
)
def preview(shell: Shell, **said: Any) -> None:
    """What would become public, and which unit would hold whom.

    Encrypts nothing and tells nobody. Give it what you will give `publish`. Later, with the same
    files and --who, it finds the unit of a patient who withdraws.
    """

    def ask(**params: Any) -> Row:
        return shell.ask(
            "datasets.preview", doing="reading", timeout_s=BULK_S, **params
        )

    _each(shell, said, ask, lambda answer: _print_preview(answer, said["who"]))


def _print_preview(answer: Row, who: str | None) -> None:
    group = [("group", answer["group"])] if answer["group"] else []
    units = ("units", len(answer["holds"]))
    say("would become public, for ever:")
    print_fields([("title", answer["title"]), *group, units, *described(answer)])
    say("")
    say(f"would stay here ({size(answer['bytes'])} to encrypt):")
    print_fields([(f"unit {held['unit']}", _held(held)) for held in answer["holds"]])
    if who is not None:
        say(f"{who} is in unit {answer['unit']}")
    for warning in answer["warnings"]:
        say(f"warning: {warning}")


def _held(held: Row) -> str:
    more = held["named"] - len(held["names"])
    others = f" and {more} more" if more else ""
    return f"{', '.join(held['names'])}{others} ({count(held['records'], 'record')})"


@verb(dataset)
@said_of_it
def publish(shell: Shell, **said: Any) -> None:
    """Encrypt files and folders, list them, mint their token.

    Tables (CSV, Parquet), DICOM, FASTA, VCF, h5ad and EDF are described by their headers; images,
    NIfTI and WFDB are known as such; anything else is bytes. The records stay on this node. Title, source, licence
    and names of columns and fields become public: `preview` shows all that does. The same call again goes on where
    it was cut.
    """

    def ask(**params: Any) -> Row:
        return shell.ask_long(
            "datasets.publish", work=params["paths"][0], timeout_s=BULK_S, **params
        )

    _each(shell, said, ask, print_dataset)


@verb(dataset)
@click.argument("number", type=Number(min=0), metavar="DATASET")
def rekey(shell: Shell, number: int) -> None:
    """Encrypt a dataset anew: no key that was given opens it.

    Who was revoked has keys to the old ciphertext alone. Needs what is stored here, not the files it was made of. Number, terms and grants stay; who has a grant gets
    the new keys with its next fetch. The same call again goes on where it was cut.
    """
    answer = shell.ask_long(
        "datasets.rekey", work=str(number), timeout_s=BULK_S, dataset=number
    )
    show_dataset(shell, answer)


@verb(dataset)
@click.argument("number", type=Number(min=0), metavar="DATASET")
@offered
def terms(shell: Shell, number: int, **said: Any) -> None:
    """Change price, longest grant or who decides, from now on."""
    if all(value is None for value in said.values()):
        raise WrongValueError(
            "nothing to change", hint="name --price, --token, --max-days or --committee"
        )
    answer = shell.ask(
        "datasets.terms",
        dataset=number,
        **asked(said),
        doing="waiting for the chain",
        timeout_s=CHAIN_S,
    )
    show_dataset(shell, answer)


COMMANDS = ()
