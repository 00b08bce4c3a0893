"""From any model, answer or grant back to the data, and from data forward to all its use."""

from pathlib import Path
from typing import Any

import click

from node.cli.shell import (
    BULK_S,
    CHAIN_S,
    Noun,
    Row,
    Shell,
    WrongValueError,
    absolute,
    say,
    verb,
)
from node.cli.words import count, size

_FORMS = {
    ".jsonld": "prov",
    ".json": "prov",
    ".svg": "svg",
    ".dot": "dot",
    ".gv": "dot",
    ".records": "records",
    ".lineage": "lineage",
}
_WHOLE = {"records", "lineage"}
_BY_DIGEST, _DIGITS = {"run", "query"}, 12
_DIRECTION = click.option(
    "--direction",
    type=click.Choice(("back", "forward", "both")),
    default="both",
    show_default=True,
    help="What it rests on, what came of it, or both.",
)


@click.group(cls=Noun)
def provenance() -> None:
    """What came of what, each step verified against a signature or the chain."""


@verb(provenance)
@click.argument("about", required=False, metavar="[THING]")
@_DIRECTION
def show(shell: Shell, about: str | None, direction: str) -> None:
    """The graph around a THING: dataset:3, grant:7, model:DIGEST, or a digest's beginning."""
    answer = shell.ask(
        "provenance.show",
        doing="verifying",
        timeout_s=CHAIN_S,
        about=about,
        direction=direction,
    )
    shell.result(answer, lambda: _print(answer))


@verb(provenance)
@click.argument("about", required=False, metavar="[THING]")
@_DIRECTION
@click.option(
    "--to",
    "path",
    required=True,
    callback=absolute,
    metavar="FILE",
    help="The suffix says what: .jsonld W3C PROV-O, .svg a picture, .dot Graphviz, .lineage "
    "what `rexis-verify lineage` checks, .records the signed records alone.",
)
def export(shell: Shell, about: str | None, direction: str, path: str) -> None:
    """Write the graph around a THING, or all of it, to a file.

    Of .records and .lineage always all; `rexis-verify lineage FILE --about THING` shows a part.
    """
    form = _FORMS.get(Path(path).suffix)
    if form is None:
        raise WrongValueError(
            f"{path} has no suffix that says what to write",
            hint=f"end it in {', '.join(_FORMS)}",
        )
    answer = shell.ask(
        "provenance.export",
        doing="verifying",
        timeout_s=BULK_S,
        about=about,
        direction=direction,
        form=form,
        path=path,
    )
    shell.fields(
        answer,
        [
            ("written", f"{answer['path']} ({size(answer['bytes'])})"),
            *([("about", "all that this node knows")] if form in _WHOLE else []),
            ("things", answer["things"]),
            ("relations", f"{answer['relations']}, each verified"),
            ("doubts", f"{answer['doubts']}, left out"),
        ],
    )


def _print(answer: Row) -> None:
    things: dict[str, Any] = {one["id"]: one for one in answer["things"]}

    def name(one: str) -> str:
        thing = things[one]
        kind, said = thing["kind"], thing["label"]
        number = f" {thing['facts']['dataset']}" if kind == "dataset" else ""
        if kind in _BY_DIGEST:
            # By which one may ask on; two of them are often called the same.
            number = f" {one.rpartition(':')[2][:_DIGITS]}"
        named = said if said.startswith(kind) else f"{kind}{number} {said!r}"
        # A grant that was taken back looks like any other by its relations.
        return f"{named} (revoked)" if thing["facts"].get("revoked") else named

    for one in answer["relations"]:
        relation = one["relation"].partition(":")[2]
        say(f"{name(one['subject'])} {relation} {name(one['object'])} [{one['proof']}]")
    linked = {one[end] for one in answer["relations"] for end in ("subject", "object")}
    for one in things.keys() - linked:
        say(name(one))
    for doubt in answer["doubts"]:
        say(f"doubt: {doubt['what']}: {doubt['why']}")
    say(
        f"{count(len(things), 'thing')}, {count(len(answer['relations']), 'relation')}, "
        f"{count(len(answer['doubts']), 'doubt')}"
    )


COMMANDS = (provenance,)
