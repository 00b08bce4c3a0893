"""`rexis <noun> <verb>`: put the commands together, turn errors into exit statuses.

This is one of the four places that catch everything foreseen.  It must start in a blink, so
neither this module nor the modules of the nouns import anything heavy at the top; a test holds
that.
"""

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from node.cli import (
    chain,
    council,
    data,
    deals,
    evaluation,
    grants,
    here,
    programs,
    provenance,
    publishing,
    query,
    query_models,
    setup,
    training,
)
from node.cli.shell import (
    INTERRUPTED,
    OK,
    REFUSED,
    UNREACHABLE,
    USAGE,
    WrongValueError,
    fail,
)
from node.errors import NodeError
from node.rpc.client import UnreachableError

_SECTIONS = (
    ("A node", ("init", "config", "status", "events", "stop", "peers", "members")),
    ("Data", ("dataset", "grant", "market", "committee", "query", "provenance")),
    ("Members", ("council",)),
    ("Training", ("run", "round")),
    ("Evaluation", ("model", "infer", "receipt", "audit", "dispute")),
    (
        "Programs",
        ("worker", "smode", "chain", "devchain", "demo", "attack", "bench"),
    ),
)


class _Root(click.Group):
    """Lists its commands by what they are about."""

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        for title, names in _SECTIONS:
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                assert command is not None
                rows.append((name, command.get_short_help_str(78)))
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(
    cls=_Root,
    epilog="Exit status: 0 done, 1 refused, 2 no daemon answers, 3 wrong usage.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--home",
    envvar="REXIS_HOME",
    default="~/.rexis",
    show_default=True,
    show_envvar=True,
    metavar="PATH",
    help="Data directory of the node.",
)
@click.version_option(package_name="rexis", message="rexis %(version)s")
def cli(home: str) -> None:
    """Speak to the Rexis node of this machine, or make one."""


for _noun in (
    here,
    setup,
    data,
    publishing,
    grants,
    deals,
    council,
    query,
    query_models,
    provenance,
    training,
    evaluation,
    programs,
    chain,
):
    for _command in _noun.COMMANDS:
        cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name in an alphabet the terminal does not have is shown escaped, not refused.
            stream.reconfigure(errors="backslashreplace")
    try:
        status: Any = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="rexis",
            standalone_mode=False,
        )
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(error.format_message() + "\n")
        return USAGE
    except click.UsageError as error:
        return fail(_said(error), _usage_hint(error), USAGE)
    except click.ClickException as error:
        return fail(_lower(error.format_message()), "", REFUSED)
    except UnreachableError as error:
        return fail(str(error), error.hint(), UNREACHABLE)
    except NodeError as error:
        return fail(str(error), error.hint(), REFUSED)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # `rexis events | head` is not an error; nothing more can be written, even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return status if isinstance(status, int) else OK


def _said(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption):
        return f"no such option {error.option_name}"
    # click puts its guess into the message; ours stands in the hint.
    return _lower(error.format_message().split(" Did you mean")[0])


def _usage_hint(error: click.UsageError) -> str:
    if isinstance(error, WrongValueError):
        return error.hint
    near = getattr(error, "possibilities", None)
    if near:
        return f"did you mean {' or '.join(sorted(near)[:3])}?"
    path = error.ctx.command_path if error.ctx is not None else "rexis"
    return f"`{path} --help` shows what it takes"


def _lower(text: str) -> str:
    text = " ".join(text.split()).removesuffix(".")
    return text[:1].lower() + text[1:]


if __name__ == "__main__":
    sys.exit(main())
