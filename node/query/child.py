"""`python -m node.query.child`: one query over one table, shut in before a byte is read.

stdin has a MessagePack map with the query and the table as CSV; stdout gets the noisy vector
and what the sandbox consists of.  The exact vector exists in this process only.
"""

import secrets
import sys
from typing import Any

import msgpack
import numpy as np

from node.errors import NodeError
from node.market import table
from node.query import sandbox
from protocol.errors import ProtocolError
from protocol.queries import noise, sketch
from protocol.queries.answer import QUERY_LIMIT_BYTES, Words
from protocol.queries.noise import Below
from protocol.queries.spec import MICRO, Kind, Named, Query
from protocol.wire import decode


def evaluate(query: Query, data: bytes, below: Below) -> Words:
    """The noisy vector of `query` over the CSV table in `data`, modulo 2^64."""
    parsed = table.parse(data, limit_bytes=table.UNIT_LIMIT_BYTES)
    needed = {*query.columns, *(one.column for one in query.where)}
    places = [(i, name) for i, name in enumerate(parsed.columns) if name in needed]
    rows = [{name: row[i] for i, name in places} for row in parsed.rows]
    exact = sketch.vector(query, rows, parsed.columns)
    drawn = [noise.discrete_gaussian(query.sigma2, below) for _ in range(exact.size)]
    return (exact + np.array(drawn, np.int64)).view(np.uint64)


def _load() -> None:
    """Answer every kind once over two rows: whatever is imported late is, while files open."""
    zeros, columns = bytes(32), ("time", "event")

    def question(kind: Kind, bins: int, event: str) -> Query:
        return Query(
            *(kind, (Named(0, zeros),), columns, MICRO, zeros, zeros),
            low=0.0,
            high=2.0,
            bins=bins,
            event=event,
        )

    for query in (question("survival", 2, "1"), question("correlation", 0, "")):
        evaluate(query, b"time,event\n1,1\n0.5,0\n", secrets.randbelow)


def main() -> int:
    answer: dict[str, Any]
    try:
        _load()
        layers = sandbox.enter()
        asked = msgpack.unpackb(sys.stdin.buffer.read(), max_bin_len=1 << 31)
        query = decode(asked["query"], Query, limit_bytes=QUERY_LIMIT_BYTES)
        query.check()
        words = evaluate(query, asked["table"], secrets.randbelow)
        answer = {"words": words.tobytes(), "layers": layers}
    except (sandbox.SandboxError, NodeError, ProtocolError, MemoryError) as error:
        answer = {"error": str(error) or type(error).__name__}
    sys.stdout.buffer.write(msgpack.packb(answer))
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
