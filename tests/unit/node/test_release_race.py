"""Who announces a release first does not decide which one counts; the chain's first record does."""

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from node.adapters.keyfile import KeyFile
from node.adapters.memory_chain import Ledger, MemoryChain
from node.adapters.memory_store import MemoryBlobs, MemoryStore
from node.adapters.memory_transport import MemoryNetwork, MemoryTransport
from node.errors import ComputeError
from node.ports.chain import ChainEvent
from node.ports.transport import Announcement
from node.services.federation import Federation
from node.services.outbox import Outbox
from node.services.release_offers import OFFERS_LIMIT
from node.services.releases import Releases
from protocol.errors import ProtocolError
from protocol.evaluation import RELEASE_TOPIC, SealedKey
from protocol.first_record import claim_of
from protocol.members import Member
from protocol.types import digest
from protocol.wire import decode, encode

RUN, STATE = digest(b"run"), digest(b"state")
NAMES = ("clinic", "liar", "host")
KEYS = {
    name: KeyFile(bytes([i]) * 32, bytes([i + 10]) * 32, bytes([i + 20]) * 32)
    for i, name in enumerate(NAMES, 1)
}


class Keying:
    """The compute child: a trunk's bytes are drawn, and its root is their digest."""

    async def call(self, method, params, **_):
        assert method == "model.release"
        trunk = b"trunk of " + params["seed"]
        root = digest(b"root of " + trunk)
        await trio.Path(params["trunks"]).mkdir(parents=True, exist_ok=True)
        await (trio.Path(params["trunks"]) / f"{root.hex()}.trunk").write_bytes(trunk)
        return {"model_root": root}


class Runs:
    def record(self, _run):
        return SimpleNamespace(
            spec={},
            members=(KEYS["clinic"].public_key,),
            initial=digest(b"first state"),
            datasets=(),
        )

    def final_state(self, _run):
        return STATE


class Slow(MemoryChain):
    """A chain that takes a model's anchor when `taken` is set, and its record when `shown` is."""

    def __init__(self, *args):
        super().__init__(*args)
        self.taken, self.shown = trio.Event(), trio.Event()
        self.taken.set()
        self.shown.set()
        self.under_way = set()

    async def anchor_model(self, root, record):
        await self.taken.wait()
        if root != record:
            self.under_way.add(root)
            await self.shown.wait()
        await super().anchor_model(root, record)


DEAF = SimpleNamespace(serve=lambda *_, **__: None)
"""A transport on which nobody asks."""


class Node:
    def __init__(self, name, network, ledger, folder):
        self.key, self.name, self.store = KEYS[name], name, MemoryStore()
        self.chain = Slow(ledger, bytes([NAMES.index(name) + 1]) * 20)
        self.federation = Federation(self.store, self.chain)
        self.blobs = MemoryBlobs()
        self.transport = MemoryTransport(
            network=network,
            peer=self.key.peer_id,
            allowed=self.federation.is_member,
            blobs=self.blobs,
            may_fetch=lambda _peer, _blob: True,
        )
        self.outbox = Outbox(self.store, self.chain)
        self.folder, self.refused = folder / name, []
        self.releases = self.begun(self.transport)

    def begun(self, transport):
        """Releases as a process that starts has them."""
        return Releases(
            store=self.store,
            blobs=self.blobs,
            signer=self.key,
            chain=self.chain,
            transport=transport,
            federation=self.federation,
            outbox=self.outbox,
            compute=Keying(),
            states=self.folder,
            models=self.folder,
            trunks=self.folder / "trunks",
        )

    async def listen(self):
        async for said in self.transport.announcements():
            try:
                await self.releases.heard(said)
            except ProtocolError as error:
                self.refused.append(str(error))

    def has(self, root):
        try:
            return self.releases.get(root)
        except ComputeError:
            return None

    async def announce(self, release):
        await self.transport.announce(RELEASE_TOPIC, encode(release))

    async def events(self, kind):
        return [
            one.data for one in await self.store.events(0, 1000) if one.kind == kind
        ]


@pytest.fixture
def three(tmp_path):
    @asynccontextmanager
    async def opened():
        ledger, network = Ledger(b"\x09" * 20), MemoryNetwork()
        nodes = [Node(name, network, ledger, tmp_path) for name in NAMES]
        async with trio.open_nursery() as nursery:
            for node in nodes:
                keys = (node.key.public_key, node.key.seal_key, node.chain.account)
                await MemoryChain(ledger, ledger.owner).register(
                    Member(*keys, 0, node.name), 15
                )
            for node in nodes:
                await node.federation.refresh()
                await nursery.start(node.transport.run)
                for other in nodes:
                    if other is not node:
                        node.transport.keep_connected(other.key.peer_id, ("/memory",))
                for task in (node.listen, node.outbox.run, node.releases.run):
                    nursery.start_soon(task)
            yield SimpleNamespace(**{node.name: node for node in nodes})
            nursery.cancel_scope.cancel()

    return opened


