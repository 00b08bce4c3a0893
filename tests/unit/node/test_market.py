"""Two clinics, a researcher with grants and a stranger, over ports in memory."""

import csv
import hashlib
import io
import stat
from dataclasses import dataclass, replace

import msgspec
import nacl.public
import nacl.signing
import pytest
import trio

from node.errors import (
    AccessError,
    ChainError,
    NodeError,
    StorageError,
    TransportError,
)
from node.market import DatasetError, body, sealed
from node.market.grants import FRESH_S
from node.market.shelf import chunk_list
from node.ports import Announcement, DatasetToken, Event, Grant, Head
from node.services.market import Market
from protocol import provenance as pv
from protocol.errors import ProtocolError
from protocol.listing import seal_listing
from protocol.manifest import DataQuery, ListingAnswer, UnitsAnswer, seal_manifest
from protocol.members import Member, MemberSet, peer_id
from protocol.types import digest
from protocol.wire import decode, encode

NAMES = ("clinic-mn", "clinic-ky", "researcher", "stranger")
TEXTS = {
    "title": "Obstetric trial, clinic MN",
    "licence": "MIT",
    "duo": ["DUO:0000042", "DUO:0000021"],
    "source": "Michalowicz et al., NEJM 2006",
}
ROWS = [[str(1000 + i), str(20 + i % 20), f"{i}.5"] for i in range(47)]


def table(rows=ROWS, header=("PID", "Age", "BMI")):
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([header, *rows])
    return out.getvalue()


class Clock:
    def __init__(self):
        self.time = 1_700_000_000

    def __call__(self):
        return self.time


class Store:
    def __init__(self):
        self.rows, self.log = {}, []

    async def get(self, namespace, key):
        return self.rows.get((namespace, key))

    async def put(self, namespace, key, value):
        self.rows[namespace, key] = value

    async def delete(self, namespace, key):
        self.rows.pop((namespace, key), None)

    async def scan(self, namespace):
        return [(k, v) for (n, k), v in sorted(self.rows.items()) if n == namespace]

    async def append_event(self, kind, data):
        self.log.append((kind, dict(data)))
        return len(self.log)

    async def scrub(self):
        pass

    async def put_many(self, writes, *, event=None):
        for namespace, key, value in writes:
            if value is None:
                self.rows.pop((namespace, key), None)
            else:
                self.rows[namespace, key] = value

    async def events(self, after=0, limit=100):
        return [
            Event(number, 0, kind, data)
            for number, (kind, data) in enumerate(self.log, 1)
            if number > after
        ][:limit]


class Blobs:
    def __init__(self):
        self.data = {}

    def has(self, key):
        return key in self.data

    def size(self, key):
        return len(self.data[key])

    def read(self, key, offset, length):
        return self.data[key][offset : offset + length]

    def put(self, data):
        self.data[digest(data)] = bytes(data)
        return digest(data)

    def delete(self, key):
        self.data.pop(key, None)


class Signer:
    def __init__(self, seed):
        self._key = nacl.signing.SigningKey(bytes([seed]) * 32)
        self.secret = bytes(nacl.public.PrivateKey(bytes([seed + 100]) * 32))
        self.public_key = bytes(self._key.verify_key)
        self.peer_id = peer_id(self.public_key)
        self.seal_key = sealed.public_half(self.secret)

    def sign(self, message):
        return self._key.sign(message).signature


class Ledger:
    """The chain's state; each node has its own `Chain` on it."""

    def __init__(self, clock, members):
        self.clock, self.set = clock, MemberSet.of(members)
        self.tokens, self.given, self.down = [], {}, False


@dataclass
class Chain:
    ledger: Ledger
    account: bytes
    crash_after_listing: bool = False

    def _up(self):
        if self.ledger.down:
            raise ChainError("the chain does not answer")

    async def head(self):
        self._up()
        return Head(1, bytes(32), self.ledger.clock.time)

    async def members(self):
        self._up()
        return self.ledger.set

    async def list_dataset(self, record, units, price):
        self._up()
        number = len(self.ledger.tokens) + 1
        self.ledger.tokens.append(
            DatasetToken(number, self.account, record, units, price)
        )
        if self.crash_after_listing:
            raise trio.BrokenResourceError("killed")
        return number

    async def datasets(self):
        self._up()
        return list(self.ledger.tokens)

    async def grant(self, dataset, grantee, units, until):
        self._up()
        number = len(self.ledger.given) + 1
        self.ledger.given[number] = Grant(number, dataset, grantee, units, until, False)
        return number

    async def revoke(self, grant):
        self._up()
        self.ledger.given[grant] = replace(self.ledger.given[grant], revoked=True)

    async def grants(self, dataset):
        self._up()
        return [g for g in self.ledger.given.values() if g.dataset == dataset]


