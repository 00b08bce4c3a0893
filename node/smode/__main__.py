"""`rexis smode measure`: MiniLM on two host processes, inference and a few LoRA steps.

Prints what the pad costs and leaves: the error against the same model alone, the bound on
what a host may learn, and the bytes on the wire beside the derived count.
"""

import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from ee.errors import EncryptionError
from node.errors import NodeError
from node.smode.local import host_process

RATE, RANK, BATCH = 2e-3, 4, 8


def measure(pad: str, texts: int, steps: int) -> dict[str, Any]:
    """One session of `texts` texts forward and `steps` LoRA steps."""
    import torch

    from ee.smode import arithmetic_named
    from ee.smode.cost import BlockShape, backward_values, forward_values
    from ee.smode.model import share_model
    from node.attack.material import read_minilm, read_texts
    from node.smode.session import SharedSession

    arithmetic = arithmetic_named(pad)
    found = read_texts(1024, 10, 0)
    ids, labels = found.ids[:texts], found.injury[:texts]
    model = read_minilm().eval()
    with torch.no_grad():
        plain = model(input_ids=ids).last_hidden_state
    config = model.config
    width, blocks = config.hidden_size, config.num_hidden_layers
    shape = BlockShape(width, config.intermediate_size, width, gated=False)
    shared = share_model(model, arithmetic)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        first, second = (
            stack.enter_context(host_process(folder / f"host{number}"))
            for number in (1, 2)
        )
        session = stack.enter_context(
            SharedSession(shared, arithmetic, (first, second))
        )
        started = time.monotonic()
        with torch.no_grad():
            ours = shared.model(input_ids=ids).last_hidden_state
        forward_s = time.monotonic() - started
        rounds, moved = session.account.rounds, session.bytes_computing
        derived = ids.numel() * forward_values(shape, blocks) * arithmetic.word_bytes
        losses, step_s = _train(session, shared, ids, labels, steps)
        step_bytes = (session.bytes_computing - moved) / max(1, steps)
        both = forward_values(shape, blocks) + backward_values(shape, blocks)
        derived_step = ids[:BATCH].numel() * both * arithmetic.word_bytes
        account = session.account
    error = float((ours - plain).norm() / plain.norm())
    ratios = [moved / derived, *([step_bytes / derived_step] if steps else [])]
    return {
        "pad": pad,
        "texts": texts,
        "tokens": ids.shape[1],
        "relative_error": error,
        "expected_product_error": account.expected_error,
        "leak_bits_per_value": arithmetic.leak_bits,
        "leak_bits_in_all": account.leak_bits,
        "rounds": rounds,
        "forward_s": forward_s,
        "forward_bytes": moved,
        "forward_derived_bytes": derived,
        "forward_traffic_ratio": moved / derived,
        "step_s": step_s if steps else None,
        "step_traffic_ratio": step_bytes / derived_step if steps else None,
        "traffic_within_a_tenth": all(abs(ratio - 1) <= 0.1 for ratio in ratios),
        "losses": losses,
    }


def _train(
    session: Any, shared: Any, ids: Any, labels: Any, steps: int
) -> tuple[list[float], float]:
    """A classifier on the mean row, LoRA on every shared layer; loss of each step."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    halves = shared.adapt(rank=RANK, scale=1.0, seed=0)
    torch.manual_seed(0)
    head = torch.nn.Linear(shared.model.config.hidden_size, 1)
    adam = torch.optim.AdamW([*halves, *head.parameters()], lr=RATE)
    losses: list[float] = []
    started = time.monotonic()

    def one() -> float:
        rows = shared.model(input_ids=ids[:BATCH]).last_hidden_state.mean(1)
        wanted = labels[:BATCH].float()
        loss = binary_cross_entropy_with_logits(head(rows)[:, 0], wanted)
        adam.zero_grad()
        loss.backward()
        return float(loss.detach())

    for _ in range(steps):
        losses.append(session.run(one))
        adam.step()
    return losses, (time.monotonic() - started) / max(1, steps)


@click.command()
@click.option("--pad", default="gauss32/2^10", show_default=True,
              help="ring64, gauss32/2^K or gauss64/2^K.")  # fmt: skip
@click.option("--texts", default=16, show_default=True, type=click.IntRange(8, 512))
@click.option("--steps", default=3, show_default=True, type=click.IntRange(0, 1000))
@click.option("--json", "as_json", is_flag=True)
def main(*, pad: str, texts: int, steps: int, as_json: bool) -> None:
    """MiniLM on two local host processes that do not see what they compute on."""
    try:
        result = measure(pad, texts, steps)
    except (NodeError, EncryptionError) as error:
        click.echo(f"rexis: error: {error}", err=True)
        if isinstance(error, NodeError) and error.hint():
            click.echo(f"rexis: hint: {error.hint()}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, value in result.items():
        click.echo(
            f"{name:24} {value:.4g}"
            if isinstance(value, float)
            else f"{name:24} {value}"
        )


if __name__ == "__main__":
    main(prog_name="rexis smode measure")
