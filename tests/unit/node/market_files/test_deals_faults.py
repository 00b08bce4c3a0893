"""What is on record, closed and shown when the chain is slow, a node dies, or an owner lies."""

from functools import partial

import pytest
import trio
from deals_world import (
    HOUR,
    ask,
    decide,
    later,
    rows,
    status,
)
from file_world import OWNER

from node.adapters.memory_chain import MemoryChain
from node.errors import AccessError, ChainError, ContractRefusedError, StorageError
from protocol.deals import DeliveryQuery
from protocol.members import (
    ROLE_AUDITOR,
    ROLE_COMPUTE_HOST,
    ROLE_DATA_PROVIDER,
    ROLE_RESEARCHER,
)
from protocol.types import digest
from protocol.wire import encode

# --- what a slow or broken chain does to it ----------------------------------------


async def test_closing_what_is_due_does_not_hold_up_the_grants(world, listed, nursery):
    """A transaction may take minutes; a view of the grants that old lets nobody through."""
    number = await ask(world, listed)
    later(world, 2 * HOUR)
    market, trade = world.reader.market, rows(world)._market
    read, tried = [], trio.Event()
    check_heard = market._catalogue.check_heard

    async def hangs(request):
        assert request == number
        tried.set()
        await trio.sleep_forever()

    async def counted():
        read.append(None)
        await check_heard()

    trade.close_request, market._catalogue.check_heard = hangs, counted
    with trio.fail_after(10):
        async with trio.open_nursery() as tasks:
            tasks.start_soon(partial(market.watch, every_s=0.01))
            tasks.start_soon(partial(market.close_due, every_s=0.01))
            await tried.wait()
            before = len(read)
            while len(read) < before + 3:
                await trio.sleep(0.01)
            tasks.cancel_scope.cancel()


async def test_one_request_that_cannot_be_closed_leaves_the_others_no_longer_open(
    world, listed
):
    stuck, due = await ask(world, listed), await ask(world, listed)
    later(world, 2 * HOUR)
    trade = rows(world)._market
    close = trade.close_request

    async def refuses(request):
        if request == stuck:
            raise ContractRefusedError(
                "WrongStatus", "the chain refused: WrongStatus()"
            )
        await close(request)

    trade.close_request = refuses
    await rows(world).close_due()
    assert await status(world, stuck) == "open"
    assert await status(world, due) == "refunded"


async def test_what_was_read_is_on_record_before_the_chain_is_asked_about_it(
    world, listed, tmp_path
):
    number = await ask(world, listed)
    await decide(world).approve(number)

    async def down():
        raise ChainError("the chain does not answer")

    trade = rows(world)._market
    requests, trade.requests = trade.requests, down
    reader = world.reader
    with pytest.raises(ChainError):
        await reader.market.fetch(listed, None, tmp_path / "out")
    assert (tmp_path / "out").exists()
    trade.requests = requests
    (event,) = [e for e in await reader.store.events(0, 99) if e.kind == "units_read"]
    assert event.data == {"dataset": listed, "units": [0, 1], "owner": OWNER}


async def test_a_node_killed_while_it_writes_has_put_on_record_what_it_can_read(
    world, listed, tmp_path
):
    await decide(world).approve(await ask(world, listed))
    reader = world.reader
    kinds = []

    async def killed(*_):
        kinds.extend([event.kind for event in await reader.store.events(0, 99)])
        raise StorageError("killed")

    reader.market._grantee._write = killed
    with pytest.raises(StorageError):
        await reader.market.fetch(listed, None, tmp_path / "out")
    assert kinds[-1] == "units_read"


# --- disputes, looked at closely ---------------------------------------------------


@pytest.fixture
async def disputed(world, listed, tmp_path):
    number = await ask(world, listed)
    await decide(world).approve(number)
    await rows(world).dispute(number, "no key came", tmp_path / "claim.json")
    return number


async def test_a_member_that_is_no_auditor_is_shown_nothing_of_a_dispute(
    world, disputed
):
    registrar = MemoryChain(world.ledger, world.ledger.owner)
    asked = encode(DeliveryQuery(disputed))
    roles = ROLE_DATA_PROVIDER | ROLE_RESEARCHER | ROLE_COMPUTE_HOST
    await registrar.register(world.other.member(), roles)
    for peer in (world.other.peer_id, world.reader.peer_id):
        if peer == world.reader.peer_id:  # the plaintiff is no auditor of its own case
            await registrar.register(world.reader.member(), roles)
        with pytest.raises(AccessError, match="only auditors"):
            await decide(world).answer(peer, asked)
    await registrar.register(world.other.member(), ROLE_AUDITOR)
    assert await decide(world).answer(world.other.peer_id, asked)


async def test_an_auditor_is_shown_another_message_than_the_approval_committed_to(
    world, disputed
):
    """Sound in all but its bytes: sealed anew to the same grantee, of the same units."""
    auditor = world.other.market.deals
    checked = await auditor.check_case(0)
    assert (checked["sound"], checked["why"]) == (True, None)
    found = world.rules.requests[disputed]
    for key, _ in await world.owner.store.scan("market.keys"):
        await world.owner.store.delete("market.keys", key)
    messages = world.owner.market.deals._messages
    other = await messages.of(found, world.reader.member())
    checked = await auditor.check_case(0)
    assert checked["shown"] == digest(other).hex() != checked["committed"]
    assert not checked["sound"]
    assert "another message than the approval committed to" in checked["why"]
