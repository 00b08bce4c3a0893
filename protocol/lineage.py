"""From any model, receipt or answer back to the data, and from data forward to all its use.

A graph is built from signed records and from what the chain says, and an edge is in it
only if it was verified: a signature by the party that the edge speaks of, a fact on the
chain, or both.  What does not verify becomes a doubt with its reason and no edge, so a
graph never says more than a reader with the same records and chain can check alone.

The words are W3C PROV's.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from protocol.errors import ProtocolError, VerificationError
from protocol.evaluation import RELEASE_LIMIT_BYTES, Release
from protocol.lineage_graph import (
    BOTH,
    ON_CHAIN,
    SIGNED,
    Doubt,
    Edge,
    Graph,
    Kind,
    Proof,
    Vertex,
    urn,
)
from protocol.listing import Listing, open_listing
from protocol.manifest import ListingAnswer
from protocol.members import MemberSet
from protocol.provenance import citation_digest, open_step, verify_chain
from protocol.queries import recovery
from protocol.queries.answer import open_attestation, open_query
from protocol.queries.spec import Query
from protocol.receipt import BatchProof, open_receipt
from protocol.runs import Consent, Proposal, open_consent, open_proposal
from protocol.seating import Change, Seating
from protocol.types import digest
from protocol.wire import Message, decode, encode

RECORDS_LIMIT_BYTES = 1 << 26
"""Of a file of records: a few thousand receipts and what stands behind them."""

T = TypeVar("T")


class PlacedReceipt(Message, frozen=True, tag="placed-receipt"):
    """A sealed receipt and, once its batch is anchored, its place in it."""

    sealed: bytes
    batch: bytes
    proof: BatchProof | None


class AskedQuery(Message, frozen=True, tag="asked-query"):
    """A signed question and what some or all institutions signed about their answers."""

    query: bytes
    attestations: tuple[bytes, ...]
    votes: tuple[bytes, ...] = ()
    """Where some dropped out: who was left, by a quorum's signatures."""


class Records(Message, frozen=True, tag="lineage"):
    """Signed messages, in the form they were signed; anybody may carry them."""

    listings: tuple[ListingAnswer, ...] = ()
    proposals: tuple[bytes, ...] = ()
    consents: tuple[bytes, ...] = ()
    releases: tuple[bytes, ...] = ()
    """Encoded; what vouches for one is the record anchored beside its model's root."""
    receipts: tuple[PlacedReceipt, ...] = ()
    queries: tuple[AskedQuery, ...] = ()
    changes: tuple[Change, ...] = ()
    """Of the members of runs under way, each run's in order."""


@dataclass(frozen=True)
class TokenFact:
    """A dataset on the chain."""

    dataset: int
    owner: bytes
    record: bytes


@dataclass(frozen=True)
class GrantFact:
    """A grant on the chain."""

    grant: int
    dataset: int
    grantee: bytes
    units: int
    until: int
    revoked: bool


@dataclass(frozen=True)
class Facts:
    """What the reader's own view of the chain says."""

    members: MemberSet
    tokens: tuple[TokenFact, ...] = ()
    """Of a dataset that was given new keys each record it had, the one it has last."""
    grants: tuple[GrantFact, ...] = ()
    rounds: frozenset[tuple[bytes, int, bytes]] = frozenset()
    """(run, number, state root)."""
    models: Mapping[bytes, bytes] = field(default_factory=dict)
    """Model root to the digest of its release."""
    batches: frozenset[bytes] = frozenset()


def open_records(data: bytes) -> Records:
    """A file of records; nothing in it is verified yet."""
    return decode(data, Records, limit_bytes=RECORDS_LIMIT_BYTES)


def build(records: Records, facts: Facts) -> Graph:
    """The graph of all that verifies."""
    return _Builder(records, facts).graph


