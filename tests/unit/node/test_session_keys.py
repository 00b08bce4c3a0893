"""Keys of training sessions: fresh, written down first, destroyed whatever happens."""

import pytest
import trio

from ee.ledger import Context, Opens, session_seed
from node.adapters.memory_signer import memory_signer
from node.adapters.memory_store import MemoryStore
from node.errors import ModelError
from node.model import keyring
from node.model.keyring import KEYS, USED
from node.services.sessions import Sessions, session_context, session_opens

OPENS = Opens("llama", bytes(32), "orthogonal", "dense")
HERE = Context("north", "gpu", "run round 0 1")


async def test_a_session_has_a_key_while_it_lasts_and_its_print_for_ever():
    store = MemoryStore()
    sessions = Sessions(store, memory_signer(1))
    async with sessions.key(HERE, OPENS) as seed:
        assert len(seed) == 32
        ((_, kept),) = await store.scan(KEYS)
        assert seed not in kept
        assert seed.hex().encode() not in kept
        assert [row["life"] for row in await sessions.rows()] == ["live"]
    assert await store.scan(KEYS) == []
    assert [row["life"] for row in await sessions.rows()] == ["destroyed"]
    async with sessions.key(HERE, OPENS) as again:
        assert again != seed
    assert len(await store.scan(USED)) == 2


async def test_one_session_cannot_have_two_keys():
    sessions = Sessions(MemoryStore(), memory_signer(1))
    async with sessions.key(HERE, OPENS):
        with pytest.raises(ModelError, match="has a key in use"):
            async with sessions.key(HERE, OPENS):
                pass


async def test_a_secret_that_served_is_refused_another_session(monkeypatch):
    monkeypatch.setattr(keyring, "new_secret", lambda: bytes(range(32)))
    sessions = Sessions(MemoryStore(), memory_signer(1))
    async with sessions.key(HERE, OPENS):
        pass
    other = Context("north", "gpu", "run round 1 1")
    with pytest.raises(ModelError, match="was made for north at gpu") as caught:
        async with sessions.key(other, OPENS):
            pass
    assert "one institution, host and session" in caught.value.hint()


async def test_a_cancelled_or_failed_session_leaves_no_key():
    store = MemoryStore()
    sessions = Sessions(store, memory_signer(1))
    with trio.move_on_after(0.01):
        async with sessions.key(HERE, OPENS):
            await trio.sleep_forever()
    with pytest.raises(ZeroDivisionError):
        async with sessions.key(HERE, OPENS):
            raise ZeroDivisionError
    assert await store.scan(KEYS) == []


async def test_what_a_crash_left_is_destroyed_at_the_next_start():
    store, signer = MemoryStore(), memory_signer(1)
    ring = Sessions(store, signer)._ring
    opened = await ring.new(HERE, OPENS)
    # Killed between the mark and the deletion of another one, too.
    half = await ring.new(Context("north", "gpu", "half"), OPENS)
    await ring._put(
        (await ring._ledger()).retire(
            (await ring._ledger()).live(half.document.context)
        )
    )
    later = Sessions(store, signer)
    assert await later.end_all() == 1
    assert await store.scan(KEYS) == []
    assert {row["life"] for row in await later.rows()} == {"destroyed"}
    assert session_seed(opened.secret, HERE)  # it was a key, and is in no store now


async def test_a_crash_between_the_print_and_the_secret_leaves_no_key_in_use():
    class Torn(MemoryStore):
        """Killed before anything is sealed."""

        async def put(self, namespace, key, value):
            if namespace == KEYS:
                raise ConnectionError("killed")
            await super().put(namespace, key, value)

    torn, signer = Torn(), memory_signer(1)
    with pytest.raises(ConnectionError):
        async with Sessions(torn, signer).key(HERE, OPENS):
            pass
    store = MemoryStore()
    for name, data in await torn.scan(USED):
        await store.put(USED, name, data)
    later = Sessions(store, signer)
    assert [row["life"] for row in await later.rows()] == ["live"]
    assert await later.end_all() == 1
    assert [row["life"] for row in await later.rows()] == ["destroyed"]
    assert await later.end_all() == 0
    async with later.key(HERE, OPENS):
        pass  # the place is free again


async def test_a_key_is_sealed_to_this_node():
    store, signer = MemoryStore(), memory_signer(1)
    sessions = Sessions(store, signer)
    async with sessions.key(HERE, OPENS):
        with pytest.raises(ModelError, match="sealed to another node"):
            await Sessions(store, memory_signer(2))._ring.open(HERE)


def test_every_try_is_a_session_of_its_own_and_says_what_it_is_for():
    one, two = (session_context("N", "G", bytes(32), 3) for _ in range(2))
    assert one != two
    assert one.session.startswith("0000000000000000 round 3 ")
    spec = {"config": {"model_type": "esm"}}
    assert session_opens(spec, b"plan").architecture == "esm"
    assert (
        session_opens({"checkpoint": {"name": "minilm"}}, b"").architecture == "minilm"
    )
    assert session_opens({"columns": []}, b"").architecture == "table"
    assert session_opens({}, b"a").plan != session_opens({}, b"b").plan
