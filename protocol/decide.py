"""One value per slot, agreed by members of whom fewer than a third may lie (§6.2).

A view has a proposer, drawn by hash.  It proposes; members prevote; a quorum of prevotes for
one value locks whoever sees it, and those precommit; a quorum of precommits decides.  A view
that leads nowhere ends by time and the next lasts twice as long.  The laws that make two
decisions for one slot impossible while fewer than a third lie:

- one prevote and one precommit per view, and the same bytes whenever they are said again;
- a locked member prevotes another value only on proof of a quorum of prevotes in a view
  after its lock.

This is Tendermint's rule set (Buchman, Kwon, Milosevic, "The latest gossip on BFT
consensus", 2018, algorithm 1) for one height.  Votes are kept for a few views only: whoever
is further behind is shown the certificate.  With three members all three are needed, and a
silent one stops the decision: safety goes before progress.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from protocol.certificate import (
    NOTHING,
    Certificate,
    Proposal,
    Slot,
    Step,
    Vote,
    places,
    value_name,
)
from protocol.types import Digest, Millis

VIEWS_AHEAD = 32
"""Views beyond the own one whose votes are kept, per sender at most this many."""
VIEWS_BEHIND = 2
DOUBLINGS = 6
"""A view lasts at most 64 times the first: beyond that, waiting longer tells nothing new."""


@dataclass(frozen=True)
class About:
    """The value behind a vote's digest, and the prevotes a lock rests on."""

    value: bytes
    proof: tuple[tuple[int, bytes], ...] = ()


class Chair(Protocol):
    """Who runs the decision: it knows what a value means, and signs."""

    def offer(self, slot: Slot) -> bytes | None:
        """A value worth proposing, if there is one now."""

    def judge(self, slot: Slot, value: bytes) -> bool | None:
        """May this be decided?  None: what it depends on is not here yet."""

    def cast(self, body: Vote | Proposal, about: "About") -> bytes:
        """Put `body` and what it is about on record, send it, return its signature."""

    def proven(self, vote: Vote, votes: Sequence[tuple[int, bytes]]) -> bool:
        """Is this a quorum of signatures on `vote`?"""


@dataclass
class _Tally:
    """Votes of one step of one view."""

    by: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    counts: dict[bytes, int] = field(default_factory=dict)

    def add(self, sender: bytes, value: bytes, signature: bytes) -> None:
        if sender not in self.by:
            self.by[sender] = (value, signature)
            self.counts[value] = self.counts.get(value, 0) + 1

    def signatures(self, value: bytes) -> dict[bytes, bytes]:
        return {who: sig for who, (what, sig) in self.by.items() if what == value}


