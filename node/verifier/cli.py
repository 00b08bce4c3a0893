"""`rexis-verify`: check one file, offline, trusting nobody.

Exit status: 0 what the file says is right; 1 the host is wrong, or a record of a lineage does not
verify, and the output says where; 2 the file proves nothing either way (damaged, incomplete, or parts that do not belong together);
3 wrong usage; 4 this machine does not compute as it must.
"""

import json
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ee.integer import IntegerModelError, SelfTestError, op_spec_digest, self_test
from node.verifier import bundle as bundles
from node.verifier import case as cases
from node.verifier.records_cli import lineage_command, query_command
from node.verifier.replay import Verdict
from protocol.errors import ProtocolError
from protocol.members import peer_id
from protocol.receipt import BatchProof

PASSED, FAULT, NOTHING, USAGE, MACHINE = range(5)

_KINDS = {"bundle": b"rexis-bundle-1", "case": b"rexis-case-1"}
"""Tags, which stand in a file's first bytes."""


@click.group(help=__doc__)
def cli() -> None:
    """Commands of the verifier."""


@cli.command("bundle")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--trunk", type=click.Path(path_type=Path), help="trunk's file, if left out"
)
@click.option("--anchored", metavar="HEX", help="batch root as the chain has it")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def bundle_command(
    file: Path, trunk: Path | None, anchored: str | None, *, as_json: bool
) -> int:
    """Replay the receipt in FILE and compare every root."""
    self_test()
    bundle = bundles.read(_content(file, "bundle"))
    _require_anchored(bundle.batch, anchored)
    verdict = bundles.check(bundle, b"" if trunk is None else _content(trunk))
    report = described(bundle.batch, bundle.proof, verdict)
    click.echo(json.dumps(report) if as_json else _text(report))
    return PASSED if verdict.fault is None else FAULT


@cli.command("case")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--trunk", type=click.Path(path_type=Path), help="trunk's file, if left out"
)
@click.option("--anchored", metavar="HEX", help="batch root as the chain has it")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def case_command(
    file: Path, trunk: Path | None, anchored: str | None, *, as_json: bool
) -> int:
    """Replay the one case shown in FILE."""
    self_test()
    shown = cases.read(_content(file, "case"))
    _require_anchored(shown.batch, anchored)
    verdict = cases.check(shown, b"" if trunk is None else _content(trunk))
    report = {**described(shown.batch, shown.proof, verdict), "case": shown.case}
    click.echo(json.dumps(report) if as_json else _text(report))
    return PASSED if verdict.fault is None else FAULT


@cli.command("self-test")
def self_test_command() -> int:
    """Does this machine compute what every other does?"""
    self_test()
    for number in (1, 2):
        click.echo(f"this machine computes op-spec {op_spec_digest(number).hex()}")
    return PASSED


cli.add_command(lineage_command)
cli.add_command(query_command)


def described(batch: bytes, proof: BatchProof, verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain values; what `--json` prints."""
    receipt, fault = verdict.receipt, verdict.fault
    entry = None if fault is None else fault.entry
    fields = () if entry is None else entry.__struct_fields__
    return {
        "verdict": "passed" if fault is None else "failed",
        "fault": None if fault is None else fault.kind,
        "layer": fault.layer if fault is not None and fault.kind == "layer" else None,
        "entry": None if entry is None else {n: getattr(entry, n) for n in fields},
        "host": peer_id(receipt.host),
        "requester": peer_id(receipt.requester),
        "receipt": receipt.digest.hex(),
        "job": receipt.order.job.hex(),
        "model": receipt.model_root.hex(),
        "batch": batch.hex(),
        "index": proof.index,
        "size": proof.size,
        "time": receipt.time,
        "cases": receipt.order.shape[0],
        "layers": receipt.layers,
        "first_layer": verdict.first,
        "layers_replayed": verdict.count,
    }


def main() -> None:
    """Entry point: every failure is one line on stderr and an exit status."""
    try:
        status = cli.main(prog_name="rexis-verify", standalone_mode=False)
    except click.ClickException as error:
        status = _fail(error.format_message(), "see rexis-verify --help", USAGE)
    except SelfTestError as error:
        status = _fail(str(error), "audit on another machine, or another BLAS", MACHINE)
    except OSError as error:
        reason = f"cannot read {error.filename}: {error.strerror}"
        status = _fail(reason, "name a file that is there", NOTHING)
    except (ProtocolError, IntegerModelError) as error:
        status = _fail(str(error), "the file proves nothing about the host", NOTHING)
    except (click.Abort, KeyboardInterrupt):
        status = _fail("interrupted", "", NOTHING)
    except Exception as error:
        # Python's own status for this is 1, and 1 accuses a host.
        traceback.print_exc()
        status = _fail(
            f"{type(error).__name__}: {error}",
            "this is a fault of rexis-verify",
            NOTHING,
        )
    sys.exit(status or 0)


def _fail(message: str, hint: str, status: int) -> int:
    click.echo(f"rexis-verify: error: {message}", err=True)
    if hint:
        click.echo(f"rexis-verify: hint: {hint}", err=True)
    return status


def _require_anchored(batch: bytes, anchored: str | None) -> None:
    if anchored is not None and anchored.removeprefix("0x").lower() != batch.hex():
        raise ProtocolError(f"file is of batch {batch.hex()}, not {anchored}")


def _content(path: Path, kind: str = "") -> bytes:
    size = path.stat().st_size
    if size > bundles.BUNDLE_LIMIT_BYTES:
        raise ProtocolError(
            f"{path} has {size} bytes, limit is {bundles.BUNDLE_LIMIT_BYTES}"
        )
    data = path.read_bytes()
    for other, tag in _KINDS.items():
        if kind not in ("", other) and tag in data[:24]:
            raise ProtocolError(
                f"{path} is a {other}; check it with rexis-verify {other} {path}"
            )
    return data


def _text(report: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(report["time"], UTC).isoformat()
    first, count = report["first_layer"], report["layers_replayed"]
    lines = [
        f"host      {report['host']}",
        f"requester {report['requester']}",
        f"model     {report['model']}",
        f"receipt   {report['receipt']}",
        f"batch     {report['batch']} ({report['index'] + 1} of {report['size']})",
        f"signed    {when} by the host's clock, {_counted(report['cases'], 'case')}",
        *([f"shown     case {report['case']}, no other"] if "case" in report else []),
        f"replayed  {count} of {report['layers']} layers, from layer {first}",
        f"verdict   {_verdict(report)}",
    ]
    return "\n".join(lines)


def _verdict(report: dict[str, Any]) -> str:
    if report["verdict"] == "passed":
        whole = report["layers_replayed"] == report["layers"]
        what = "the output is" if whole else "these layers are"
        return f"PASSED: {what} this model's, to the last bit"
    if report["fault"] == "shape":
        return "FAILED: the host signed for rows or layers this model does not have"
    text = f"FAILED: layer {report['layer']} is not what the model computes"
    if report["fault"] == "output":
        text = "FAILED: the output is not the model's"
    entry = report["entry"]
    if entry is not None:
        text += (
            f"; case {entry['case']}, token {entry['token']}, column {entry['column']}"
            f" is {entry['committed']}, should be {entry['computed']}"
            f" ({_counted(entry['differing'], 'number')} in all)"
        )
    return text


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


if __name__ == "__main__":
    main()
