"""Which queries a dataset answers, and what it has paid in privacy: charged before answering.

A charge is durable before a row is read, and stays whatever happens afterwards.  The same
question asked again gets the same stored answer and costs nothing; if the first attempt was cut
before there was one, nothing of it can have left, and it is computed under the charge it has.
The rounds of a training are paid together, with the first that is asked, and each is asked once:
a round from other weights would be an answer that nobody has paid.

A question that was forgotten keeps its charge and is never answered again: a second vector, with
noise of its own, would be a second answer for one charge.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from node.errors import AccessError
from node.ports.storage import Store
from protocol.queries.answer import attestation
from protocol.queries.budget import affordable, epsilon_of
from protocol.queries.spec import KINDS, MICRO, Kind, Query
from protocol.wire import Message, decode, encode

_POLICY, _CHARGE, _ANSWER = "query-policy", "query-charge", "query-answer"
_SEALED, _ROUND = "query-sealed", "query-round"
_FORGOTTEN, _SAID = "query-forgotten", "query-said"
_GONE = b"1"

Write = tuple[str, bytes, bytes | None]
Forgetting = Callable[[bytes], Sequence[Write]]


class Policy(Message, frozen=True, tag="query-policy"):
    """What the steward of a dataset has decided."""

    kinds: tuple[Kind, ...]
    epsilon: float
    delta: float
    floor: int
    limit: int
    """The budget in millionths of ρ."""


class Charge(Message, frozen=True, tag="query-charge"):
    """What one question has cost."""

    spend: int
    asker: bytes
    at: int


class Said(Message, frozen=True, tag="query-said"):
    """What is left of an answer that was forgotten: for provenance, without a word of it."""

    sealed: bytes
    attestation: bytes


@dataclass(frozen=True)
class Account:
    """One dataset's policy and what is gone of it."""

    policy: Policy
    spent: int
    questions: int


