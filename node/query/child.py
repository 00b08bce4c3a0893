"""`python -m node.query.child`: one query over one table, shut in before a byte is read.

stdin has a MessagePack map with the query, the table as CSV, and the run's state where one is
asked about; stdout gets the noisy vector and what the sandbox consists of.  The exact vector exists in this process only.
"""

import secrets
import sys
from typing import Any

import msgpack
import msgspec
import numpy as np

from ee.errors import EncryptionError
from ee.spec import Column, ModelSpec, initial_state
from node.errors import NodeError
from node.market import table
from node.query import sandbox, scoring
from node.query.scoring import Given
from protocol.errors import ProtocolError
from protocol.queries import noise, sketch
from protocol.queries.answer import QUERY_LIMIT_BYTES, Words
from protocol.queries.models import Feature, Fit, Linear, RunState
from protocol.queries.noise import Below
from protocol.queries.spec import MICRO, Kind, Named, Query
from protocol.wire import decode


def evaluate(
    query: Query, data: bytes, below: Below, given: Given | None = None
) -> Words:
    """The noisy vector of `query` over the CSV table in `data`, modulo 2^64.

    `given` is the run's state that the question names, where it names one.
    """
    parsed = table.parse(data, limit_bytes=table.UNIT_LIMIT_BYTES)
    needed = {*query.needed}
    if given is not None:
        needed.update(scoring.columns(*scoring.table_model(given.spec, given.task)))
    places = [(i, name) for i, name in enumerate(parsed.columns) if name in needed]
    rows = [{name: row[i] for i, name in places} for row in parsed.rows]
    if given is None:
        exact = sketch.vector(query, rows, parsed.columns)
    else:
        taken = sketch.meeting(query, rows)
        exact = sketch.scored(query, *scoring.scores(given, taken, every=query.every))
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
        given = Given(spec.to_dict(), task, state)
        evaluate(asked, data, secrets.randbelow, given)


def main() -> int:
    answer: dict[str, Any]
    try:
        _load()
        layers = sandbox.enter()
        asked = msgpack.unpackb(sys.stdin.buffer.read(), max_bin_len=1 << 31)
        query = decode(asked["query"], Query, limit_bytes=QUERY_LIMIT_BYTES)
        query.check()
        state = asked["state"]
        given = None if state is None else msgspec.convert(state, Given)
        words = evaluate(query, asked["table"], secrets.randbelow, given)
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
