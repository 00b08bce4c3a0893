"""A question and all its answers; whoever has it and reads the chain can check and add them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from protocol.errors import VerificationError
from protocol.queries import recovery
from protocol.queries.answer import Attestation, Words, added, open_answer, open_query
from protocol.queries.spec import Query
from protocol.rounds.policy import Seat
from protocol.types import PublicKey
from protocol.wire import Message

BUNDLE_LIMIT_BYTES = 1 << 25
"""A question, 64 answers and their keys."""


class Bundle(Message, frozen=True, tag="query-bundle"):
    """A question and its answers; where some may be missing, who was left, and what was opened."""

    query: bytes
    answers: tuple[bytes, ...]
    seats: tuple[Seat, ...] = ()
    """Of who was asked; each signed them with its pre-key."""
    readys: tuple[bytes, ...] = ()
    votes: tuple[bytes, ...] = ()
    secrets: tuple[bytes, ...] = ()
    """Of each institution, in the order of their keys: a survivor's seed, another's key."""

    def opened(self) -> tuple[Query, list[tuple[Attestation, Words, PublicKey]]]:
        """The question and each answer to it, signatures verified."""
        query, _ = open_query(self.query)
        return query, [open_answer(answer, query) for answer in self.answers]

    def totals(
        self, owners: Mapping[int, bytes], manifests: Mapping[int, bytes]
    ) -> tuple[Query, NDArray[np.int64]]:
        """The question and the sum, if every dataset's owner, or every survivor, answered once.

        `owners` are node keys and `manifests` Merkle roots, by dataset, as the reader knows
        them from the chain and from the listings behind its records.
        """
        query, opened = self.opened()
        for said, _, signer in opened:
            if signer != owners.get(said.dataset):
                raise VerificationError(
                    f"dataset {said.dataset} was answered by another than its owner"
                )
            if said.manifest != manifests.get(said.dataset):
                raise VerificationError(
                    f"dataset {said.dataset} was answered from other data than listed"
                )
        found = sorted(said.dataset for said, _, _ in opened)
        wanted = [one.dataset for one in query.datasets]
        words = [words for _, words, _ in opened]
        if not recovery.is_needed(query):
            if found != wanted:
                raise VerificationError("datasets that answered", wanted, found)
            return query, added(words)
        seats = {seat.node_key: seat.seal_key for seat in self.seats}
        if sorted(seats) != sorted(owners.get(one, b"") for one in wanted):
            raise VerificationError("institutions that were asked are not the owners")
        cohort = recovery.cohort_of(query, seats)
        made = recovery.open_readys(self.readys, query, cohort)
        voted = recovery.certified(self.votes, query, cohort)
        alive = recovery.members_of(cohort, voted.set)
        if sorted(signer for _, _, signer in opened) != alive:
            raise VerificationError("institutions in the sum", len(alive), len(opened))
        if voted.keys != recovery.context_of(query, made):
            raise VerificationError("keys that the survivors signed")
        if len(self.secrets) != len(cohort.members):
            raise VerificationError(
                "opened secrets", len(cohort.members), len(self.secrets)
            )
        total = added(words)
        recovery.unmask(total.view(np.uint64), self.secrets, made, cohort, voted)
        return query, total
