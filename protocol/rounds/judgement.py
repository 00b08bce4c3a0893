"""What becomes of a sum: accepted, rejected, or not known yet (docs/protocol.md §5.4 step 7).

A verdict is about the state this member came to itself; it votes for no other.  It rejects
what a third of the members dislike on their own held-out records, and what cannot be had, or
cannot be checked, in good time.
"""

from typing import Protocol

from protocol.rounds.messages import Opening, Verdict
from protocol.rounds.policy import Cohort
from protocol.rounds.settle import Settling
from protocol.types import Millis


class Run(Protocol):
    """What a verdict says of the run besides this round."""

    def next_epoch(self, *, moves: bool) -> bytes:
        """The epoch it leads to; `moves`: the state that follows is a new one."""

    def opened_with(self, survivors: frozenset[bytes]) -> tuple[int, ...]:
        """The sums opened on a base that stays, with this one."""


class Judgement:
    """One member on the verdict of one attempt."""

    def __init__(
        self, run: Run, cohort: Cohort, opening: Opening, context: bytes
    ) -> None:
        self._run = run
        self._cohort = cohort
        self._opening = opening
        self._context = context

    def offer(
        self,
        settling: Settling,
        expected: frozenset[bytes],
        now: Millis,
    ) -> Verdict | None:
        """The verdict this member would propose now; `expected`: who is worth waiting for."""
        if self._accepts(settling, expected, now):
            assert settling.outcome is not None
            moves = settling.outcome.state != self._opening.base
            epoch = self._run.next_epoch(moves=moves)
            return self._verdict(settling, epoch, accept=True)
        if self._rejects(settling, now):
            epoch = self._run.next_epoch(moves=False)
            return self._verdict(settling, epoch, accept=False)
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
        state, scales = opening.base, opening.scales
        if accept:
            assert settling.outcome is not None
            state, scales = settling.outcome.state, settling.outcome.scales
        survivors = frozenset(settling.members)
        stays = state == opening.base
        return Verdict(
            opening.round,
            accept,
            state,
            scales,
            opening.head,
            self._context,
            epoch,
            self._cohort.bitmap(survivors),
            self._run.opened_with(survivors) if stays else (),
        )

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

    def disliked(self, settling: Settling) -> tuple[bytes, ...]:
        """Members whose hold-outs reject the sum, if they are enough for that."""
        if not self._many_reject(settling):
            return ()
        claims = settling.claims.items()
        return tuple(sorted(member for member, claim in claims if not claim.accept))

    def _many_reject(self, settling: Settling) -> bool:
        rejecting = sum(1 for claim in settling.claims.values() if not claim.accept)
        return 3 * rejecting > len(self._cohort.members)
