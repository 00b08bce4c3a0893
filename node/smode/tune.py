"""`rexis smode tune`: fine-tune a public checkpoint on records that no host may see.

Two hosts that do not talk to each other multiply padded rows; adapters, head, loss and labels
stay here.  It prints how the held-out records do before and after, what the pad cost in
precision, the bound on what it may tell, and the bytes on the wire beside the derived count.
"""

import json
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from ee.errors import EncryptionError
from node.errors import ComputeError, NodeError
from node.smode.local import host_process

TEXTS_COMPARED = 8
RATE = 2e-3


@dataclass(frozen=True)
class Job:
    """What is asked of the command."""

    checkpoint: Path
    table: Path
    text: str
    label: str
    key: str
    pad: str
    steps: int
    batch: int
    rank: int
    tokens: int
    hosts: tuple[str, ...]
    out: Path | None


def tune(job: Job) -> dict[str, Any]:
    """One session; the result's names are docs/attacks.md's."""
    import torch
    from safetensors.torch import save_file

    from ee.smode import arithmetic_named
    from ee.smode.model import share_model
    from node.smode.session import SharedSession

    arithmetic = arithmetic_named(job.pad)
    task = _Task(job)
    model = _base(job.checkpoint)
    probe = task.rows.part(slice(0, TEXTS_COMPARED))
    with torch.no_grad():
        plain = _hidden(model, probe)
    config = model.config
    shared = share_model(model, arithmetic)
    with ExitStack() as stack:
        session = stack.enter_context(
            SharedSession(shared, arithmetic, _hosts(stack, job.hosts))
        )
        with torch.no_grad():
            ours = session.run(lambda: _hidden(shared.model, probe))
        forward_bytes, rounds = session.bytes_computing, session.account.rounds
        derived = probe.ids.size * _values(config)[0] * arithmetic.word_bytes
        learner = _Learner(session, shared, task, job)
        before = learner.score()
        started, moved = time.monotonic(), session.bytes_computing
        losses = [learner.step(number) for number in range(job.steps)]
        took = time.monotonic() - started
        step_bytes = session.bytes_computing - moved
        step_derived = learner.tokens * sum(_values(config)) * arithmetic.word_bytes
        after = learner.score()
        account, links = session.account, session.links
    if job.out is not None:
        save_file(learner.learnt(), job.out)
    return {
        "pad": job.pad,
        "records": len(task.labels),
        "held_out": int(task.held.sum()),
        "classes": list(task.classes),
        "relative_error": float((ours - plain).norm() / plain.norm()),
        "expected_product_error": account.expected_error,
        "leak_bits_per_value": arithmetic.leak_bits,
        "leak_bits_in_all": account.leak_bits,
        "rounds_forward": rounds,
        "forward_traffic_ratio": forward_bytes / derived,
        "step_traffic_ratio": step_bytes / step_derived if losses else None,
        "sessions": links,
        "step_s": took / max(1, job.steps),
        "losses": losses,
        "held_out_loss": [before[0], after[0]],
        "held_out_accuracy": [before[1], after[1]],
    }


class _Task:
    """Texts of a table as a model reads them."""

    def __init__(self, job: Job) -> None:
        from node.compute import table
        from node.compute.texts import cut, labelled_texts
        from node.market.publish import read_table
        from node.model.base import TOKENIZER

        data = read_table(job.table)
        header, lines = table.read_csv(data)
        if job.label not in header:
            raise ComputeError(f"the table has no column {job.label!r}")
        place = header.index(job.label)
        found = {line[place].strip() for line in lines} - {"", "NA"}
        self.classes = tuple(sorted(found))
        if len(self.classes) < 2:
            raise ComputeError(
                f"column {job.label!r} has {len(self.classes)} classes, needs 2"
            )
        question = table.ClassTask(id=job.key, label=job.label)
        texts, self.labels, self.held = labelled_texts(
            data, question, job.text, self.classes
        )
        if self.held.all() or not self.held.any():
            raise ComputeError(
                f"{int(self.held.sum())} of {len(self.held)} records are held out;"
                " some must be, and some must train"
            )
        self.rows = cut(job.checkpoint / TOKENIZER, job.tokens, texts)


