"""How long to wait for uploads: as long as they have been taking (§5.5).

The median of what was seen in the last rounds plus four median deviations lets through all
but freak delays; the floor keeps a fast history from cutting off a slow link, the cap keeps
a silent member from holding up the others for ever.  Offsets are measured by each member for
itself, from the moment it knew the opening to the arrival of a member's last part, late
arrivals included: deadlines must be able to grow.
"""

from collections import deque
from statistics import median

from protocol.rounds.policy import Policy
from protocol.types import Millis

ROUNDS_KEPT = 8
DEVIATIONS = 4
FIRST_FACTOR = 4
"""Without history: four times the time the slowest admitted link needs."""


class UploadTimes:
    """What the last rounds took, and what the next is given."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._rounds: deque[list[int]] = deque(maxlen=ROUNDS_KEPT)

    def add(self, offsets: list[int]) -> None:
        """One round's offsets, one per upload that arrived."""
        if offsets:
            self._rounds.append(offsets)

    def allowed(self, upload_bytes: int) -> Millis:
        """Time from the opening to the deadline for an upload of this size."""
        policy = self._policy
        least = 1000 * upload_bytes // policy.slowest_bytes_per_s
        floor = max(policy.upload_floor_ms, least)
        seen = [offset for one in self._rounds for offset in one]
        if seen:
            middle = median(seen)
            spread = median(abs(offset - middle) for offset in seen)
            wanted = int(middle + DEVIATIONS * spread)
        else:
            wanted = FIRST_FACTOR * floor
        return Millis(max(floor, min(wanted, policy.upload_cap_ms)))
