"""Queries over the federation: what this node answers about its data, and what it asks others.

An answer is made in this order: the question's signature, the program's digest, the dataset on
the chain, the steward's policy, the charge (durable), the sandbox, the mask, the attestation
(durable), and only then a byte leaves.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio

from node.clock import now_s
from node.errors import AccessError
from node.ports.chain import Chain, DatasetToken
from node.ports.keys import Signer
from node.ports.storage import Store
from node.ports.transport import Transport
from node.query import runner
from node.query.code import code_digest
from node.query.ledger import Ledger
from node.query.masking import Masking
from node.services.federation import Federation
from node.services.query_asking import Asking
from node.services.query_models import Models, require_columns
from node.services.query_training import Trainings
from node.services.turns import Turns
from protocol.errors import MalformedMessageError, ProtocolError
from protocol.lineage import AskedQuery
from protocol.listing import Listing
from protocol.members import ROLE_RESEARCHER, Member
from protocol.queries import recovery
from protocol.queries.answer import (
    CHECK_PROTOCOL,
    FORGET_PROTOCOL,
    QUERY_PROTOCOL,
    Attestation,
    Forgot,
    Words,
    mask,
    open_query,
    seal_answer,
    suppressed,
)
from protocol.queries.models import Fit, Linear, RunState
from protocol.queries.recovery import (
    ASKED_LIMIT_BYTES,
    OPEN_PROTOCOL,
    POLL_PROTOCOL,
    Asked,
    Certificate,
    Survivors,
)
from protocol.queries.spec import Condition, Kind, Query, of_datasets
from protocol.rounds.policy import Cohort
from protocol.types import PeerId, digest
from protocol.wire import decode, encode

Run = Callable[..., Awaitable[Words]]
"""From a question and its table, and the run's state where it names one, to a noisy vector."""
Act = Callable[[Query, Member, Asked], Awaitable[bytes]]

log = structlog.get_logger()


class Datasets(Protocol):
    """What the market knows and holds."""

    async def own_rows(self, dataset: int) -> bytes: ...

    async def own_listing(self, dataset: int) -> Listing | None: ...

    async def listing(self, dataset: int) -> Listing: ...


