"""Queries over the federation: what this node answers about its data, and what it asks others.

An answer is made in this order: the question's signature, the program's digest, the dataset on
the chain, the steward's policy, the charge (durable), the sandbox, the mask, the attestation
(durable), and only then a byte leaves.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio

from node.clock import now_s
from node.errors import AccessError, NodeError, TransportError
from node.market.reader import write_private
from node.ports import Chain, DatasetToken, Signer, Store, Transport
from node.query import runner
from node.query.code import code_digest
from node.query.ledger import Ledger
from node.services.federation import Federation
from protocol.errors import ProtocolError
from protocol.lineage import AskedQuery
from protocol.listing import COUNT_FLOOR, Listing
from protocol.members import ROLE_RESEARCHER, Member
from protocol.queries import result
from protocol.queries.answer import (
    ANSWER_LIMIT_BYTES,
    CHECK_PROTOCOL,
    QUERY_LIMIT_BYTES,
    QUERY_PROTOCOL,
    Attestation,
    Bundle,
    Words,
    attestation,
    mask,
    open_query,
    seal_answer,
    seal_query,
    suppressed,
)
from protocol.queries.spec import Condition, Kind, Query, of_datasets
from protocol.types import PeerId, digest
from protocol.wire import decode, encode

ANSWER_TIMEOUT_S = 900.0
"""Longer than a sandbox may take."""
Run = Callable[[Query, bytes], Awaitable[Words]]
Act = Callable[[Query, Member, bytes], Awaitable[bytes]]
"""The question, who asks, and the question as it was signed."""
_ASKED = "query-asked"
_ASKED_LIMIT_BYTES = 1 << 20
"""A question and 64 attestations."""

log = structlog.get_logger()


class Datasets(Protocol):
    """What the market knows and holds."""

    async def own_rows(self, dataset: int) -> bytes: ...

    async def own_listing(self, dataset: int) -> Listing | None: ...

    async def listing(self, dataset: int) -> Listing: ...


class Queries:
    """Both sides of it."""

    def __init__(
        self,
        *,
        store: Store,
        signer: Signer,
        chain: Chain,
        transport: Transport,
        federation: Federation,
        datasets: Datasets,
        run: Run = runner.run,
    ) -> None:
        self._store = store
        self._signer = signer
        self._chain = chain
        self._transport = transport
        self._federation = federation
        self._datasets = datasets
        self._run = run
        self._ledger = Ledger(store)
        self._answering = trio.Lock()
        transport.serve(QUERY_PROTOCOL, self._serve, limit_bytes=QUERY_LIMIT_BYTES)
        transport.serve(
            CHECK_PROTOCOL, self._serve_check, limit_bytes=QUERY_LIMIT_BYTES
        )

    # --- the steward -----------------------------------------------------------

    async def allow(
        self,
        dataset: int,
        kinds: Sequence[Kind],
        epsilon: float,
        delta: float,
        floor: int,
    ) -> dict[str, Any]:
        """Answer these kinds about a dataset of ours, within a budget for ever."""
        await self._mine(dataset)
        await self._ledger.allow(dataset, kinds, (epsilon, delta), floor)
        return await self._row(dataset)

    async def stop(self, dataset: int) -> dict[str, Any]:
        """Answer nothing about it any more; gives the account as it ended."""
        row = await self._row(dataset)
        await self._ledger.stop(dataset)
        return row

    async def rows(self) -> list[dict[str, Any]]:
        """Every dataset of ours that answers, and what is left of its budget."""
        return await self._ledger.rows()

    async def _row(self, dataset: int) -> dict[str, Any]:
        for row in await self._ledger.rows():
            if row["dataset"] == dataset:
                return row
        raise AccessError(
            f"dataset {dataset} answers no queries", hint="allow some kinds first"
        )

    async def signed(self) -> list[AskedQuery]:
        """Questions asked here, and those answered here, with what was signed about them."""
        asked = [
            (key, decode(value, AskedQuery, limit_bytes=_ASKED_LIMIT_BYTES))
            for key, value in await self._store.scan(_ASKED)
        ]
        known = {key for key, _ in asked}
        return [one for _, one in asked] + [
            AskedQuery(sealed, (attestation(answer),))
            for name, sealed, answer in await self._ledger.kept()
            if name not in known
        ]

    async def _mine(self, dataset: int) -> Listing:
        listing = await self._datasets.own_listing(dataset)
        if listing is None:
            raise AccessError(
                f"dataset {dataset} is not of this node",
                hint="only its owner answers for it",
            )
        if not listing.table:
            raise AccessError(
                f"dataset {dataset} is no table",
                hint="queries are over the rows of one CSV or Parquet table",
            )
        return listing

    # --- answering -------------------------------------------------------------

    async def _serve(self, peer: PeerId, payload: bytes) -> bytes:
        """An answer, and what it costs."""
        return await self._heard(peer, payload, self._answer)

    async def _serve_check(self, peer: PeerId, payload: bytes) -> bytes:
        """Whether there would be one; costs nothing, and says nothing of any row."""
        return await self._heard(peer, payload, self._check)

    async def _heard(self, peer: PeerId, payload: bytes, act: Act) -> bytes:
        query, asker = open_query(payload)
        member = self._federation.peer(peer)
        if asker != member.node_key:
            raise AccessError("the question is signed by another than who brings it")
        try:
            return await act(query, member, payload)
        except (AccessError, ProtocolError) as error:
            await self._store.append_event(
                "query_refused",
                {
                    "query": query.id().hex(),
                    "asker": member.name,
                    "reason": str(error),
                },
            )
            raise

    async def _check(self, query: Query, asker: Member, _sealed: bytes) -> bytes:
        dataset, _, _ = await self._admitted(query, asker)
        await self._ledger.require(dataset, query)
        return b""

    async def _admitted(
        self, query: Query, asker: Member
    ) -> tuple[int, Listing, list[bytes]]:
        """Which dataset of ours is asked, its listing, and the owners of the others."""
        if not asker.has(ROLE_RESEARCHER):
            raise AccessError(f"{asker.name} is no researcher in the registry")
        if query.code != code_digest():
            raise AccessError(
                f"this node answers with program {code_digest().hex()[:16]},"
                f" not with {query.code.hex()[:16]}",
                hint="both nodes need the same version of rexis",
            )
        dataset, listing = await self._asked_of_me(query)
        owners = await self._owners(query)
        others = [key for named, key in owners.items() if named != dataset]
        if self._signer.public_key in others or len(set(others)) != len(others):
            raise AccessError(
                "two of the datasets have one owner",
                hint="ask one dataset of each member, or each alone",
            )
        _require_columns(query, listing)
        return dataset, listing, others

    async def _answer(self, query: Query, asker: Member, sealed: bytes) -> bytes:
        dataset, listing, others = await self._admitted(query, asker)
        # One question at a time: a second copy of it finds the answer of the first.
        async with self._answering:
            before = await self._ledger.answered(dataset, query)
            if before is not None:
                return before
            policy = await self._ledger.charge(dataset, query, asker.node_key, now_s())
            words = await self._run(query, await self._datasets.own_rows(dataset))
            words = suppressed(query, words, policy.floor)
            me, agree = self._signer.public_key, self._signer.agree
            if others:
                keys = {key: self._federation.key(key).seal_key for key in others}
                mask(words, query, me, others, lambda key: agree(keys[key]))
            answer = self._attested(query, dataset, listing, words)
            await self._ledger.keep(dataset, query, answer, sealed)
        log.info("query answered", query=query.id().hex()[:16], asker=asker.name)
        return answer

    def _attested(
        self, query: Query, dataset: int, listing: Listing, words: Words
    ) -> bytes:
        numerator, denominator = query.sigma2.as_integer_ratio()
        said = Attestation(
            query=query.id(),
            dataset=dataset,
            record=listing.digest(),
            manifest=listing.manifest,
            code=code_digest(),
            numerator=numerator,
            denominator=denominator,
            masked=len(query.datasets) > 1,
            words=digest(words.astype("<u8").tobytes()),
        )
        return seal_answer(self._signer.sign, self._signer.public_key, said, words)

    async def _asked_of_me(self, query: Query) -> tuple[int, Listing]:
        mine = [
            one
            for one in query.datasets
            if await self._datasets.own_listing(one.dataset) is not None
        ]
        if len(mine) != 1:
            raise AccessError(
                f"{len(mine)} of the datasets are of this node, needs exactly one",
                hint="ask one dataset of each member, or each alone",
            )
        named, listing = mine[0], await self._mine(mine[0].dataset)
        if listing.digest() != named.record:
            raise AccessError(
                f"dataset {named.dataset} is listed otherwise than the question says",
                hint="look at its listing again",
            )
        return named.dataset, listing

    async def _owners(self, query: Query) -> dict[int, bytes]:
        """Node keys by dataset, if the chain has every one as the question names it."""
        tokens = {token.dataset: token for token in await self._chain.datasets()}
        return {
            one.dataset: self._owner(tokens.get(one.dataset), one.dataset, one.record)
            for one in query.datasets
        }

    def _owner(
        self, token: DatasetToken | None, dataset: int, record: bytes | None
    ) -> bytes:
        if token is None or not token.open or record not in {None, token.record}:
            raise AccessError(
                f"dataset {dataset} is not on the chain as it was named",
                hint="`rexis dataset list` shows what is",
            )
        owner = self._federation.members.by_account(token.owner)
        if owner is None:
            raise AccessError(f"the owner of dataset {dataset} is no longer a member")
        return owner.node_key

    # --- asking ----------------------------------------------------------------

    async def ask(
        self,
        kind: Kind,
        datasets: Sequence[int],
        spend: int,
        *,
        columns: Sequence[str] = (),
        where: Sequence[tuple[str, str]] = (),
        between: tuple[float, float] = (0.0, 0.0),
        bins: int = 0,
        levels: Sequence[str] = (),
        event: str = "",
        probabilities: Sequence[float] = (),
        path: Path | None = None,
    ) -> dict[str, Any]:
        """Ask all `datasets` at once and add their answers up.

        All must answer: a sum with a mask too many says nothing.  Each is asked first whether
        it would; one that says yes and is gone before it answers costs the others their charge.
        """
        tokens = {token.dataset: token for token in await self._chain.datasets()}
        owners = {one: self._owner(tokens.get(one), one, None) for one in set(datasets)}
        query = Query(
            kind=kind,
            datasets=of_datasets([(one, tokens[one].record) for one in owners]),
            columns=tuple(columns),
            spend=spend,
            code=code_digest(),
            nonce=secrets.token_bytes(32),
            where=tuple(Condition(*one) for one in where),
            low=float(between[0]),
            high=float(between[1]),
            bins=bins,
            levels=tuple(levels),
            event=event,
            probabilities=tuple(map(float, probabilities)),
        )
        query.check()
        manifests: dict[int, bytes] = {}
        for one in owners:
            listing = await self._datasets.listing(one)
            # What is refused for its columns should be refused before anybody pays.
            _require_columns(query, listing)
            manifests[one] = listing.manifest
        me = self._signer
        sealed = seal_query(me.sign, me.public_key, query)
        # Nobody pays before all have said that they would answer.
        await self._gather(query, sealed, owners, CHECK_PROTOCOL)
        answers = await self._gather(query, sealed, owners, QUERY_PROTOCOL)
        bundle = Bundle(sealed, answers)
        _, totals = bundle.totals(owners, manifests)
        if path is not None:
            data = encode(bundle)
            await trio.to_thread.run_sync(write_private, path, data)
        asked = AskedQuery(sealed, tuple(map(attestation, answers)))
        await self._store.put_many(
            [(_ASKED, query.id(), encode(asked))],
            event=(
                "query_asked",
                {"query": query.id().hex(), "datasets": sorted(owners)},
            ),
        )
        return {
            "query": query.id().hex(),
            "kind": kind,
            "code": query.code.hex(),
            "answers": [
                {
                    "dataset": one.dataset,
                    "owner": self._federation.name_of(owners[one.dataset]),
                    "record": one.record.hex(),
                    "manifest": manifests[one.dataset].hex(),
                }
                for one in query.datasets
            ],
            "masked": len(answers) > 1,
            "noise_sd": result.noise_sd(query, len(answers)),
            "floor": COUNT_FLOOR,
            "result": result.read(query, totals, len(answers), COUNT_FLOOR),
            "path": None if path is None else str(path),
        }

    async def _gather(
        self, query: Query, sealed: bytes, owners: dict[int, bytes], protocol: str
    ) -> tuple[bytes, ...]:
        """One answer from every owner, in the order of the datasets."""
        answers: dict[int, bytes] = {}
        failed: dict[str, Exception] = {}

        async def one(dataset: int, key: bytes) -> None:
            member = self._federation.key(key)
            try:
                answers[dataset] = await self._from(member, query, sealed, protocol)
            except (NodeError, ProtocolError) as error:
                failed[member.name] = error

        async with trio.open_nursery() as nursery:
            for dataset, key in owners.items():
                nursery.start_soon(one, dataset, key)
        if failed:
            told = "; ".join(f"{name}: {error}" for name, error in failed.items())
            refused = all(isinstance(one, AccessError) for one in failed.values())
            kind = AccessError if refused else TransportError
            raise kind(
                f"{len(failed)} of {len(owners)} did not answer: {told}",
                hint="the sum needs every one; leave them out, or ask them first",
            )
        return tuple(answers[dataset] for dataset in sorted(answers))

    async def _from(
        self, member: Member, query: Query, sealed: bytes, protocol: str
    ) -> bytes:
        if member.node_key == self._signer.public_key:
            act = self._answer if protocol == QUERY_PROTOCOL else self._check
            return await act(query, member, sealed)
        return await self._transport.request(
            member.peer_id,
            protocol,
            sealed,
            timeout_s=ANSWER_TIMEOUT_S,
            limit_bytes=ANSWER_LIMIT_BYTES,
        )


def _require_columns(query: Query, listing: Listing) -> None:
    known = {column.name for column in listing.columns}
    wanted = [*query.columns, *(one.column for one in query.where)]
    for name in wanted:
        if name not in known:
            raise AccessError(
                f"{listing.title!r} has no column {name!r}",
                hint=f"it has {', '.join(sorted(known))[:500]}",
            )