class Wire:
    """All nodes by peer id; `bend` changes an answer on its way."""

    def __init__(self):
        self.nodes, self.bend = {}, None


class Transport:
    def __init__(self, wire, signer, blobs):
        self.wire, self.peer_id, self.blobs = wire, signer.peer_id, blobs
        self.served, self.pulled, self.announced = {}, [], []
        wire.nodes[self.peer_id] = self

    def serve(self, protocol, answer, *, limit_bytes):
        self.served[protocol] = (answer, limit_bytes)

    async def request(self, peer, protocol, payload, *, timeout_s, limit_bytes):
        if peer not in self.wire.nodes:
            raise TransportError("no such peer")
        answer, limit = self.wire.nodes[peer].served[protocol]
        assert len(payload) <= limit
        data = await answer(self.peer_id, payload)
        if self.wire.bend is not None:
            data = self.wire.bend(data)
        assert len(data) <= limit_bytes
        return data

    def connected(self):
        return frozenset(self.wire.nodes) - {self.peer_id}

    async def announce(self, topic, payload):
        self.announced.append(Announcement(self.peer_id, topic, payload))

    async def fetch(self, peer, digest, *, limit_bytes, timeout_s, others=()):
        refused = None
        for holder in (peer, *others):
            try:
                return self._pull(self.wire.nodes[holder], digest, limit_bytes)
            except (AccessError, TransportError) as error:
                refused = refused or error
        raise refused

    def _pull(self, other, digest, limit_bytes):
        if not other.market.may_fetch(self.peer_id, digest):
            raise AccessError("not allowed")
        data = other.blobs.data[digest]
        if hashlib.sha256(data).digest() != digest or len(data) > limit_bytes:
            raise TransportError("other bytes than announced")
        self.pulled.append(digest)
        self.blobs.put(data)


class Node:
    def __init__(self, world, name):
        self.world, self.name = world, name
        self.signer = world.signers[name]
        self.store, self.blobs = Store(), Blobs()
        self.chain = Chain(world.ledger, world.accounts[name])
        self.start()

    def start(self):
        """A new process over the same store and blobs."""
        self.transport = Transport(self.world.wire, self.signer, self.blobs)
        self.market = Market(
            store=self.store,
            blobs=self.blobs,
            signer=self.signer,
            chain=self.chain,
            transport=self.transport,
            now=self.world.clock,
            open_key=lambda: self.signer.secret,
        )
        self.transport.market = self.market
        self.market.serve()


class World:
    def __init__(self, folder):
        self.folder, self.clock, self.wire = folder, Clock(), Wire()
        self.signers = {name: Signer(i + 1) for i, name in enumerate(NAMES)}
        self.accounts = {name: bytes([i + 1]) * 20 for i, name in enumerate(NAMES)}
        self.ledger = Ledger(
            self.clock,
            [
                Member(s.public_key, s.seal_key, self.accounts[name], 15, name)
                for name, s in self.signers.items()
            ],
        )
        self.mn, self.ky, self.researcher, self.stranger = (
            Node(self, name) for name in NAMES
        )

    def csv(self, text=None, name="mn.csv"):
        path = self.folder / name
        path.write_text(table() if text is None else text)
        return path

    async def listed(self, **more):
        shown = await self.mn.market.publish([self.csv()], **{**TEXTS, **more})
        return shown["dataset"]

    def out(self, name="out.csv"):
        return self.folder / name


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def rows_of(path):
    return list(csv.reader(io.StringIO(path.read_text())))[1:]


def chunk(world, dataset, unit=0):
    """The first chunk of a unit's ciphertext."""
    entry = world.mn.market._shelf.own(dataset)[2].entries[unit]
    return chunk_list(world.mn.blobs, entry).chunks[0].sha256


async def unit_rows(world, dataset, units):
    """What the named units hold, by opening each as the owner."""
    record, _, manifest = world.mn.market._shelf.own(dataset)
    rows = []
    for unit in units:
        entry = manifest.entries[unit]
        key = sealed.session_key(
            record.headers[unit],
            secret_seal_key=world.mn.signer.secret,
            sender=world.mn.signer.seal_key,
        )
        plain = bytearray()
        chunks = chunk_list(world.mn.blobs, entry)
        body.decrypt(world.mn.blobs, entry, chunks, key, plain.extend)
        lines = csv.reader(io.StringIO(plain.decode()))
        rows.extend([line for line in lines if line][1:])
    return rows


