"""Questions about models: try one where the data lie, or fit one there."""

import json
from pathlib import Path
from typing import Any

import click

from node.cli.query import asking, pair, query, show_answer, show_any
from node.cli.shell import BULK_S, Number, Row, Shell, WrongValueError, say, verb
from node.cli.words import decimal

_FILE_LIMIT_BYTES = 1 << 16
"""64 features with long names."""


def _feature(_context: click.Context, _option: click.Parameter, value: Any) -> Any:
    found = []
    for text in value:
        column, _, ends = text.rpartition("=")
        low, colon, high = ends.partition(":")
        try:
            ends_ = float(low), float(high)
        except ValueError:
            ends_ = (0.0, 0.0)
        if not (column and colon and ends_[0] < ends_[1]):
            raise WrongValueError(
                f"{text!r} is not COLUMN=LOW:HIGH", hint="such as --feature age=20:90"
            )
        found.append({"column": column, "low": ends_[0], "high": ends_[1]})
    return found


def _model(_context: click.Context, _option: click.Parameter, value: Any) -> Any:
    if value is None:
        return None
    path = Path(value).expanduser()
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_LIMIT_BYTES + 1)
        found = json.loads(data) if len(data) <= _FILE_LIMIT_BYTES else None
    except OSError as error:
        raise click.BadParameter(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise click.BadParameter(f"{path} is not JSON") from error
    if not isinstance(found, dict):
        raise click.BadParameter(f"{path} is no model, as `query train` writes it")
    return found


@verb(query)
@asking
@click.option("--model", callback=_model, metavar="FILE", help="From `query train`.")
@click.option("--run", "run_id", metavar="RUN", help="Or what a run has come to.")
@click.option("--state", metavar="ROOT", help="Of the run; default: the newest here.")
@click.option(
    "--class",
    "answer",
    metavar="TEXT",
    help="Of a run that tells classes apart: the one that counts as yes.",
)
@click.option(
    "--every", is_flag=True, help="Of a run: also rows it may have trained on."
)
@click.option(
    "--reach",
    type=click.FloatRange(min=0, min_open=True),
    default=4.0,
    show_default=True,
    help="Log-odds beyond it count with the last bins.",
)
@click.option("--bins", type=Number(min=2), default=32, show_default=True)
def evaluate(shell: Shell, run_id: str | None, **asked: Any) -> None:
    """How well a model tells yes from no: area under the curve, accuracy, loss, calibration."""
    if run_id is not None:
        asked["run"] = shell.resolve("run", run_id)
    answer = _ask(shell, "queries.evaluate", asked)
    shell.result(answer, lambda: _show_scores(answer))


@verb(query)
@asking
@click.option(
    "--feature",
    "features",
    multiple=True,
    required=True,
    callback=_feature,
    metavar="COLUMN=LOW:HIGH",
    help="A column of numbers and its range; repeated.",
)
@click.option("--label", required=True, metavar="COLUMN=TEXT", help="What is foretold.")
@click.option("--rounds", type=Number(min=1), default=20, show_default=True)
@click.option("--clip", type=float, help="Longest gradient of a row; default: 1.")
@click.option("--rate", type=float, help="Of a step; default: what fits the features.")
@click.option("--ridge", type=float, help="Pull towards 0; default: 0.001.")
@click.option(
    "--model-to", metavar="FILE", help="Write the weights for `query evaluate`."
)
def train(shell: Shell, label: str, model_to: str | None, **asked: Any) -> None:
    """A logistic regression, in rounds of noisy gradients; --rho pays for all of them."""
    column, yes = pair(label)
    answer = _ask(shell, "queries.train", {**asked, "label": column, "yes": yes})
    found = answer["result"]["model"]
    if model_to is not None and found is not None:
        path = Path(model_to).expanduser()
        try:
            path.write_text(json.dumps(found) + "\n")
        except OSError as error:
            raise click.ClickException(
                f"cannot write {path}: {error.strerror}"
            ) from error
    shell.result(answer, lambda: _show_weights(answer))


def _ask(shell: Shell, method: str, asked: dict[str, Any]) -> Row:
    given = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asked.items()
    }
    given["where"] = dict(pair(one) for one in asked["where"])
    return shell.ask(method, doing="asking the institutions", timeout_s=BULK_S, **given)


def show(answer: Row) -> None:
    """An answer of any kind, such as one that was gone on with."""
    shown = {"evaluation": _show_scores, "training": _show_weights}
    shown.get(answer["kind"], show_any)(answer)


def _show_scores(answer: Row) -> None:
    found = answer["result"]
    pairs: list[tuple[str, object]] = [("rows", found["count"])]
    if found["count"] is not None:
        pairs.append(("of them yes", found["yes"]))
        pairs += [
            (name, _with_errors(found[key]))
            for name, key in (
                ("AUC", "auc"),
                ("accuracy", "accuracy"),
                ("loss", "loss"),
            )
        ]
    show_answer(answer, pairs)
    for one in found.get("calibration", ()):
        if one["count"] is not None:
            said = f"{one['from']:.3f} to {one['to']:.3f}"
            say(f"  said {said}  was {one['share']:.3f}  of {one['count']} rows")


def _with_errors(one: Row) -> str:
    """A score, and by how much it may be off for each reason."""
    said = f"{decimal(one['value'])}, noise {one['noise_sd']:.3f}"
    if "sampling_sd" in one:
        said += f", sampling {one['sampling_sd']:.3f}"
    if "low" in one:
        said += f", bins {one['low']:.3f} to {one['high']:.3f}"
    return said


def _show_weights(answer: Row) -> None:
    found = answer["result"]
    pairs: list[tuple[str, object]] = [("rows", found["count"])]
    if found["model"] is not None:
        bound = "" if found["steady"] else ", no bound: the rate is too high"
        pairs += [
            ("rounds", found["rounds"]),
            ("weights", f"noise {found['weight_noise_sd']:.3g} in each{bound}"),
        ]
    show_answer(answer, pairs)
    if found["model"] is not None:
        names = ["(intercept)", *(one["column"] for one in found["model"]["features"])]
        for name, weight in zip(names, found["model"]["weights"], strict=True):
            say(f"  {weight:8.4f}  {name}")


COMMANDS = ()
