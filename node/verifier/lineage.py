"""A lineage, or a query's answers, checked offline: signatures here, the chain by another's eyes.

Whoever writes a file can say what it likes of the chain.  So a reader brings the facts of a node it
trusts (a lineage that node exported); without them each relation that rests on the chain is told to
rest on the file's own word.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.verifier.shell import FileError
from protocol.errors import ProtocolError, VerificationError
from protocol.lineage import Facts, build
from protocol.lineage_file import LineageFile, Seen
from protocol.lineage_graph import Direction, Doubt, Graph
from protocol.listing import COUNT_FLOOR, open_listing
from protocol.members import peer_id
from protocol.queries import fitting, result
from protocol.queries.answer import open_query
from protocol.queries.bundle import Bundle
from protocol.queries.spec import Query


@dataclass(frozen=True)
class Checked:
    """What of a lineage verifies, and by whose eyes the chain was seen."""

    graph: Graph
    seen: Seen
    trusted: bool
    """Whether the facts came from another file than the records."""


def check(
    file: LineageFile,
    trusted: LineageFile | None,
    about: str | None,
    direction: Direction,
) -> Checked:
    """The graph of all that verifies, or the part of it around `about`."""
    source = trusted or file
    if trusted is not None and trusted.seen.chain_id != file.seen.chain_id:
        raise VerificationError(
            "chain of the two files", trusted.seen.chain_id, file.seen.chain_id
        )
    if trusted is not None and trusted.seen.registry != file.seen.registry:
        raise VerificationError(
            "registry of the two files", trusted.seen.registry, file.seen.registry
        )
    graph = build(file.records, source.facts())
    if trusted is not None:
        graph.doubts += _unseen(file, trusted)
    if about is not None:
        try:
            start = graph.named(about)
        except ProtocolError as error:
            raise FileError(
                str(error),
                hint="name it as dataset:3 or model:DIGEST; all is shown without --about",
            ) from error
        graph = graph.around(start, direction)
    return Checked(graph, source.seen, trusted is not None)


def _unseen(file: LineageFile, trusted: LineageFile) -> list[Doubt]:
    """What the file says of the chain and the trusted one, perhaps an older, does not.

    A grant counts as the same with other units, time or state: those change, and the graph has
    the trusted file's.
    """
    ours, theirs = _claims(trusted), _claims(file)
    why = f"the trusted file, of block {trusted.seen.block}, has no such thing"
    if file.seen.block > trusted.seen.block:
        why += f"; this one is of block {file.seen.block}, so export yours again"
    return [Doubt(what, why) for claim, what in theirs.items() if claim not in ours]


def _claims(file: LineageFile) -> dict[tuple[object, ...], str]:
    """Each thing on the chain that lasts, and how a person calls it."""
    return {
        **{("dataset", *one): f"dataset {one[0]} on the chain" for one in file.tokens},
        **{("grant", *one[:3]): f"grant {one[0]} on the chain" for one in file.grants},
        **{
            ("round", *one): f"round {one[1]} of {one[0].hex()[:16]} on the chain"
            for one in file.rounds
        },
        **{
            ("model", *one): f"model {one[0].hex()[:16]} on the chain"
            for one in file.models
        },
        **{
            ("batch", one): f"batch {one.hex()[:16]} on the chain"
            for one in file.batches
        },
    }


def lineage_report(checked: Checked) -> dict[str, Any]:
    """As plain values; what `--json` prints."""
    return {
        "chain": {
            "chain_id": checked.seen.chain_id,
            "block": checked.seen.block,
            "digest": checked.seen.digest.hex(),
            "registry": checked.seen.registry,
            "by": "the trusted file" if checked.trusted else "this file's own word",
        },
        "things": len(checked.graph.vertices),
        "relations": [
            {
                "subject": checked.graph.vertices[edge.subject].label,
                "relation": edge.relation,
                "object": checked.graph.vertices[edge.object].label,
                "proof": edge.proof,
            }
            for edge in checked.graph.edges
        ],
        "doubts": [{"what": one.what, "why": one.why} for one in checked.graph.doubts],
    }


def query_report(data: bytes, trusted: LineageFile | None) -> dict[str, Any]:
    """Whether a query's answers belong together, and what their sum says.

    With a trusted lineage also that each dataset's owner signed, for the listing on the chain.
    """
    bundles = fitting.open_rounds(data)
    if not bundles:
        raise VerificationError("a training without a round")
    query, asker = open_query(bundles[0].query)
    listed = None if trusted is None else _as_listed(trusted, trusted.facts())
    sums = [(*_summed(bundle, listed), len(bundle.answers)) for bundle in bundles]
    if any(open_query(bundle.query)[1] != asker for bundle in bundles):
        raise VerificationError("rounds of a training are signed by different askers")
    if query.fit is None:
        found = result.read(query, sums[0][1], sums[0][2], COUNT_FLOOR)
    elif len(bundles) != query.fit.rounds:
        raise VerificationError(
            "rounds of the training", query.fit.rounds, len(bundles)
        )
    else:
        found = fitting.model(query, fitting.followed(query, sums), COUNT_FLOOR)
    _, opened = bundles[-1].opened()
    answered = {said.dataset for said, _, _ in opened}
    return {
        "query": query.id().hex(),
        "kind": query.kind,
        "asker": peer_id(asker),
        "code": query.code.hex(),
        "answers": [
            {
                "dataset": said.dataset,
                "signer": peer_id(signer),
                "record": said.record.hex(),
                "manifest": said.manifest.hex(),
            }
            for said, _, signer in opened
        ],
        "dropped": [
            one.dataset for one in query.datasets if one.dataset not in answered
        ],
        "owners_checked": trusted is not None,
        "noise_sd": result.noise_sd(query, len(opened)),
        "result": found,
    }


def _summed(
    bundle: Bundle, listed: tuple[dict[int, bytes], dict[int, bytes]] | None
) -> tuple[Query, NDArray[np.int64]]:
    """A question and its total; without `listed`, by the owners that signed."""
    if listed is not None:
        return bundle.totals(*listed)
    query, opened = bundle.opened()
    owners: dict[int, bytes] = {said.dataset: signer for said, _, signer in opened}
    manifests = {said.dataset: said.manifest for said, _, _ in opened}
    # Of who dropped out a file alone says only that it was one of those with a key.
    gone = [one.dataset for one in query.datasets if one.dataset not in owners]
    seats = [
        one.node_key for one in bundle.seats if one.node_key not in owners.values()
    ]
    owners |= dict(zip(gone, seats, strict=False))
    return bundle.totals(owners, manifests)


def _as_listed(
    trusted: LineageFile, facts: Facts
) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Owner's node key and manifest's root of each dataset, as the chain has them."""
    listings = [open_listing(one.listing) for one in trusted.records.listings]
    by_record = {bytes(one.digest()): one for one in listings}
    owners, manifests = {}, {}
    for token in facts.tokens:
        owner = facts.members.by_account(token.owner)
        listing = by_record.get(token.record)
        if owner is not None and listing is not None:
            owners[token.dataset] = bytes(owner.node_key)
            manifests[token.dataset] = bytes(listing.manifest)
    return owners, manifests
