"""Before the first round: who has consented to a run, and what all of them then share.

A run is a signed proposal and a signed consent of every member named in it.  From these alone
follow the seats, weights and numbers under which the members sum (`protocol.rounds`): nobody
opens a run, and nobody can start it under other numbers.
"""

import math
import struct

import msgspec

from protocol.aggregate.coordinates import ONE_IN_AT_MOST, count
from protocol.aggregate.noise import Noise
from protocol.aggregate.ring import WORD_BYTES, blocks, weight_factor
from protocol.budget import Budget
from protocol.errors import GossipReject, LocalProtocolError, MalformedMessageError
from protocol.rounds.policy import Epoch, Policy, Seat, Thresholds
from protocol.runs import (
    END,
    GO,
    PAUSE,
    Consent,
    Plan,
    Privacy,
    Proposal,
    Stance,
    Thin,
)
from protocol.seating import Seating

APPLICANTS_AT_MOST = 256
"""Of one run, with those who have got a seat since: four times as many as a cohort has."""
OUTER_RATE_AT_MOST = 2
"""As `ee.outer` has it: a longer step goes beyond what anybody's records asked for."""
TOLERANCE_AT_MOST = 1000
"""A loss may rise a thousandfold; who wants no hold-out to count can say that."""


class Course:
    """The consents to one run, as they come in."""

    def __init__(self, proposal: Proposal) -> None:
        self.proposal = proposal
        self.run = proposal.id()
        self.seating = Seating(self.run, proposal.members)
        self.consents: dict[bytes, Consent] = {}
        self.stances: dict[bytes, Stance] = {}
        """The newest of each member; who has said nothing wants the run to go on."""

    def consent(self, member: bytes, consent: Consent) -> bool:
        """Take a consent; whether it is news."""
        news = self.is_news(member, consent)
        if news:
            self.consents[member] = consent
        return news

    def is_news(self, member: bytes, consent: Consent) -> bool:
        """Would it be?  A member cannot consent twice to different things.

        Whoever the proposal does not name asks for a seat with its consent (`Seating.next`).
        """
        if consent.run != self.run:
            raise GossipReject("the consent is for another run")
        if consent.samples < 1:
            raise GossipReject(f"consent with {consent.samples} samples")
        known = self.consents.get(member)
        if known is not None and known != consent:
            raise GossipReject("a second, different consent")
        if known is None and member not in self.proposal.members:
            asking = len(self.consents.keys() - set(self.proposal.members))
            if asking >= APPLICANTS_AT_MOST:
                raise GossipReject(
                    f"{asking} that the run does not name, limit is {APPLICANTS_AT_MOST}"
                )
        return known is None

    @property
    def members(self) -> tuple[bytes, ...]:
        """Who has a seat now, sorted."""
        return self.seating.members

    @property
    def used(self) -> dict[bytes, Consent]:
        """The consents of those who have or had a seat."""
        ever = self.seating.ever
        return {who: one for who, one in self.consents.items() if who in ever}

    def stance(self, member: bytes, stance: Stance) -> bool:
        """Take a stance; whether it is news."""
        news = self.is_newer(member, stance)
        if news:
            self.stances[member] = stance
        return news

    def is_newer(self, member: bytes, stance: Stance) -> bool:
        """Would it be: newer than what the member said before, which may still change?"""
        if member not in self.seating.ever and member not in self.consents:
            raise GossipReject("who takes a stance is not in the run")
        if stance.run != self.run:
            raise GossipReject("the stance is on another run")
        known = self.stances.get(member)
        return known is None or (known.word != END and stance.serial > known.serial)

    def holding(self, *words: str) -> tuple[bytes, ...]:
        """Members whose newest stance is one of these."""
        return tuple(
            member
            for member in self.members
            if member in self.stances and self.stances[member].word in words
        )

    @property
    def standing(self) -> str:
        """`go`, or `pause` or `end` where too few are left for a quorum.

        A member that holds opens no round, so this is no vote about the machine but a
        statement of what it can do.  More than f members are needed to stop a run: liars
        alone cannot.
        """
        count = len(self.members)
        quorum = Thresholds(count).quorum
        if count - len(self.holding(END)) < quorum:
            return END
        return PAUSE if count - len(self.holding(PAUSE, END)) < quorum else GO

    @property
    def complete(self) -> bool:
        """Every member that the proposal names has consented."""
        return all(member in self.consents for member in self.proposal.members)

    def epoch(self, size: int, plan: Plan) -> Epoch:
        """The first epoch of the run; `size` is the model's, computed by each for itself."""
        if not self.complete:
            raise LocalProtocolError("not every member has consented")
        seats = tuple(
            Seat(member, self.consents[member].seal_key, self.consents[member].samples)
            for member in self.proposal.members
        )
        length = count(size, one_in(plan))
        epoch = Epoch(self.run, 0, seats, policy(length, plan))
        epoch.check()
        return epoch


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every member does with a round's mean."""

    rate: float = 1.0
    """Of the step along it; 1 is federated averaging."""
    momentum: float = 0.0
    """Nesterov's; with it every entry of the state has a velocity."""
    tolerance: float = 0.5
    """The part of itself that a member's held-out loss may rise by."""


