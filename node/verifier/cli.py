"""`rexis-verify`: check one file, offline, trusting nobody.

Exit status: 0 what the file says is right; 1 the host is wrong, or a record of a lineage does not
verify, and the output says where; 2 the file proves nothing either way (damaged, incomplete, or parts that do not belong together);
3 wrong usage; 4 this machine does not compute as it must.
"""

import json
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ee.integer import IntegerModelError, SelfTestError, op_spec_digest, self_test
from node.verifier import bundle as bundles
from node.verifier import case as cases
from node.verifier.records_cli import lineage_command, query_command
from node.verifier.replay import Verdict
from node.verifier.shell import (
    FileError,
    as_json_option,
    opened,
    replays,
    say,
    trunk,
)
from protocol.errors import ProtocolError, VerificationError
from protocol.members import peer_id
from protocol.receipt import BatchProof

PASSED, FAULT, NOTHING, USAGE, MACHINE = range(5)

_ROOT_DIGITS = 64


def _batch_root(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> bytes | None:
    """All digits of a root: one that begins alike is another batch."""
    if value is None:
        return None
    digits = value.removeprefix("0x")
    if len(digits) != _ROOT_DIGITS:
        raise click.BadParameter(
            f"{value!r} has {len(digits)} digits, a batch root has {_ROOT_DIGITS}"
        )
    try:
        return bytes.fromhex(digits)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not hexadecimal") from error


def _replaying(command: Callable[..., int]) -> Callable[..., int]:
    """FILE and the options of what replays it."""
    for decorate in (
        as_json_option,
        click.option(
            "--anchored",
            callback=_batch_root,
            metavar="HEX",
            help="batch root as the chain has it",
        ),
        click.option(
            "--trunk",
            "beside",
            type=click.Path(path_type=Path),
            help="trunk's file, if left out",
        ),
        click.argument("file", type=click.Path(path_type=Path)),
    ):
        command = decorate(command)
    return command


@click.group(help=__doc__)
@click.version_option(package_name="rexis", message="rexis-verify %(version)s")
def cli() -> None:
    """Commands of the verifier."""


@cli.command("bundle")
@_replaying
def bundle_command(
    file: Path, beside: Path | None, anchored: bytes | None, *, as_json: bool
) -> int:
    """Replay the receipt in FILE and compare every root."""
    self_test()
    bundle = opened(file, "bundle", bundles.read)
    _require_anchored(bundle.batch, anchored)
    with replays() as told:
        verdict = bundles.check(bundle, trunk(beside), told)
    return _told(described(bundle.batch, bundle.proof, verdict), anchored, as_json)


@cli.command("case")
@_replaying
def case_command(
    file: Path, beside: Path | None, anchored: bytes | None, *, as_json: bool
) -> int:
    """Replay the one case shown in FILE."""
    self_test()
    shown = opened(file, "case", cases.read)
    _require_anchored(shown.batch, anchored)
    with replays() as told:
        verdict = cases.check(shown, trunk(beside), told)
    report = {**described(shown.batch, shown.proof, verdict), "case": shown.case}
    return _told(report, anchored, as_json)


@cli.command("self-test")
@as_json_option
def self_test_command(*, as_json: bool) -> int:
    """Does this machine compute what every other does?"""
    self_test()
    specs = [op_spec_digest(number).hex() for number in (1, 2)]
    lines = [f"this machine computes op-spec {one}" for one in specs]
    say(json.dumps({"op_specs": specs}) if as_json else "\n".join(lines))
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
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        status = USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "rexis-verify"
        status = _fail(error.format_message(), f"see {path} --help", USAGE)
    except SelfTestError as error:
        status = _fail(str(error), "audit on another machine, or another BLAS", MACHINE)
    except FileError as error:
        status = _fail(str(error), error.hint, NOTHING)
    except OSError as error:
        # Files are read by then.
        reason = f"cannot write the result: {error.strerror}"
        status = _fail(reason, "make room where the output goes", NOTHING)
    except VerificationError as error:
        reason = f"does not verify: {error}"
        status = _fail(reason, "parts that do not fit prove nothing", NOTHING)
    except (ProtocolError, IntegerModelError) as error:
        status = _fail(str(error), "parts that do not fit prove nothing", NOTHING)
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


def _require_anchored(batch: bytes, anchored: bytes | None) -> None:
    if anchored not in (None, batch):
        raise FileError(
            f"file is of batch {batch.hex()}, not {anchored.hex()}",
            hint="`rexis receipt anchored HOST` says what the host has on the chain; of a batch"
            " that is not there, a file proves nothing",
        )


def _told(report: dict[str, Any], anchored: bytes | None, as_json: bool) -> int:
    report = {**report, "anchored": None if anchored is None else anchored.hex()}
    say(json.dumps(report) if as_json else _text(report))
    return PASSED if report["fault"] is None else FAULT


def _text(report: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(report["time"], UTC).isoformat()
    first, count = report["first_layer"], report["layers_replayed"]
    lines = [
        f"host      {report['host']}",
        f"requester {report['requester']}",
        f"model     {report['model']}",
        f"receipt   {report['receipt']}",
        f"batch     {report['batch']} ({report['index'] + 1} of {report['size']})",
        f"anchored  {_anchored(report)}",
        f"signed    {when} by the host's clock, {_counted(report['cases'], 'case')}",
        *([f"shown     case {report['case']}, no other"] if "case" in report else []),
        f"replayed  {count} of {report['layers']} layers, from layer {first}",
        f"verdict   {_verdict(report)}",
    ]
    return "\n".join(lines)


def _anchored(report: dict[str, Any]) -> str:
    if report["anchored"] is None:
        return "not compared with the chain (--anchored; `rexis receipt anchored HOST` has it)"
    return "under the root given with --anchored"


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
