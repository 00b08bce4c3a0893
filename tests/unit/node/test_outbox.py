"""The outbox loses nothing and holds nobody up, whatever the chain does."""

import pytest
import trio

from node.adapters.memory_chain import Ledger, MemoryChain
from node.adapters.memory_store import MemoryStore
from node.errors import ChainDownError, ChainError, ContractRefusedError
from node.services.outbox import PAUSE_LIMIT_S, Outbox
from protocol.members import ROLE_DATA_PROVIDER, Member
from protocol.types import Digest, digest

OWNER, CLINIC = b"\x01" * 20, b"\x02" * 20
RUN, STATE, OTHER = digest(b"run"), digest(b"state"), digest(b"other")


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the process runs after it."""


class MortalChain(MemoryChain):
    """A member's chain that can be taken away."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger, CLINIC)
        self.error: BaseException | None = None
        self.tries = 0

    async def anchor_round(self, run: Digest, number: int, state: Digest) -> None:
        self.tries += 1
        if self.error is not None:
            raise self.error
        await super().anchor_round(run, number, state)


class DyingStore(MemoryStore):
    """A store whose process is killed at the next delete."""

    dying = True

    async def delete(self, namespace: str, key: bytes) -> None:
        if self.dying:
            raise Killed
        await super().delete(namespace, key)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(OWNER, clock=lambda: 1_000)


@pytest.fixture
def chain(ledger) -> MortalChain:
    return MortalChain(ledger)


async def admit(ledger):
    clinic = Member(digest(b"node"), digest(b"seal"), CLINIC, 1, "clinic")
    await MemoryChain(ledger, OWNER).register(clinic, ROLE_DATA_PROVIDER)


async def sent(outbox, seconds=1.0):
    """Let the outbox work for a while."""
    with trio.move_on_after(seconds):
        await outbox.run()


def numbers(ledger):
    return [e.data["number"] for e in ledger.events if e.kind == "RoundAnchored"]


async def kinds(store):
    return [event.kind for event in await store.events()]


async def test_a_dead_chain_delays_anchors_and_nothing_else(
    ledger, chain, autojump_clock
):
    await admit(ledger)
    chain.error = ChainDownError("down")
    outbox = Outbox(MemoryStore(), chain)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        for number in range(60):
            with trio.fail_after(0.001):
                await outbox.put("round", RUN, number, STATE)
            await trio.sleep(60)
        assert await outbox.waiting() == 60
        # An hour of silence costs about two questions a minute, not a busy loop.
        assert chain.tries < 2 * 3600 / PAUSE_LIMIT_S
        chain.error = None
        await trio.sleep(PAUSE_LIMIT_S)
        nursery.cancel_scope.cancel()
    assert await outbox.waiting() == 0
    assert numbers(ledger) == list(range(60))


async def test_a_chain_that_never_answers_does_not_hold_up_a_put(
    ledger, autojump_clock
):
    class SilentChain(MemoryChain):
        async def anchor_model(self, root: Digest, record: Digest) -> None:
            await trio.sleep_forever()

    outbox = Outbox(MemoryStore(), SilentChain(ledger, CLINIC))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        for number in range(5):
            with trio.fail_after(0.001):
                await outbox.put("model", digest(bytes([number])), STATE)
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert await outbox.waiting() == 5


async def test_a_kill_between_the_send_and_the_delete_sends_nothing_twice(
    ledger, chain, autojump_clock
):
    await admit(ledger)
    store = DyingStore()
    outbox = Outbox(store, chain)
    await outbox.put("round", RUN, 1, STATE)
    await outbox.put("round", RUN, 2, STATE)
    with pytest.raises(Killed):
        await sent(outbox)
    assert numbers(ledger) == [1]
    store.dying = False
    again = Outbox(store, chain)
    assert await again.waiting() == 2
    await sent(again)
    assert numbers(ledger) == [1, 2]
    assert await again.waiting() == 0
    # At least once each: the kill fell after the event of the first.
    assert await kinds(store) == ["anchored.round"] * 3


async def test_an_anchor_that_can_never_be_is_set_aside_and_the_next_goes(
    ledger, chain, autojump_clock
):
    await admit(ledger)
    await chain.anchor_round(RUN, 1, OTHER)
    store = MemoryStore()
    outbox = Outbox(store, chain)
    for number in (1, 2):
        await outbox.put("round", RUN, number, STATE)
    await sent(outbox)
    assert numbers(ledger) == [1, 2]
    assert (await outbox.waiting(), await outbox.refused()) == (0, 1)
    assert await kinds(store) == ["anchor.refused.round", "anchored.round"]


async def test_what_an_operator_can_mend_waits_until_it_is_mended(
    ledger, chain, autojump_clock
):
    outbox = Outbox(MemoryStore(), chain)
    await outbox.put("round", RUN, 1, STATE)
    await sent(outbox, 100)
    assert await outbox.waiting() == 1
    await admit(ledger)
    await sent(outbox, PAUSE_LIMIT_S)
    assert (await outbox.waiting(), numbers(ledger)) == (0, [1])


@pytest.mark.parametrize(
    "error",
    [
        ChainError("insufficient funds; the Already in this text means nothing"),
        ContractRefusedError("", "reverted: AlreadyAnchored, says a stranger"),
    ],
)
async def test_only_the_contracts_own_name_counts_as_done(
    ledger, chain, error, autojump_clock
):
    chain.error = error
    outbox = Outbox(MemoryStore(), chain)
    await outbox.put("round", RUN, 1, STATE)
    await sent(outbox)
    assert await outbox.waiting() == 1


async def test_one_entry_that_waits_does_not_hold_up_the_others(
    ledger, chain, autojump_clock
):
    await admit(ledger)
    chain.error = ChainError("no currency for this one")
    outbox = Outbox(MemoryStore(), chain)
    await outbox.put("round", RUN, 1, STATE)
    await outbox.put("receipts", STATE, 4)
    await sent(outbox)
    assert await outbox.waiting() == 1
    assert ledger.events[-1].kind == "ReceiptsAnchored"


async def test_a_restart_keeps_what_waits_and_goes_on_behind_it(
    ledger, chain, autojump_clock
):
    await admit(ledger)
    store = MemoryStore()
    await Outbox(store, chain).put("round", RUN, 1, STATE)
    again = Outbox(store, chain)
    await again.put("round", RUN, 2, STATE)
    await again.put("round", RUN, 3, STATE)
    await sent(again)
    assert numbers(ledger) == [1, 2, 3]


async def test_an_entry_of_a_later_version_is_kept(ledger, chain, autojump_clock):
    await admit(ledger)
    store = MemoryStore()
    later = Outbox(store, chain)
    later._senders = {**later._senders, "verdict": chain.anchor_round}
    await later.put("verdict", RUN, 1, STATE)
    outbox = Outbox(store, chain)
    await outbox.put("round", RUN, 2, STATE)
    await sent(outbox)
    assert (await outbox.waiting(), numbers(ledger)) == (1, [2])
    with pytest.raises(ValueError, match="cannot send 'verdict'"):
        await outbox.put("verdict", RUN, 1, STATE)