async def eventually(fact):
    with trio.fail_after(5):
        while not fact():
            await trio.sleep(0.01)


def bent(release):
    """The same trunk, served by nobody else and licensed to the liar alone."""
    key = KEYS["liar"].public_key
    fields = {one: getattr(release, one) for one in release.__struct_fields__}
    fields |= {"hosts": (key,), "keys": (SealedKey(key, b"nothing"),)}
    return type(release)(**fields)


async def released(node):
    made = await node.releases.make(Runs(), RUN, ["host"])
    return node.releases.get(bytes.fromhex(made["model"]))


async def test_a_liar_that_announces_first_is_not_believed(three):
    async with three() as nodes:
        nodes.clinic.chain.taken = trio.Event()
        true = await released(nodes.clinic)
        root = true.model_root
        await nodes.liar.announce(bent(true))
        await eventually(lambda: nodes.host.releases._offers._waiting)
        assert nodes.host.has(root) is None, "announced, and nothing on the chain"
        nodes.clinic.chain.taken.set()
        await eventually(lambda: nodes.host.has(root))
        assert nodes.host.has(root) == true
        assert nodes.host.releases.row(root)["released_by"] == "clinic"
        assert not nodes.host.releases._offers._waiting
        # Once the chain has spoken, another one is refused and its sender named.
        await nodes.liar.announce(bent(true))
        await eventually(lambda: nodes.host.refused)
        assert "liar offers another release" in nodes.host.refused[0]
        assert "by clinic" in nodes.host.refused[0]
        assert nodes.host.has(root) == true
        assert nodes.clinic.has(root) == true
        assert not await nodes.clinic.events("model.contested")


async def test_a_release_is_announced_when_the_chain_has_it_and_not_before(three):
    async with three() as nodes:
        nodes.clinic.chain.taken = trio.Event()
        said, real = [], nodes.clinic.transport.announce

        async def announce(topic, payload):
            said.append(topic)
            await real(topic, payload)

        nodes.clinic.transport.announce = announce
        true = await released(nodes.clinic)
        await trio.sleep(0.05)
        assert not said
        nodes.clinic.chain.taken.set()
        await eventually(lambda: nodes.host.has(true.model_root))
        assert said == [RELEASE_TOPIC]


async def test_a_root_copied_from_a_transaction_under_way_wins_nothing(three):
    async with three() as nodes:
        nodes.clinic.chain.shown = trio.Event()
        true = await released(nodes.clinic)
        root, false = true.model_root, bent(true)
        # Whoever watches what is under way sees the root now, and is taken first.
        await eventually(lambda: root in nodes.clinic.chain.under_way)
        await nodes.liar.chain.anchor_model(root, digest(encode(false)))
        await nodes.liar.announce(false)
        await eventually(lambda: nodes.host.has(root) == false)
        await trio.sleep(0.05)
        assert nodes.clinic.has(root) == true, "its own claim is earlier"
        nodes.clinic.chain.shown.set()
        await eventually(lambda: nodes.host.has(root) == true)
        assert nodes.host.releases.row(root)["released_by"] == "clinic"
        (told,) = await nodes.host.events("model.replaced")
        assert (told["model"], told["first_by"]) == (root.hex(), "clinic")
        assert not await nodes.clinic.events("model.contested")
        # A claim after the fact is later than the one it would have to beat.
        claim = claim_of(nodes.liar.chain.account, root, digest(encode(false)))
        await nodes.liar.chain.anchor_model(claim, claim)
        await nodes.liar.announce(false)
        await eventually(lambda: nodes.host.refused)
        assert nodes.host.has(root) == true
        assert not nodes.host.releases._offers._waiting


async def test_an_offer_outlasts_the_copy_that_was_taken_before_it(three):
    """Heard in time, and the chain has the copy first: the true one is not told again."""
    async with three() as nodes:
        nodes.clinic.chain.shown = trio.Event()
        true = await released(nodes.clinic)
        root, false = true.model_root, bent(true)
        await eventually(lambda: root in nodes.clinic.chain.under_way)
        said = Announcement(nodes.clinic.key.peer_id, RELEASE_TOPIC, encode(true))
        await nodes.host.releases.heard(said)
        await nodes.liar.chain.anchor_model(root, digest(encode(false)))
        await nodes.liar.announce(false)
        await eventually(lambda: nodes.host.has(root) == false)

        async def unheard(_topic, _payload):
            pass

        nodes.clinic.transport.announce = unheard
        nodes.clinic.chain.shown.set()
        await eventually(lambda: nodes.host.has(root) == true)


