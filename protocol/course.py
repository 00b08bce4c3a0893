"""The course of one run: who has consented, which round is open, what was said in it.

A value machine beside the one of a single attempt (`protocol.aggregate.round`): it keeps
the messages of attempts this node has not begun yet, says which attempt to try next, and
recognises a round that the others ended without it.  It holds no secret.

The law of the file: a round is over when *every* member has claimed the same state in the
same attempt, and for no other reason.  So no two members can end a round differently, and
whoever missed the end can be shown it: the claims are signed, and prove themselves.
"""

from dataclasses import dataclass

from protocol.aggregate.messages import Attempt, Claim, Heard
from protocol.errors import GossipIgnore, GossipReject, LocalProtocolError
from protocol.runs import Consent, Proposal
from protocol.types import Digest

ATTEMPTS_AHEAD = 64
"""How far a message may be ahead of the newest attempt we know.  A member that counts up
without end is then at most this much of a nuisance per message."""

_SLOT_LIMIT = 2
"""Two different messages for one slot are evidence; a third adds nothing."""


@dataclass(frozen=True)
class Final:
    """A round that is over."""

    round: int
    attempt: int
    state: Digest
    claims: tuple[bytes, ...]
    """Every member's envelope, in the order of the members."""


class Course:
    """One node's view of one run."""

    def __init__(self, proposal: Proposal) -> None:
        self.proposal = proposal
        self.run = proposal.id()
        self.round = 0
        self.state = Digest(proposal.initial)
        self.consents: dict[bytes, Consent] = {}
        self._length = 0
        self._finals: dict[int, Final] = {}
        self._mail: dict[tuple[int, int], dict[tuple[bytes, type], list[Heard]]] = {}
        self._shown: set[tuple[bytes, int, int]] = set()

    def consent(self, member: bytes, consent: Consent) -> bool:
        """Whether this is news; a member cannot consent twice to different things."""
        if member not in self.proposal.members:
            raise GossipReject("who consents is not in the run")
        if consent.run != self.run:
            raise GossipReject("the consent is for another run")
        if consent.samples < 1:
            raise GossipReject(f"consent with {consent.samples} samples")
        known = self.consents.get(member)
        if known is None:
            self.consents[member] = consent
            return True
        if known != consent:
            raise GossipReject("a second, different consent")
        return False

    @property
    def ready(self) -> bool:
        """All members have consented, and the model's size is known here."""
        return self._length > 0 and len(self.consents) == len(self.proposal.members)

    @property
    def over(self) -> bool:
        """The last round is final."""
        return self.round >= self.proposal.rounds

    def measure(self, length: int) -> None:
        """Words of the model's state; computed from the plan by each member for itself."""
        if length < 1:
            raise LocalProtocolError(f"state of {length} words")
        self._length = length

    def weights(self) -> tuple[int, ...]:
        """Public sample counts, in the order of the members."""
        return tuple(self.consents[m].samples for m in self.proposal.members)

    def attempt(self, number: int) -> Attempt:
        """Attempt `number` at the open round: a function of what everybody knows."""
        if not self.ready or self.over:
            raise LocalProtocolError("no round is open")
        return Attempt(
            self.run,
            self.round,
            number,
            self.proposal.members,
            self.state,
            self._length,
            self.weights(),
        )

    def hear(self, heard: Heard) -> Final | None:
        """Keep a message; returns a final round that its sender seems to have missed.

        Raises `GossipReject` for a stranger and `GossipIgnore` for what is out of reach.
        """
        said, sender = heard.said, heard.sender
        if sender not in self.proposal.members:
            raise GossipReject("who speaks is not in the run")
        if said.round < self.round:
            return self._missed(sender, said.round, said.attempt)
        if said.round > self.round + 1 or said.round >= self.proposal.rounds:
            raise GossipIgnore(f"round {said.round}, round {self.round} is open")
        newest = max((a for r, a in self._mail if r == said.round), default=0)
        if said.attempt > newest + ATTEMPTS_AHEAD:
            raise GossipIgnore(f"attempt {said.attempt} of round {said.round}")
        box = self._mail.setdefault((said.round, said.attempt), {})
        slot = box.setdefault((sender, type(said.body)), [])
        known = any(one.said == said and one.context == heard.context for one in slot)
        if not known and len(slot) < _SLOT_LIMIT:
            slot.append(heard)
        return None

    def mail(self, number: int) -> tuple[Heard, ...]:
        """What has been said in attempt `number` of the open round."""
        box = self._mail.get((self.round, number), {})
        return tuple(heard for slot in box.values() for heard in slot)

    def newest(self) -> int:
        """The highest attempt anybody spoke in, in the open round; -1 before the first."""
        return max((a for r, a in self._mail if r == self.round), default=-1)

    def agreed(self) -> Final | None:
        """The open round's end, if every member's claim for it is here."""
        if not self.ready or self.over:
            return None
        for number in sorted(a for r, a in self._mail if r == self.round):
            final = self._agreed_in(number)
            if final is not None:
                return final
        return None

    def finish(self, final: Final) -> None:
        """The open round is over; the next one starts from its state."""
        if final.round != self.round:
            raise LocalProtocolError(
                f"round {final.round} ends, round {self.round} is open"
            )
        self._finals[final.round] = final
        self.state = final.state
        self.round += 1
        self._mail = {k: v for k, v in self._mail.items() if k[0] >= self.round}

    def _agreed_in(self, number: int) -> Final | None:
        context = self.attempt(number).context()
        claims: dict[bytes, Heard] = {
            heard.sender: heard
            for heard in self.mail(number)
            if heard.context == context and isinstance(heard.said.body, Claim)
        }
        if len(claims) < len(self.proposal.members):
            return None
        bodies = {heard.said.body for heard in claims.values()}
        if len(bodies) != 1:
            return None
        (claim,) = bodies
        assert isinstance(claim, Claim)
        proofs = tuple(claims[m].envelope for m in self.proposal.members)
        return Final(self.round, number, Digest(claim.state), proofs)

    def _missed(self, sender: bytes, number: int, attempt: int) -> Final | None:
        # Speaking in a later attempt than the one that ended the round: it was not heard
        # to end.  Messages of the ending attempt itself are history, not a question.
        final = self._finals.get(number)
        key = (sender, number, attempt)
        if final is None or attempt <= final.attempt or key in self._shown:
            return None
        self._shown.add(key)
        return final
