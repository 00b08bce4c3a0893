"""Hosts of S-mode as processes of this machine, for trying it out.

One machine that runs both can put the halves together: nothing is hidden from it.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.errors import NodeError


@contextmanager
def host_process(path: Path) -> Iterator[str]:
    """A host process that ends with the block."""
    command = [sys.executable, "-m", "node.smode.host", "--socket", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or not process.stdout.readline().startswith(
                "ready"
            ):
                raise NodeError(
                    "an S-mode host did not start", hint="see its message above"
                )
            yield str(path)
        finally:
            process.terminate()
