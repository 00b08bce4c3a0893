"""What a node deals, votes and opens is each said once, whatever is killed, forgotten or forged."""

import msgspec
import numpy as np
import pytest
import trio

from node.adapters.memory_signer import memory_signer
from node.adapters.memory_store import MemoryStore
from node.errors import AccessError, StorageError
from node.query import masking
from node.query.masking import Masking
from protocol.errors import VerificationError
from protocol.queries import recovery
from protocol.queries.answer import seal_query
from protocol.queries.recovery import Asked, Opened, Survivors
from protocol.queries.spec import Named, Query
from protocol.rounds import prekeys
from protocol.wire import decode

SIZE = 4
ASKER = memory_signer(99)


def a_query(nonce=0):
    named = tuple(Named(n, bytes([n]) * 32) for n in range(SIZE))
    return Query("count", named, (), 1000, bytes(32), nonce.to_bytes(32, "big"))


class Four:
    """Four nodes and what each would say of one question."""

    def __init__(self, nonce=0):
        self.query = a_query(nonce)
        self.signers = sorted(
            (memory_signer(n) for n in range(SIZE)), key=lambda one: one.public_key
        )
        self.cohort = self.of(self.query)
        self.stores = [MemoryStore() for _ in self.signers]
        self.nodes = [
            Masking(store, signer)
            for store, signer in zip(self.stores, self.signers, strict=True)
        ]

    def of(self, query):
        keys = {one.public_key: one.seal_key for one in self.signers}
        return recovery.cohort_of(query, keys)

    async def asked(self):
        readys = [await one.ready(self.query, self.cohort, 0) for one in self.nodes]
        sealed = seal_query(ASKER.sign, ASKER.public_key, self.query)
        return Asked(sealed, tuple(readys))

    async def answer(self, n, asked):
        """As the service does it: one write with the answer."""
        keys = await self.nodes[n].opened(self.query, self.cohort, asked)
        words = np.zeros(1, np.uint64)
        self.nodes[n].apply(words, self.query, keys)
        await self.stores[n].put_many(self.nodes[n].answered(self.query, asked))
        return words

    def poll(self, asked, places, keys=None):
        made = recovery.open_readys(asked.readys, self.query, self.cohort)
        context = recovery.context_of(self.query, made) if keys is None else keys
        return Survivors(self.query.id(), context, sum(1 << p for p in places))

    def certificate(self, said, places):
        return tuple(
            recovery.seal_vote(
                self.signers[n].sign, self.signers[n].public_key, self.query, said
            )
            for n in places
        )


@pytest.fixture
def dealt(monkeypatch):
    """Every dealing: the question, the number, the sealed shares."""
    found, real = [], prekeys.deal

    def deal(cohort, me, number, *rest):
        made = real(cohort, me, number, *rest)
        found.append((cohort.name, number, made.prekey.sealed))
        return made

    monkeypatch.setattr(masking.prekeys, "deal", deal)
    return found


def sealed_once(dealt):
    """No two dealings have one question and one number: so no key seals two texts."""
    names = [(name, number) for name, number, _ in dealt]
    return len(set(names)) == len(names)


async def test_a_node_killed_between_deal_and_record_deals_under_another_number(dealt):
    four, store = Four(), MemoryStore()
    put = store.put

    async def killed(*_):
        raise StorageError("killed")

    store.put = killed
    with pytest.raises(StorageError):
        await Masking(store, four.signers[0]).ready(four.query, four.cohort, 0)
    store.put = put
    again = [
        await Masking(store, four.signers[0]).ready(four.query, four.cohort, now)
        for now in (1, 2)
    ]
    assert len(dealt) == 2
    assert sealed_once(dealt)
    assert again[0] == again[1]


