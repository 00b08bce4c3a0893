"""`python -m node.worker --socket PATH`: what `rexis worker serve` runs."""

import argparse
import sys
from pathlib import Path

from node.errors import NodeError
from node.worker.server import serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="rexis worker serve", description=__doc__)
    parser.add_argument("--socket", required=True, type=Path, metavar="PATH")
    options = parser.parse_args()
    try:
        serve(options.socket)
    except NodeError as error:
        sys.stderr.write(f"error: {error}\nhint: {error.hint()}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {options.socket}: {error.strerror or error}\n")
        return 1
    except KeyboardInterrupt:
        pass  # how an operator at a terminal ends it
    return 0


if __name__ == "__main__":
    sys.exit(main())
