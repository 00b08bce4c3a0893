"""`python -m node.query.child`: one query over one table, shut in before a record is read.

stdin has the run's state where one is asked about, which is put together while files can be
opened; and then, read by a process that is shut in, a MessagePack map with the query and the
table as CSV.  stdout gets the noisy vector and what the sandbox consists of.  The exact vector
exists in this process only.
"""

import os
import secrets
import sys
from typing import Any

import msgpack
import msgspec
import numpy as np

from ee.errors import EncryptionError
from ee.spec import Column, ModelSpec, initial_state
from node.errors import ComputeError, NodeError
from node.market import table
from node.query import sandbox, scoring
from node.query.scoring import Given, Tried
from protocol.errors import ProtocolError
from protocol.queries import noise, sketch
from protocol.queries.answer import QUERY_LIMIT_BYTES, Words
from protocol.queries.models import Feature, Fit, Linear, RunState
from protocol.queries.noise import Below
from protocol.queries.spec import MICRO, Kind, Named, Query
from protocol.wire import decode

SIZE_BYTES = 8
"""Of the length before a state."""


def evaluate(
    query: Query, data: bytes, below: Below, tried: Tried | None = None
) -> Words:
    """The noisy vector of `query` over the CSV table in `data`, modulo 2^64.

    `tried` is the run's state that the question names, where it names one.
    """
    parsed = table.parse(data, limit_bytes=table.UNIT_LIMIT_BYTES)
    needed = {*query.needed, *(() if tried is None else tried.columns)}
    places = [(i, name) for i, name in enumerate(parsed.columns) if name in needed]
    rows = [{name: row[i] for i, name in places} for row in parsed.rows]
    if tried is None:
        exact = sketch.vector(query, rows, parsed.columns)
    else:
        exact = sketch.scored(query, *tried.scores(query, sketch.meeting(query, rows)))
    drawn = [noise.discrete_gaussian(query.sigma2, below) for _ in range(exact.size)]
    return (exact + np.array(drawn, np.int64)).view(np.uint64)


def _load() -> None:
    """Answer every kind once over two rows: whatever is imported late is, while files open."""
    zeros, columns = bytes(32), ("time", "event")
    data = b"time,event\n1,1\n0.5,0\n"
    linear = Linear((Feature("time", 0.0, 2.0),), "event", "1", (0.0, 0.0))

    def question(kind: Kind, bins: int = 0, **changes: Any) -> Query:
        given = {"columns": columns, "low": -2.0, "high": 2.0, "bins": bins, **changes}
        named = (Named(0, zeros),)
        return Query(kind, named, spend=MICRO, code=zeros, nonce=zeros, **given)

    evaluate(question("survival", 2, event="1"), data, secrets.randbelow)
    evaluate(question("correlation"), data, secrets.randbelow)
    fit = Fit(1, 0, 1.0, 1.0, 0.0)
    evaluate(question("training", model=linear, fit=fit), data, secrets.randbelow)
    spec = ModelSpec((Column("time"),), 4, 1, 1, 1, 4, 0)
    task = {"id": "time", "label": "event", "above": 0.5}
    state = initial_state(spec).astype("<f4").tobytes()
    for every in (False, True):
        asked = question("evaluation", 2, model=RunState(zeros, zeros), every=every)
        tried = scoring.model_of(Given(spec.to_dict(), task, state))
        evaluate(asked, data, secrets.randbelow, tried)


def _read(size: int) -> bytes:
    """Exactly so many bytes of stdin, and none behind them: those may be records."""
    parts = []
    while size:
        part = os.read(sys.stdin.fileno(), min(size, 1 << 20))
        if not part:
            raise EOFError("stdin ended early")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _tried() -> Tried | None:
    size = int.from_bytes(_read(SIZE_BYTES), "big")
    state = msgpack.unpackb(_read(size), max_bin_len=1 << 31)
    if state is None:
        return None
    try:
        return scoring.model_of(msgspec.convert(state, Given))
    except EncryptionError as error:
        # Nothing of a table is here yet, so all of it may be said.
        raise ComputeError(f"the run's model: {error}") from error


def main() -> int:
    answer: dict[str, Any]
    try:
        _load()
        tried = _tried()
        layers = sandbox.enter()
        asked = msgpack.unpackb(sys.stdin.buffer.read(), max_bin_len=1 << 31)
        query = decode(asked["query"], Query, limit_bytes=QUERY_LIMIT_BYTES)
        query.check()
        words = evaluate(query, asked["table"], secrets.randbelow, tried)
        answer = {"words": words.tobytes(), "layers": layers}
    except (sandbox.SandboxError, NodeError, ProtocolError, MemoryError) as error:
        answer = {"error": str(error) or type(error).__name__}
    except EncryptionError:
        # It may name a cell of the table.
        answer = {"error": "the model does not fit the table"}
    sys.stdout.buffer.write(msgpack.packb(answer))
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