async def test_a_forgotten_question_is_dealt_for_under_another_number(
    dealt, monkeypatch
):
    monkeypatch.setattr(masking, "DEALT_LIMIT", 1)
    four = Four()
    node = four.nodes[0]
    first = await node.ready(four.query, four.cohort, 0)
    await node.ready(a_query(1), four.of(a_query(1)), 1)
    assert await node.ready(four.query, four.cohort, 2) != first
    assert len(dealt) == 3
    assert sealed_once(dealt)
    # The first keys are nobody's any more.
    asked = await four.asked()
    with pytest.raises(AccessError, match="not the ones this node dealt"):
        await node.opened(
            four.query, four.cohort, Asked(asked.query, (first, *asked.readys[1:]))
        )


async def test_an_answered_question_has_the_keys_it_was_answered_under(dealt):
    four = Four()
    asked = await four.asked()
    await four.answer(0, asked)
    node = Masking(four.stores[0], four.signers[0])  # a new process
    assert await node.ready(four.query, four.cohort, 9) in asked.readys
    assert len(dealt) == SIZE


async def test_what_is_forgotten_meanwhile_does_not_stop_an_answer(monkeypatch):
    """A charge was paid in between."""
    four = Four()
    asked = await four.asked()
    keys = await four.nodes[0].opened(four.query, four.cohort, asked)
    monkeypatch.setattr(masking, "DEALT_LIMIT", 1)
    await four.nodes[0].ready(a_query(1), four.of(a_query(1)), 1)
    words = np.zeros(1, np.uint64)
    four.nodes[0].apply(words, four.query, keys)
    assert words[0] != 0


async def test_shares_are_given_for_one_set_under_one_set_of_keys():
    four = Four()
    asked = await four.asked()
    await four.answer(0, asked)
    node, everybody = four.nodes[0], range(SIZE)
    said = four.poll(asked, everybody)
    votes = four.certificate(said, everybody)
    # Everybody signed other keys: perhaps those of another collection of the same question.
    other = four.certificate(four.poll(asked, everybody, bytes(32)), everybody)
    with pytest.raises(AccessError, match="certified under other keys"):
        await node.open(four.query, four.cohort, asked, other)
    with pytest.raises(VerificationError, match="have signed the same"):
        await node.open(four.query, four.cohort, asked, votes[:2])
    opened = await node.open(four.query, four.cohort, asked, votes)
    assert len(decode(opened, Opened).shares) == SIZE
    # It has agreed by opening; of two certificates one is forged by a third, or more.
    less = four.certificate(four.poll(asked, (0, 1, 2)), (0, 1, 2))
    with pytest.raises(AccessError, match="agreed to other survivors"):
        await node.open(four.query, four.cohort, asked, less)
    with pytest.raises(AccessError, match="agreed to other survivors"):
        await node.vote(four.query, four.cohort, asked, 0b0111)
    assert await node.open(four.query, four.cohort, asked, votes) == opened
    await trio.lowlevel.checkpoint()


async def test_shares_are_not_given_against_ones_own_vote():
    four = Four()
    asked = await four.asked()
    await four.answer(0, asked)
    node = four.nodes[0]
    await node.vote(four.query, four.cohort, asked, 0b0111)
    votes = four.certificate(four.poll(asked, range(SIZE)), range(SIZE))
    restarted = Masking(four.stores[0], four.signers[0])
    for one in (node, restarted):
        with pytest.raises(AccessError, match="agreed to other survivors"):
            await one.open(four.query, four.cohort, asked, votes)


async def test_who_dealt_a_share_that_is_none_is_named():
    four = Four()
    asked = await four.asked()
    signer = four.signers[2]
    _, prekey = recovery.open_ready(asked.readys[2], four.query, four.cohort)
    spoilt = msgspec.structs.replace(prekey, sealed=(bytes(80),) * SIZE)
    bad = recovery.seal_ready(signer.sign, signer.public_key, four.query, spoilt)
    readys = (*asked.readys[:2], bad, *asked.readys[3:])
    with pytest.raises(AccessError, match=signer.public_key.hex()[:16]):
        await four.nodes[0].opened(four.query, four.cohort, Asked(asked.query, readys))
