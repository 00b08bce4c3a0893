"""After a rejection: whose update was unlike the others'? (docs/protocol.md §5.10)

    REJECT -> every survivor says what its masks weigh -> compared, weighed -> next round

What is said is said of this one sum, after its certified rejection, under coefficients that
nobody knew when the updates were masked.  The outcome is for people to read: nobody is left out
of anything because its update is long.  A lie about a mask is another matter, and is shown.

The laws of this file: nothing is said of a sum that was not rejected; no key is opened but one
whose other holder is shown to lie by it, and never so many that fewer than two masks hide the
member that opens them.
"""

from collections.abc import Mapping

from protocol.aggregate.sketch import packed_bytes
from protocol.aggregate.weighing import Answer, is_measurable, stand_out
from protocol.rounds import pairs
from protocol.rounds.desk import Desk
from protocol.rounds.events import Draw, Drawn, Measured, Weigh, Weighed
from protocol.rounds.gather import Gathering
from protocol.rounds.messages import Heard, Reveal, Sketch
from protocol.rounds.policy import Cohort, Policy
from protocol.rounds.setting import Setting
from protocol.rounds.settle import Settling
from protocol.types import Digest, Millis

MASKS_AT_LEAST = 2
"""Closed pair masks that a member keeps.  With one, whoever shares it could take it off."""


def applies(policy: Policy) -> bool:
    """Are sums of this epoch sketched when they are rejected?

    Not where updates carry noise: the account of §8 is of sums, and a sketch is of one update.
    """
    wanted = policy.sketched and not policy.noised
    return wanted and is_measurable(policy.length, policy.ring())


