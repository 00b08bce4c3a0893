"""A relay on every link of a federation of processes, each way dialled by itself.

The relays of `tests/net/relay.py` run in a thread of the test; every member is told the
relay's port in place of the other's.  What no relay shows is loss inside of TCP: a lost packet is
a stall here, a lost connection a cut.
"""

import importlib.util
import threading
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path

import trio

RELAY = Path(__file__).parents[2] / "net" / "relay.py"
CUT_EVERY_S = 1.0


class Links:
    """(who dials, whom) to its relay; may be changed from the test's thread."""

    def __init__(self, sites):
        spec = importlib.util.spec_from_file_location("net_relay", RELAY)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        pairs = [(a, b) for a in sites for b in sites if a != b]
        self.relays = {
            pair: module.Relay(sites[pair[1]].port, seed=number)
            for number, pair in enumerate(pairs)
        }
        self.cuts = 0
        self._cut_share = 0.0
        self._ready, self._over = threading.Event(), trio.Event()
        self._token = None

    async def _serve(self):
        self._token = trio.lowlevel.current_trio_token()
        async with AsyncExitStack() as stack:
            for relay in self.relays.values():
                await stack.enter_async_context(relay.running())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cut_now_and_then)
                self._ready.set()
                await self._over.wait()
                nursery.cancel_scope.cancel()

    async def _cut_now_and_then(self):
        while True:
            await trio.sleep(CUT_EVERY_S)
            for relay in self.relays.values():
                before = len(relay._scopes)
                relay.drop(self._cut_share)
                self.cuts += before - sum(
                    not scope.cancel_called for scope in relay._scopes
                )

    def _do(self, work):
        trio.from_thread.run_sync(work, trio_token=self._token)

    def shape(self, *, round_trip_s=0.0, bits_per_s=None, share=0.0):
        """Every link; `share` of pieces are stalled, and of connections cut in every second."""

        def work():
            self._cut_share = share
            for relay in self.relays.values():
                relay.delay_s = round_trip_s / 2
                relay.bytes_per_s = bits_per_s and bits_per_s / 8
                relay.stalls = share

        self._do(work)

    def part(self, *sides):
        """Nothing passes between members of different sides; within one, everything does."""

        def work():
            for (a, b), relay in self.relays.items():
                if any(a in side and b in side for side in sides):
                    relay.mend()
                else:
                    relay.cut()

        self._do(work)

    def heal(self):
        self.part({name for pair in self.relays for name in pair})

    def carried(self):
        """Bytes, both ways of all links."""
        return sum(sum(relay.carried) for relay in self.relays.values())


@contextmanager
def relayed(live):
    """A relay between any two members, who know each other by nothing else."""
    links = Links(live.place.sites)
    thread = threading.Thread(target=partial(trio.run, links._serve), daemon=True)
    thread.start()
    assert links._ready.wait(30)
    for (a, b), relay in links.relays.items():
        config = live.place.sites[a].home.config
        told = config.read_text()
        direct = f"/ip4/127.0.0.1/tcp/{live.place.sites[b].port}"
        assert told.count(f'"{direct}"') == 1
        config.write_text(told.replace(f'"{direct}"', f'"{relay.address}"'))
    try:
        yield links
    finally:
        links._do(links._over.set)
        thread.join(30)
