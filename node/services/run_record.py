"""One run as this node knows it: what was signed, how far it has come, and its trainer."""

from dataclasses import dataclass
from typing import Any

from node.services.training import Trainer
from protocol.course import Course, rounds_allowed
from protocol.runs import END, PAUSE, Plan
from protocol.types import Digest


@dataclass
class Record:
    """One run as this node knows it."""

    course: Course
    plan: Plan
    proposer: bytes
    sealed: bytes
    rounds: list[dict[str, Any]]
    state: Digest
    """Root of the newest state."""
    scales: Digest | None = None
    done: int = 0
    """Rounds with a verdict."""
    starting: bool = False
    """Set before anything is waited for: a second machine under the same keys would deal and
    vote a second time, and be told apart from a liar by nobody."""
    trainer: Trainer | None = None
    reason: str = ""
    last_end: float = 0.0

    @property
    def spec(self) -> dict[str, Any]:
        """The model, as `ee.spec` reads it."""
        return self.plan.spec

    @property
    def members(self) -> tuple[bytes, ...]:
        """Node keys of those that have a seat now, sorted."""
        return self.course.members

    @property
    def initial(self) -> bytes:
        """Root of the first state."""
        return self.course.proposal.initial

    @property
    def datasets(self) -> tuple[int, ...]:
        """Tokens of the datasets that train or trained."""
        return tuple(sorted(one.dataset for one in self.course.used.values()))

    @property
    def rounds_allowed(self) -> int:
        """As many as were proposed, or as the budget for privacy is good for."""
        return rounds_allowed(self.course.proposal, self.plan)

    def roots(self) -> set[bytes]:
        """What its members may want of this node: where it stands, and the first state."""
        found = {self.state, self.initial}
        return found if self.scales is None else {*found, self.scales}

    def phase(self) -> str:
        """For a person: proposed, training, paused, ended, finished."""
        if self.done >= self.rounds_allowed:
            return "finished"
        if self.course.standing == END:
            return "ended"
        if not self.course.complete:
            return "proposed"
        return "paused" if self.course.standing == PAUSE else "training"
