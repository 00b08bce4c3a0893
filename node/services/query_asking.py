"""Asking several datasets one question, and reading the sum of what comes back.

Everybody is asked first whether it would answer, so that nobody pays for a question that another
refuses.  From four institutions on, some may be gone before the sum is read: the survivors agree
who they are and give the shares that take the masks off (`protocol.queries.recovery`).  What has
come is kept after each step, so that a question can be gone on with (`resume`).
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray

from node.errors import AccessError, NodeError, TransportError
from node.market.reader import write_private
from node.ports import Signer, Store, Transport
from node.services.federation import Federation
from protocol.errors import ProtocolError
from protocol.lineage import AskedQuery
from protocol.listing import COUNT_FLOOR
from protocol.members import Member
from protocol.queries import recovery, result
from protocol.queries.answer import (
    ANSWER_LIMIT_BYTES,
    CHECK_PROTOCOL,
    QUERY_PROTOCOL,
    attestation,
    open_answer,
    open_query,
    seal_query,
)
from protocol.queries.bundle import BUNDLE_LIMIT_BYTES, Bundle
from protocol.queries.recovery import (
    OPEN_PROTOCOL,
    POLL_PROTOCOL,
    Asked,
    Certificate,
    Opened,
    Survivors,
)
from protocol.queries.spec import Query
from protocol.rounds.policy import Cohort
from protocol.types import PeerId
from protocol.wire import Message, decode, encode

ANSWER_TIMEOUT_S = 900.0
"""Longer than a sandbox may take."""
_OPEN, _ASKED = "query-open", "query-asked"
_ASKED_LIMIT_BYTES = 1 << 20
"""A question and 64 attestations."""

Act = Callable[[PeerId, bytes], Awaitable[bytes]]
Owners = Mapping[int, bytes]
"""Node keys by dataset."""


class Course(Message, frozen=True, tag="query-course"):
    """How far a question of ours is; answers and votes by dataset."""

    query: bytes
    readys: tuple[bytes, ...] = ()
    answers: tuple[tuple[int, bytes], ...] = ()
    survivors: int = 0
    votes: tuple[bytes, ...] = ()


class Asking:
    """The researcher's side."""

    def __init__(
        self,
        *,
        store: Store,
        signer: Signer,
        transport: Transport,
        federation: Federation,
        local: Mapping[str, Act],
    ) -> None:
        """`local` answers by protocol where one of the datasets is our own."""
        self._store = store
        self._signer = signer
        self._transport = transport
        self._federation = federation
        self._local = local

    async def ask(
        self, query: Query, owners: Owners, manifests: Owners, path: Path | None
    ) -> dict[str, Any]:
        """Ask all, add up, verify; `owners` and `manifests` by dataset, from the chain."""
        query.check()
        me = self._signer
        course = Course(seal_query(me.sign, me.public_key, query))
        return await self._go(course, query, owners, manifests, path)

    async def stored(self, name: str) -> Query:
        """The question, begun and not ended, whose id begins with `name`."""
        found = [
            value
            for key, value in await self._store.scan(_OPEN)
            if key.hex().startswith(name)
        ]
        if len(found) != 1:
            raise AccessError(
                f"{len(found)} unfinished questions begin with {name[:64]!r}",
                hint="the error of a question that was cut names it",
            )
        course = decode(found[0], Course, limit_bytes=BUNDLE_LIMIT_BYTES)
        return open_query(course.query)[0]

    async def resume(
        self, query: Query, owners: Owners, manifests: Owners, path: Path | None
    ) -> dict[str, Any]:
        """Go on with a question that was cut; nobody pays again."""
        stored = await self._store.get(_OPEN, query.id())
        assert stored is not None
        course = decode(stored, Course, limit_bytes=BUNDLE_LIMIT_BYTES)
        return await self._go(course, query, owners, manifests, path)

    async def signed(self) -> list[tuple[bytes, AskedQuery]]:
        """Ids of the questions that were asked here, and what was signed about them."""
        return [
            (key, decode(value, AskedQuery, limit_bytes=_ASKED_LIMIT_BYTES))
            for key, value in await self._store.scan(_ASKED)
        ]

    async def bundle(self, query: Query, owners: Owners, manifests: Owners) -> Bundle:
        """All answers to a question that is new, or was cut; verified, and kept."""
        course = await self._course(query)
        bundle, _ = await self._gathered(course, query, owners, manifests)
        await self._keep(bundle, query)
        return bundle

    async def _course(self, query: Query) -> Course:
        stored = await self._store.get(_OPEN, query.id())
        if stored is not None:
            return decode(stored, Course, limit_bytes=BUNDLE_LIMIT_BYTES)
        me = self._signer
        return Course(seal_query(me.sign, me.public_key, query))

    async def _go(
        self,
        course: Course,
        query: Query,
        owners: Owners,
        manifests: Owners,
        path: Path | None,
    ) -> dict[str, Any]:
        bundle, totals = await self._gathered(course, query, owners, manifests)
        if path is not None:
            await trio.to_thread.run_sync(write_private, path, encode(bundle))
        await self._keep(bundle, query)
        size = len(bundle.answers)
        return {
            **self.row(query, bundle, owners, path),
            "result": result.read(query, totals, size, COUNT_FLOOR),
        }

    async def _gathered(
        self, course: Course, query: Query, owners: Owners, manifests: Owners
    ) -> tuple[Bundle, NDArray[np.int64]]:
        if not recovery.is_needed(query):
            bundle = await self._whole(course, query, owners)
        else:
            bundle = await self._surviving(course, query, owners)
        return bundle, bundle.totals(owners, manifests)[1]

    def row(
        self, query: Query, bundle: Bundle, owners: Owners, path: Path | None
    ) -> dict[str, Any]:
        """For a person: who answered what, but for the result."""
        answered = {said.dataset: said for said, _, _ in bundle.opened()[1]}
        return {
            "query": query.id().hex(),
            "kind": query.kind,
            "code": query.code.hex(),
            "answers": [
                {
                    "dataset": one.dataset,
                    "owner": self._federation.name_of(owners[one.dataset]),
                    "record": one.record.hex(),
                    "manifest": answered[one.dataset].manifest.hex(),
                }
                for one in query.datasets
                if one.dataset in answered
            ],
            "dropped": [
                self._federation.name_of(key)
                for dataset, key in owners.items()
                if dataset not in answered
            ],
            "masked": len(query.datasets) > 1,
            "noise_sd": result.noise_sd(query, len(answered)),
            "floor": COUNT_FLOOR,
            "path": None if path is None else str(path),
        }

    async def _whole(self, course: Course, query: Query, owners: Owners) -> Bundle:
        """Up to three institutions: the sum needs every one."""
        await self._all(query, owners, CHECK_PROTOCOL, course.query)
        asked = encode(Asked(course.query))
        answers = await self._all(query, owners, QUERY_PROTOCOL, asked)
        return Bundle(course.query, tuple(answers[one] for one in sorted(answers)))

    async def _surviving(self, course: Course, query: Query, owners: Owners) -> Bundle:
        """From four on: whoever is left at each step goes on to the next."""
        seals = {key: self._federation.key(key).seal_key for key in owners.values()}
        cohort = recovery.cohort_of(query, seals)
        if not course.readys:
            readys = await self._all(query, owners, CHECK_PROTOCOL, course.query)
            course = await self._save(
                query, course, readys=tuple(readys[one] for one in sorted(readys))
            )
        made = recovery.open_readys(course.readys, query, cohort)
        if not course.survivors:
            course = await self._collected(query, course, owners, cohort)
        answers = dict(course.answers)
        alive = recovery.members_of(cohort, course.survivors)
        left = {one: key for one, key in owners.items() if key in alive}
        votes = course.votes
        if not votes:
            keys = recovery.context_of(query, made)
            poll = Survivors(query.id(), keys, course.survivors)
            said = await self._some(query, left, POLL_PROTOCOL, encode(poll), cohort)
            votes = tuple(
                said[one]
                for one in sorted(said)
                if _is_vote(said[one], query, cohort, (poll, owners[one]))
            )
            course = await self._save(query, course, votes=votes)
        certificate = encode(Certificate(query.id(), votes))
        opened = await self._some(query, left, OPEN_PROTOCOL, certificate, cohort)
        shares = {}
        for one, data in opened.items():
            with suppress(ProtocolError):  # what is no share is nobody's
                shares[owners[one]] = decode(
                    data, Opened, limit_bytes=recovery.OPEN_LIMIT_BYTES
                )
        return Bundle(
            course.query,
            tuple(answers[one] for one in sorted(answers)),
            cohort.epoch.seats,
            course.readys,
            votes,
            recovery.opened_secrets(shares, made, cohort, course.survivors),
        )

    async def _collected(
        self, query: Query, course: Course, owners: Owners, cohort: Cohort
    ) -> Course:
        """Answers of all who are there, and who that is; an answer that is none is nobody's."""
        asked = encode(Asked(course.query, course.readys))
        found = await self._some(query, owners, QUERY_PROTOCOL, asked, cohort)
        good = {}
        for dataset, data in found.items():
            with suppress(ProtocolError):
                said, _, signer = open_answer(data, query)
                if (said.dataset, signer) == (dataset, owners[dataset]):
                    good[dataset] = data
        survivors = recovery.survivors_of(cohort, (owners[one] for one in good))
        return await self._save(
            query, course, answers=tuple(sorted(good.items())), survivors=survivors
        )

    async def _save(self, query: Query, course: Course, **changes: Any) -> Course:
        values = {
            name: changes.get(name, getattr(course, name))
            for name in course.__struct_fields__
        }
        made = Course(**values)
        await self._store.put(_OPEN, query.id(), encode(made))
        return made

    async def _keep(self, bundle: Bundle, query: Query) -> None:
        asked = AskedQuery(
            bundle.query, tuple(map(attestation, bundle.answers)), bundle.votes
        )
        datasets = [said.dataset for said, _, _ in bundle.opened()[1]]
        await self._store.put_many(
            [(_ASKED, query.id(), encode(asked)), (_OPEN, query.id(), None)],
            event=(
                "query_asked",
                {"query": query.id().hex(), "datasets": sorted(datasets)},
            ),
        )

    async def _all(
        self, query: Query, owners: Owners, protocol: str, payload: bytes
    ) -> dict[int, bytes]:
        """One answer from every owner."""
        answers, failed = await self._gather(owners, protocol, payload)
        self._require(query, len(owners), failed, len(owners))
        return answers

    async def _some(
        self,
        query: Query,
        owners: Owners,
        protocol: str,
        payload: bytes,
        cohort: Cohort,
    ) -> dict[int, bytes]:
        """Answers from a quorum at least."""
        answers, failed = await self._gather(owners, protocol, payload)
        if len(answers) < cohort.thresholds.quorum:
            self._require(query, len(owners), failed, cohort.thresholds.quorum)
        return answers

    async def _gather(
        self, owners: Owners, protocol: str, payload: bytes
    ) -> tuple[dict[int, bytes], dict[str, Exception]]:
        answers: dict[int, bytes] = {}
        failed: dict[str, Exception] = {}

        async def one(dataset: int, key: bytes) -> None:
            member = self._federation.key(key)
            try:
                answers[dataset] = await self._from(member, protocol, payload)
            except (NodeError, ProtocolError) as error:
                failed[member.name] = error

        async with trio.open_nursery() as nursery:
            for dataset, key in owners.items():
                nursery.start_soon(one, dataset, key)
        return answers, failed

    @staticmethod
    def _require(
        query: Query, size: int, failed: Mapping[str, Exception], needed: int
    ) -> None:
        if not failed:
            return
        told = "; ".join(f"{name}: {error}" for name, error in failed.items())
        refused = all(isinstance(one, AccessError) for one in failed.values())
        kind = AccessError if refused else TransportError
        raise kind(
            f"{len(failed)} of {size} did not answer: {told}",
            hint=f"the sum needs {needed}; leave them out, or, once they are there again,"
            f" `rexis query resume {query.charged().hex()[:16]}`",
        )

    async def _from(self, member: Member, protocol: str, payload: bytes) -> bytes:
        if member.node_key == self._signer.public_key:
            return await self._local[protocol](member.peer_id, payload)
        return await self._transport.request(
            member.peer_id,
            protocol,
            payload,
            timeout_s=ANSWER_TIMEOUT_S,
            limit_bytes=ANSWER_LIMIT_BYTES,
        )


def _is_vote(
    vote: bytes, query: Query, cohort: Cohort, wanted: tuple[Survivors, bytes]
) -> bool:
    try:
        return recovery.open_vote(vote, query, cohort) == wanted
    except ProtocolError:
        return False
