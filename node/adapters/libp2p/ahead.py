"""A call in a worker thread that has been started and not yet been waited for."""

from collections.abc import Callable
from typing import Generic, TypeVar

import outcome
import trio

T = TypeVar("T")


class Ahead(Generic[T]):
    """Lets the disk read while the network sends.

    Without a task of its own: whoever loses interest forgets it, and the thread's result
    goes nowhere.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._done = trio.Event()
        self._outcome: outcome.Outcome[T] | None = None
        token = trio.lowlevel.current_trio_token()

        def arrive(result: outcome.Outcome[T]) -> None:
            self._outcome = result
            self._done.set()

        def deliver(result: outcome.Outcome[T]) -> None:  # in the thread
            try:
                token.run_sync_soon(arrive, result)
            except trio.RunFinishedError:
                return

        trio.lowlevel.start_thread_soon(call, deliver)

    async def result(self) -> T:
        """What the call returned, or the error it raised."""
        await self._done.wait()
        assert self._outcome is not None
        return self._outcome.unwrap()
