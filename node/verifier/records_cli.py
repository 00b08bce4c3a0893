"""`rexis-verify lineage` and `rexis-verify query`."""

import json
from pathlib import Path
from typing import Any

import click

from node.verifier import lineage as lineages
from node.verifier.shell import as_json_option, opened, say
from protocol import lineage_file
from protocol.lineage_file import LineageFile
from protocol.lineage_graph import Direction
from protocol.queries.fitting import TRAINED_LIMIT_BYTES

PASSED, FAULT = 0, 1

_trusted = click.option(
    "--facts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="a lineage that a node you trust exported: the chain as it sees it",
)


@click.command("lineage")
@click.argument("file", type=click.Path(path_type=Path))
@_trusted
@click.option("--about", metavar="THING", help="such as dataset:3 or model:DIGEST")
@click.option(
    "--direction",
    type=click.Choice(("back", "forward", "both")),
    default="both",
    show_default=True,
)
@as_json_option
def lineage_command(
    file: Path,
    facts: Path | None,
    about: str | None,
    direction: Direction,
    *,
    as_json: bool,
) -> int:
    """Verify every record in FILE.

    Exit status 1 if one of them does not verify.
    """
    checked = lineages.check(_read(file), _facts(facts), about, direction)
    report = lineages.lineage_report(checked)
    say(json.dumps(report) if as_json else _lineage_text(report))
    return FAULT if report["doubts"] else PASSED


@click.command("query")
@click.argument("file", type=click.Path(path_type=Path))
@_trusted
@as_json_option
def query_command(file: Path, facts: Path | None, *, as_json: bool) -> int:
    """Verify answers to a query, and add them up.

    FILE is what `rexis query … --to FILE` wrote.
    """
    trusted = _facts(facts)

    def read(data: bytes) -> dict[str, Any]:
        return lineages.query_report(data, trusted)

    report = opened(file, "query", read, TRAINED_LIMIT_BYTES)
    say(json.dumps(report) if as_json else _query_text(report))
    return PASSED


def _facts(path: Path | None) -> LineageFile | None:
    return None if path is None else _read(path)


def _read(path: Path) -> LineageFile:
    limit = lineage_file.FILE_LIMIT_BYTES
    return opened(path, "lineage", lineage_file.read, limit)


def _lineage_text(report: dict[str, Any]) -> str:
    chain, doubts = report["chain"], report["doubts"]
    verdict = "all verifies"
    if doubts:
        verdict = f"{len(doubts)} record{'s do' if doubts[1:] else ' does'} not verify"
    return "\n".join(
        [
            f"chain     {chain['chain_id']}, registry {chain['registry']}",
            f"as of     block {chain['block']}, by {chain['by']}",
            *(
                f"{one['subject']!r} {one['relation'].partition(':')[2]} "
                f"{one['object']!r} [{one['proof']}]"
                for one in report["relations"]
            ),
            *(f"doubt: {one['what']}: {one['why']}" for one in doubts),
            f"relations {len(report['relations'])}, of {report['things']} things",
            f"verdict   {verdict}",
        ]
    )


def _query_text(report: dict[str, Any]) -> str:
    owners = (
        "as the chain has them" if report["owners_checked"] else "not checked (--facts)"
    )
    return "\n".join(
        [
            f"query     {report['query']}, a {report['kind']}",
            f"asked by  {report['asker']}",
            f"program   {report['code']}",
            *(
                f"dataset   {one['dataset']}, signed by {one['signer']}"
                for one in report["answers"]
            ),
            *(f"dropped   dataset {one}" for one in report["dropped"]),
            f"owners    {owners}",
            f"noise     standard deviation {report['noise_sd']:.3g} in each sum",
            f"result    {json.dumps(report['result'])}",
        ]
    )