_VERBS = {"evaluation": "evaluate", "training": "train"}
"""Kinds whose command is called otherwise."""


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
        models: Models | None = None,
        run: Run = runner.run,
    ) -> None:
        """Without `models` no question about a run's state is answered or asked."""
        self._store = store
        self._signer = signer
        self._chain = chain
        self._transport = transport
        self._federation = federation
        self._datasets = datasets
        self._models = models
        self._run = run
        self._ledger = Ledger(store)
        self._masking = Masking(store, signer)
        self._turns = Turns()
        # A table in memory once, whoever asks.
        self._computing = trio.Lock()
        served = {
            CHECK_PROTOCOL: self._serve_check,
            QUERY_PROTOCOL: self._serve,
            POLL_PROTOCOL: self._serve_poll,
            OPEN_PROTOCOL: self._serve_open,
            FORGET_PROTOCOL: self._serve_forget,
        }
        for protocol, act in served.items():
            transport.serve(protocol, act, limit_bytes=ASKED_LIMIT_BYTES)
        self._asking = Asking(
            store=store,
            signer=signer,
            transport=transport,
            federation=federation,
            local=served,
        )
        self._trainings = Trainings(store, self._asking)

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

    async def open(self) -> list[dict[str, Any]]:
        """Questions of ours that were begun and have no result yet, oldest first."""
        asked = await self._asking.open()
        known = {row["query"] for row in asked}
        between = await self._trainings.open()
        found = asked + [row for row in between if row["query"] not in known]
        return sorted(found, key=lambda row: row["begun"])

    async def _row(self, dataset: int) -> dict[str, Any]:
        for row in await self._ledger.rows():
            if row["dataset"] == dataset:
                return row
        raise AccessError(
            f"dataset {dataset} answers no queries", hint="allow some kinds first"
        )

    async def signed(self) -> list[AskedQuery]:
        """Questions asked here, and those answered here, with what was signed about them."""
        asked = dict(await self._asking.signed())
        return [*asked.values()] + [
            AskedQuery(sealed, (attested,))
            for name, sealed, attested in await self._ledger.kept()
            if name not in asked
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
        asked = decode(payload, Asked, limit_bytes=ASKED_LIMIT_BYTES)
        return await self._heard(peer, asked, self._answer)

    async def _serve_check(self, peer: PeerId, payload: bytes) -> bytes:
        """Whether there would be one; costs nothing, and says nothing of any row."""
        return await self._heard(peer, Asked(payload), self._check)

    async def _heard(self, peer: PeerId, asked: Asked, act: Act) -> bytes:
        query, asker = open_query(asked.query)
        member = self._federation.peer(peer)
        if asker != member.node_key:
            raise AccessError("the question is signed by another than who brings it")
        try:
            return await act(query, member, asked)
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

    async def _check(self, query: Query, asker: Member, _asked: Asked) -> bytes:
        dataset, _, _ = await self._admitted(query, asker)
        await self._ledger.require(dataset, query)
        if isinstance(query.model, RunState):
            await self._of_runs().ready(query)
        if not recovery.is_needed(query):
            return b""
        cohort = await self._cohort(query)
        async with self._turns.of(query.id()):
            return await self._masking.ready(query, cohort, now_s())

    async def _serve_poll(self, peer: PeerId, payload: bytes) -> bytes:
        """Whom this node calls survivors of a question it answered."""
        said = decode(payload, Survivors)
        query, asked = await self._asked_by(peer, said.query)
        cohort = await self._cohort(query)
        async with self._turns.of(query.id()):
            return await self._masking.vote(query, cohort, asked, said.set)

    async def _serve_open(self, peer: PeerId, payload: bytes) -> bytes:
        """Shares, against a quorum's certificate."""
        said = decode(payload, Certificate, limit_bytes=ASKED_LIMIT_BYTES)
        query, asked = await self._asked_by(peer, said.query)
        cohort = await self._cohort(query)
        async with self._turns.of(query.id()):
            return await self._masking.open(query, cohort, asked, said.votes)

    async def _serve_forget(self, peer: PeerId, payload: bytes) -> bytes:
        """Free what is held of a question, for who asked it."""
        query, asker = open_query(payload)
        if asker != self._federation.peer(peer).node_key:
            raise AccessError("the question is signed by another than who brings it")
        async with self._turns.of(query.id()):
            spent = [
                await self._ledger.forget(
                    one.dataset, query, asker, self._masking.forgotten
                )
                for one in query.datasets
            ]
        return encode(Forgot(sum(spent)))

    async def _asked_by(self, peer: PeerId, name: bytes) -> tuple[Query, Asked]:
        query, asker, asked = await self._masking.asked(name)
        if asker != self._federation.peer(peer).node_key:
            raise AccessError("the question is another's")
        return query, asked

    async def _cohort(self, query: Query) -> Cohort:
        """Those who are asked, with the keys the registry has of them."""
        owners = (await self._owners(query)).values()
        return recovery.cohort_of(
            query, {key: self._federation.key(key).seal_key for key in owners}
        )

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
        require_columns(query, listing, self._columns(query))
        return dataset, listing, others

    def _columns(self, query: Query) -> tuple[str, ...]:
        if not isinstance(query.model, RunState):
            return ()
        return self._of_runs().columns(query)

    def _of_runs(self) -> Models:
        if self._models is None:
            raise AccessError("this node is in no runs, and has none of their states")
        return self._models

    async def _answer(self, query: Query, asker: Member, asked: Asked) -> bytes:
        dataset, listing, others = await self._admitted(query, asker)
        shared = recovery.is_needed(query)
        # A second copy of the question finds the answer of the first.
        async with self._turns.of(query.id()):
            before = await self._ledger.answered(dataset, query)
            if before is not None:
                if shared:
                    await self._masking.require_same(query, asked)
                return before
            keys = None
            if shared:
                cohort = await self._cohort(query)
                keys = await self._masking.opened(query, cohort, asked)
            named = isinstance(query.model, RunState)
            given = [await self._of_runs().given(query)] if named else []
            policy = await self._ledger.charge(dataset, query, asker.node_key, now_s())
            async with self._computing:
                rows = await self._datasets.own_rows(dataset)
                words = await self._run(query, rows, *given)
            words = suppressed(query, words, policy.floor)
            if keys is not None:
                self._masking.apply(words, query, keys)
            elif others:
                me, agree = self._signer.public_key, self._signer.agree
                seals = {key: self._federation.key(key).seal_key for key in others}
                mask(words, query, me, others, lambda key: agree(seals[key]))
            answer = self._attested(query, dataset, listing, words)
            # In one write, or a crash leaves an answer and no word of its keys.
            under = self._masking.answered(query, asked) if shared else []
            await self._ledger.keep(dataset, query, answer, asked.query, under)
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

    def _require_apart(self, owners: Mapping[int, bytes]) -> None:
        """Each member masks one vector and pays for one dataset."""
        for dataset, owner in sorted(owners.items()):
            same = sorted(one for one, key in owners.items() if key == owner)
            if same[0] != dataset:
                raise AccessError(
                    f"datasets {same[0]} and {dataset} are both of "
                    f"{self._federation.name_of(owner)}",
                    hint="a question takes one dataset of each member: ask twice",
                )

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

        Each is asked first whether it would.  Up to three must all answer; of more a quorum.
        """
        return await self._put(
            kind,
            datasets,
            spend,
            where,
            path,
            columns=tuple(columns),
            low=float(between[0]),
            high=float(between[1]),
            bins=bins,
            levels=tuple(levels),
            event=event,
            probabilities=tuple(map(float, probabilities)),
        )

    async def evaluate(
        self,
        datasets: Sequence[int],
        spend: int,
        model: Linear | tuple[bytes, bytes | None, str],
        *,
        where: Sequence[tuple[str, str]] = (),
        reach: float = 4.0,
        bins: int = 32,
        every: bool = False,
        path: Path | None = None,
    ) -> dict[str, Any]:
        """Try a model on all `datasets`: weights, or what a run came to.

        Of a run: its id, the state, the newest if None, and the class that counts as yes if its
        model tells classes apart.  Log-odds beyond `reach` count with the last of `bins`.
        """
        named: Linear | RunState
        if isinstance(model, Linear):
            named = model
        else:
            run, state, answer = model
            named = (
                RunState(run, state, answer)
                if state
                else self._of_runs().newest(run, answer)
            )
        low, high = -float(reach), float(reach)
        fields = {"low": low, "high": high, "bins": bins, "every": every}
        return await self._put(
            "evaluation", datasets, spend, where, path, model=named, **fields
        )

    async def train(
        self,
        datasets: Sequence[int],
        spend: int,
        model: Linear,
        fit: Fit,
        *,
        where: Sequence[tuple[str, str]] = (),
        path: Path | None = None,
    ) -> dict[str, Any]:
        """Fit the weights of `model` to all `datasets`; `spend` pays for every round of it."""
        return await self._put(
            "training", datasets, spend, where, path, model=model, fit=fit
        )

    async def resume(self, name: str, path: Path | None = None) -> dict[str, Any]:
        """Go on with a question of this node that was cut; nobody pays again."""
        training = await self._trainings.named(name)
        query = training or await self._asking.stored(name)
        owners = await self._owners(query)
        manifests = await self._manifests(query)
        if query.fit is not None:
            return await self._trainings.train(query.first(), owners, manifests, path)
        return await self._asking.resume(query, owners, manifests, path)

    async def forget(self, name: str) -> dict[str, Any]:
        """Give up a question of this node that has no result; nobody gets back what it paid."""
        training = await self._trainings.named(name)
        query = training or await self._asking.stored(name)
        tokens = {token.dataset: token for token in await self._chain.datasets()}
        owners = {
            one.dataset: member.node_key
            for one in query.datasets
            # Withdrawn or listed otherwise since: its owner is told all the same.
            if (token := tokens.get(one.dataset))
            and (member := self._federation.members.by_account(token.owner))
        }
        async with self._asking.alone(query):
            row = await self._asking.forget(query, owners)
            await self._trainings.forget(query.first())
        return row

    async def _put(
        self,
        kind: Kind,
        datasets: Sequence[int],
        spend: int,
        where: Sequence[tuple[str, str]],
        path: Path | None,
        **fields: Any,
    ) -> dict[str, Any]:
        tokens = {token.dataset: token for token in await self._chain.datasets()}
        owners = {one: self._owner(tokens.get(one), one, None) for one in set(datasets)}
        self._require_apart(owners)
        query = Query(
            kind=kind,
            datasets=of_datasets([(one, tokens[one].record) for one in owners]),
            spend=spend,
            code=code_digest(),
            nonce=secrets.token_bytes(32),
            where=tuple(Condition(*one) for one in where),
            **{"columns": (), **fields},
        )
        try:
            query.check()
        except MalformedMessageError as error:
            raise AccessError(
                str(error),
                hint=f"`rexis query {_VERBS.get(kind, kind)} --help` shows what it takes",
            ) from error
        manifests = await self._manifests(query)
        if query.fit is not None:
            return await self._trainings.train(query, owners, manifests, path)
        return await self._asking.ask(query, owners, manifests, path)

    async def _manifests(self, query: Query) -> dict[int, bytes]:
        """Of every dataset's listing; what is refused for its columns is refused unpaid."""
        found: dict[int, bytes] = {}
        for one in query.datasets:
            listing = await self._datasets.listing(one.dataset)
            require_columns(query, listing, ())
            found[one.dataset] = listing.manifest
        return found