# --- publishing ----------------------------------------------------------------


async def test_a_published_table_is_described_and_nowhere_in_the_clear(world):
    shown = await world.mn.market.publish([world.csv()], **TEXTS)
    assert shown["units"] == 4
    assert shown["owner"] == "clinic-mn"
    assert shown["listing"]["rows"] == [12, 12, 12, 11]
    assert shown["listing"]["columns"][2] == {"name": "BMI", "kind": "number"}
    assert shown["listing"]["duo"] == ["DUO:0000021", "DUO:0000042"]
    kept = b"".join([*world.mn.blobs.data.values(), *world.mn.store.rows.values()])
    for row in ROWS:
        assert ",".join(row).encode() not in kept
    assert world.ledger.tokens[0].record.hex() == shown["record"]


async def test_the_owner_reads_its_own_rows_also_without_the_chain(world):
    dataset = await world.listed()
    world.ledger.down = True
    assert (await world.mn.market.own_rows(dataset)).decode() == table()


async def test_small_units_do_not_show_their_count_by_number_or_by_length(world):
    rows = [[f"p{i % 3}", "1", "2"] for i in range(7)]
    path = world.csv(table(rows))
    shown = await world.mn.market.publish([path], **TEXTS, unit_by="PID")
    assert shown["listing"]["rows"] == [None, None, None]
    entries = world.mn.market._shelf.own(shown["dataset"])[2].entries
    assert len({entry.length for entry in entries}) == 1


@pytest.mark.slow
async def test_rows_of_one_person_share_a_unit(world):
    rows = [[f"p{i % 90}", str(i), "2"] for i in range(180)]
    path = world.csv(table(rows))
    shown = await world.mn.market.publish([path], **TEXTS, unit_by="PID")
    assert shown["units"] == 64
    seen = {}
    for unit in range(64):
        for row in await unit_rows(world, shown["dataset"], [unit]):
            assert seen.setdefault(row[0], unit) == unit
    assert len(seen) == 90


async def test_adding_the_same_table_again_finds_it(world):
    first = await world.mn.market.publish([world.csv()], **TEXTS)
    blobs = dict(world.mn.blobs.data)
    again = await world.mn.market.publish([world.csv()], **TEXTS)
    assert again == first
    assert world.mn.blobs.data == blobs
    assert len(world.ledger.tokens) == 1
    other = await world.mn.market.publish(
        [world.csv()], **{**TEXTS, "title": "another"}
    )
    assert other["dataset"] != first["dataset"]


async def test_a_crash_after_the_transaction_leaves_one_dataset(world):
    world.mn.chain.crash_after_listing = True
    with pytest.raises(trio.BrokenResourceError):
        await world.listed()
    world.mn.chain.crash_after_listing = False
    world.mn.start()
    assert await world.listed() == 1
    assert len(world.ledger.tokens) == 1


async def test_a_crash_before_the_transaction_is_completed_by_the_next_add(world):
    world.ledger.down = True
    with pytest.raises(ChainError):
        await world.listed()
    blobs = dict(world.mn.blobs.data)
    world.ledger.down = False
    world.mn.start()
    assert await world.listed() == 1
    assert world.mn.blobs.data == blobs


async def test_a_restart_keeps_listings_rows_and_grants(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [1], 1)
    before = await world.mn.market.show(dataset)
    world.mn.start()
    await world.mn.market.refresh()
    assert await world.mn.market.show(dataset) == before
    assert (await world.mn.market.own_rows(dataset)).decode() == table()
    await world.researcher.market.fetch(dataset, None, world.out())
    assert rows_of(world.out()) == await unit_rows(world, dataset, [1])


async def test_a_damaged_record_is_one_clear_line(world):
    await world.listed()
    rows = world.mn.store.rows
    key = next(k for k in rows if k[0] == "market.own")
    rows[key] = rows[key][:-1]
    world.mn.start()
    with pytest.raises(StorageError, match="is damaged"):
        await world.mn.market.refresh()


async def test_a_node_that_is_no_member_cannot_publish(world):
    world.ledger.set = MemberSet.of(
        [m for m in world.ledger.set.members if m.name != "clinic-mn"]
    )
    with pytest.raises(AccessError, match="not a member"):
        await world.listed()


