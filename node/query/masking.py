"""The node's part of the masks of questions to four institutions or more.

What it dealt, under which keys it answered, and whom it called survivors are each durable before
they leave, and each is said once: that is what the masks' safety rests on
(`protocol.queries.recovery`).
"""

import secrets
from dataclasses import dataclass

from node.errors import AccessError
from node.ports.keys import Signer
from node.ports.storage import Store
from protocol.queries import recovery
from protocol.queries.answer import open_query
from protocol.queries.recovery import Asked, Survivors, Words
from protocol.queries.spec import Query
from protocol.rounds import prekeys
from protocol.rounds.messages import PreKey
from protocol.rounds.policy import Cohort
from protocol.rounds.prekeys import Dealt, Shares
from protocol.wire import Message, decode, encode

_DEALT, _UNDER, _VOTED = "query-dealt", "query-under", "query-voted"
DEALT_LIMIT = 256
"""Questions that were checked and not asked yet; of more the oldest keys are forgotten."""


class Kept(Message, frozen=True, tag="query-dealt"):
    """A pre-key for a question that has not been answered yet."""

    sealed: bytes
    secret: bytes
    seed: bytes
    at: int


@dataclass(frozen=True)
class Keys:
    """What one answer is masked under: held while it is computed, whatever is forgotten."""

    kept: Kept
    made: dict[bytes, PreKey]


class Masking:
    """Deals, masks, votes and opens."""

    def __init__(self, store: Store, signer: Signer) -> None:
        self._store = store
        self._signer = signer

    async def ready(self, query: Query, cohort: Cohort, now: int) -> bytes:
        """Our pre-key for this question, signed; the same one whenever it is asked for.

        Also when it is answered: another would be a second sealing of shares, which nobody
        needs.  Where it was forgotten (`DEALT_LIMIT`) the new one has another number.
        """
        earlier = await self._earlier(query, cohort)
        if earlier is not None:
            return earlier
        me = self._signer
        coins = secrets.token_bytes(prekeys.coins_bytes(cohort))
        number = secrets.randbelow(recovery.NUMBERS)
        dealt = prekeys.deal(cohort, me.public_key, number, 0, me.agree, coins)
        sealed = recovery.seal_ready(me.sign, me.public_key, query, dealt.prekey)
        await self._make_room()
        kept = Kept(sealed, dealt.secret, dealt.seed, now)
        await self._store.put(_DEALT, query.id(), encode(kept))
        return sealed

    async def _earlier(self, query: Query, cohort: Cohort) -> bytes | None:
        kept = await self._kept(query)
        if kept is not None:
            return kept.sealed
        stored = await self._store.get(_UNDER, query.id())
        if stored is None:
            return None
        asked = decode(stored, Asked, limit_bytes=recovery.ASKED_LIMIT_BYTES)
        mine = self._signer.public_key
        return next(
            one
            for one in asked.readys
            if recovery.open_ready(one, query, cohort)[0] == mine
        )

    async def opened(self, query: Query, cohort: Cohort, asked: Asked) -> Keys:
        """Everybody's keys are good and ours is among them; before anything is paid."""
        kept = await self._kept(query)
        if kept is None or kept.sealed not in asked.readys:
            raise AccessError(
                "the keys of this question are not the ones this node dealt",
                hint="ask it anew",
            )
        made = recovery.open_readys(asked.readys, query, cohort)
        self._shares(cohort, made)
        return Keys(kept, made)

    def apply(self, words: Words, query: Query, keys: Keys) -> None:
        """Mask our vector in place."""
        me, made = self._signer.public_key, keys.made
        dealt = Dealt(made[me], keys.kept.secret, keys.kept.seed)
        recovery.mask(words, dealt, me, made, recovery.context_of(query, made))

    def answered(
        self, query: Query, asked: Asked
    ) -> list[tuple[str, bytes, bytes | None]]:
        """To write with the answer: its keys are for no other, our secret is done with."""
        return [(_UNDER, query.id(), encode(asked)), (_DEALT, query.id(), None)]

    @staticmethod
    def forgotten(name: bytes) -> list[tuple[str, bytes, bytes | None]]:
        """To write where a question is forgotten; the ledger sees that it is not answered again."""
        return [(kind, name, None) for kind in (_UNDER, _DEALT, _VOTED)]

    async def require_same(self, query: Query, asked: Asked) -> None:
        """A question is answered under one set of keys."""
        if await self._store.get(_UNDER, query.id()) != encode(asked):
            raise AccessError(
                "this question was answered under other keys", hint="ask it anew"
            )

    async def asked(self, name: bytes) -> tuple[Query, bytes, Asked]:
        """A question that was answered here, who asked it, and with which keys."""
        stored = await self._store.get(_UNDER, name)
        if stored is None:
            raise AccessError(f"question {name.hex()[:16]} was not answered here")
        asked = decode(stored, Asked, limit_bytes=recovery.ASKED_LIMIT_BYTES)
        query, asker = open_query(asked.query)
        return query, asker, asked

    async def vote(
        self, query: Query, cohort: Cohort, asked: Asked, survivors: int
    ) -> bytes:
        """Agree to one set of survivors, for ever."""
        made = recovery.open_readys(asked.readys, query, cohort)
        said = Survivors(query.id(), recovery.context_of(query, made), survivors)
        alive = recovery.members_of(cohort, survivors)
        if survivors >> len(cohort.members) or self._signer.public_key not in alive:
            raise AccessError("this node is not among the survivors it is asked about")
        recovery.survivors_of(cohort, alive)
        before = await self._store.get(_VOTED, query.id())
        if before is not None and before != encode(said):
            raise AccessError(
                "this node has agreed to other survivors of this question",
                hint="it agrees once; ask the question anew",
            )
        await self._store.put(_VOTED, query.id(), encode(said))
        me = self._signer
        return recovery.seal_vote(me.sign, me.public_key, query, said)

    async def open(
        self, query: Query, cohort: Cohort, asked: Asked, votes: tuple[bytes, ...]
    ) -> bytes:
        """Our shares, against a certificate for the set we agreed to, or would have."""
        made = recovery.open_readys(asked.readys, query, cohort)
        said = recovery.certified(votes, query, cohort)
        if said.keys != recovery.context_of(query, made):
            raise AccessError("the survivors were certified under other keys")
        before = await self._store.get(_VOTED, query.id())
        if before is not None and before != encode(said):
            raise AccessError("this node has agreed to other survivors")
        await self._store.put(_VOTED, query.id(), encode(said))
        return encode(recovery.released(self._shares(cohort, made), cohort, said.set))

    def _shares(self, cohort: Cohort, made: dict[bytes, PreKey]) -> dict[bytes, Shares]:
        """Ours of everybody's secrets; who dealt us a wrong one is named."""
        me = self._signer
        found = {}
        for dealer, prekey in made.items():
            held = prekeys.take(cohort, dealer, prekey, me.public_key, me.agree)
            if held is None:
                raise AccessError(f"{dealer.hex()[:16]} dealt a share that is none")
            found[dealer] = held
        return found

    async def _kept(self, query: Query) -> Kept | None:
        stored = await self._store.get(_DEALT, query.id())
        return None if stored is None else decode(stored, Kept)

    async def _make_room(self) -> None:
        rows = await self._store.scan(_DEALT)
        if len(rows) >= DEALT_LIMIT:
            oldest = min(rows, key=lambda row: decode(row[1], Kept).at)
            await self._store.delete(_DEALT, oldest[0])
