"""Asking several datasets one question, and reading the sum of what comes back.

Everybody is asked first whether it would answer, so that nobody pays for a question that another
refuses.  From four institutions on, some may be gone before the sum is read: the survivors agree
who they are and give the shares that take the masks off (`protocol.queries.recovery`).  What has
come is kept after each step, so that a question can be gone on with (`resume`).
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import trio
from numpy.typing import NDArray

from node.errors import AccessError
from node.market.reader import write_private
from node.ports.keys import Signer
from node.ports.storage import Store
from node.ports.transport import Transport
from node.services import query_courses
from node.services.federation import Federation
from node.services.query_courses import Course, Courses
from node.services.query_gathering import Act, Check, Gathering, Owners
from node.services.turns import Turns
from protocol.errors import DealerError, VerificationError
from protocol.listing import COUNT_FLOOR
from protocol.queries import recovery, result
from protocol.queries.answer import (
    CHECK_PROTOCOL,
    FORGET_PROTOCOL,
    QUERY_PROTOCOL,
    Forgot,
    open_answer,
    seal_query,
)
from protocol.queries.bundle import Bundle
from protocol.queries.recovery import (
    OPEN_PROTOCOL,
    POLL_PROTOCOL,
    Asked,
    Certificate,
    Opened,
    Survivors,
)
from protocol.queries.spec import MICRO, Query
from protocol.rounds.messages import PreKey
from protocol.rounds.policy import Cohort
from protocol.wire import decode, encode

Row = dict[str, Any]


class LostError(AccessError):
    """The sum of a question stays masked, whoever comes back."""


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
        self._signer = signer
        self._federation = federation
        self._gathering = Gathering(
            signer=signer, transport=transport, federation=federation, local=local
        )
        self._courses = Courses(store)
        self._turns = Turns()
        self.signed = self._courses.signed

    async def ask(
        self, query: Query, owners: Owners, manifests: Owners, path: Path | None
    ) -> Row:
        """Ask all, add up, verify; `owners` and `manifests` by dataset, from the chain."""
        query.check()
        async with self.alone(query):
            course = await self._begun(query, owners)
            return await self._go(course, query, owners, manifests, path)

    async def stored(self, name: str) -> Query:
        """The question, begun and not ended, whose id begins with `name`."""
        return (await self._courses.find(name))[0]

    async def resume(
        self, query: Query, owners: Owners, manifests: Owners, path: Path | None
    ) -> Row:
        """Go on with a question that was cut; nobody pays again."""
        async with self.alone(query):
            _, course = await self._courses.find(query.id().hex())
            return await self._go(course, query, owners, manifests, path)

    async def forget(self, query: Query, owners: Owners) -> Row:
        """Tell whoever can be reached to free what it holds, then do the same.

        The caller is `alone` with the question; what was paid for it stays paid.
        """
        me = self._signer
        sealed = await self._courses.question(query)
        if sealed is None:
            sealed = seal_query(me.sign, me.public_key, query)
        freed, failed = await self._gathering.each(owners, (FORGET_PROTOCOL, sealed))
        await self._courses.forget(query)
        return {
            "query": query.charged().hex(),
            "kind": query.kind,
            "freed": [
                {
                    "dataset": dataset,
                    "owner": self._federation.name_of(owners[dataset]),
                    "rho": decode(freed[dataset], Forgot).spent / MICRO,
                }
                for dataset in sorted(freed)
            ],
            "unreached": [
                {
                    "dataset": one.dataset,
                    "reason": self._why(one.dataset, owners, failed),
                }
                for one in query.datasets
                if one.dataset not in freed
            ],
        }

    def _why(
        self, dataset: int, owners: Owners, failed: Mapping[str, Exception]
    ) -> str:
        if dataset not in owners:
            return "its owner is no member any more"
        name = self._federation.name_of(owners[dataset])
        return f"{name}: {failed[name]}"

    async def open(self) -> list[Row]:
        """Questions that were begun and have no result yet, oldest first."""
        return [
            query_courses.row(
                query, course.at, course.awaits, running=self.running(query)
            )
            for query, course in await self._courses.open()
        ]

    async def bundle(self, query: Query, owners: Owners, manifests: Owners) -> Bundle:
        """All answers to a question that is new, or was cut; verified, and kept.

        The caller is `alone` with it.
        """
        course = await self._courses.get(query) or await self._begun(query, owners)
        bundle, _ = await self._gathered(course, query, owners, manifests)
        await self._courses.end(query, bundle)
        return bundle

    @asynccontextmanager
    async def alone(self, query: Query) -> AsyncIterator[None]:
        """Nobody else goes on with it, or with a round of it: `AccessError` if somebody does.

        Two at once would ask for two sets of survivors, and have a quorum for neither.
        """
        name = query.charged()
        if self._turns.taken(name):
            raise AccessError(
                f"question {name.hex()[:16]} is being asked now",
                hint="wait for it; `rexis query list` shows how far it is",
            )
        async with self._turns.of(name):
            yield

    def running(self, query: Query) -> bool:
        """Whether somebody is."""
        return self._turns.taken(query.charged())

    async def _begun(self, query: Query, owners: Owners) -> Course:
        """All would answer; where some may be lost, under these keys."""
        me = self._signer
        sealed = seal_query(me.sign, me.public_key, query)
        message = (CHECK_PROTOCOL, sealed)
        # Of a training all rounds are paid with the first.
        paid = query.id() != query.charged()
        if not recovery.is_needed(query):
            await self._gathering.all(query, owners, message, begun=paid)
            return await self._courses.begin(query, sealed)
        cohort = self._cohort(query, owners)

        def is_ready(dataset: int, data: bytes) -> None:
            dealer, _ = recovery.open_ready(data, query, cohort)
            if dealer != owners[dataset]:
                raise VerificationError("a pre-key is signed by another")

        readys = await self._gathering.all(query, owners, message, is_ready, begun=paid)
        ordered = tuple(readys[one] for one in sorted(readys))
        return await self._courses.begin(query, sealed, ordered)

    async def _go(
        self,
        course: Course,
        query: Query,
        owners: Owners,
        manifests: Owners,
        path: Path | None,
    ) -> Row:
        bundle, totals = await self._gathered(course, query, owners, manifests)
        if path is not None:
            await trio.to_thread.run_sync(write_private, path, encode(bundle))
        await self._courses.end(query, bundle)
        size = len(bundle.answers)
        return {
            **self.row(query, bundle, owners, path),
            "result": result.read(query, totals, size, COUNT_FLOOR),
        }

    async def _gathered(
        self, course: Course, query: Query, owners: Owners, manifests: Owners
    ) -> tuple[Bundle, NDArray[np.int64]]:
        def is_answer(dataset: int, data: bytes) -> None:
            said, _, signer = open_answer(data, query)
            if (said.dataset, signer) != (dataset, owners[dataset]):
                raise VerificationError("it is another's answer")
            if said.manifest != manifests[dataset]:
                raise VerificationError(
                    "manifest of the answer",
                    manifests[dataset].hex()[:16],
                    said.manifest.hex()[:16],
                )

        if not recovery.is_needed(query):
            bundle = await self._whole(course, query, owners, is_answer)
        else:
            bundle = await self._surviving(course, query, owners, is_answer)
        return bundle, bundle.totals(owners, manifests)[1]

    def row(
        self, query: Query, bundle: Bundle, owners: Owners, path: Path | None
    ) -> Row:
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

    async def _whole(
        self, course: Course, query: Query, owners: Owners, is_answer: Check
    ) -> Bundle:
        """Up to three institutions: the sum needs every one."""
        message = (QUERY_PROTOCOL, encode(Asked(course.query)))
        answers = await self._gathering.all(query, owners, message, is_answer)
        return Bundle(course.query, tuple(answers[one] for one in sorted(answers)))

    async def _surviving(
        self, course: Course, query: Query, owners: Owners, is_answer: Check
    ) -> Bundle:
        """From four on: whoever is left at each step goes on to the next."""
        cohort = self._cohort(query, owners)
        made = recovery.open_readys(course.readys, query, cohort)
        if not course.survivors:
            course = await self._collected(query, course, owners, is_answer, cohort)
        alive = recovery.members_of(cohort, course.survivors)
        left = {one: key for one, key in owners.items() if key in alive}
        if not course.votes:
            course = await self._voted(query, course, left, made, cohort)
        shares = await self._opened(query, course, left, cohort)
        try:
            opened = recovery.opened_secrets(shares, made, cohort, course.survivors)
        except DealerError as error:
            name = self._federation.name_of(error.dealer)
            await self._courses.lose(query, name)
            raise LostError(
                f"{name} dealt shares of another {error.what} than it announced; the"
                " sum stays masked",
                hint=f"ask anew, without {name}",
            ) from error
        answers = dict(course.answers)
        return Bundle(
            course.query,
            tuple(answers[one] for one in sorted(answers)),
            cohort.epoch.seats,
            course.readys,
            course.votes,
            opened,
        )

    async def _collected(
        self,
        query: Query,
        course: Course,
        owners: Owners,
        is_answer: Check,
        cohort: Cohort,
    ) -> Course:
        """Answers of all who are there, and who that is."""
        message = (QUERY_PROTOCOL, encode(Asked(course.query, course.readys)))
        quorum = cohort.thresholds.quorum
        good = await self._gathering.some(
            query, owners, message, is_answer, quorum=quorum
        )
        survivors = recovery.survivors_of(cohort, (owners[one] for one in good))
        return await self._courses.save(
            query, course, answers=tuple(sorted(good.items())), survivors=survivors
        )

    async def _voted(
        self,
        query: Query,
        course: Course,
        left: Owners,
        made: Mapping[bytes, PreKey],
        cohort: Cohort,
    ) -> Course:
        """A quorum's word for these survivors; what is none is not kept, or it stays so."""
        poll = Survivors(query.id(), recovery.context_of(query, made), course.survivors)

        def is_vote(dataset: int, data: bytes) -> None:
            if recovery.open_vote(data, query, cohort) != (poll, left[dataset]):
                raise VerificationError("it is a vote for others, or of another")

        said = await self._gathering.some(
            *(query, left, (POLL_PROTOCOL, encode(poll)), is_vote),
            quorum=cohort.thresholds.quorum,
        )
        votes = tuple(said[one] for one in sorted(said))
        recovery.certified(votes, query, cohort)
        return await self._courses.save(query, course, votes=votes)

    async def _opened(
        self, query: Query, course: Course, left: Owners, cohort: Cohort
    ) -> dict[bytes, Opened]:
        """Shares, by the node key of their holder."""
        found: dict[bytes, Opened] = {}

        def is_opened(dataset: int, data: bytes) -> None:
            found[left[dataset]] = decode(
                data, Opened, limit_bytes=recovery.OPEN_LIMIT_BYTES
            )

        certificate = encode(Certificate(query.id(), course.votes))
        await self._gathering.some(
            *(query, left, (OPEN_PROTOCOL, certificate), is_opened),
            quorum=cohort.thresholds.quorum,
        )
        return found

    def _cohort(self, query: Query, owners: Owners) -> Cohort:
        seals = {key: self._federation.key(key).seal_key for key in owners.values()}
        return recovery.cohort_of(query, seals)