# --- reading -------------------------------------------------------------------


async def test_a_grantee_reads_exactly_what_was_granted(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0, 2], 30)
    got = await world.researcher.market.fetch(
        dataset, world.mn.signer.peer_id, world.out()
    )
    assert got["units"] == [0, 2]
    assert rows_of(world.out()) == await unit_rows(world, dataset, [0, 2])
    assert stat.S_IMODE(world.out().stat().st_mode) == 0o600
    # Not one body more has left the owner.
    # Two units: of each a list of chunks and a chunk.
    assert len(world.researcher.blobs.data) == 4
    assert (
        "keys_released",
        {"dataset": 1, "grantee": "researcher", "units": [0, 2]},
    ) in (world.mn.store.log)


async def test_one_unit_more_than_granted_is_refused_whole(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0, 2], 30)
    with pytest.raises(AccessError, match=r"units \[1\].*not granted") as caught:
        await world.researcher.market.fetch(dataset, None, world.out(), units=[0, 1])
    assert "[0, 2]" in caught.value.hint()
    assert not world.out().exists()
    assert not world.researcher.blobs.data


async def test_a_grantee_may_pull_only_bodies_it_was_granted(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0, 2], 30)
    pieces = [chunk(world, dataset, unit) for unit in range(4)]
    may = world.mn.market.may_fetch
    allowed = [may(world.researcher.signer.peer_id, one) for one in pieces]
    assert allowed == [True, False, True, False]
    for other in (world.stranger, world.ky):
        assert not any(may(other.signer.peer_id, one) for one in pieces)
    assert not may(world.researcher.signer.peer_id, bytes(32))
    assert not may("not-a-peer", pieces[0])


async def test_a_stranger_is_refused_and_the_refusal_is_on_record(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", None, 30)
    with pytest.raises(AccessError, match=r"no grant .* stranger") as caught:
        await world.stranger.market.fetch(dataset, None, world.out())
    assert caught.value.hint()
    assert not world.out().exists()
    assert world.mn.store.log[-1][0] == "keys_refused"
    # A peer that goes on asking does not fill the log, and is heard of again later.
    count = len(world.mn.store.log)
    for wait, more in ((0, 0), (59, 0), (1, 1)):
        world.clock.time += wait
        with pytest.raises(AccessError):
            await world.stranger.market.fetch(dataset, None, world.out())
        assert len(world.mn.store.log) == count + more


async def test_a_peer_that_is_no_member_gets_no_key(world):
    dataset = await world.listed()
    world.ledger.set = MemberSet.of(
        [m for m in world.ledger.set.members if m.name != "stranger"]
    )
    answer, _ = world.mn.transport.served["/rexis/data/2"]
    with pytest.raises(AccessError, match="not a member"):
        await answer(world.stranger.signer.peer_id, encode(DataQuery(dataset, 0)))


async def test_a_revoked_grant_gives_neither_key_nor_body(world):
    dataset = await world.listed()
    given = await world.mn.market.give(dataset, "researcher", [0], 30)
    piece = chunk(world, dataset)
    assert world.mn.market.may_fetch(world.researcher.signer.peer_id, piece)
    ended = await world.mn.market.revoke(given["grant"])
    assert ended["revoked"]
    assert not ended["active"]
    assert not world.mn.market.may_fetch(world.researcher.signer.peer_id, piece)
    with pytest.raises(AccessError, match="no grant"):
        await world.researcher.market.fetch(dataset, None, world.out())
    with pytest.raises(AccessError, match="not allowed"):
        await world.researcher.transport.fetch(
            world.mn.signer.peer_id, body, limit_bytes=1 << 20, timeout_s=1
        )


async def test_a_refused_revocation_leaves_the_grant_in_force(world):
    dataset = await world.listed()
    given = await world.mn.market.give(dataset, "researcher", [0], 30)
    piece = chunk(world, dataset)

    async def refuse(grant):
        raise ChainError("reverted")

    world.mn.chain.revoke = refuse
    with pytest.raises(ChainError):
        await world.mn.market.revoke(given["grant"])
    assert world.mn.market.may_fetch(world.researcher.signer.peer_id, piece)


async def test_a_grant_ends_with_its_day_for_keys_and_bodies(world):
    dataset = await world.listed()
    given = await world.mn.market.give(dataset, "researcher", [0], 1)
    piece = chunk(world, dataset)
    world.clock.time = given["until"] - 1
    await world.mn.market.refresh()
    assert world.mn.market.may_fetch(world.researcher.signer.peer_id, piece)
    world.clock.time = given["until"]
    assert not world.mn.market.may_fetch(world.researcher.signer.peer_id, piece)
    with pytest.raises(AccessError, match="no grant"):
        await world.researcher.market.fetch(dataset, None, world.out())
    (shown,) = await world.mn.market.grants(dataset)
    assert not shown["active"]


async def test_a_node_that_does_not_see_its_chain_lets_nobody_pull(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0], 30)
    piece = chunk(world, dataset)
    peer = world.researcher.signer.peer_id
    world.clock.time += FRESH_S
    assert world.mn.market.may_fetch(peer, piece)
    world.clock.time += 1
    assert not world.mn.market.may_fetch(peer, piece)
    world.ledger.down = True
    answer, _ = world.mn.transport.served["/rexis/data/2"]
    with pytest.raises(ChainError):
        await answer(peer, encode(DataQuery(dataset, 0)))