def outer(plan: Plan) -> Outer:
    """Of a plan, momentum as the binary32 it is used as.

    `MalformedMessageError` names what is out of range.
    The step is first needed when a sum is opened, and whoever joins has to be told before.
    """
    try:
        found = msgspec.convert(plan.outer, Outer)
    except msgspec.ValidationError as error:
        raise MalformedMessageError(f"model file: outer: {error}") from error
    if not 0 < found.rate <= OUTER_RATE_AT_MOST:
        raise MalformedMessageError(
            f"model file: outer.rate is {found.rate}, need more than 0, at most"
            f" {OUTER_RATE_AT_MOST}"
        )
    if not 0 <= found.tolerance <= TOLERANCE_AT_MOST:
        raise MalformedMessageError(
            f"model file: outer.tolerance is {found.tolerance}, need 0 to"
            f" {TOLERANCE_AT_MOST}"
        )
    # Rounded first: 0.99999999 is 1 as it is used, and then nothing ever slows down.
    momentum = _binary32(found.momentum)
    if not 0 <= momentum < 1:
        raise MalformedMessageError(
            f"model file: outer.momentum is {found.momentum}, need at least 0 and, as"
            " binary32, less than 1"
        )
    return msgspec.structs.replace(found, momentum=momentum)


def policy(length: int, plan: Plan) -> Policy:
    """The numbers of a plan; unknown ones are refused by name.  `length`: entries that travel."""
    one_in(plan)
    outer(plan)
    known = set(Policy.__struct_fields__) - {"length", "noised"}
    odd = sorted(set(plan.sum) - known)
    if odd:
        raise MalformedMessageError(
            f"model file: sum.{odd[0]} is not one of {', '.join(sorted(known))}"
        )
    sample = Policy(1)
    defaults = {name: getattr(sample, name) for name in known}
    try:
        chosen = {
            name: msgspec.convert(plan.sum.get(name, default), type(default))
            for name, default in defaults.items()
        }
    except msgspec.ValidationError as error:
        raise MalformedMessageError(f"model file: sum: {error}") from error
    # Never of the plan's own choice: without noise it would lift the rule of §5.7 for nothing.
    noised = isinstance(plan.privacy, Privacy)
    found = Policy(length, noised=noised, **chosen)
    found.check()
    return found


def require_room(members: int, plan: Plan) -> None:
    """Raise `MalformedMessageError` where a sum of so many members could pass the ring's end.

    The first epoch is refused for it too (§5.2), but only when everybody has consented.
    """
    ring = policy(1, plan).ring()
    try:
        ring.require_room(members)
    except MalformedMessageError as error:
        most = ((1 << ring.bits - 1) - 1) // members
        raise MalformedMessageError(
            f"model file: sum: {error}; use input_bits of 2 to {(most + 1).bit_length()}"
        ) from error


def one_in(plan: Plan) -> int:
    """Of how many entries one travels; raises `MalformedMessageError` out of range."""
    if not isinstance(plan.thin, Thin):
        return 1
    if not 2 <= plan.thin.one_in <= ONE_IN_AT_MOST:
        raise MalformedMessageError(
            f"model file: thin.one_in is {plan.thin.one_in}, need 2 to {ONE_IN_AT_MOST}"
        )
    return plan.thin.one_in


def _binary32(value: float) -> float:
    try:
        (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    except OverflowError:
        return math.inf
    return float(rounded)


def velocities(size: int, plan: Plan) -> int:
    """How many stand before the scales of a state of `size` entries; none without momentum."""
    return size if outer(plan).momentum else 0


def scales_bytes(size: int, length: int, plan: Plan) -> int:
    """Size of what an opening calls scales; `length` of `size` entries travel."""
    return WORD_BYTES * velocities(size, plan) + blocks(length)


def noise(epoch: Epoch, plan: Plan) -> Noise | None:
    """What every member adds to its update in this epoch; None where the plan has no noise."""
    if not isinstance(plan.privacy, Privacy):
        return None
    weights = [seat.weight for seat in epoch.seats]
    thresholds = Thresholds(len(weights))
    made = Noise(
        clip=plan.privacy.clip,
        multiplier=plan.privacy.multiplier,
        largest_factor=weight_factor(max(weights), sum(weights), len(weights)),
        shares=thresholds.survivors - thresholds.liars,
    )
    made.check()
    return made


def rounds_allowed(proposal: Proposal, plan: Plan) -> int:
    """Rounds the run will have: as proposed, or as many as its budget is good for.

    Each round opens at most one sum: what follows a survivors' certificate is a verdict.
    """
    if not isinstance(plan.privacy, Privacy):
        return proposal.rounds
    budget = Budget(plan.privacy.epsilon, plan.privacy.delta)
    return budget.sums(plan.privacy.multiplier, at_most=proposal.rounds)


def require_budget(proposal: Proposal, plan: Plan) -> None:
    """Raise `MalformedMessageError` where the budget is not good for a single round."""
    privacy = plan.privacy
    if not isinstance(privacy, Privacy):
        return
    for name in ("clip", "multiplier", "epsilon", "delta"):
        value = getattr(privacy, name)
        if not 0 < value < (1 if name == "delta" else 1e6):
            raise MalformedMessageError(
                f"model file: privacy.{name} is {value}, need more than 0 and less than"
                f" {1 if name == 'delta' else 1_000_000}"
            )
    if rounds_allowed(proposal, plan) < 1:
        once = Budget(privacy.epsilon, privacy.delta).spent(1, privacy.multiplier)
        raise MalformedMessageError(
            f"model file: privacy: one round costs an epsilon of {once.record:.3g}, the"
            f" budget is {privacy.epsilon:.3g}; use a larger multiplier"
        )