class _Learner:
    """Adapters, head and their optimiser: what stays at home."""

    def __init__(self, session: Any, shared: Any, task: _Task, job: Job) -> None:
        import numpy as np
        import torch

        torch.manual_seed(0)
        self._session, self._model, self._task = session, shared.model, task
        self._halves = shared.adapt(rank=job.rank, scale=1.0, seed=0)
        width = shared.model.config.hidden_size
        self._head = torch.nn.Linear(width, len(task.classes))
        own = [*self._halves, *self._head.parameters()]
        self._adam = torch.optim.AdamW(own, lr=RATE)
        self._training = np.flatnonzero(~task.held)
        self._batch = min(job.batch, len(self._training))
        self.tokens = 0
        """That went forward and back in steps."""

    def step(self, number: int) -> float:
        """The loss of one step; repeated from its beginning when a host dies."""
        import numpy as np

        order = np.random.Generator(np.random.PCG64(number))
        batch = np.sort(order.choice(self._training, self._batch, replace=False))
        self.tokens += self._task.rows.part(batch).ids.size

        def once() -> float:
            loss = self._loss(batch)[0]
            self._adam.zero_grad()
            loss.backward()
            return float(loss.detach())

        loss = float(self._session.run(once))
        self._adam.step()
        return loss

    def score(self) -> tuple[float, float]:
        """(loss, accuracy) on what is held out, `AT_ONCE` texts at a time."""
        import numpy as np
        import torch

        from ee.stock import AT_ONCE

        held = np.flatnonzero(self._task.held)
        loss = right = 0.0
        with torch.no_grad():
            for at in range(0, len(held), AT_ONCE):
                part = held[at : at + AT_ONCE]
                found = self._session.run(lambda part=part: self._loss(part))
                loss += float(found[0]) * len(part)
                right += float(found[1]) * len(part)
        return loss / len(held), right / len(held)

    def _loss(self, batch: Any) -> tuple[Any, Any]:
        import torch

        rows = self._task.rows.part(batch)
        weight = torch.from_numpy(rows.mask).unsqueeze(-1).float()
        hidden = _hidden(self._model, rows)
        scores = self._head((hidden * weight).sum(1) / weight.sum(1))
        wanted = torch.from_numpy(self._task.labels[batch])
        loss = torch.nn.functional.cross_entropy(scores, wanted)
        return loss, (scores.argmax(1) == wanted).float().mean()

    def learnt(self) -> dict[str, Any]:
        """The adapters by their layer, and the head."""
        named = {
            name: parameter.detach().contiguous()
            for name, parameter in self._model.named_parameters()
            if name.endswith((".up", ".down"))
        }
        head = self._head.state_dict()
        return named | {f"head.{name}": tensor for name, tensor in head.items()}


def _hidden(model: Any, rows: Any) -> Any:
    import torch

    return model(
        input_ids=torch.from_numpy(rows.ids),
        attention_mask=torch.from_numpy(rows.mask).long(),
    ).last_hidden_state


def _base(folder: Path) -> Any:
    """The body of a stock checkpoint, as it was published."""
    from transformers import AutoModel
    from transformers.utils import logging

    from node.model.checkpoint import read_config

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    config = read_config(folder)
    extra = {"add_pooling_layer": False} if config.model_type == "bert" else {}
    # Shares are float32 or wider, whatever the file is in.
    return AutoModel.from_pretrained(
        folder, local_files_only=True, dtype="float32", **extra
    ).eval()


def _values(config: Any) -> tuple[int, int]:
    """On the wires for a token, forward and backward."""
    from ee.smode.cost import BlockShape, backward_values, forward_values

    width, heads = config.hidden_size, config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or width // heads
    shape = BlockShape(
        width,
        config.intermediate_size,
        head_dim * kv_heads,
        gated=config.model_type == "llama",
        q_width=head_dim * heads,
    )
    blocks = config.num_hidden_layers
    return forward_values(shape, blocks), backward_values(shape, blocks)


def _hosts(stack: ExitStack, given: tuple[str, ...]) -> tuple[str, str]:
    """The sockets of two hosts: those that were named, or two processes of our own."""
    if given:
        if len(given) != 2 or given[0] == given[1]:
            raise ComputeError(
                f"{len(set(given))} hosts, needs two that do not talk to each other",
                hint="give --host twice, or not at all to try it on this machine",
            )
        return given[0], given[1]
    folder = Path(stack.enter_context(TemporaryDirectory()))
    first, second = (
        stack.enter_context(host_process(folder / f"host{number}")) for number in (1, 2)
    )
    return first, second


FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("checkpoint", type=FOLDER)
@click.argument("table", type=FILE, metavar="TABLE.csv")
@click.option("--text", required=True, metavar="COLUMN", help="What is read.")
@click.option("--label", required=True, metavar="COLUMN", help="What is predicted.")
@click.option("--id", "key", required=True, metavar="COLUMN",
              help="Names the record; decides what is held out.")  # fmt: skip
@click.option("--host", "hosts", multiple=True, metavar="SOCKET",
              help="Twice, of `rexis smode serve`; without: two processes here.")  # fmt: skip
@click.option("--pad", default="ring64", show_default=True,
              help="ring64, gauss32/2^K or gauss64/2^K.")  # fmt: skip
@click.option("--steps", default=20, show_default=True, type=click.IntRange(0, 100_000))
@click.option("--batch", default=8, show_default=True, type=click.IntRange(1, 512))
@click.option("--rank", default=4, show_default=True, type=click.IntRange(1, 256))
@click.option("--tokens", default=32, show_default=True, type=click.IntRange(4, 512))
@click.option("--out", type=FILE, help="New file for the adapters and the head.")
@click.option("--json", "as_json", is_flag=True)
def main(*, as_json: bool, **asked: Any) -> None:
    """LoRA and a head on a public BERT or Llama checkpoint, over two hosts."""
    job = Job(**asked)
    try:
        if job.out is not None and job.out.exists():
            raise ComputeError(
                f"{job.out} exists already", hint="nothing is overwritten"
            )
        result = tune(job)
    except (NodeError, EncryptionError) as error:
        click.echo(f"rexis: error: {error}", err=True)
        if isinstance(error, NodeError) and error.hint():
            click.echo(f"rexis: hint: {error.hint()}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        shown = f"{value:.4g}" if isinstance(value, float) else f"{value}"
        click.echo(f"{name:24} {shown}")


if __name__ == "__main__":
    main(prog_name="rexis smode tune")
