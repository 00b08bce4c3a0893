"""The daemon of a host that sticks to its lies: what it says in disputes comes from files.

`HOME/lies/LEAF` holds the entries of all parts that it answers with in the dispute about the
receipt with this leaf hash; an empty file is silence.  All else is the daemon's own.
"""

import sys

import trio

from node import app
from node.locations import Home
from node.services.disputing import Disputes
from protocol.dispute import Trace
from protocol.wire import decode

honest = Disputes._defend


async def defend(self, game):
    path = trio.Path(Home(sys.argv[2]).path) / "lies" / game.leaf.hex()
    if not await path.exists():
        return await honest(self, game)
    story = await path.read_bytes()
    if not story:
        return None
    _, kept = await self._receipts.by_leaf(game.leaf)
    trace = Trace(game.claim, kept.salt, decode(story, list[list[bytes]]))
    about, asked = (game.number, game.claim, trace.roots), game.asked
    if asked is None:
        return await self._arbiter.answer(game.number, trace.roots)
    place = (asked.part, asked.level, asked.index)
    if asked.level == 0:
        leaf = trace.leaf(asked.part, asked.index)
        return await self._arbiter.show(*about, leaf)
    return await self._arbiter.split(*about, trace.below(*place), trace.path(*place))


if __name__ == "__main__":
    Disputes._defend = defend
    sys.exit(app.main())
