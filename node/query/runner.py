"""Start the sandboxed child for one query, and believe nothing but its vector."""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import msgpack
import msgspec
import numpy as np
import structlog
import trio

from node.errors import ComputeError
from node.query.child import SIZE_BYTES
from node.query.scoring import Given
from protocol.queries.answer import Words
from protocol.queries.spec import Query, cells
from protocol.wire import encode

TIME_LIMIT_S = 600.0
COMMAND = (sys.executable, "-m", "node.query.child")
# What a Python needs to find itself; no secret of the daemon's environment goes along.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
# A process that is shut in starts no thread.
_THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    "RAYON_NUM_THREADS",
)

log = structlog.get_logger()


async def run(query: Query, table: bytes, given: Given | None = None) -> Words:
    """The noisy vector of `query` over `table`, a CSV; `given` is the state it names."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    one_thread = {**dict.fromkeys(_THREADS, "1"), "TOKENIZERS_PARALLELISM": "false"}
    state = msgpack.packb(msgspec.to_builtins(given, builtin_types=(bytes,)))
    request = msgpack.packb({"query": encode(query), "table": table})
    with trio.move_on_after(TIME_LIMIT_S) as scope:
        done = await trio.run_process(
            COMMAND,
            stdin=b"".join([len(state).to_bytes(SIZE_BYTES, "big"), state, request]),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**kept, **one_thread},
        )
        return _words(query, done)
    assert scope.cancelled_caught
    raise ComputeError(f"the query took longer than {TIME_LIMIT_S:.0f} s")


def _words(query: Query, done: "subprocess.CompletedProcess[bytes]") -> Words:
    try:
        answer: Mapping[str, Any] = msgpack.unpackb(done.stdout)
    except ValueError as error:
        # Of its last words only the kind is told: a message could hold a cell of the table.
        raise ComputeError(
            f"the query's process ended with status {done.returncode}",
            hint="it had no answer; its limits of memory and time may be too low",
        ) from error
    if "error" in answer:
        raise ComputeError(str(answer["error"]), hint="the query gave no answer")
    words = np.frombuffer(answer["words"], "<u8").copy()
    if words.size != cells(query):
        raise ComputeError(f"the query's process gave {words.size} numbers")
    log.info("query ran", kind=query.kind, layers=answer["layers"])
    return words
