"""Asking several datasets one question, and reading the sum of what comes back.

Everybody is asked first whether it would answer, so that nobody pays for a question that another
refuses.  From four institutions on, some may be gone before the sum is read: the survivors agree
who they are and give the shares that take the masks off (`protocol.queries.recovery`).  What has
come is kept after each step, so that a question can be gone on with (`resume`).
"""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from node.errors import AccessError, NodeError, TransportError
from node.market.reader import write_private
from node.ports import Signer, Store, Transport
from node.services import query_courses
from node.services.federation import Federation
from node.services.query_courses import Course, Courses
from node.services.turns import Turns
from protocol.errors import DealerError, ProtocolError, VerificationError
from protocol.listing import COUNT_FLOOR
from protocol.members import Member
from protocol.queries import recovery, result
from protocol.queries.answer import (
    ANSWER_LIMIT_BYTES,
    CHECK_PROTOCOL,
    QUERY_PROTOCOL,
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
from protocol.queries.spec import Query
from protocol.rounds.messages import PreKey
from protocol.rounds.policy import Cohort
from protocol.types import PeerId
from protocol.wire import decode, encode

ANSWER_TIMEOUT_S = 900.0
"""Longer than a sandbox may take."""
Act = Callable[[PeerId, bytes], Awaitable[bytes]]
Owners = Mapping[int, bytes]
"""Node keys by dataset."""
Check = Callable[[int, bytes], None]
"""Raises `ProtocolError` for what is no answer of the owner of this dataset."""
Row = dict[str, Any]


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
        self._transport = transport
        self._federation = federation
        self._local = local
        self._courses = Courses(store)
        self._turns = Turns()
        self.signed = self._courses.signed

    async def ask(
        self, query: Query, owners: Owners, manifests: Owners, path: Path | None
    ) -> Row:
        """Ask all, add up, verify; `owners` and `manifests` by dataset, from the chain."""
        query.check()
        me = self._signer
        sealed = seal_query(me.sign, me.public_key, query)
        async with self._turns.of(query.id()):
            course = await self._begun(sealed, query, owners)
            return await self._go(course, query, owners, manifests, path)

    async def stored(self, name: str) -> Query:
        """The question, begun and not ended, whose id begins with `name`."""
        return (await self._courses.find(name))[0]

    async def open(self) -> list[Row]:
        """Questions that were begun and have no result yet, oldest first."""
        return [
            query_courses.row(query, course, running=self._turns.taken(query.id()))
            for query, course in await self._courses.open()
        ]

    async def resume(
        self, query: Query, owners: Owners, manifests: Owners, path: Path | None
    ) -> Row:
        """Go on with a question that was cut; nobody pays again."""
        name = query.id()
        # Two at once would ask for two sets of survivors, and have a quorum for neither.
        if self._turns.taken(name):
            raise AccessError(
                f"question {name.hex()[:16]} is being asked now",
                hint="wait for it; `rexis query list` shows how far it is",
            )
        async with self._turns.of(name):
            _, course = await self._courses.find(name.hex())
            return await self._go(course, query, owners, manifests, path)

    async def _begun(self, sealed: bytes, query: Query, owners: Owners) -> Course:
        """All would answer; where some may be lost, under these keys."""
        if not recovery.is_needed(query):
            await self._all(query, owners, CHECK_PROTOCOL, sealed, begun=False)
            return await self._courses.begin(query, sealed)
        cohort = self._cohort(query, owners)

        def is_ready(dataset: int, data: bytes) -> None:
            dealer, _ = recovery.open_ready(data, query, cohort)
            if dealer != owners[dataset]:
                raise VerificationError("a pre-key is signed by another")

        readys = await self._all(
            *(query, owners, CHECK_PROTOCOL, sealed), check=is_ready, begun=False
        )
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
        _, totals = bundle.totals(owners, manifests)
        if path is not None:
            await trio.to_thread.run_sync(write_private, path, encode(bundle))
        await self._courses.end(query, bundle)
        answered = {said.dataset for said, _, _ in bundle.opened()[1]}
        return {
            "query": query.id().hex(),
            "kind": query.kind,
            "code": query.code.hex(),
            "answers": [
                {
                    "dataset": one.dataset,
                    "owner": self._federation.name_of(owners[one.dataset]),
                    "record": one.record.hex(),
                    "manifest": manifests[one.dataset].hex(),
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
            "result": result.read(query, totals, len(answered), COUNT_FLOOR),
            "path": None if path is None else str(path),
        }

    async def _whole(
        self, course: Course, query: Query, owners: Owners, is_answer: Check
    ) -> Bundle:
        """Up to three institutions: the sum needs every one."""
        asked = encode(Asked(course.query))
        answers = await self._all(query, owners, QUERY_PROTOCOL, asked, check=is_answer)
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
            raise AccessError(
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
        asked = encode(Asked(course.query, course.readys))
        good = await self._some(
            *(query, owners, QUERY_PROTOCOL, asked, cohort), check=is_answer
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

        said = await self._some(
            *(query, left, POLL_PROTOCOL, encode(poll), cohort), check=is_vote
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
        await self._some(
            *(query, left, OPEN_PROTOCOL, certificate, cohort), check=is_opened
        )
        return found

    def _cohort(self, query: Query, owners: Owners) -> Cohort:
        seals = {key: self._federation.key(key).seal_key for key in owners.values()}
        return recovery.cohort_of(query, seals)

    async def _all(
        self,
        query: Query,
        owners: Owners,
        protocol: str,
        payload: bytes,
        *,
        check: Check | None = None,
        begun: bool = True,
    ) -> dict[int, bytes]:
        """One answer from every owner."""
        answers, failed = await self._gather(owners, protocol, payload, check)
        if failed:
            raise _missing(query, len(owners), failed, len(owners) if begun else None)
        return answers

    async def _some(
        self,
        query: Query,
        owners: Owners,
        protocol: str,
        payload: bytes,
        cohort: Cohort,
        *,
        check: Check,
    ) -> dict[int, bytes]:
        """Answers from a quorum at least; one that `check` refuses is nobody's."""
        answers, failed = await self._gather(owners, protocol, payload, check)
        if len(answers) < cohort.thresholds.quorum:
            raise _missing(query, len(owners), failed, cohort.thresholds.quorum)
        return answers

    async def _gather(
        self, owners: Owners, protocol: str, payload: bytes, check: Check | None
    ) -> tuple[dict[int, bytes], dict[str, Exception]]:
        answers: dict[int, bytes] = {}
        failed: dict[str, Exception] = {}

        async def one(dataset: int, key: bytes) -> None:
            member = self._federation.key(key)
            try:
                data = await self._from(member, protocol, payload)
                if check is not None:
                    check(dataset, data)
                answers[dataset] = data
            except (NodeError, ProtocolError) as error:
                failed[member.name] = error

        async with trio.open_nursery() as nursery:
            for dataset, key in owners.items():
                nursery.start_soon(one, dataset, key)
        return answers, failed

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


def _missing(
    query: Query, size: int, failed: Mapping[str, Exception], needed: int | None
) -> NodeError:
    """Too few have answered; `needed` is None where nobody has paid yet."""
    told = "; ".join(f"{name}: {error}" for name, error in failed.items())
    refused = all(isinstance(one, AccessError) for one in failed.values())
    kind = AccessError if refused else TransportError
    hint = "nothing was paid; leave them out, or ask again once they are there"
    if needed is not None:
        hint = (
            f"the sum needs {needed}; once they are there again, `rexis query resume"
            f" {query.id().hex()[:16]}`"
        )
    return kind(f"{len(failed)} of {size} did not answer: {told}", hint=hint)