@pytest.mark.slow
async def test_watching_sees_a_revocation_by_others_and_survives_the_chain(
    world, autojump_clock
):
    dataset = await world.listed()
    given = await world.mn.market.give(dataset, "researcher", [0], 30)
    piece = chunk(world, dataset)
    peer = world.researcher.signer.peer_id
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.mn.market.watch)
        world.ledger.down = True
        await trio.sleep(25)
        world.ledger.down = False
        await world.mn.chain.revoke(given["grant"])
        assert world.mn.market.may_fetch(peer, piece)
        await trio.sleep(11)
        assert not world.mn.market.may_fetch(peer, piece)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("late", ["host", "chain"])
async def test_the_later_of_both_clocks_ends_a_grant(world, late):
    dataset = await world.listed()
    given = await world.mn.market.give(dataset, "researcher", [0], 1)
    piece = chunk(world, dataset)
    ahead = Clock()
    ahead.time = given["until"]
    if late == "chain":
        world.ledger.clock = ahead
    else:
        world.mn.market._now = world.mn.market._releases._now = ahead
    await world.mn.market.refresh()
    assert not world.mn.market.may_fetch(world.researcher.signer.peer_id, piece)
    answer, _ = world.mn.transport.served["/rexis/data/2"]
    with pytest.raises(AccessError, match="no grant"):
        await answer(world.researcher.signer.peer_id, encode(DataQuery(dataset, 0)))


async def test_fewer_units_than_granted_may_be_asked_and_no_more_come(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0, 2, 3], 30)
    got = await world.researcher.market.fetch(dataset, None, world.out(), units=[2])
    assert got["units"] == [2]
    assert len(world.researcher.blobs.data) == 2


async def test_two_grants_add_up_and_revoking_one_leaves_the_other(world):
    dataset = await world.listed()
    first = await world.mn.market.give(dataset, "researcher", [0, 1], 30)
    await world.mn.market.give(dataset, "researcher", [1, 2], 30)
    fetch = world.researcher.market.fetch
    assert (await fetch(dataset, None, world.out()))["units"] == [0, 1, 2]
    await world.mn.market.revoke(first["grant"])
    assert (await fetch(dataset, None, world.out()))["units"] == [1, 2]


async def test_a_revocation_acts_here_before_the_chain_has_answered(world):
    dataset = await world.listed()
    given = await world.mn.market.give(dataset, "researcher", [0], 30)
    piece = chunk(world, dataset)
    peer = world.researcher.signer.peer_id
    seen = []

    async def slow(grant):
        await world.mn.market.refresh()
        seen.append(world.mn.market.may_fetch(peer, piece))

    world.mn.chain.revoke = slow
    await world.mn.market.revoke(given["grant"])
    assert seen == [False]


# --- what is not as the chain says ---------------------------------------------


def bent_answer(change):
    return lambda data: encode(change(decode(data, UnitsAnswer)))


def of(world):
    """The true listing and manifest, and the owner's hand to sign others."""
    _, listing, manifest = world.mn.market._shelf.own(1)
    return listing, manifest, world.mn.signer


def other_listing(world):
    listing, _, owner = of(world)
    other = msgspec.structs.replace(listing, title="another title")
    return seal_listing(owner.sign, owner.public_key, other)


def other_manifest(world):
    _, manifest, owner = of(world)
    entries = list(manifest.entries)
    entries[0] = msgspec.structs.replace(entries[0], root=bytes(32))
    other = msgspec.structs.replace(manifest, entries=tuple(entries))
    return seal_manifest(owner.sign, owner.public_key, other)


