"""One node: its services, what it answers an operator, what it tells apart on the network.

This is the table of contents of a running daemon.  It makes the services in the order in
which they need each other, routes announcements by topic and requests by name, and decides
nothing that has a home of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog
import trio

from node.adapters.keyfile import KeyFile
from node.clock import now_s
from node.config import Config, worker_socket
from node.errors import ConfigError
from node.locations import Home
from node.ports.chain import Chain
from node.ports.compute import Compute
from node.ports.disputes import Arbiter
from node.ports.market import Committees, Council
from node.ports.market import Market as Trade
from node.ports.storage import Blobs, Store
from node.ports.transport import Transport
from node.services import listening
from node.services.anchors import Anchors
from node.services.auditing import Verifier
from node.services.borrowing import Borrower
from node.services.certificates import Certificates
from node.services.confirming import Confirmations
from node.services.disputing import Disputes
from node.services.federation import Federation
from node.services.finished import Finished
from node.services.hands import Folders, Tools
from node.services.inference import Host
from node.services.inference_asking import Requester
from node.services.keyed import KeyedAudits
from node.services.lending import Lender
from node.services.market import Market
from node.services.outbox import Outbox
from node.services.provenance import Provenance
from node.services.queries import Queries
from node.services.query_models import Models
from node.services.receipts import Receipts
from node.services.releases import Releases
from node.services.replaying import Replayer
from node.services.reports import Audits
from node.services.runs import Runs
from node.services.states import States
from node.services.tracing import Traces
from protocol.confirmation import CONFIRMATION_TOPIC
from protocol.evaluation import AUDIT_TOPIC, RELEASE_TOPIC
from protocol.listing import LISTING_TOPIC
from protocol.runs import CONSENT_TOPIC, PROPOSAL_TOPIC, ROUND_TOPIC, STANCE_TOPIC
from protocol.seating import CHANGE_TOPIC, WISH_TOPIC
from protocol.types import Digest, PeerId

DIAL_EVERY_S = 5.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Parts:
    """The adapters a node is made of."""

    home: Home
    config: Config
    key: KeyFile
    store: Store
    blobs: Blobs
    chain: Chain
    compute: Compute
    arbiter: Arbiter | None = None
    """None: a chain whose contracts decide no disputes."""
    trade: Trade | None = None
    committees: Committees | None = None
    council: Council | None = None
    """None of the three: a chain without a market."""


class Node:
    """A daemon without its sockets."""

    def __init__(self, parts: Parts) -> None:
        self.stop_asked = trio.Event()
        self.parts = parts
        self.federation = Federation(parts.store, parts.chain)
        self._transport: Transport | None = None
        self._borrower: Borrower | None = None

    def is_member(self, peer: PeerId) -> bool:
        """The transport's gate."""
        return self.federation.is_member(peer)

    def may_fetch(self, peer: PeerId, blob: Digest) -> bool:
        """Which member may pull which blob: its shards, its grants, released trunks."""
        return (
            self.runs.may_fetch(peer, blob)
            or self.market.may_fetch(peer, blob)
            or (self.is_member(peer) and self.releases.is_trunk(blob))
        )

    def attach(self, transport: Transport) -> None:
        """Make the services; nothing runs yet."""
        parts, key = self.parts, self.parts.key
        home, config = parts.home, parts.config
        self._transport = transport
        self.outbox = Outbox(parts.store, parts.chain)
        self.market = Market(
            store=parts.store,
            blobs=parts.blobs,
            signer=key,
            chain=parts.chain,
            transport=transport,
            now=now_s,
            open_key=lambda: key.seal_secret,
            trade=parts.trade,
            committees=parts.committees,
        )
        self.market.serve()
        states = States(home.states, transport, self._may_read_state)
        socket = worker_socket(home, config)
        folders = Folders(home.states, home.blobs, home.models)
        self.finished = Finished(parts.compute, folders)
        self.runs = Runs(
            tools=Tools(
                store=parts.store,
                blobs=parts.blobs,
                signer=key,
                transport=transport,
                federation=self.federation,
                compute=parts.compute,
                states=states,
                folders=folders,
                worker_socket=self._training_socket(transport, socket),
                worker_host=config.worker.host,
            ),
            datasets=self.market,
            outbox=self.outbox,
        )
        self.receipts = Receipts(
            store=parts.store,
            blobs=parts.blobs,
            outbox=self.outbox,
            transport=transport,
            federation=self.federation,
            limit_bytes=config.limits.receipt_bytes,
        )
        self.releases = Releases(
            store=parts.store,
            blobs=parts.blobs,
            signer=key,
            chain=parts.chain,
            transport=transport,
            federation=self.federation,
            outbox=self.outbox,
            compute=parts.compute,
            states=home.states,
            models=home.models,
            trunks=home.trunks,
        )
        self.traces = Traces(
            store=parts.store,
            transport=transport,
            federation=self.federation,
            receipts=self.receipts,
            releases=self.releases,
            compute=parts.compute,
        )
        self.certificates = Certificates(
            store=parts.store,
            blobs=parts.blobs,
            chain=parts.chain,
            transport=transport,
            federation=self.federation,
            releases=self.releases,
            receipts=self.receipts,
            evidence=home.evidence,
        )
        self.audits = Audits(parts.store, self.federation)
        self.disputes: Disputes | None = None
        if parts.arbiter is not None:
            self.disputes = Disputes(
                store=parts.store,
                chain=parts.chain,
                arbiter=parts.arbiter,
                federation=self.federation,
                receipts=self.receipts,
                releases=self.releases,
                compute=parts.compute,
                evidence=home.evidence,
            )
        self._host = Host(
            blobs=parts.blobs,
            signer=key,
            transport=transport,
            federation=self.federation,
            releases=self.releases,
            receipts=self.receipts,
            worker_socket=socket,
            corrupt=config.dev.corrupt_receipts,
        )
        self._lender = Lender(
            transport=transport,
            federation=self.federation,
            worker_socket=socket,
            lends=config.worker.lend,
        )
        self.requester = Requester(
            store=parts.store,
            signer=key,
            transport=transport,
            federation=self.federation,
            releases=self.releases,
            certificates=self.certificates,
            runs=self.runs,
            compute=parts.compute,
            states=home.states,
            models=home.models,
        )
        self.confirmations = Confirmations(
            store=parts.store,
            signer=key,
            transport=transport,
            federation=self.federation,
            releases=self.releases,
            runs=self.runs,
            outbox=self.outbox,
            compute=parts.compute,
            states=str(home.states),
            models=str(home.models),
        )
        self.queries = Queries(
            store=parts.store,
            signer=key,
            chain=parts.chain,
            transport=transport,
            federation=self.federation,
            datasets=self.market,
            models=Models(
                *(self.runs, states, self.federation, key.public_key),
                compute=parts.compute,
                models=folders.models,
            ),
        )
        self.anchors = Anchors(parts.chain, self.federation)
        self.provenance = Provenance(
            chain=parts.chain,
            anchors=self.anchors,
            market=self.market,
            runs=self.runs,
            releases=self.releases,
            receipts=self.receipts,
            certificates=self.certificates,
            queries=self.queries,
            where=(config.chain.chain_id, config.chain.contracts.registry),
        )
        self._topics: Mapping[str, listening.Handler] = {
            PROPOSAL_TOPIC: self.runs.heard_proposal,
            CONSENT_TOPIC: self.runs.heard_consent,
            STANCE_TOPIC: self.runs.heard_stance,
            WISH_TOPIC: self.runs.heard_wish,
            CHANGE_TOPIC: self.runs.heard_change,
            ROUND_TOPIC: self.runs.heard_round,
            RELEASE_TOPIC: self.releases.heard,
            CONFIRMATION_TOPIC: self.confirmations.heard,
            AUDIT_TOPIC: self.audits.heard,
            LISTING_TOPIC: self.market.heard,
        }

    async def load(self) -> None:
        """Everything a restart needs, from the store."""
        await self.federation.load()
        await self.runs.load()
        await self.releases.load()
        await self.receipts.load()
        await self.confirmations.load()
        await self.audits.load()

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.federation.run)
            nursery.start_soon(self._stay_connected)
            nursery.start_soon(self._listen)
            nursery.start_soon(self.outbox.run)
            nursery.start_soon(self.market.watch)
            nursery.start_soon(self.market.close_due)
            nursery.start_soon(self.anchors.run)
            nursery.start_soon(self.runs.run)
            nursery.start_soon(self.releases.run)
            nursery.start_soon(self.receipts.run)
            nursery.start_soon(self.certificates.run)
            if self.disputes is not None:
                nursery.start_soon(self.disputes.run)
            nursery.start_soon(self._lender.run)
            if self._borrower is not None:
                await nursery.start(self._borrower.run)
            if self.parts.config.node.role == "institution":
                nursery.start_soon(self.confirmations.run)
            if self.parts.config.node.role == "verifier":
                nursery.start_soon(self._verifier().run)

    def _training_socket(self, transport: Transport, own: str) -> str:
        """Where the compute child finds the worker for its trunks."""
        host, path = self.parts.config.worker.host, self.parts.home.borrowed_socket
        if not host:
            return own
        self._borrower = Borrower(
            transport=transport, federation=self.federation, host=host, path=path
        )
        return str(path)

    def _keyed_audits(self) -> KeyedAudits | None:
        if self.parts.config.audit.tier != "freivalds":
            return None
        return KeyedAudits(
            store=self.parts.store,
            transport=self.reach(),
            releases=self.releases,
            compute=self.parts.compute,
            folder=self.parts.home.audit_keys,
        )

    def _verifier(self) -> Verifier:
        parts = self.parts
        return Verifier(
            store=parts.store,
            signer=parts.key,
            chain=parts.chain,
            transport=self.reach(),
            federation=self.federation,
            audits=self.audits,
            replayer=Replayer(
                store=parts.store,
                transport=self.reach(),
                releases=self.releases,
                compute=parts.compute,
                evidence=parts.home.evidence,
                keyed=self._keyed_audits(),
            ),
            rate=parts.config.audit.rate,
            full=parts.config.audit.full,
            disputes=self.disputes if parts.config.audit.dispute else None,
        )

    def reach(self) -> Transport:
        """The transport, once attached."""
        if self._transport is None:
            raise ConfigError("the node has no transport")
        return self._transport

    def _may_read_state(self, run: bytes, root: bytes, peer: PeerId) -> bool:
        return self.runs.may_read_state(run, root, peer)

    async def _stay_connected(self) -> None:
        """Dial configured members; the gate opens only for those in the registry."""
        while True:
            for peer in self.parts.config.network.peers:
                if self.is_member(PeerId(peer.peer_id)):
                    self.reach().keep_connected(
                        PeerId(peer.peer_id), tuple(peer.addresses)
                    )
            await trio.sleep(DIAL_EVERY_S)

    async def _listen(self) -> None:
        """One announcement after the other; a bad one costs nobody but its sender."""
        async for said in self.reach().announcements():
            handler = self._topics.get(said.topic)
            if handler is None:
                log.warning("unknown topic", topic=said.topic, peer=said.origin)
                continue
            await listening.hear(handler, said)
