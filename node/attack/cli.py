"""`rexis attack`: run the suite against our own keyed models and print what falls."""

import json
import sys
from typing import Any

import click

EPILOG = """
Each row is one attack on one model. base: public (the attacker has it), perturbed (it has
the unperturbed one), private (it has another model of the same kind). mode: E k=0 and E k=1
are keyed bodies behind a stem of so many blocks, S is one host of two, sum what an aggregator
has. value: tokens recovered (balanced over words), or what --json names in "measure". control:
the same attack where nothing is keyed.
"""


@click.command(name="attack", epilog=EPILOG)
@click.option(
    "--seed", default=0, show_default=True, help="Of everything that is drawn."
)
@click.option("--quick", is_flag=True, help="A fraction of the texts; coarser figures.")
@click.option("--model", type=click.Choice(["minilm", "causal"]), help="Only this one.")
@click.option("--json", "as_json_", is_flag=True, help="Rows as one JSON array.")
@click.option("--markdown", is_flag=True, help="The table as docs/attacks.md has it.")
def attack(
    *, seed: int, quick: bool, model: str | None, as_json_: bool, markdown: bool
) -> None:
    """Run the attack suite against our own keyed models.

    Takes under ten minutes on two idle cores. Needs two packages that ship MiniLM's weights
    and the text of ICD-10-CM.
    """
    # torch and the models load here, so that --help does not wait for them.
    from rich.console import Console

    from ee.errors import EncryptionError
    from node.attack import render
    from node.attack.suite import QUICK, Size, run
    from node.errors import NodeError

    # Progress goes to stderr, one line that rewrites itself on a terminal.
    errors = Console(stderr=True)
    rows: list[Any] = []
    try:
        with errors.status("starting") as status:

            def say(text: str) -> None:
                if errors.is_terminal:
                    status.update(text)
                else:
                    errors.print(text, highlight=False, soft_wrap=True)

            size = QUICK if quick else Size()
            rows.extend(run(size, seed, say, model))
    except (NodeError, EncryptionError) as error:
        hint = error.hint() if isinstance(error, NodeError) else ""
        sys.stderr.write(f"rexis: error: {error}\n")
        if hint:
            sys.stderr.write(f"rexis: hint: {hint}\n")
        sys.exit(1)
    if as_json_:
        click.echo(json.dumps(render.as_json(rows), indent=1))
    elif markdown:
        click.echo(render.as_markdown(rows))
    else:
        Console(width=110).print(render.as_table(rows))
