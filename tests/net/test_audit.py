"""Who lied, when the blob came out wrong: the audit alone, without a network."""

import hashlib
from contextlib import asynccontextmanager

import pytest

from node.adapters.libp2p.audit import Outcome, audit
from node.adapters.libp2p.wanted import SIZE_BYTES, Wanted
from node.adapters.partial_blob import CHUNK_BYTES, PartialBuffer
from node.errors import TransportError
from protocol.types import Digest

SIZE = 3 * CHUNK_BYTES + 9
GOOD = hashlib.shake_128(b"good").digest(SIZE)
DIGEST = Digest(hashlib.sha256(GOOD).digest())


def chunks(data):
    return [data[start : start + CHUNK_BYTES] for start in range(0, SIZE, CHUNK_BYTES)]


def changed(*indexes):
    data = bytearray(GOOD)
    for index in indexes:
        data[index * CHUNK_BYTES] ^= 1
    return bytes(data)


class Holder:
    """What it gives, and what it claims to give; None if it cannot be asked."""

    def __init__(self, gives, claims=None):
        self.gives = gives
        self.claims = gives if claims is None else claims


class Asked(Wanted):
    def __init__(self, holders):
        super().__init__(None, None, DIGEST, limit_bytes=SIZE, timeout_s=1)
        self.holders = holders
        self.asked = []

    async def claims(self, peer, count):
        holder = self.holders[peer]
        if holder is None:
            raise TransportError("gone")
        return [hashlib.sha256(chunk).digest() for chunk in chunks(holder.claims)]

    @asynccontextmanager
    async def ask(self, peer, span):
        assert len(span) == 1
        self.asked.append((peer, span.start))
        rest = [bytes(SIZE_BYTES), chunks(self.holders[peer].gives)[span.start]]

        class Body:
            async def take(self, size):
                assert len(rest[0]) == size
                return [rest.pop(0)]

        yield Body()


async def judged(holders, sender, arrived):
    """The audit of what has `arrived`, and the blob after it."""
    partial = PartialBuffer(None, DIGEST, SIZE)
    partial.write(0, [arrived])
    assert not partial.matches()
    wanted = Asked(holders)
    outcome = await audit(wanted, partial, list(holders), sender)
    return outcome, wanted, b"".join(partial.read(index) for index in range(4))


async def test_only_what_differs_is_asked_again_and_its_sender_named():
    holders = {"liar": Holder(changed(1)), "good": Holder(GOOD)}
    sender = {0: "liar", 1: "liar", 2: "good", 3: "good"}
    outcome, wanted, data = await judged(holders, sender, changed(1))
    assert (outcome, data, wanted.liars) == (Outcome.RIGHT, GOOD, {"liar"})
    assert wanted.asked == [("good", 1)]


async def test_who_sent_the_right_bytes_is_not_named_whatever_a_liar_put_over_them():
    holders = {"liar": Holder(changed(0, 1, 2, 3)), "good": Holder(GOOD)}
    sender = {0: "good", 1: "third", 2: "liar", 3: "third"}
    outcome, wanted, data = await judged(holders, sender, changed(2))
    assert (outcome, data, wanted.liars) == (Outcome.RIGHT, GOOD, {"liar"})


@pytest.mark.parametrize(
    "liar",
    [
        Holder(changed(1), claims=GOOD),  # claims the truth, gives something else
        Holder(GOOD, claims=changed(2)),  # the other way round
    ],
)
async def test_a_holder_that_contradicts_itself_is_a_liar(liar):
    holders = {"liar": liar, "good": Holder(GOOD)}
    outcome, wanted, data = await judged(holders, {1: "other"}, changed(1))
    assert (outcome, data) == (Outcome.RIGHT, GOOD)
    assert wanted.liars == {"liar", "other"}


async def test_bytes_an_earlier_fetch_left_are_nobodys():
    outcome, wanted, data = await judged({"good": Holder(GOOD)}, {}, changed(0))
    assert (outcome, data, wanted.liars) == (Outcome.RIGHT, GOOD, set())


async def test_it_stays_open_while_one_holder_cannot_be_asked():
    holders = {"liar": Holder(changed(1)), "gone": None}
    outcome, wanted, _ = await judged(holders, {1: "liar"}, changed(1))
    assert (outcome, wanted.liars) == (Outcome.OPEN, {"liar"})
    del holders["gone"]
    outcome, wanted, _ = await judged(holders, {1: "liar"}, changed(1))
    assert (outcome, wanted.liars) == (Outcome.WRONG, {"liar"})


async def test_who_sent_everything_alone_is_not_asked_again():
    sender = dict.fromkeys(range(4), "liar")
    outcome, wanted, _ = await judged({"liar": Holder(GOOD)}, sender, changed(1))
    assert (outcome, wanted.liars, wanted.asked) == (Outcome.WRONG, {"liar"}, [])
