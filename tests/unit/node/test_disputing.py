"""A party's moves in a dispute: each made once, and again only if it failed."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from node.errors import ChainDownError
from node.ports.chain import ChainEvent
from node.ports.disputes import Standing
from node.services.disputing import Disputes
from protocol.dispute import PARTS, Asked, Game, Turn
from protocol.wire import decode, encode

HOST, CHALLENGER = bytes([1]) * 20, bytes([2]) * 20
OPENED = {
    **dict.fromkeys(
        ("model", "before", "afterwards", "layerRoot", "tables"), bytes(32)
    ),
    "cases": 1,
    "tokens": 7,
    "width": 4,
    "layer": 0,
    "caseNumber": 0,
    "token": 5,
    "inner": 4,
    "heads": 1,
    "kvHeads": 1,
    "headDim": 2,
    "positions": 7,
    "flags": 25,
    "bias": 1,
    "multiplier": 1,
    "number": 0,
    "challenger": CHALLENGER,
    "host": HOST,
    "leaf": bytes(32),
}
HISTORY = (
    ("DisputeOpened", {**OPENED, "deadline": 100}),
    ("DisputeAnswered", {"number": 0, "roots": [bytes(32)] * PARTS, "deadline": 200}),
    ("PartAsked", {"number": 0, "part": 2, "level": 4, "index": 0, "deadline": 300}),
    ("NodesShown", {"number": 0, "part": 2, "level": 4, "index": 0,
                    "nodes": [bytes(32)] * 16, "deadline": 400}),
)  # fmt: skip
"""What the chain tells of a dispute from its start, up to the challenger's second move."""


class Chain:
    def __init__(self, events):
        self._events = events

    async def follow(self, _block) -> AsyncIterator[ChainEvent]:
        for place, (kind, data) in enumerate(self._events):
            yield ChainEvent(block=place, index=0, kind=kind, data=data)
        await trio.sleep_forever()

    async def head(self):
        return SimpleNamespace(time=0)


class Arbiter:
    """Fails as often as it is told to."""

    def __init__(self, account, standing, failures=0):
        self.account = account
        self.moves = []
        self._standing, self._failures = standing, failures

    async def standing(self, _number):
        return self._standing

    async def answer(self, _number, roots):
        self._move(("answer", len(roots)))

    async def ask(self, _number, _claim, asked):
        self._move(("ask", asked.level))

    def _move(self, move):
        if self._failures:
            self._failures -= 1
            raise ChainDownError("no answer")
        self.moves.append(move)
        # As the contract: now it is the other's turn.
        other = {Turn.HOST: Turn.CHALLENGER, Turn.CHALLENGER: Turn.HOST}
        self._standing = Standing(other[self._standing.turn], 1 << 33)


class Compute:
    async def call(self, method, params):
        if method == "dispute.move":
            shown = decode(params["game"], Game).nodes
            return {"asked": encode(Asked(2, 0, 3) if shown else Asked(2, 4, 0))}
        return {"roots": [bytes(32)] * PARTS}


class Store:
    def __init__(self):
        self.events = []

    async def get(self, _table, _key):
        return b"evidence"

    async def put_many(self, _rows, *, event):
        self.events.append(event[0])

    async def append_event(self, name, _data):
        self.events.append(name)


class Releases:
    async def trunk_file(self, _root):
        return Path("trunk")


class Receipts:
    def __init__(self):
        self.held = {}

    async def by_leaf(self, _leaf):
        return SimpleNamespace(model_root=bytes(32)), SimpleNamespace(salt=bytes(32))

    async def rows_at(self, *_place):
        return b""

    async def hold(self, dispute, leaf):
        self.held[dispute] = leaf

    async def let_go(self, dispute):
        self.held.pop(dispute, None)


async def played(arbiter, events, store, receipts=None):
    disputes = Disputes(
        store=store,
        chain=Chain(events),
        arbiter=arbiter,
        federation=SimpleNamespace(name_of_account=bytes.hex),
        receipts=Receipts() if receipts is None else receipts,
        releases=Releases(),
        compute=Compute(),
        evidence=Path("evidence"),
        look_every_s=15.0,
    )
    with trio.move_on_after(100):
        await disputes.run()


@pytest.mark.parametrize("failures", [0, 1, 3])
async def test_a_move_that_fails_is_made_again_and_then_no_more(
    autojump_clock, failures
):
    arbiter = Arbiter(HOST, Standing(Turn.HOST, 100), failures)
    store = Store()
    await played(arbiter, HISTORY[:1], store)
    assert arbiter.moves == [("answer", PARTS)]
    assert store.events.count("dispute.stuck") == min(failures, 1)


async def test_after_a_restart_only_the_move_that_is_awaited_is_made(autojump_clock):
    arbiter = Arbiter(CHALLENGER, Standing(Turn.CHALLENGER, 400))
    await played(arbiter, HISTORY, Store())
    # The first one, which led to the third event, is not made a second time.
    assert arbiter.moves == [("ask", 0)]


@pytest.mark.parametrize("who", [HOST, CHALLENGER])
async def test_a_host_keeps_its_rows_for_as_long_as_it_may_be_asked(
    autojump_clock, who
):
    closed = ("DisputeClosed", {"number": 0, "outcome": 2})
    for history, kept in ((HISTORY, {0: bytes(32)}), ((*HISTORY, closed), {})):
        receipts = Receipts()
        arbiter = Arbiter(who, Standing(Turn.NOBODY, 0))
        await played(arbiter, history, Store(), receipts)
        assert receipts.held == (kept if who == HOST else {})
