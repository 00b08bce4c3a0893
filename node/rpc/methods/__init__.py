"""The admin interface as data: every method, in the order a person would learn them.

The server refuses what is not here, the reference page is generated from it, and the examples
are checked against it, so there is one place to read and one place to change.  Examples stand
apart, in `node/rpc/examples.json`.
"""

from collections.abc import Mapping

from node.rpc.method import Method
from node.rpc.methods import (
    data,
    evaluation,
    market,
    node,
    provenance,
    queries,
    training,
)

_ALL = (
    *node.METHODS,
    *data.METHODS,
    *market.METHODS,
    *training.METHODS,
    *evaluation.METHODS,
    *provenance.METHODS,
    *queries.METHODS,
)

METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}
