"""A stretch of bad network between two nodes: late, narrow, leaky, or cut.

A relay listens on the loopback interface and passes bytes on to one target.  Delay and rate
hold for each direction, the rate for all connections together.  No privileges are needed,
which `tc` and network namespaces would.
"""

import random
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

PIECE_BYTES = 1 << 14
IN_FLIGHT = 256
"""Pieces under way in one direction of one connection: 4 MiB, the path's buffer."""
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Relay:
    """`delay_s` one way, `bytes_per_s` each way; all may change at any time.

    `stalls`: the share of pieces that come `stall_s` late, and hold up what is behind them, as a
    lost packet holds up a TCP connection until it has been sent again.
    """

    def __init__(
        self, port, *, delay_s=0.0, bytes_per_s=None, stalls=0.0, stall_s=1.0, seed=0
    ):
        self.target = port
        self.delay_s = delay_s
        self.bytes_per_s = bytes_per_s
        self.stalls = stalls
        self.stall_s = stall_s
        self.stalled = 0
        self.carried = [0, 0]
        """Bytes towards the target, and back."""
        self.connections = 0
        self._free = [0.0, 0.0]
        self._scopes = set()
        self._up = True
        self._flowing = trio.Event()
        self._flowing.set()
        self._chance = random.Random(seed)

    @property
    def address(self):
        return f"/ip4/127.0.0.1/tcp/{self.port}"

    @asynccontextmanager
    async def running(self):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(
                partial(trio.serve_tcp, self._serve, 0, host="127.0.0.1")
            )
            self.port = listener.socket.getsockname()[1]
            yield self
            nursery.cancel_scope.cancel()

    def cut(self):
        """End every connection, and let none through until `mend`."""
        self._up = False
        self.drop()

    def mend(self):
        self._up = True

    def drop(self, share=1.0):
        """End each connection with probability `share`."""
        for scope in list(self._scopes):
            if self._chance.random() < share:
                scope.cancel()

    def freeze(self):
        """Nothing passes, and nobody is told: a pulled cable."""
        self._flowing = trio.Event()

    def thaw(self):
        self._flowing.set()

    async def _serve(self, near):
        if not self._up:
            await near.aclose()
            return
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            self.connections += 1
            try:
                far = await trio.open_tcp_stream("127.0.0.1", self.target)
                async with near, far, trio.open_nursery() as nursery:
                    for way, source, sink in ((0, near, far), (1, far, near)):
                        sender, receiver = trio.open_memory_channel(IN_FLIGHT)
                        nursery.start_soon(self._take, way, source, sender)
                        nursery.start_soon(self._give, way, receiver, sink)
            except* GONE:
                pass
            finally:
                self._scopes.discard(scope)
                with trio.CancelScope(shield=True), suppress(*GONE):
                    await trio.aclose_forcefully(near)

    async def _take(self, way, source, sender):
        async with sender:
            with suppress(*GONE):
                while data := await source.receive_some(PIECE_BYTES):
                    due = trio.current_time()
                    if self.bytes_per_s:
                        start = max(due, self._free[way])
                        self._free[way] = start + len(data) / self.bytes_per_s
                        due = self._free[way]
                    if self._chance.random() < self.stalls:
                        self.stalled += 1
                        due += self.stall_s
                    await sender.send((due + self.delay_s, data))

    async def _give(self, way, receiver, sink):
        async for due, data in receiver:
            await trio.sleep_until(due)
            await self._flowing.wait()
            await sink.send_all(data)
            self.carried[way] += len(data)
        with suppress(*GONE):
            await sink.send_eof()
