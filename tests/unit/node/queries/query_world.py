"""Institutions with a table each, and a researcher, over memory."""

import csv
import io
import random

import trio

from node.adapters.memory_chain import Ledger as ChainLedger
from node.adapters.memory_chain import MemoryChain
from node.adapters.memory_signer import memory_signer
from node.adapters.memory_store import MemoryBlobs, MemoryStore
from node.adapters.memory_transport import MemoryNetwork, MemoryTransport
from node.query.child import evaluate
from node.query.code import code_digest
from node.services.federation import Federation
from node.services.market import Market
from node.services.queries import Queries
from protocol.members import ROLE_DATA_PROVIDER, ROLE_RESEARCHER, Member
from protocol.queries.answer import CHECK_PROTOCOL, FORGET_PROTOCOL, QUERY_PROTOCOL
from protocol.queries.recovery import OPEN_PROTOCOL, POLL_PROTOCOL
from protocol.queries.spec import MICRO, Named, Query

TEXTS = ("Lung cancer", "CC0-1.0", ["DUO:0000042"], "NCCTG, Loprinzi et al. 1994")
BUDGET = (5.0, 1e-6)


def question(spend=MICRO, nonce=0, **changes):
    given = {
        "kind": "count",
        "datasets": (Named(0, bytes(32)),),
        "columns": (),
        "spend": spend,
        "code": code_digest(),
        "nonce": nonce.to_bytes(32, "big"),
    }
    return Query(**{**given, **changes})


class Site:
    def __init__(self, world, number, roles):
        self.name, self.key = f"site-{number}", memory_signer(number)
        self.account = bytes([number + 1]) * 20
        self.roles = roles
        self.store, self.blobs = MemoryStore(), MemoryBlobs()
        self.chain = MemoryChain(world.ledger, self.account)
        self.federation = Federation(self.store, self.chain)
        self.transport = MemoryTransport(
            network=world.network,
            peer=self.key.peer_id,
            allowed=self.federation.is_member,
            blobs=self.blobs,
            may_fetch=lambda *_: False,
        )
        self.market = Market(
            store=self.store,
            blobs=self.blobs,
            signer=self.key,
            chain=self.chain,
            transport=self.transport,
            now=lambda: 1_700_000_000,
            open_key=lambda: self.key.seal_secret,
        )
        self.market.serve()
        self.ran = 0
        self.draw = random.Random(number)
        self.start()

    def start(self):
        """A new process over the same store."""
        for protocol in (
            *(QUERY_PROTOCOL, CHECK_PROTOCOL, POLL_PROTOCOL, OPEN_PROTOCOL),
            FORGET_PROTOCOL,
        ):
            self.transport._served.pop(protocol, None)
        self.queries = Queries(
            store=self.store,
            signer=self.key,
            chain=self.chain,
            transport=self.transport,
            federation=self.federation,
            datasets=self.market,
            run=self._run,
        )

    async def _run(self, query, table):
        """What the child does, here, with chance that can be repeated."""
        self.ran += 1
        await trio.lowlevel.checkpoint()
        return evaluate(query, table, self.draw.randrange)

    def member(self):
        return Member(
            self.key.public_key, self.key.seal_key, self.account, self.roles, self.name
        )


class World:
    """The last site is the researcher's."""

    def __init__(self, sites, folder):
        self.network, self.folder = MemoryNetwork(), folder
        self.ledger = ChainLedger(bytes([255]) * 20, lambda: 1_700_000_000)
        self.sites = [Site(self, n, ROLE_DATA_PROVIDER) for n in range(sites)]
        self.lab = Site(self, sites, ROLE_RESEARCHER)
        self.datasets = []

    async def start(self, nursery, tables):
        registrar = MemoryChain(self.ledger, self.ledger.owner)
        everybody = [*self.sites, self.lab]
        for site in everybody:
            await registrar.register(site.member(), site.roles)
        for site in everybody:
            await site.federation.refresh()
            await nursery.start(site.transport.run)
        for site in everybody:
            for other in everybody:
                site.transport.keep_connected(other.key.peer_id, ("/memory",))
        for site, data in zip(self.sites, tables, strict=True):
            path = self.folder / f"{site.name}.csv"
            path.write_bytes(data)
            shown = await site.market.publish([path], *TEXTS)
            self.datasets.append(shown["dataset"])

    async def allow(self, kinds=("count", "survival"), epsilon=50.0):
        for site, dataset in zip(self.sites, self.datasets, strict=True):
            await site.queries.allow(dataset, kinds, epsilon, 1e-6, 10)


def csv_of(rows):
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return out.getvalue().encode()


SMALL = [csv_of([{"t": n, "e": n % 2} for n in range(20 + s)]) for s in range(3)]
