"""`python -m node.worker --socket PATH`: what `rexis worker serve` runs.

Under `torchrun` all processes hold one trunk together and the first listens.
"""

import argparse
import os
import sys
from pathlib import Path

from ee.economy import Economy
from node.errors import NodeError
from node.worker.server import limit_memory, serve
from node.worker.session import LocalTrunks


def main() -> int:
    parser = argparse.ArgumentParser(prog="rexis worker serve", description=__doc__)
    parser.add_argument("--socket", required=True, type=Path, metavar="PATH")
    parser.add_argument(
        "--memory", type=int, metavar="MIB", help="refuse sessions that need more"
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="where stock trunks are trained, as torch has it",
    )
    parser.add_argument(
        "--bf16", action="store_true", help="products of stock trunks in bfloat16"
    )
    parser.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="compute blocks of stock trunks again instead of keeping what is in them",
    )
    options = parser.parse_args()
    try:
        if options.memory is not None:
            limit_memory(options.memory)
        _run(options)
    except NodeError as error:
        sys.stderr.write(f"error: {error}\nhint: {error.hint()}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {options.socket}: {error.strerror or error}\n")
        return 1
    except KeyboardInterrupt:
        pass  # how an operator at a terminal ends it
    return 0


def _run(options: argparse.Namespace) -> None:
    economy = Economy(options.bf16, options.gradient_checkpointing)
    # What torchrun tells each process it starts.
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        serve(options.socket, LocalTrunks(options.device, economy))
        return
    from node.worker.ranks import open_ranks

    with open_ranks(options.device, economy) as ranks:
        if ranks.leads:
            serve(options.socket, ranks)
        else:
            ranks.follow()


if __name__ == "__main__":
    sys.exit(main())