class Sketching:
    """What follows one certified rejection."""

    def __init__(
        self,
        setting: Setting,
        settling: Settling,
        gathering: Gathering,
        cohort: Cohort,
        desk: Desk,
        own: tuple[Digest, ...],
        keys: Mapping[bytes, bytes],
        now: Millis,
    ) -> None:
        """`own`: this node's masked parts; `keys`: its pair keys, both empty if it has none."""
        self._setting = setting
        self._settling = settling
        self._gathering = gathering
        self._cohort = cohort
        self._desk = desk
        self._own = own
        self._keys = keys
        self._since = now
        self._members = settling.members
        self._said: dict[int, Heard] = {}
        self._revealed: dict[int, Heard] = {}
        self._drawing = False
        self._question: Weigh | None = None
        self._answer: Answer | None = None
        """To the newest question."""
        self._differ: tuple[tuple[int, int], ...] = ()
        """Pairs that said different things, by place among the survivors."""
        self._audits = False
        self._until: Millis | None = None
        self.over = False

    # What is heard and done ------------------------------------------------------------------

    def hear(self, heard: Heard) -> bool:
        """A survivor's sketches, or keys it opens; the first in a place stands."""
        if heard.sender not in self._members:
            return False
        body, place = heard.body, self._members.index(heard.sender)
        if isinstance(body, Sketch):
            self._said.setdefault(place, heard)
            if heard.sender == self._desk.me:
                self._gathering.have(Digest(body.blob))
        else:
            self._revealed.setdefault(place, heard)
        return True

    def drawn(self, event: Drawn) -> None:
        """The own sketches are a blob on this node."""
        self.hear(self._say("sketch", Sketch(event.blob)))

    def weighed(self, event: Weighed) -> None:
        if self._question is not None and event.turn == self._question.turn:
            self._answer = event.answer
            self._audits = self._audits or not event.answer.balanced
            if not self._question.opened:
                self._differ = event.answer.differ

    def blobs(self) -> list[Digest]:
        """What must not outlive the round."""
        said = [heard.body for heard in self._said.values()]
        return [Digest(body.blob) for body in said if isinstance(body, Sketch)]

    # What is to be done ----------------------------------------------------------------------

    def advance(self, now: Millis, *, alone: bool) -> None:
        """Go as far as what is here, and the time, allow.

        `alone`: the others have done with it, and what is not here does not come any more.  Who
        was silent then, this node cannot say.
        """
        if self.over:
            return
        if alone and self._question is None:
            self.over = True
            return
        policy = self._cohort.policy
        if self._until is not None:
            # The others may still have to ask this node for what it said.
            self.over = now >= self._until
            return
        if self._settling.open():
            self._draw()
            self._pull()
            self._weigh()
            self._reveal()
            end = self._since + policy.grace_ms
        elif self._settling.broken:
            end = self._since
        else:
            # Whoever rejects for want of shares has waited for them already; whoever was told of
            # the rejection, or starts again here, still has to hear them.
            told = self._since + 2 * policy.patience_ms
            end = max(told, self._settling.since + policy.grace_ms)
        if self._is_decided() or now >= end:
            self._conclude()
            known = self._answer is not None
            self._until = Millis(now + policy.patience_ms if known else now)
            self.over = not known

    def _draw(self) -> None:
        me = self._desk.me
        can = me in self._members and self._own and self._keys
        if can and not self._drawing and self._place() not in self._said:
            self._drawing = True
            keys = tuple(self._keys[m] for m in self._members if m != me)
            setting, seed = self._setting, self._settling.beacon()
            self._desk.do(Draw(setting.context, setting.slices, self._own, keys, seed))

    def _place(self) -> int:
        return self._members.index(self._desk.me)

    def _pull(self) -> None:
        policy, setting = self._cohort.policy, self._setting
        each = packed_bytes(len(self._members), policy.length, self._cohort.ring)
        for place, blob in self._blobs_said().items():
            sources = (self._members[place], *self._cohort.members)
            self._gathering.pull(blob, sources, each)
        for index, blob in enumerate(self._settling.sums()):
            reporter = setting.members[self._settling.survivors.reporters[index]]
            size = self._gathering.slice_bytes(setting.slices[index])
            self._gathering.pull(blob, (reporter, *self._cohort.members), size)
        if self._audits:
            for each_slice in setting.slices:
                self._gathering.pull_parts(each_slice, self._settling.survivors.members)

    def _blobs_said(self) -> dict[int, Digest]:
        return {
            place: Digest(heard.body.blob)
            for place, heard in self._said.items()
            if isinstance(heard.body, Sketch)
        }

    def _weigh(self) -> None:
        """Ask once more whenever something was opened since."""
        question = self._next_question()
        if question is not None:
            self._question, self._answer = question, None
            self._desk.do(question)

    def _next_question(self) -> Weigh | None:
        here, said = self._gathering.here, self._blobs_said()
        sums = self._settling.sums()
        if len(said) < len(self._members) or not {*said.values(), *sums} <= here:
            return None
        opened, parts = self._opened(), self._parts()
        last = self._question
        if last is not None and (last.opened, last.parts) == (opened, parts):
            return None
        masks = self._settling.open_masks()
        return Weigh(
            self._setting.context,
            0 if last is None else last.turn + 1,
            self._setting.slices,
            tuple(said[place] for place in range(len(self._members))),
            tuple((tuple(masks[m][0]), tuple(masks[m][1])) for m in self._members),
            sums,
            tuple(self._cohort.seat(m).weight for m in self._members),
            opened,
            parts,
            self._settling.beacon(),
        )

    def _parts(self) -> tuple[tuple[Digest, ...], ...]:
        """Every survivor's masked parts, once they are asked for and all here."""
        if not self._audits or not self._knows_uploads():
            return ()
        uploads = self._gathering.said.uploads
        places = [self._setting.place(m) for m in self._members]
        parts = tuple(tuple(Digest(s) for s in uploads[p].shards) for p in places)
        return (
            parts if {s for each in parts for s in each} <= self._gathering.here else ()
        )

    def _knows_uploads(self) -> bool:
        """Are the uploads known that the sum was certified with?"""
        survivors = self._settling.survivors
        known = self._gathering.said.uploads_of(survivors.members)
        return known == survivors.uploads

    # Keys ------------------------------------------------------------------------------------

    def _may_open(self, place: int) -> bool:
        """Does a member keep enough masks if it opens all that others deny?"""
        count = sum(1 for pair in self._differ if place in pair)
        return len(self._members) - 1 - count >= MASKS_AT_LEAST

    def _reveal(self) -> None:
        """Open the keys of masks of which the other holder says something else than I did."""
        if self._desk.me not in self._members or not self._keys:
            return
        place = self._place()
        others = [a + b - place for a, b in self._differ if place in (a, b)]
        if others and place not in self._revealed and self._may_open(place):
            named = [self._members[other] for other in others]
            keys = tuple((self._setting.place(m), self._keys[m]) for m in named)
            self.hear(self._say("reveal", Reveal(keys)))

    def _opened(self) -> tuple[tuple[int, int, bytes], ...]:
        """Keys of the pairs in question that are what both holders uploaded a digest of."""
        found: dict[tuple[int, int], bytes] = {}
        if not self._differ or not self._knows_uploads():
            return ()
        uploads = self._gathering.said.uploads
        for place, heard in self._revealed.items():
            assert isinstance(heard.body, Reveal)
            mine = uploads[self._setting.place(self._members[place])]
            for there, key in heard.body.keys:
                if not 0 <= there < len(mine.pairs):
                    continue
                if pairs.key_digest(key) != mine.pairs[there]:
                    continue
                other = self._setting.members[there]
                if other in self._members:
                    pair = sorted((place, self._members.index(other)))
                    found[pair[0], pair[1]] = key
        return tuple((*pair, found[pair]) for pair in self._differ if pair in found)

    # The end ---------------------------------------------------------------------------------

    def _is_decided(self) -> bool:
        """Will nothing that may still come change the answer?"""
        answer = self._answer
        if answer is None:
            return False
        if answer.malformed or answer.times:
            return True
        open_to_proof = [
            pair for pair in answer.differ if any(self._may_open(p) for p in pair)
        ]
        return answer.balanced and not open_to_proof

    def _conclude(self) -> None:
        answer = self._answer or Answer()
        liars = sorted({*answer.malformed, *answer.false})
        for place in liars:
            self._accuse(place)
        silent = [m for place, m in enumerate(self._members) if place not in self._said]
        stand = stand_out(answer.times, answer.worst)
        self._desk.do(
            Measured(
                self._setting.round,
                self._setting.context,
                self._members,
                answer.times,
                answer.worst,
                tuple(self._members[place] for place in stand),
                tuple(self._members[place] for place in liars),
                tuple(silent),
            )
        )

    def _accuse(self, place: int) -> None:
        uploads = self._gathering.said.envelopes
        opened = [
            self._revealed[p].envelope
            for pair in self._differ
            if place in pair
            for p in pair
            if p in self._revealed
        ]
        self._desk.accuse(
            self._members[place],
            "its sketches are not those of what it masked",
            self._said[place].envelope,
            uploads.get(self._setting.place(self._members[place]), b""),
            *opened,
        )

    def _say(self, what: str, body: Sketch | Reveal) -> Heard:
        setting = self._setting
        return self._desk.say(
            setting.key(what), setting.context, setting.round, setting.attempt, body
        )