def stranger_listing(world):
    listing, _, _ = of(world)
    hand = world.stranger.signer
    other = msgspec.structs.replace(listing, owner=hand.public_key)
    return seal_listing(hand.sign, hand.public_key, other)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w, a: {"listing": other_listing(w)}, "digest on chain"),
        (lambda w, a: {"listing": stranger_listing(w)}, "digest on chain"),
        (
            lambda w, a: {"listing": a.listing[:-1] + bytes([a.listing[-1] ^ 1])},
            "does not match",
        ),
        (lambda w, a: {"manifest": other_manifest(w)}, "manifest root"),
        (lambda w, a: {"manifest": a.listing}, "envelope domain"),
        (lambda w, a: {"headers": a.headers[::-1]}, "order of the headers"),
        (lambda w, a: {"headers": ()}, "order of the headers"),
        (lambda w, a: {"headers": a.headers[:1]}, "units answered"),
        (
            lambda w, a: {
                "headers": (
                    a.headers[0],
                    msgspec.structs.replace(a.headers[1], index=9),
                )
            },
            "units of the headers",
        ),
    ],
)
async def test_an_answer_that_is_not_what_the_chain_says_is_refused(
    world, change, reason
):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0, 1], 1)
    world.wire.bend = bent_answer(
        lambda a: msgspec.structs.replace(a, **change(world, a))
    )
    with pytest.raises(AccessError, match=reason):
        await world.researcher.market.fetch(dataset, None, world.out(), units=[0, 1])
    assert not world.out().exists()
    # The same answer unbent is read.
    world.wire.bend = None
    await world.researcher.market.fetch(dataset, None, world.out(), units=[0, 1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w, t: replace(t, owner=w.accounts["stranger"]), "listing's owner"),
        (lambda w, t: replace(t, units=3), "units on chain"),
        (lambda w, t: replace(t, record=bytes(32)), "digest on chain"),
    ],
)
async def test_a_token_that_does_not_fit_its_listing_is_not_believed(
    world, change, reason
):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0], 1)
    world.ledger.tokens[0] = change(world, world.ledger.tokens[0])
    # Whoever is asked, it is the true owner that answers.
    stranger = world.stranger.signer.peer_id
    world.wire.nodes[stranger] = world.mn.transport
    with pytest.raises(AccessError, match=reason):
        await world.researcher.market.fetch(dataset, None, world.out())
    shown = await world.researcher.market.show(dataset)
    assert shown["listing"] is None
    assert reason in shown["why"]


async def test_a_listing_whose_provenance_does_not_hold_is_not_shown(world):
    dataset = await world.listed()
    step = pv.Step("encrypt", (bytes(32),), bytes(32), "rexis", "9", b"", 0)
    hand = world.mn.signer
    step = msgspec.structs.replace(step, agent=hand.public_key)
    forged = pv.seal_step(hand.sign, hand.public_key, step)
    world.wire.bend = lambda data: encode(
        msgspec.structs.replace(decode(data, ListingAnswer), provenance=(forged,))
    )
    shown = await world.ky.market.show(dataset)
    assert shown["listing"] is None
    assert "provenance digest" in shown["why"]


@pytest.mark.parametrize("data", [b"", b"garbage", encode(DataQuery(1, 1))])
async def test_an_answer_of_garbage_is_one_clear_line(world, data):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0], 1)
    world.wire.bend = lambda _: data
    with pytest.raises(AccessError, match="does not match the chain"):
        await world.researcher.market.fetch(dataset, None, world.out())
    assert (await world.researcher.market.show(dataset))["listing"] is None


async def test_keys_of_units_no_grant_covers_are_not_used(world):
    dataset = await world.listed()
    record = world.mn.market._shelf.own(dataset)[0]
    await world.mn.market.give(dataset, "researcher", [0], 1)
    extra = world.mn.market._releases._reseal(
        record.headers, [0, 1], world.researcher.signer.seal_key
    )
    world.wire.bend = bent_answer(lambda a: msgspec.structs.replace(a, headers=extra))
    with pytest.raises(AccessError, match="no grant covers"):
        await world.researcher.market.fetch(dataset, None, world.out())


