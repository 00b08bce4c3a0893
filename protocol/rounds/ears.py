"""What has been heard in this round: once, in bounds, and without contradiction (§7.3).

A member's statement stands in one place (`Heard.place`).  The first one there counts;
a different second one is proof of a lie, whoever relayed it.  What comes too early is kept,
a little of it per sender, so that a flood costs the flooder's own room only.
"""

from collections.abc import Hashable, Iterable

from protocol.rounds.messages import Heard

EARLY_KEPT = 64
"""What an honest member says in one attempt, and some of the next."""
PLACES_KEPT = 512
"""Beyond the longest quarrel: eleven kinds of statement and a few hundred views."""


class Ears:
    """Statements of the present round by sender and place."""

    def __init__(self) -> None:
        self._said: dict[bytes, dict[Hashable, Heard]] = {}
        self._taken: dict[tuple[bytes, Hashable], object] = {}
        """What was acted upon, by sender and place: of envelopes one statement may have any number."""
        self._early: dict[bytes, dict[bytes, Heard]] = {}

    def note(self, heard: Heard) -> Heard | None:
        """Remember a statement; returns the one it contradicts, if it does."""
        where = heard.place
        if where is None:
            return None
        said = self._said.setdefault(heard.sender, {})
        known = said.get(where)
        if known is None:
            if len(said) < PLACES_KEPT:
                said[where] = heard
            return None
        return None if known.body == heard.body else known

    def took(self, heard: Heard) -> None:
        """A statement was acted upon: hearing it again tells nothing."""
        known = self._said.get(heard.sender, {}).get(heard.place)
        if known is not None and known.body == heard.body:
            self._taken[heard.sender, heard.place] = known.body

    def has_taken(self, heard: Heard) -> bool:
        """Was this very statement acted upon in this round?"""
        taken = self._taken.get((heard.sender, heard.place))
        return taken is not None and taken == heard.body

    def keep_early(self, heard: Heard) -> None:
        """It belongs to an attempt that is still to come."""
        waiting = self._early.setdefault(heard.sender, {})
        if heard.envelope not in waiting:
            if len(waiting) == EARLY_KEPT:
                del waiting[next(iter(waiting))]
            waiting[heard.envelope] = heard

    def early(self) -> list[Heard]:
        """Everything kept, to be looked at again."""
        out = [each for waiting in self._early.values() for each in waiting.values()]
        self._early.clear()
        return out

    def of(self, senders: Iterable[bytes], context: bytes) -> list[bytes]:
        """Envelopes of what these members said in one context."""
        return [
            heard.envelope
            for sender in sorted(senders)
            for heard in self._said.get(sender, {}).values()
            if heard.context == context
        ]

    def forget(self, members: Iterable[bytes]) -> None:
        """A new round: places start over; only `members` still count."""
        self._said.clear()
        self._taken.clear()
        kept = set(members)
        self._early = {s: d for s, d in self._early.items() if s in kept}

    def size(self) -> int:
        """Statements held, for bounds."""
        return sum(map(len, self._said.values())) + sum(map(len, self._early.values()))