class Ledger:
    """All datasets of this node that answer queries."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._charging = trio.Lock()

    async def allow(
        self,
        dataset: int,
        kinds: Sequence[Kind],
        budget: tuple[float, float],
        floor: int,
    ) -> None:
        """Answer these kinds from now on, within (ε, δ) for ever; charges stay."""
        epsilon, delta = budget
        limit = await trio.to_thread.run_sync(affordable, epsilon, delta)
        chosen = tuple(kind for kind in KINDS if kind in kinds)
        policy = Policy(chosen, epsilon, delta, floor, limit)
        await self._store.put_many(
            [(_POLICY, _key(dataset), encode(policy))],
            event=(
                "queries_allowed",
                {"dataset": dataset, "kinds": list(chosen), "epsilon": epsilon},
            ),
        )

    async def stop(self, dataset: int) -> None:
        """Answer nothing any more; what was charged is kept."""
        await self._store.put_many(
            [(_POLICY, _key(dataset), None)],
            event=("queries_stopped", {"dataset": dataset}),
        )

    async def account(self, dataset: int) -> Account | None:
        """None where the steward has allowed nothing."""
        stored = await self._store.get(_POLICY, _key(dataset))
        if stored is None:
            return None
        charges = await self._charges(dataset)
        spent = sum(charge.spend for charge in charges)
        return Account(decode(stored, Policy), spent, len(charges))

    async def rows(self) -> list[dict[str, Any]]:
        """For a person: every policy and how much of it is left."""
        found = []
        for key, _ in await self._store.scan(_POLICY):
            dataset = int.from_bytes(key, "big")
            account = await self.account(dataset)
            if account is not None:
                found.append(await trio.to_thread.run_sync(_row, dataset, account))
        return found

    async def require(self, dataset: int, query: Query) -> Policy:
        """The policy by which the question may be answered now, or `AccessError`."""
        account = await self.account(dataset)
        if account is None or query.kind not in account.policy.kinds:
            raise AccessError(
                f"dataset {dataset} answers no {query.kind} queries",
                hint="ask its steward, or for a grant",
            )
        left = account.policy.limit - account.spent
        if query.spend > left and not await self._paid(dataset, query):
            raise AccessError(
                f"dataset {dataset} has rho {max(0, left) / MICRO:g} left,"
                f" {query.spend / MICRO:g} was asked",
                hint="ask for less; a budget that is gone stays gone",
            )
        await self._require_kept(dataset, query)
        await self._round(dataset, query)
        return account.policy

    async def charge(
        self, dataset: int, query: Query, asker: bytes, now: int
    ) -> Policy:
        """Pay for a question, once; or `AccessError`, and nothing is paid."""
        async with self._charging:
            policy = await self.require(dataset, query)
            rounds = await self._round(dataset, query)
            if await self._paid(dataset, query):
                if rounds:
                    await self._store.put_many(rounds)
                return policy
            charge = encode(Charge(query.spend, asker, now))
            await self._store.put_many(
                [(_CHARGE, _key(dataset) + query.charged(), charge), *rounds],
                event=(
                    "query_charged",
                    {
                        "dataset": dataset,
                        "query": query.charged().hex(),
                        "kind": query.kind,
                        "rho": query.spend / MICRO,
                        "asker": asker.hex(),
                    },
                ),
            )
            return policy

    async def _paid(self, dataset: int, query: Query) -> bool:
        key = _key(dataset) + query.charged()
        return await self._store.get(_CHARGE, key) is not None

    async def _round(
        self, dataset: int, query: Query
    ) -> list[tuple[str, bytes, bytes]]:
        """What is to be written before a round of a training is answered."""
        if query.fit is None:
            return []
        number = query.fit.number.to_bytes(8, "big")
        key = _key(dataset) + query.charged() + number
        before = await self._store.get(_ROUND, key)
        if before is not None and before != query.id():
            raise AccessError(
                f"round {query.fit.number} of this training was asked from other weights",
                hint="each round is answered once; begin a training of its own",
            )
        return [] if before is not None else [(_ROUND, key, query.id())]

    async def answered(self, dataset: int, query: Query) -> bytes | None:
        """What was answered to exactly this question before."""
        await self._require_kept(dataset, query)
        return await self._store.get(_ANSWER, _key(dataset) + query.id())

    async def keep(
        self,
        dataset: int,
        query: Query,
        answer: bytes,
        sealed: bytes,
        more: Sequence[tuple[str, bytes, bytes | None]] = (),
    ) -> None:
        """Durable when this returns, with `more`; only then may it leave.

        `sealed` is the question as it was signed.
        """
        place = _key(dataset) + query.id()
        await self._store.put_many(
            [(_ANSWER, place, answer), (_SEALED, place, sealed), *more]
        )

    async def kept(self) -> list[tuple[bytes, bytes, bytes]]:
        """Id, signed question and attestation of everything answered here."""
        answers = dict(await self._store.scan(_ANSWER))
        held = [
            (place[8:], sealed, attestation(answers[place]))
            for place, sealed in await self._store.scan(_SEALED)
            if place in answers
        ]
        left = [
            (place[8:], decode(data, Said))
            for place, data in await self._store.scan(_SAID)
        ]
        return held + [(name, said.sealed, said.attestation) for name, said in left]

    async def forget(
        self, dataset: int, query: Query, asker: bytes, also: Forgetting
    ) -> int:
        """Free what is held of a question, all rounds of a training; gives what it has cost.

        Only for who asked it.  `also` names what else is held under a question's id.
        """
        key = _key(dataset)
        async with self._charging:
            stored = await self._store.get(_CHARGE, key + query.charged())
            if stored is None:
                return 0
            charge = decode(stored, Charge)
            if charge.asker != asker:
                raise AccessError("the question is another's")
            writes: list[Write] = [(_FORGOTTEN, key + query.charged(), _GONE)]
            for name in await self._names(key, query):
                writes += [*await self._freed(key + name), *also(name)]
            told = {"dataset": dataset, "query": query.charged().hex()}
            await self._store.put_many(writes, event=("query_forgotten", told))
        return charge.spend

    async def _names(self, key: bytes, query: Query) -> list[bytes]:
        """Ids of all that the charge of a question has paid for here."""
        if query.fit is None:
            return [query.id()]
        start = key + query.charged()
        rows = await self._store.scan(_ROUND)
        return [name for place, name in rows if place.startswith(start)]

    async def _freed(self, place: bytes) -> list[Write]:
        answer = await self._store.get(_ANSWER, place)
        sealed = await self._store.get(_SEALED, place)
        if answer is None or sealed is None:
            return []
        said = encode(Said(sealed, attestation(answer)))
        return [(_SAID, place, said), (_ANSWER, place, None), (_SEALED, place, None)]

    async def _require_kept(self, dataset: int, query: Query) -> None:
        key = _key(dataset) + query.charged()
        if await self._store.get(_FORGOTTEN, key) is not None:
            raise AccessError(
                f"question {query.charged().hex()[:16]} was forgotten by who asked it",
                hint="ask it anew; that is paid anew",
            )

    async def _charges(self, dataset: int) -> list[Charge]:
        start = _key(dataset)
        return [
            decode(data, Charge)
            for key, data in await self._store.scan(_CHARGE)
            if key.startswith(start)
        ]


def _key(dataset: int) -> bytes:
    return dataset.to_bytes(8, "big")


def _row(dataset: int, account: Account) -> dict[str, Any]:
    policy = account.policy
    return {
        "dataset": dataset,
        "kinds": list(policy.kinds),
        "epsilon": policy.epsilon,
        "delta": policy.delta,
        "floor": policy.floor,
        "rho": policy.limit / MICRO,
        "rho_left": max(0, policy.limit - account.spent) / MICRO,
        "epsilon_spent": epsilon_of(account.spent, policy.delta),
        "questions": account.questions,
    }