async def test_headers_of_two_units_swapped_open_nothing(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0, 1], 1)

    def swap(answer):
        one, two = answer.headers
        return msgspec.structs.replace(
            answer,
            headers=(
                msgspec.structs.replace(one, header=two.header),
                msgspec.structs.replace(two, header=one.header),
            ),
        )

    world.wire.bend = bent_answer(swap)
    with pytest.raises(StorageError, match="does not decrypt"):
        await world.researcher.market.fetch(dataset, None, world.out())
    assert not world.out().exists()


@pytest.mark.parametrize("where", ["owner", "grantee"])
async def test_a_tampered_body_is_refused(world, where):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0], 1)
    key = chunk(world, dataset)
    bent = bytearray(world.mn.blobs.data[key])
    bent[100] ^= 1
    node = world.mn if where == "owner" else world.researcher
    node.blobs.data[key] = bytes(bent)
    error = TransportError if where == "owner" else StorageError
    with pytest.raises(error):
        await world.researcher.market.fetch(dataset, None, world.out())
    assert not world.out().exists()


async def test_a_lost_or_cut_body_of_ones_own_is_one_clear_line(world):
    dataset = await world.listed()
    key = chunk(world, dataset, 3)
    whole = world.mn.blobs.data[key]
    world.mn.blobs.data[key] = whole[:-1]
    with pytest.raises(StorageError, match="chunk 0 of unit 3 has"):
        await world.mn.market.own_rows(dataset)
    del world.mn.blobs.data[key]
    with pytest.raises(StorageError, match=r"unit 3 .* not in the blob store"):
        await world.mn.market.own_rows(dataset)


async def test_a_key_other_than_the_registered_one_opens_nothing(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0], 1)
    world.researcher.signer.secret = world.stranger.signer.secret
    with pytest.raises(AccessError, match="not made for this key"):
        await world.researcher.market.fetch(dataset, None, world.out())


# --- lists, names, bad calls ---------------------------------------------------


async def test_anyone_sees_a_listing_once_its_owner_showed_it(world):
    dataset = await world.listed()
    (unknown,) = await world.stranger.market.list()
    assert unknown["title"] is None
    shown = await world.stranger.market.show(dataset)
    assert shown["listing"]["licence"] == "MIT"
    assert not shown["mine"]
    # Kept: the owner is not asked again.
    del world.wire.nodes[world.mn.signer.peer_id]
    (known,) = await world.stranger.market.list()
    assert known["title"] == TEXTS["title"]
    assert (await world.stranger.market.show(dataset))["listing"] == shown["listing"]
    assert "no such peer" in (await world.ky.market.show(dataset))["why"]


async def test_a_grant_names_member_units_and_days_or_is_refused(world):
    dataset = await world.listed()
    give = world.mn.market.give
    for call, reason in (
        ((dataset, "nobody", [0], 1), "0 members are called 'nobody'"),
        ((dataset, "researcher", [4], 1), r"units \[4\] are not in the dataset"),
        ((dataset, "researcher", [-1], 1), r"units \[-1\]"),
        ((dataset, "researcher", [], 1), "no unit named"),
        ((dataset, "researcher", [0], 0), "0 days"),
        ((dataset, "researcher", [0], 3651), "3651 days"),
        ((99, "researcher", [0], 1), "dataset 99 is not of this node"),
    ):
        with pytest.raises(AccessError, match=reason):
            await give(*call)
    assert not world.ledger.given
    shown = await give(dataset, "researcher", None, 2)
    assert shown["units"] == [0, 1, 2, 3]
    assert shown["until"] == world.clock.time + 2 * 86_400


async def test_only_the_owner_grants_and_revokes(world):
    dataset = await world.listed()
    given = await world.mn.market.give(dataset, "researcher", [0], 1)
    with pytest.raises(AccessError, match="not of this node"):
        await world.ky.market.give(dataset, "stranger", [0], 1)
    with pytest.raises(AccessError, match="not on a dataset of this node"):
        await world.ky.market.revoke(given["grant"])
    with pytest.raises(AccessError, match="not of this node"):
        await world.ky.market.own_rows(dataset)


async def test_unknown_datasets_and_wrong_owners_are_named(world):
    dataset = await world.listed()
    for call in (
        world.ky.market.show(7),
        world.ky.market.grants(7),
        world.ky.market.fetch(7, None, world.out()),
    ):
        with pytest.raises(AccessError, match="dataset 7 is not on the chain"):
            await call
    with pytest.raises(AccessError, match="belongs to clinic-mn"):
        await world.researcher.market.fetch(
            dataset, world.ky.signer.peer_id, world.out()
        )


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        encode(("data?", 1)),
        encode(DataQuery(1, 1 << 63)),
        encode(DataQuery(1, -1)),
    ],
)
async def test_a_strange_query_is_refused_with_an_error_of_ours(world, payload):
    await world.listed()
    answer, _ = world.mn.transport.served["/rexis/data/2"]
    with pytest.raises((ProtocolError, NodeError)):
        await answer(world.researcher.signer.peer_id, payload)


