"""Start the programs of the demo, and end exactly those.

Each program is a process of its own with a log file of its own; this module knows their ids
and nothing else.  Leaving the block ends them in reverse order, politely first.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from node.errors import NodeError

STOP_TIMEOUT_S = 8.0


class DemoError(NodeError):
    """The demo cannot go on."""

    code = 900


class Programs:
    """Child processes by name."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in reversed(list(self._running)):
            self._running[name].terminate()
        for name in reversed(list(self._running)):
            self.stop(name)

    def start(
        self,
        name: str,
        module: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Run `python -m module`; returns the process id."""
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # More than ten programs share the cores: threads that spin while they wait
                # for each other would take them from those that work.
                env={"OMP_NUM_THREADS": "1", **os.environ, **(env or {})},
            )
        self._running[name] = process
        return process.pid

    def pids(self) -> dict[str, int]:
        """Name to process id."""
        return {name: process.pid for name, process in self._running.items()}

    def wait_for_line(self, name: str, text: str, timeout_s: float = 60) -> None:
        """Until the program's log has a line with `text`."""
        path = self._logs / f"{name}.log"
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if text in path.read_text(errors="replace"):
                return
            self.check(name)
            time.sleep(0.05)
        raise DemoError(
            f"{name} did not say {text!r} within {timeout_s:.0f} s", hint=f"see {path}"
        )

    def check(self, name: str) -> None:
        """Raise if the program has ended."""
        code = self._running[name].poll()
        if code is not None:
            log = self._logs / f"{name}.log"
            last = log.read_text(errors="replace").strip().splitlines()[-3:]
            raise DemoError(
                f"{name} ended with status {code}: {' / '.join(last)}",
                hint=f"see {log}",
            )

    def kill(self, name: str) -> None:
        """The program ends without a chance to tidy up."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str) -> int:
        """End one program; it is killed if it does not end by itself."""
        process = self._running.pop(name)
        process.terminate()
        try:
            return process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def until(
    condition: Callable[[], bool], what: str, timeout_s: float, pause_s: float = 0.1
) -> None:
    """Wait for `condition`; says `what` was awaited when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(pause_s)


def free_ports(count: int) -> list[int]:
    """Loopback ports nobody uses at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
