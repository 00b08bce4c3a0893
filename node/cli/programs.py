"""Commands that become another program of ours, in this very process.

The command line stays light because it is gone before anything heavy is imported, and signals
and the process id are the program's own, as systemd likes it.
"""

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from node.attack.cli import attack
from node.cli.shell import Noun
from node.locations import Home

_HERE = Path(__file__).parent.parent
_BENCHES = (
    *("start", "transport", "fetch", "data", "ee", "aggregate"),
    *("verify", "accuracy", "peer", "convergence"),
)
_PASS_ON = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "help_option_names": [],
}


def become(module: str, *arguments: str) -> NoReturn:
    """Replace this process by `python -m module`; a folder called `node` here is not it."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])  # noqa: S606 - no shell is wanted


@click.group(cls=Noun)
def worker() -> None:
    """The untrusted process that computes the keyed trunk."""


@worker.command("serve")
@click.option("--socket", metavar="PATH", help="Default: worker.sock in the home.")
@click.option("--memory", type=click.IntRange(min=256), metavar="MIB",
              help="Refuse sessions that would take more.")  # fmt: skip
@click.option("--bf16", is_flag=True,
              help="Products of stock trunks in bfloat16, over float32 weights.")  # fmt: skip
@click.option("--gradient-checkpointing", is_flag=True,
              help="Less memory for stock trunks, a third more work.")  # fmt: skip
@click.option("--device", metavar="NAME", help="As torch names it. Default: cpu.")
@click.pass_context
def worker_serve(
    context: click.Context,
    socket: str | None,
    memory: int | None,
    device: str | None,
    *,
    bf16: bool,
    gradient_checkpointing: bool,
) -> None:
    """Serve keyed trunks on a unix socket until told to stop. Needs torch.

    On several devices: `torchrun --nproc-per-node N -m node.worker --socket PATH`.
    """
    home = Home(context.find_root().params["home"])
    words = ["--socket", socket or os.fspath(home.worker_socket)]
    words += [] if memory is None else ["--memory", str(memory)]
    words += [] if device is None else ["--device", device]
    words += ["--bf16"] if bf16 else []
    words += ["--gradient-checkpointing"] if gradient_checkpointing else []
    become("node.worker", *words)


@click.group(cls=Noun)
def smode() -> None:
    """A public model on two hosts that learn nothing unless they talk to each other."""


@smode.command("serve", context_settings=_PASS_ON)
@click.pass_context
def smode_serve(context: click.Context) -> None:
    """Be one of the two hosts, on a unix socket (`--socket PATH`)."""
    become("node.smode.host", *context.args)


@smode.command("measure", context_settings=_PASS_ON)
@click.pass_context
def smode_measure(context: click.Context) -> None:
    """MiniLM on two local hosts: error, leak bound, traffic (`--pad`, `--json`)."""
    become("node.smode", *context.args)


@smode.command("tune", context_settings=_PASS_ON)
@click.pass_context
def smode_tune(context: click.Context) -> None:
    """Fine-tune a public checkpoint on a table, over two hosts (`--help`)."""
    become("node.smode.tune", *context.args)


@click.group(cls=Noun)
def devchain() -> None:
    """The embedded chain for development: it orders, and secures nothing."""


@devchain.command("serve", context_settings=_PASS_ON)
@click.pass_context
def devchain_serve(context: click.Context) -> None:
    """Run it on 127.0.0.1 until told to stop (`--db FILE --port N`)."""
    become("node.devchain", *context.args)


@click.command(context_settings=_PASS_ON)
@click.pass_context
def demo(context: click.Context) -> None:
    """Four clinics run the whole mission on this machine."""
    become("node.demo", *context.args)


class _Benches(click.Group):
    """The benchmarks that are installed; a verifier's machine has fewer of them."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        folder = _HERE / "bench"
        return [name for name in _BENCHES if (folder / f"{name}.py").is_file()]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None

        def run() -> None:
            become("node.bench", name, *click.get_current_context().args)

        return click.Command(
            name,
            context_settings=_PASS_ON,
            callback=run,
            short_help=f"python -m node.bench {name}",
        )


@click.group(cls=_Benches)
def bench() -> None:
    """Benchmarks, as ratios within one run; each takes --json."""


COMMANDS = (worker, smode, devchain, demo, attack, bench)
