"""Before the first round: who has consented to a run, and what all of them then share.

A run is a signed proposal and a signed consent of every member named in it.  From these alone
follow the seats, weights and numbers under which the members sum (`protocol.rounds`): nobody
opens a run, and nobody can start it under other numbers.
"""

import msgspec

from protocol.errors import GossipReject, LocalProtocolError, MalformedMessageError
from protocol.rounds.policy import Epoch, Policy, Seat
from protocol.runs import Consent, Plan, Proposal


class Course:
    """The consents to one run, as they come in."""

    def __init__(self, proposal: Proposal) -> None:
        self.proposal = proposal
        self.run = proposal.id()
        self.consents: dict[bytes, Consent] = {}

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
    def complete(self) -> bool:
        """Every member has consented."""
        return len(self.consents) == len(self.proposal.members)

    def epoch(self, length: int, plan: Plan) -> Epoch:
        """The first epoch of the run; `length` is the model's, computed by each for itself."""
        if not self.complete:
            raise LocalProtocolError("not every member has consented")
        seats = tuple(
            Seat(member, self.consents[member].seal_key, self.consents[member].samples)
            for member in self.proposal.members
        )
        epoch = Epoch(self.run, 0, seats, policy(length, plan))
        epoch.check()
        return epoch


def policy(length: int, plan: Plan) -> Policy:
    """The numbers of a plan; unknown ones are refused by name."""
    known = set(Policy.__struct_fields__) - {"length"}
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
    found = Policy(length, **chosen)
    found.check()
    return found
