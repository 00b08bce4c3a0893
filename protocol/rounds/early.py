"""Statements of a phase of an attempt that this member has not come to."""

from protocol.rounds.messages import Body, Claim, Heard


class Early:
    """One of a kind for each sender, until its phase begins."""

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, type], Heard] = {}

    def keep(self, heard: Heard) -> None:
        """The first in a place stands, and of claims the newest, in whatever order they come."""
        slot = (heard.sender, type(heard.body))
        known = self._kept.get(slot)
        newer = (
            known is not None
            and isinstance(known.body, Claim)
            and isinstance(heard.body, Claim)
            and heard.body.turn > known.body.turn
        )
        if known is None or newer:
            self._kept[slot] = heard

    def take(self, *kinds: type[Body]) -> list[Heard]:
        """What was kept of these kinds: their phase has begun."""
        slots = [slot for slot in self._kept if slot[1] in kinds]
        return [self._kept.pop(slot) for slot in slots]