class _Builder:
    """Adds one kind after another, so that an edge finds both its ends."""

    def __init__(self, records: Records, facts: Facts) -> None:
        self.graph = Graph()
        self._facts = facts
        self._datasets: dict[int, tuple[Listing, str]] = {}
        """By token number: the listing it has and the vertex."""
        self._records: dict[int, list[bytes]] = {}
        """Those a dataset had, in order; its listing now is that of the last."""
        for token in facts.tokens:
            self._records.setdefault(token.dataset, []).append(token.record)
        self._listed: dict[tuple[int, bytes], tuple[Listing, str]] = {}
        """By token number and record, those it had before as well."""
        self._runs: dict[bytes, Proposal] = {}
        self._seats: dict[bytes, Seating] = {}
        """By run."""
        for listed in records.listings:
            self._try("listing", digest(listed.listing), self._listing, listed)
        for dataset, (listing, vertex) in self._datasets.items():
            self._version(dataset, listing, vertex)
        for dataset in self._datasets:
            self._rekeyed(dataset)
        for grant in facts.grants:
            self._grant(grant)
        for sealed in records.proposals:
            self._try("proposal", digest(sealed), self._proposal, sealed)
        for change in records.changes:
            name = digest(encode(change))
            self._try("change of members", name, self._change, change)
        for sealed in records.consents:
            self._try("consent", digest(sealed), self._consent, sealed)
        for run, number, state in sorted(facts.rounds):
            self._round(run, number, state)
        for data in records.releases:
            self._try("release", digest(data), self._release, data)
        for placed in records.receipts:
            self._try("receipt", digest(placed.sealed), self._receipt, placed)
        for asked in records.queries:
            self._try("query", digest(asked.query), self._query, asked)

    def _try(self, what: str, name: bytes, add: Callable[[T], None], one: T) -> None:
        try:
            add(one)
        except ProtocolError as error:
            self.graph.doubts.append(Doubt(f"{what} {name.hex()}", str(error)))

    def _vertex(
        self, kind: Kind, name: bytes | int, label: str, **about: str | int
    ) -> str:
        vertex = Vertex(urn(kind, name), kind, label, tuple(sorted(about.items())))
        return self.graph.vertices.setdefault(vertex.id, vertex).id

    def _edge(self, subject: str, relation: str, object_: str, proof: Proof) -> None:
        edge = Edge(subject, relation, object_, proof)
        if edge not in self.graph.edges:
            self.graph.edges.append(edge)

    def _member(self, node_key: bytes) -> str:
        member = self._facts.members.by_key(node_key)
        if member is None:
            raise VerificationError(f"{node_key.hex()[:16]} is not a member")
        return self._vertex("member", node_key, member.name)

    def _listing(self, listed: ListingAnswer) -> None:
        listing = open_listing(listed.listing)
        owner = self._facts.members.by_key(listing.owner)
        tokens = [
            token
            for token in self._facts.tokens
            if token.record == listing.digest()
            and owner is not None
            and token.owner == owner.account
        ]
        if not tokens:
            raise VerificationError(
                "no token of its owner has this listing on the chain"
            )
        verify_chain(
            listed.provenance, expected=listing.provenance, product=listing.manifest
        )
        vertex = self._vertex(
            "dataset",
            listing.digest(),
            listing.title,
            dataset=tokens[0].dataset,
            version=listing.version,
            licence=listing.licence,
            duo=" ".join(listing.duo),
            **self._keys(tokens[0]),
        )
        for token in tokens:
            self._listed[token.dataset, token.record] = listing, vertex
            if token.record == self._records[token.dataset][-1]:
                self._datasets[token.dataset] = listing, vertex
        self._edge(vertex, "prov:wasAttributedTo", self._member(listing.owner), BOTH)
        citation = citation_digest(listing.source)
        if any(citation in open_step(step).used for step in listed.provenance):
            source = self._vertex("source", citation, listing.source)
            self._edge(vertex, "prov:wasDerivedFrom", source, BOTH)

    def _version(self, dataset: int, listing: Listing, vertex: str) -> None:
        if not listing.previous:
            return
        before = urn("dataset", listing.previous)
        owners = [old.owner for old, name in self._listed.values() if name == before]
        if owners != [] and set(owners) == {listing.owner}:
            self._edge(vertex, "prov:wasRevisionOf", before, BOTH)
        else:
            why = "the version before it is not known, or is somebody else's"
            self.graph.doubts.append(Doubt(f"version {dataset}", why))

    def _keys(self, token: TokenFact) -> dict[str, int]:
        """Under which keys this record was, where there were several: 1 for the first."""
        had = self._records[token.dataset]
        return {"keys": had.index(token.record) + 1} if len(had) > 1 else {}

    def _rekeyed(self, dataset: int) -> None:
        """The same data under new keys is a revision, in the order that the chain has."""
        for before, after in itertools.pairwise(self._records[dataset]):
            one, other = (self._listed.get((dataset, r)) for r in (before, after))
            if one is not None and other is not None:
                self._edge(other[1], "prov:wasRevisionOf", one[1], BOTH)

    def _grant(self, fact: GrantFact) -> None:
        grantee = self._facts.members.by_account(fact.grantee)
        known = self._datasets.get(fact.dataset)
        if known is None or grantee is None:
            why = "its dataset's listing" if known is None else "its grantee"
            self.graph.doubts.append(
                Doubt(f"grant {fact.grant}", f"{why} is not known")
            )
            return
        vertex = self._vertex(
            "grant",
            fact.grant,
            f"grant {fact.grant}",
            units=fact.units.bit_count(),
            until=fact.until,
            revoked=int(fact.revoked),
        )
        listing, dataset = known
        self._edge(vertex, "prov:wasDerivedFrom", dataset, ON_CHAIN)
        owner = self._member(listing.owner)
        self._edge(vertex, "prov:wasAttributedTo", owner, ON_CHAIN)
        party = self._member(grantee.node_key)
        self._edge(vertex, "rexis:grantedTo", party, ON_CHAIN)

    def _proposal(self, sealed: bytes) -> None:
        proposal, proposer = open_proposal(sealed)
        run = self._vertex("run", proposal.id(), proposal.title, rounds=proposal.rounds)
        self._runs[proposal.id()] = proposal
        self._seats[proposal.id()] = Seating(proposal.id(), proposal.members)
        self._edge(run, "rexis:proposedBy", self._member(proposer), SIGNED)

    def _change(self, change: Change) -> None:
        run = change.epoch.run
        seating = self._seats.get(run)
        if seating is None:
            raise VerificationError(f"run {run.hex()[:16]} is not known")
        if not seating.follows(change):
            raise VerificationError(
                "number of an epoch", len(seating.changes) + 1, change.epoch.number
            )
        seating.take(change)

    def _consent(self, sealed: bytes) -> None:
        consent, member = open_consent(sealed)
        seating = self._seats.get(consent.run)
        if seating is None:
            raise VerificationError(f"run {consent.run.hex()[:16]} is not known")
        if member not in seating.ever:
            raise VerificationError("who consents is not in the run")
        listing, dataset = self._consented(consent)
        if listing.owner != member:
            raise VerificationError(
                "owner of the dataset", member.hex()[:16], listing.owner.hex()[:16]
            )
        run = urn("run", consent.run)
        self._edge(run, "prov:used", dataset, BOTH)
        self._edge(run, "prov:wasAssociatedWith", self._member(member), SIGNED)

    def _consented(self, consent: Consent) -> tuple[Listing, str]:
        known = self._datasets.get(consent.dataset)
        if known is None:
            raise VerificationError(f"dataset {consent.dataset} is not known")
        return known

    def _round(self, run: bytes, number: int, state: bytes) -> None:
        if run not in self._runs:
            self.graph.doubts.append(
                Doubt(
                    f"round {number} of {run.hex()[:16]}", "its proposal is not known"
                )
            )
            return
        vertex = self._vertex("state", state, f"state after round {number}")
        self._edge(vertex, "prov:wasGeneratedBy", urn("run", run), ON_CHAIN)
        before = [
            root
            for other, earlier, root in self._facts.rounds
            if (other, earlier) == (run, number - 1)
        ]
        for root in before:
            if root != state:
                self._edge(vertex, "prov:wasDerivedFrom", urn("state", root), ON_CHAIN)

    def _release(self, data: bytes) -> None:
        release = decode(data, Release, limit_bytes=RELEASE_LIMIT_BYTES)
        release.check()
        anchored = self._facts.models.get(release.model_root)
        if anchored != digest(encode(release)):
            raise VerificationError(
                "release anchored for the model",
                anchored.hex()[:16] if anchored else "none",
                digest(data).hex()[:16],
            )
        state = urn("state", release.state_root)
        generated = Edge(
            state, "prov:wasGeneratedBy", urn("run", release.run), ON_CHAIN
        )
        if generated not in self.graph.edges:
            raise VerificationError("no round of its run was anchored with its state")
        model = self._vertex(
            "model",
            release.model_root,
            f"model {release.model_root.hex()[:12]}",
            bytes=release.blob_bytes,
        )
        self._edge(model, "prov:wasDerivedFrom", state, BOTH)
        trained, released = map(open_step, release.provenance)
        by = self._member(released.agent)
        self._edge(model, "prov:wasAttributedTo", by, BOTH)
        self._sources(state, trained.used, self._runs[release.run])

    def _sources(self, state: str, used: Sequence[bytes], run: Proposal) -> None:
        """What the releaser signed as training data must be what members consented to."""
        consented = {
            edge.object
            for edge in self.graph.edges
            if (edge.subject, edge.relation) == (urn("run", run.id()), "prov:used")
        }
        # A consent names the token, and goes for the data under all keys they had.
        records = {
            record
            for number, (_, vertex) in self._datasets.items()
            if vertex in consented
            for record in self._records[number]
        }
        known = {record for _, record in self._listed}
        for one in used:
            if one in records & known:
                self._edge(state, "prov:wasDerivedFrom", urn("dataset", one), BOTH)
            elif one != run.initial:
                why = "used in training, but nobody consented"
                if one in records:
                    why = "used in training under earlier keys, and that listing is not known"
                self.graph.doubts.append(Doubt(f"source {one.hex()}", why))

    def _receipt(self, placed: PlacedReceipt) -> None:
        receipt = open_receipt(placed.sealed)
        model = urn("model", receipt.model_root)
        if model not in self.graph.vertices:
            raise VerificationError(
                f"model {receipt.model_root.hex()[:16]} is not known"
            )
        host, requester = self._member(receipt.host), self._member(receipt.requester)
        proof = SIGNED
        if placed.proof is not None:
            placed.proof.verify(placed.batch, placed.sealed)
            if placed.batch not in self._facts.batches:
                raise VerificationError("its batch is not on the chain")
            proof = BOTH
        vertex = self._vertex(
            "receipt",
            receipt.digest,
            f"inference {receipt.digest.hex()[:12]}",
            time=receipt.time,
            cases=receipt.order.shape[0],
        )
        self._edge(vertex, "prov:used", model, proof)
        self._edge(vertex, "prov:wasAssociatedWith", host, proof)
        self._edge(vertex, "rexis:requestedBy", requester, proof)
        answer = self._vertex(
            "answer", receipt.roots[-1], f"answer {receipt.roots[-1].hex()[:12]}"
        )
        self._edge(answer, "prov:wasGeneratedBy", vertex, proof)

    def _query(self, asked: AskedQuery) -> None:
        """A question, each dataset that answered it, and the answer once all have."""
        query, asker = open_query(asked.query)
        name = query.id()
        asked_of = len(query.datasets)
        label = f"{query.kind} of {asked_of} dataset{'' if asked_of == 1 else 's'}"
        used: dict[int, tuple[str, str, bytes]] = {}
        for sealed in asked.attestations:
            said, signer = open_attestation(sealed, query)
            listing, dataset = self._listed.get((said.dataset, said.record), (None, ""))
            if listing is None:
                raise VerificationError(
                    f"the listing of dataset {said.dataset} is not the one that answered"
                )
            if (listing.owner, listing.manifest) != (signer, said.manifest):
                raise VerificationError(
                    f"dataset {said.dataset} was answered by another, or from other data"
                )
            used[said.dataset] = dataset, self._member(signer), said.words
        vertex = self._vertex(
            "query", name, label, spend=query.spend, code=query.code.hex()
        )
        self._edge(vertex, "rexis:requestedBy", self._member(asker), SIGNED)
        for dataset, owner, _ in used.values():
            self._edge(vertex, "prov:used", dataset, BOTH)
            self._edge(vertex, "prov:wasAssociatedWith", owner, SIGNED)
        if used.keys() == self._summed(query, asked.votes):
            words = b"".join(used[one][2] for one in sorted(used))
            made = digest(words)
            label = f"answer {made.hex()[:12]} to a {query.kind}"
            answer = self._vertex("answer", made, label)
            self._edge(answer, "prov:wasGeneratedBy", vertex, SIGNED)

    def _summed(self, query: Query, votes: tuple[bytes, ...]) -> set[int]:
        """The datasets whose answers were added up: all, or those of certified survivors."""
        asked = {one.dataset for one in query.datasets}
        if not votes or not recovery.is_needed(query):
            return asked
        owners = {
            one: self._datasets[one][0].owner for one in asked & set(self._datasets)
        }
        members = [self._facts.members.by_key(key) for key in owners.values()]
        seals = {one.node_key: one.seal_key for one in members if one is not None}
        if len(seals) != len(asked):
            raise VerificationError("an institution that was asked is not known")
        cohort = recovery.cohort_of(query, seals)
        said = recovery.certified(votes, query, cohort)
        alive = recovery.members_of(cohort, said.set)
        return {one for one, owner in owners.items() if owner in alive}