class Decide:
    """One member's part in one decision."""

    def __init__(
        self,
        slot: Slot,
        members: Sequence[bytes],
        me: bytes,
        chair: Chair,
        *,
        quorum: int,
        view_ms: int,
        votes: bool = True,
    ) -> None:
        """Without `votes` this member follows the others and says nothing itself."""
        self.slot = slot
        self.name = slot.name()
        self.view = 0
        self.certificate: Certificate | None = None
        self._members = tuple(members)
        self._me = me
        self._chair = chair
        self._quorum = quorum
        self._few = (len(self._members) - 1) // 3 + 1
        seed = hashlib.sha256(b"rexis-proposer-2" + self.name).digest()
        self._first_turn = int.from_bytes(seed[:8], "big") % len(self._members)
        self._view_ms = view_ms
        self._votes = votes
        self._running = False
        self._deadline: Millis | None = None
        self._proposals: dict[int, Proposal] = {}
        self._tallies: dict[tuple[int, int], _Tally] = {}
        self._ripe: set[int] = set()
        """Views in which a quorum has precommitted something."""
        self._reach: dict[bytes, int] = {}
        self._furthest = 0
        self._cast: set[tuple[int, int]] = set()
        self._checked: dict[int, bool] = {}
        self._locked: tuple[int, Digest] | None = None
        self._valid: tuple[int, bytes, tuple[tuple[int, bytes], ...]] | None = None

    @property
    def value(self) -> bytes | None:
        """What was decided."""
        return None if self.certificate is None else self.certificate.value

    @property
    def running(self) -> bool:
        """Have this member's timers been started?"""
        return self._running

    def proposer(self, view: int) -> bytes:
        """Whose turn it is in `view`: around from a place that the slot's name gives.

        Drawn anew for each view, a turn of those that others wait for could fail to come for
        as long as chance will have it; around, it comes within as many views as there are members.
        """
        return self._members[(self._first_turn + view) % len(self._members)]

    def start(self, now: Millis) -> None:
        """From here on time counts; before, this member only answers."""
        if not self._running:
            self._running = True
            self._deadline = self._after(now)

    def hear(
        self, sender: bytes, body: Vote | Proposal, signature: bytes, now: Millis
    ) -> bool:
        """Take a verified message of a member for this slot; False where it is no use yet."""
        if self.certificate is not None:
            return True
        if not self._near(sender, body.view):
            return False
        if isinstance(body, Proposal):
            if sender == self.proposer(body.view):
                self._proposals.setdefault(body.view, body)
        else:
            self._count(body, sender, signature)
        self._reach[sender] = max(body.view, self._reach.get(sender, -1))
        self._furthest = max(self._furthest, body.view)
        self.advance(now)
        return True

    def adopt(self, certificate: Certificate) -> None:
        """Take an answer others came to; the caller has checked it."""
        self.certificate = certificate

    def resume(self, said: Iterable[tuple[Vote | Proposal, bytes, About]]) -> None:
        """Before anything else after a restart: what this member said, by its own record.

        Each entry is the message, its signature and what `cast` was told it is about.  The
        lock comes back with the value and its proof: if every member restarts at once,
        somebody must still be able to propose what they are locked on.
        """
        for body, signature, about in said:
            self._reach[self._me] = max(body.view, self._reach.get(self._me, -1))
            self.view = max(self.view, body.view)
            if isinstance(body, Proposal):
                self._proposals[body.view] = body
                continue
            self._cast.add((body.view, body.step))
            self._count(body, self._me, signature)
            if (
                body.step == Step.PRECOMMIT
                and body.value != NOTHING
                and (self._locked is None or body.view > self._locked[0])
            ):
                self._locked = (body.view, value_name(about.value))
                self._valid = (body.view, about.value, about.proof)

    def advance(self, now: Millis) -> None:
        """Go as far as what is here, and the time, allow."""
        while self.certificate is None and self._move(now):
            pass

    def _move(self, now: Millis) -> bool:
        if self._ripe and self._decided():
            return True
        if self._furthest > self.view and self._skip(now):
            return True
        if not self._votes:
            return False
        view = self.view
        if (view, Step.PREVOTE) not in self._cast:
            return self._propose_step(view, now)
        if (view, Step.PRECOMMIT) not in self._cast:
            return self._prevote_step(view, now)
        return self._precommit_step(view, now)

    def _decided(self) -> bool:
        for view in self._ripe:
            proposal = self._proposals.get(view)
            tally = self._tallies.get((view, Step.PRECOMMIT))
            if proposal is None or tally is None:
                continue
            name = value_name(proposal.value)
            if tally.counts.get(name, 0) >= self._quorum:
                signatures = places(tally.signatures(name), self._members)
                self.certificate = Certificate(
                    self.slot, view, proposal.value, signatures
                )
                return True
        return False

    def _skip(self, now: Millis) -> bool:
        """Join the view that more members than can lie have reached."""
        ahead = sorted((v for v in self._reach.values() if v > self.view), reverse=True)
        if len(ahead) < self._few:
            return False
        self._enter(ahead[self._few - 1], now)
        return True

    def _enter(self, view: int, now: Millis) -> None:
        self.view = view
        self._running = True
        self._deadline = self._after(now)
        oldest = view - VIEWS_BEHIND
        self._tallies = {k: t for k, t in self._tallies.items() if k[0] >= oldest}
        self._proposals = {v: p for v, p in self._proposals.items() if v >= oldest}

    def _propose_step(self, view: int, now: Millis) -> bool:
        proposal = self._proposals.get(view)
        if proposal is None and self._running and self.proposer(view) == self._me:
            proposal = self._proposed(view)
        if proposal is not None:
            verdict = self._judged(proposal)
            if verdict is not None:
                value = proposal.value if verdict else NOTHING
                self._vote(Step.PREVOTE, view, value)
                return True
        if self._late(now):
            self._vote(Step.PREVOTE, view, NOTHING)
            return True
        return False

    def _proposed(self, view: int) -> Proposal | None:
        if self._valid is not None:
            valid_view, value, proof = self._valid
            proposal = Proposal(self.slot, view, value, valid_view, proof)
        else:
            offer = self._chair.offer(self.slot)
            if offer is None:
                return None
            proposal = Proposal(self.slot, view, offer, -1, ())
        self._chair.cast(proposal, About(proposal.value))
        self._proposals[view] = proposal
        return proposal

    def _judged(self, proposal: Proposal) -> bool | None:
        name = value_name(proposal.value)
        if proposal.valid_view < 0:
            if self._locked is not None and self._locked[1] != name:
                return False
        else:
            if self._locked is not None and not (
                self._locked[0] <= proposal.valid_view or self._locked[1] == name
            ):
                return False
            if not self._proven(proposal, name):
                return False
        return self._chair.judge(self.slot, proposal.value)

    def _proven(self, proposal: Proposal, name: Digest) -> bool:
        known = self._checked.get(proposal.view)
        if known is None:
            vote = Vote(self.slot, Step.PREVOTE, proposal.valid_view, name)
            known = self._chair.proven(vote, proposal.proof)
            self._checked[proposal.view] = known
        return known

    def _prevote_step(self, view: int, now: Millis) -> bool:
        tally = self._tally(view, Step.PREVOTE)
        proposal = self._proposals.get(view)
        if proposal is not None:
            name = value_name(proposal.value)
            if tally.counts.get(name, 0) >= self._quorum:
                self._locked = (view, name)
                proof = self._hold(view, proposal.value, tally)
                self._vote(Step.PRECOMMIT, view, proposal.value, proof)
                return True
        hopeless = tally.counts.get(NOTHING, 0) >= self._quorum
        if hopeless or self._timed(tally, now):
            self._vote(Step.PRECOMMIT, view, NOTHING)
            return True
        return False

    def _precommit_step(self, view: int, now: Millis) -> bool:
        proposal = self._proposals.get(view)
        tally = self._tally(view, Step.PREVOTE)
        if proposal is not None and (self._valid is None or self._valid[0] < view):
            name = value_name(proposal.value)
            if tally.counts.get(name, 0) >= self._quorum:
                self._hold(view, proposal.value, tally)
        if self._timed(self._tally(view, Step.PRECOMMIT), now):
            self._enter(view + 1, now)
            return True
        return False

    def _hold(
        self, view: int, value: bytes, tally: _Tally
    ) -> tuple[tuple[int, bytes], ...]:
        proof = places(tally.signatures(value_name(value)), self._members)
        self._valid = (view, value, proof)
        return proof

    def _timed(self, tally: _Tally, now: Millis) -> bool:
        """A quorum has spoken without agreeing, and waited for the rest long enough."""
        if len(tally.by) < self._quorum:
            return False
        if self._deadline is None:
            self._deadline = self._after(now)
        return self._late(now)

    def _vote(
        self,
        step: Step,
        view: int,
        value: bytes,
        proof: tuple[tuple[int, bytes], ...] = (),
    ) -> None:
        name: bytes = NOTHING if value == NOTHING else value_name(value)
        vote = Vote(self.slot, step, view, name)
        self._cast.add((view, step))
        signature = self._chair.cast(vote, About(value, proof))
        self._count(vote, self._me, signature)
        self._deadline = None

    def _count(self, vote: Vote, sender: bytes, signature: bytes) -> None:
        tally = self._tally(vote.view, vote.step)
        tally.add(sender, vote.value, signature)
        if vote.step != Step.PRECOMMIT or vote.value == NOTHING:
            return
        if tally.counts.get(vote.value, 0) >= self._quorum:
            self._ripe.add(vote.view)

    def _tally(self, view: int, step: int) -> _Tally:
        tally = self._tallies.get((view, step))
        if tally is None:
            tally = self._tallies[view, step] = _Tally()
        return tally

    def _near(self, sender: bytes, view: int) -> bool:
        return (
            sender in self._members
            and self.view - VIEWS_BEHIND <= view <= self.view + VIEWS_AHEAD
        )

    def _late(self, now: Millis) -> bool:
        return self._deadline is not None and now >= self._deadline

    def _after(self, now: Millis) -> Millis:
        return Millis(now + (self._view_ms << min(self.view, DOUBLINGS)))