async def test_the_output_is_never_written_through_a_link_or_into_nowhere(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0], 1)
    fetch = world.researcher.market.fetch
    (world.folder / "link").symlink_to(world.folder / "target")
    for path, reason in (
        (world.folder / "link", "not a regular file"),
        (world.folder, "not a regular file"),
        (world.folder / "no" / "such" / "x.csv", "cannot be written"),
        ("a\0b", "zero byte"),
    ):
        with pytest.raises(StorageError, match=reason):
            await fetch(dataset, None, path)
    assert not (world.folder / "target").exists()
    assert sorted(p.name for p in world.folder.iterdir()) == ["link", "mn.csv"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("a,b\n", "no rows"),
        ("a,a\n1,2\n", "column 2 has the name of an earlier"),
        ("a,\n1,2\n", "column 2 has no name"),
        ("a,b\n1\n", "row 1 has 1 cells"),
        ("a,b\n1,2,3\n", "row 1 has 3 cells"),
        ('a,b\n1,"2\n', "not CSV"),
        ("a,b\n1,\x00\n", "zero byte"),
        ("a,b\n1,=cmd|' /C calc'!A0\n", "row 1 column 2 begins like a spreadsheet"),
        ("a,b\n1,@SUM(A1)\n", "formula"),
        ("a,b\n1,+SUM(A1)\n", "formula"),
        ("=a,b\n1,2\n", "column 1 begins like a spreadsheet"),
        ("17,23.5\n18,20\n", "no header row"),
        ("a,jo@clinic.org\n1,2\n", "column 2 holds an e-mail"),
        ("a," + "b" * 101 + "\n1,2\n", "at most 100"),
        ("a,b\n1," + "x" * 32_768 + "\n", "32768 characters"),
        (",".join(f"c{i}" for i in range(1025)) + "\n", "1025 columns"),
    ],
)
async def test_a_bad_table_is_one_clear_line_and_nothing_is_listed(world, text, reason):
    with pytest.raises(DatasetError, match=reason):
        await world.mn.market.publish([world.csv(text)], **TEXTS)
    assert not world.ledger.tokens
    assert not world.mn.store.rows


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"title": "Patients of jane.doe@clinic.org"}, "e-mail"),
        ({"title": "Patient 123-45-6789"}, "social security"),
        ({"title": "Call +1 612-555-0173"}, "telephone"),
        ({"title": "MRN 4401992834"}, "nine or more digits"),
        ({"title": "born 1984-03-12"}, "full date"),
        ({"title": ""}, "title is empty"),
        ({"title": "\ud800"}, "control character"),
        ({"licence": "free"}, "SPDX"),
        ({"duo": ["DUO:1"]}, "data use term"),
        ({"duo": []}, "0 permission terms"),
        ({"source": "x" * 2001}, "limit is 2000"),
        ({"unit_by": "nope"}, "no column 'nope'"),
        ({"unit_by": "\ud800"}, "control character"),
    ],
)
async def test_a_bad_description_is_refused_before_anything_is_kept(
    world, change, reason
):
    with pytest.raises(DatasetError, match=reason):
        await world.listed(**change)
    assert not world.mn.blobs.data
    assert not world.ledger.tokens


async def test_files_that_are_none_of_ours_are_named(world):
    big = world.folder / "big.csv"
    with big.open("wb") as file:
        file.truncate((1 << 26) + 1)
    latin = world.folder / "latin.csv"
    latin.write_bytes("a\n\xe9\n".encode("latin-1"))
    for path, reason in (
        (world.folder / "missing.csv", "missing.csv cannot be read: No such file"),
        (big, "up to 67108864"),
        (latin, "not UTF-8 at byte 2"),
        ("a\0b", "zero byte"),
    ):
        with pytest.raises(DatasetError, match=reason):
            await world.mn.market.publish([path], **TEXTS, unit_by="a")


async def test_columns_that_name_persons_are_warned_of(world):
    path = world.csv("LastName,Age\nx,1\n")
    shown = await world.mn.market.publish([path], **TEXTS)
    assert shown["warnings"] == ["column 'LastName' seems to hold direct identifiers"]
