"""What becomes of a sum: accepted, rejected, or not known yet (docs/protocol.md §5.4 step 7).

A verdict is about the state this member came to itself; it votes for no other.  It rejects
what a third of the members dislike on their own held-out records, and what cannot be had, or
cannot be checked, in good time.
"""

from typing import Protocol

import msgspec

from protocol.rounds.messages import Opening, Verdict
from protocol.rounds.policy import Cohort
from protocol.rounds.settle import Settling
from protocol.types import Millis


class NextEpoch(Protocol):
    """Which epoch such a verdict leads to."""

    def __call__(self, *, accept: bool) -> bytes: ...


class Judgement:
    """One member on the verdict of one attempt."""

    def __init__(self, cohort: Cohort, opening: Opening, context: bytes) -> None:
        self._cohort = cohort
        self._opening = opening
        self._context = context

    def offer(
        self,
        settling: Settling,
        next_epoch: NextEpoch,
        expected: frozenset[bytes],
        now: Millis,
    ) -> Verdict | None:
        """The verdict this member would propose now; `expected`: who is worth waiting for."""
        if self._accepts(settling, expected, now):
            return self._verdict(settling, next_epoch(accept=True), accept=True)
        if self._rejects(settling, now):
            return self._verdict(settling, next_epoch(accept=False), accept=False)
        return None

    def judge(
        self,
        settling: Settling,
        value: Verdict,
        expected: frozenset[bytes],
        now: Millis,
    ) -> bool | None:
        """May `value` be decided?  None: not as far as this member knows yet.

        Never False: another member may be on its way to this state, or this one to that.
        """
        holds = (
            self._accepts(settling, expected, now)
            if value.accept
            else self._rejects(settling, now)
        )
        if not holds:
            return None
        mine = self._verdict(settling, value.epoch, accept=value.accept)
        return True if value == mine else None

    def _verdict(self, settling: Settling, epoch: bytes, *, accept: bool) -> Verdict:
        opening = self._opening
        rejection = Verdict(
            opening.round,
            accept,
            opening.base,
            opening.scales,
            opening.head,
            self._context,
            epoch,
        )
        if not accept:
            return rejection
        assert settling.outcome is not None
        out = settling.outcome
        return msgspec.structs.replace(rejection, state=out.state, scales=out.scales)

    def _accepts(
        self, settling: Settling, expected: frozenset[bytes], now: Millis
    ) -> bool:
        """A quorum came to my state, few dislike it, and whoever is here has spoken."""
        if settling.outcome is None or not settling.settled():
            return False
        assert settling.claimed_at is not None
        mine = settling.outcome
        claims = settling.claims
        same = sum(
            1
            for claim in claims.values()
            if (claim.state, claim.scales) == (mine.state, mine.scales)
        )
        if same < self._cohort.thresholds.quorum or self._many_reject(settling):
            return False
        policy = self._cohort.policy
        if policy.checked and settling.covered() != settling.every_slice:
            return False
        waited = now >= settling.claimed_at + policy.patience_ms
        return waited or expected <= claims.keys()

    def _rejects(self, settling: Settling, now: Millis) -> bool:
        """A third dislikes it, or there is no sum to like, or none that anyone could check."""
        late = now >= settling.since + self._cohort.policy.grace_ms
        return settling.broken or self._many_reject(settling) or late

    def _many_reject(self, settling: Settling) -> bool:
        rejecting = sum(1 for claim in settling.claims.values() if not claim.accept)
        return 3 * rejecting > len(self._cohort.members)
