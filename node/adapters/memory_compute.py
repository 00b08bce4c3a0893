"""The Compute port without a child: the same methods, in a thread of this process.

For a federation inside one test.  Parameters and results go through MessagePack all the
same, so that nothing passes here which could not cross to a child.
"""

from collections.abc import Mapping
from typing import Any

import msgpack
import trio

from ee.errors import EncryptionError
from node.compute.methods import find
from node.errors import ComputeError, NodeError
from node.ports.compute import Progress
from protocol.errors import ProtocolError


class MemoryCompute:
    """Implements `node.ports.compute.Compute`; one call at a time, as the child does."""

    def __init__(self) -> None:
        self._one = trio.CapacityLimiter(1)

    async def call(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Run `method`; what goes wrong is a `ComputeError` with its words."""
        work = find(method)
        if work is None:
            raise ComputeError(f"the compute child has no method {method!r}")
        sent = msgpack.unpackb(msgpack.packb(dict(params)))

        def tell(data: dict[str, Any]) -> None:
            if progress is not None:
                trio.from_thread.run_sync(progress, data)

        try:
            result = await trio.to_thread.run_sync(work, sent, tell, limiter=self._one)
        except (EncryptionError, ProtocolError, OSError, MemoryError) as error:
            raise ComputeError(str(error)) from error
        except NodeError as error:
            raise ComputeError(str(error), hint=error.hint()) from error
        return dict(msgpack.unpackb(msgpack.packb(result)))
