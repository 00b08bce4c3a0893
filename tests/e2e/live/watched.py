"""`rexisd` with a diary, a trap and, where a test asks for it, a lie.

Run like `node.app`.  The daemon's code is the shipped one; this program wraps the few calls
through which a run's machine touches the world, so it lives with the tests and no daemon has
a hook for it.  Told by its environment:

REXIS_LIVE_FOLDER   of one federation: `NAME.diary` is appended to, `trap.json` is obeyed
REXIS_LIVE_NAME     what this node is called there
REXIS_LIVE_LIE      a name of `live.lies.LIES`, or nothing

The diary is a stream of MessagePack arrays, each written before what it tells of happens.
"""

import json
import os
import signal
import sys
from pathlib import Path

import msgpack
import trio

from live import boundaries
from live.lies import LIES
from node import app
from node.adapters.blob_dir import BlobDir
from node.compute import rounds
from node.driver import Driver
from node.services.hands import Hands
from node.services.record_box import RecordBox
from protocol.aggregate.ring import Ring
from protocol.wire import encode

FOLDER = Path(os.environ["REXIS_LIVE_FOLDER"])
NAME = os.environ["REXIS_LIVE_NAME"]
LIE = LIES.get(os.environ.get("REXIS_LIVE_LIE", ""))


class Diary:
    """What this node recorded, said and finished, through all of its lives."""

    def __init__(self):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.open(FOLDER / f"{NAME}.diary", flags, 0o600)
        self.write("started", os.getpid())

    def write(self, *entry):
        os.write(self._file, msgpack.packb(entry))  # one write: whole, or not there


class Trap:
    """Ends this process at one record, if it is the first one of the federation to get there."""

    def __init__(self):
        self._members = ()
        self._proposer = b""
        self._me = b""

    def know(self, members, me):
        self._members, self._me = members, me

    def follow(self, label, value):
        """Whose turn it was in the decision this node spoke in last."""
        if label.endswith(("proposal", "prevote", "precommit")):
            body = boundaries.ballot(value)
            self._proposer = boundaries.proposer(body.slot, body.view, self._members)

    def spring(self, label, when):
        try:
            trap = json.loads((FOLDER / "trap.json").read_text())
        except FileNotFoundError:
            return
        if (label, when) != (trap["label"], trap["when"]):
            return
        if NAME in trap["spares"]:
            return
        mine = self._proposer == self._me
        if trap["proposes"] is not None and trap["proposes"] != mine:
            return
        try:
            os.close(
                os.open(FOLDER / f"sprung-{trap['number']}", os.O_CREAT | os.O_EXCL)
            )
        except FileExistsError:
            return
        diary.write("killed", label, when, trap["number"])
        os.kill(os.getpid(), signal.SIGKILL)


diary, trap = Diary(), Trap()
put, delete = RecordBox.put, RecordBox.delete
publish, send, finished = Hands.publish, Hands.send, Hands.finished
quantise, summed, make, do = Hands._quantise, Hands._sum, Hands.__init__, Driver._do


async def watched_put(box, records):
    """Records that go to the disk in one write are there together, or not at all."""
    labels = {key: boundaries.label(key, value) for key, value in records.items()}
    for key, label in labels.items():
        trap.follow(label, records[key])
        trap.spring(label, "before")
    if LIE is not None:
        records = {k: v for k, v in records.items() if not LIE.forgets(labels[k])}
    for key, value in records.items():
        diary.write("record", box._run, key, value)
    await put(box, records)
    for label in labels.values():
        trap.spring(label, "after")


async def watched_delete(box, *given):
    trap.spring("forgotten", "before")
    await delete(box, *given)
    trap.spring("forgotten", "after")


async def watched_publish(hands, effect):
    diary.write("said", effect.envelope)
    return await publish(hands, effect)


async def watched_send(hands, effect):
    diary.write("said", effect.envelope)
    await send(hands, effect)


async def watched_finished(hands, effect):
    trap.spring("finished", "before")
    goes_on = await finished(hands, effect)
    diary.write("finished", encode(effect.certificate))
    trap.spring("finished", "after")
    return goes_on


async def watched_quantise(hands, effect):
    event = await quantise(hands, effect)
    # What the recipe makes: the machine deletes it with the verdict, and the count of a whole run
    # needs it.
    recipe = msgpack.unpackb(await hands._box.recipe(event.blob))
    common = {**hands._common, "folder": hands._tools.folders.states}
    copy = FOLDER / f"{event.blob.hex()}.rounded"
    await trio.to_thread.run_sync(_round, {**common, **recipe}, copy)
    return event


def _round(params, copy):
    words, _ = rounds._rounded(params, BlobDir(params["blobs"]), Ring(*params["ring"]))
    copy.write_bytes(words.tobytes())


async def watched_sum(hands, effect):
    event = await summed(hands, effect)
    return event if LIE is None else await LIE.summed(hands, effect, event)


async def watched_do(driver, effect, nursery):
    effects = [effect] if LIE is None else LIE.effects(driver._machine, effect)
    for each in effects:
        await do(driver, each, nursery)


def watched_init(hands, **given):
    make(hands, **given)
    me = given["tools"].signer.public_key
    trap.know(given["epoch"].members, me)
    diary.write("epoch", encode(given["epoch"]), me)


if __name__ == "__main__":
    RecordBox.put, RecordBox.delete = watched_put, watched_delete
    Hands.publish, Hands.send, Hands.finished = (
        watched_publish,
        watched_send,
        watched_finished,
    )
    Hands._quantise, Hands._sum, Hands.__init__ = (
        watched_quantise,
        watched_sum,
        watched_init,
    )
    Driver._do = watched_do
    sys.exit(app.main())