async def test_a_release_whose_claim_stood_before_a_restart_is_shown_after_it(three):
    async with three() as nodes:
        nodes.clinic.chain.shown = trio.Event()
        true = await released(nodes.clinic)
        root = true.model_root
        await eventually(lambda: root in nodes.clinic.chain.under_way)
        for key, _ in await nodes.clinic.store.scan("outbox"):
            await nodes.clinic.store.delete("outbox", key)
        again = nodes.clinic.begun(DEAF)
        await again.load()
        again._transport = nodes.clinic.transport
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again.run)
            await trio.sleep(0.05)
            assert await nodes.clinic.outbox.unsent("model") == {root}
            nodes.clinic.chain.shown.set()
            await eventually(lambda: nodes.host.has(root) == true)
            nursery.cancel_scope.cancel()


async def test_who_was_first_on_the_chain_counts_for_all_and_the_releaser_is_told(
    three,
):
    async with three() as nodes:
        nodes.clinic.chain.taken = trio.Event()
        true = await released(nodes.clinic)
        root, false = true.model_root, bent(true)
        await nodes.liar.chain.anchor_model(root, digest(encode(false)))
        await nodes.liar.announce(false)
        nodes.clinic.chain.taken.set()
        await eventually(lambda: nodes.host.has(root))
        await eventually(lambda: nodes.clinic.has(root) == false)
        assert nodes.host.has(root) == false
        (told,) = await nodes.clinic.events("model.contested")
        assert (told["model"], told["first_by"]) == (root.hex(), "liar")
        # A fresh key makes a fresh root, of which nobody else knows.
        again = await released(nodes.clinic)
        await eventually(lambda: nodes.host.has(again.model_root) == again)


async def test_the_same_record_anchored_by_another_changes_nothing(three):
    async with three() as nodes:
        nodes.clinic.chain.taken = trio.Event()
        true = await released(nodes.clinic)
        await nodes.liar.chain.anchor_model(true.model_root, digest(encode(true)))
        nodes.clinic.chain.taken.set()
        await eventually(lambda: nodes.host.has(true.model_root) == true)
        assert nodes.host.releases.row(true.model_root)["released_by"] == "clinic"


async def test_offers_and_the_chains_word_outlast_a_restart(three):
    async with three() as nodes:
        nodes.clinic.chain.taken = trio.Event()
        true = await released(nodes.clinic)
        said = Announcement(nodes.clinic.key.peer_id, RELEASE_TOPIC, encode(true))
        store = nodes.host.store
        await nodes.host.releases.heard(said)
        nodes.host.releases = nodes.host.begun(DEAF)
        await nodes.host.releases.load()
        assert nodes.host.has(true.model_root) is None
        account, record = nodes.clinic.chain.account, digest(encode(true))
        claim = claim_of(account, true.model_root, record)
        for place, (root, said) in enumerate(
            ((claim, claim), (true.model_root, record))
        ):
            data = {"account": account, "root": root, "record": said}
            await nodes.host.releases._offers.anchored(
                ChainEvent(1, place, "ModelAnchored", data)
            )
        nodes.host.releases = nodes.host.begun(DEAF)  # killed between the two
        await nodes.host.releases.load()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nodes.host.releases.run)
            await eventually(lambda: nodes.host.has(true.model_root) == true)
            with trio.fail_after(
                10
            ):  # it is taken first, and goes from the offers then
                while await store.scan("release-offers"):
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


async def test_one_member_cannot_fill_the_store_with_offers(three):
    async with three() as nodes:
        nodes.clinic.chain.taken = trio.Event()
        true = await released(nodes.clinic)
        peer = nodes.liar.key.peer_id
        base = encode(bent(true))

        def offer(number):
            release = decode(base, type(true), limit_bytes=1 << 18)
            fields = {one: getattr(release, one) for one in release.__struct_fields__}
            fields["blob_bytes"] = number + 1
            return Announcement(peer, RELEASE_TOPIC, encode(type(true)(**fields)))

        for number in range(OFFERS_LIMIT):
            await nodes.host.releases.heard(offer(number))
        await nodes.host.releases.heard(offer(0))  # which it has
        with pytest.raises(ProtocolError, match=r"liar has offered 16 .* limit is 16"):
            await nodes.host.releases.heard(offer(OFFERS_LIMIT))
        clinic = Announcement(nodes.clinic.key.peer_id, RELEASE_TOPIC, encode(true))
        await nodes.host.releases.heard(clinic)  # another member has its own room
        nodes.clinic.chain.taken.set()
        await eventually(lambda: nodes.host.has(true.model_root) == true)
