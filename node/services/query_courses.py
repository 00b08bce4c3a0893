"""Questions of this node from the first that may have been paid for to the result, durable.

A question is begun when all have said that they would answer, and not before: one that was refused
cost nobody anything, and there is nothing to go on with.
"""

from typing import Any

from node.clock import now_s
from node.errors import AccessError
from node.ports.storage import Store
from protocol.lineage import AskedQuery
from protocol.queries import recovery
from protocol.queries.answer import attestation, open_query
from protocol.queries.bundle import BUNDLE_LIMIT_BYTES, Bundle
from protocol.queries.spec import Query
from protocol.wire import Message, decode, encode

_OPEN, _ASKED = "query-open", "query-asked"
_ASKED_LIMIT_BYTES = 1 << 20
"""A question and 64 attestations."""


class Course(Message, frozen=True, tag="query-course"):
    """How far a question of ours is; answers by dataset."""

    query: bytes
    at: int
    """When it was begun, in Unix seconds."""
    readys: tuple[bytes, ...] = ()
    answers: tuple[tuple[int, bytes], ...] = ()
    survivors: int = 0
    votes: tuple[bytes, ...] = ()

    @property
    def awaits(self) -> str:
        """What is to come next."""
        if not self.survivors:
            return "answers"
        return "shares" if self.votes else "votes"


class Courses:
    """The store's part of asking."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def begin(
        self, query: Query, sealed: bytes, readys: tuple[bytes, ...] = ()
    ) -> Course:
        """From now on somebody may have paid; durable when this returns."""
        made = Course(sealed, now_s(), readys)
        await self._store.put_many(
            [(_OPEN, query.id(), encode(made))],
            event=(
                "query_begun",
                {
                    "query": query.id().hex(),
                    "kind": query.kind,
                    "datasets": [one.dataset for one in query.datasets],
                },
            ),
        )
        return made

    async def save(self, query: Query, course: Course, **changes: Any) -> Course:
        """The next step of it."""
        values = {
            name: changes.get(name, getattr(course, name))
            for name in course.__struct_fields__
        }
        made = Course(**values)
        await self._store.put(_OPEN, query.id(), encode(made))
        return made

    async def end(self, query: Query, bundle: Bundle) -> None:
        """There is a result, of these answers."""
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

    async def forget(self, query: Query) -> None:
        """It is given up, with every round of it; nothing of it is held any more."""
        names = [one.id() for one, _ in await self.open() if _same(one, query)]
        await self._store.put_many(
            [(_OPEN, name, None) for name in names],
            event=("query_given_up", {"query": query.charged().hex()}),
        )

    async def lose(self, query: Query, member: str) -> None:
        """There will be none, because of what this member dealt."""
        await self._store.put_many(
            [(_OPEN, query.id(), None)],
            event=("query_lost", {"query": query.id().hex(), "member": member}),
        )

    async def get(self, query: Query) -> Course | None:
        """None if it was not begun, or has ended."""
        stored = await self._store.get(_OPEN, query.id())
        if stored is None:
            return None
        return decode(stored, Course, limit_bytes=BUNDLE_LIMIT_BYTES)

    async def find(self, name: str) -> tuple[Query, Course]:
        """The question, begun and not ended, whose id begins with `name`."""
        found = [
            (query, course)
            for query, course in await self.open()
            if query.id().hex().startswith(name)
        ]
        if len(found) != 1:
            raise AccessError(
                f"{len(found)} unfinished questions begin with {name[:64]!r}",
                hint="`rexis query list` shows the questions that were cut",
            )
        return found[0]

    async def open(self) -> list[tuple[Query, Course]]:
        """Questions without a result, oldest first."""
        found = [
            decode(value, Course, limit_bytes=BUNDLE_LIMIT_BYTES)
            for _, value in await self._store.scan(_OPEN)
        ]
        found.sort(key=lambda one: one.at)
        return [(open_query(one.query)[0], one) for one in found]

    async def question(self, query: Query) -> bytes | None:
        """As it was signed: the question, or the round of a training that is under way."""
        found = [one.query for known, one in await self.open() if _same(known, query)]
        return found[0] if found else None

    async def signed(self) -> list[tuple[bytes, AskedQuery]]:
        """Ids of the questions that were asked here, and what was signed about them."""
        return [
            (key, decode(value, AskedQuery, limit_bytes=_ASKED_LIMIT_BYTES))
            for key, value in await self._store.scan(_ASKED)
        ]


def _same(one: Query, other: Query) -> bool:
    """Paid together."""
    return one.charged() == other.charged()


def row(query: Query, begun: int, awaits: str, *, running: bool) -> dict[str, Any]:
    """For a person: what was asked of whom, what is missing, and what to do."""
    name = query.charged().hex()
    enough = "enough of them are" if recovery.is_needed(query) else "all of them are"
    hint = f"once {enough} there, `rexis query resume {name[:16]}`; nobody pays again"
    return {
        "query": name,
        "kind": query.kind,
        "datasets": [one.dataset for one in query.datasets],
        "begun": begun,
        "awaits": awaits,
        "running": running,
        "hint": "it is being asked now; wait for it" if running else hint,
    }
