"""Two clinics, a researcher with grants and a stranger, over ports that a test can bend."""

import csv
import hashlib
import io
from dataclasses import dataclass, replace

import nacl.public
import nacl.signing
import trio

from node.adapters.memory_store import MemoryBatch
from node.errors import (
    AccessError,
    ChainDownError,
    TransportError,
)
from node.market import body, sealed
from node.market.shelf import chunk_list
from node.ports.chain import DatasetToken, Grant, Head
from node.ports.storage import Event
from node.ports.transport import Announcement
from node.services.market import Market
from protocol.members import Member, MemberSet, peer_id
from protocol.types import digest

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

    def batch(self):
        return MemoryBatch(self)

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
            raise ChainDownError("the chain does not answer")

    async def head(self):
        self._up()
        return Head(1, bytes(32), self.ledger.clock.time)

    async def members(self):
        self._up()
        return self.ledger.set

    async def list_dataset(self, record, units, price, terms):
        self._up()
        number = len(self.ledger.tokens) + 1
        self.ledger.tokens.append(
            DatasetToken(number, self.account, record, units, price, terms)
        )
        if self.crash_after_listing:
            raise trio.BrokenResourceError("killed")
        return number

    async def datasets(self):
        self._up()
        return list(self.ledger.tokens)

    async def grant(self, dataset, grantee, units, until, *, purposes=None):
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
