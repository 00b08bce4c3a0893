"""What members say they uploaded, and what they say they summed (docs/protocol.md §5.4).

A report is usable unless it summed something else than its members uploaded.  What the usable
ones have in common is the set that everyone works towards.  Everything here follows from
statements alone; what of it has arrived is the business of `gather`.
"""

from collections.abc import Collection

from protocol.rounds import pairs
from protocol.rounds.messages import (
    Report,
    Upload,
    inputs_digest,
    uploads_digest,
)
from protocol.rounds.quarrels import left_out
from protocol.rounds.setting import Setting
from protocol.types import Digest

TURNS = 8
"""Reports of one member on one slice: a set can shrink only so often before the deadline."""


class Reports:
    """Uploads and reports of one attempt; the first statement in a place stands."""

    def __init__(self, setting: Setting, enough: int) -> None:
        """`enough`: the fewest members that a sum may be over."""
        self._setting = setting
        self._enough = enough
        self.uploads: dict[int, Upload] = {}
        self.envelopes: dict[int, bytes] = {}
        """By place, the signed upload."""
        self.by_slice: list[dict[tuple[int, int], Report]] = [
            {} for _ in setting.slices
        ]
        """Per slice, by reporter and turn."""
        self.uploaded = 0
        """Members whose upload is known, as a set."""
        self.wanted = setting.everyone
        """All members of the opening, without those left out."""
        self.barred = 0
        """Members shown to lie, as a set."""
        self._at_odds: dict[int, list[int]] = {}
        """By place, those whose upload has another digest of a shared key."""
        self._inputs: dict[tuple[int, int], Digest] = {}
        """By slice and set, what a report over it must name: its parts, whose uploads stand."""
        self._usable_now: dict[int, dict[tuple[int, int], Report]] = {}
        self._best: dict[int, int] = {}
        """Per slice, the largest set that a usable report is over; kept up with `_usable_now`."""
        self._over: dict[int, dict[int, list[tuple[int, int]]]] = {}
        """By set and slice, reporter and turn of the usable reports."""
        self._new: dict[int, list[tuple[Report, int]]] = {}
        self._target: int | None = None
        self._uploads_named: dict[int, Digest] = {}
        places = {member: place for place, member in enumerate(setting.members)}
        self._ranks = [
            {places[member]: rank for rank, member in enumerate(each.order)}
            for each in setting.slices
        ]
        """Per slice, the rank of each place in its order."""

    # What is heard -----------------------------------------------------------------------

    def add_upload(self, place: int, body: Upload, envelope: bytes) -> bool:
        """A member's parts; False if it has announced some before."""
        if place in self.uploads:
            return False
        for other, known in self.uploads.items():
            if self._setting.bound and not pairs.agree(body, place, known, other):
                self._at_odds.setdefault(place, []).append(other)
                self._at_odds.setdefault(other, []).append(place)
        self.uploads[place] = body
        self.envelopes[place] = envelope
        self.uploaded |= 1 << place
        self._look_again()
        return True

    def add_report(self, place: int, body: Report) -> bool:
        """A member's sum of a slice; False if one stands in its place."""
        where = (place, body.turn)
        if where in self.by_slice[body.shard]:
            return False
        self.by_slice[body.shard][where] = body
        if body.shard in self._usable_now:
            self._add_usable(where, body)
        return True

    def bar(self, place: int) -> None:
        """Leave a member out."""
        self.barred |= 1 << place
        self._look_again()

    # What follows ------------------------------------------------------------------------

    def target(self) -> int:
        """What the best reports of all slices have in common; 0 while a slice has none."""
        if self._target is None:
            self._target = self._common()
        return self._target

    def _common(self) -> int:
        common = self.wanted
        for each in self._setting.slices:
            self._usable(each.index)
            common &= self._best[each.index]
        return common if common.bit_count() >= self._enough else 0

    def chosen(
        self, members: int, here: Collection[bytes]
    ) -> dict[int, tuple[Report, int]]:
        """For each slice that has one, a report over `members`, and its reporter.

        Those whose sum is among `here` come first, then the order of the slice.
        """
        out: dict[int, tuple[Report, int]] = {}
        for shard, reports in self._over.get(members, {}).items():
            ranks, known = self._ranks[shard], self.by_slice[shard]
            _, _, turn, place = min(
                (
                    known[place, turn].sum not in here,
                    ranks[place],
                    turn,
                    place,
                )
                for place, turn in reports
            )
            out[shard] = (known[place, turn], place)
        return out

    def is_everywhere(self, members: int) -> bool:
        """Does every slice have a usable report over this set?"""
        return len(self._over.get(members, ())) == len(self._setting.slices)

    def is_served(self, shard: int, target: int) -> bool:
        """Does a slice have a usable report over the target, or any while there is none?"""
        reports = self._usable(shard)
        if not target:
            return bool(reports)
        return shard in self._over.get(target, ())

    def take_new(self, members: int) -> list[tuple[Report, int]]:
        """Usable reports over a set and their reporters, each once."""
        return self._new.pop(members, [])

    def uploads_of(self, members: int) -> Digest | None:
        """Digest of the uploads of a set, if all are known."""
        if members not in self._uploads_named:
            if members & ~self.uploaded:
                return None
            places = [i for i in range(len(self._setting.members)) if members >> i & 1]
            # The first upload of a member stands, so this stands too.
            name = uploads_digest([self.uploads[place] for place in places])
            self._uploads_named[members] = name
        return self._uploads_named[members]

    def parts(self, shard: int, members: int) -> tuple[Digest, ...] | None:
        """Digests of the parts of a slice, if all uploads of the set are known."""
        if members & ~self.uploaded:
            return None
        uploads = self.uploads
        places = [i for i in range(len(self._setting.members)) if members >> i & 1]
        return tuple([Digest(uploads[place].shards[shard]) for place in places])

    def is_sound(self, report: Report) -> bool | None:
        """Does a report say it summed what the members say they uploaded?"""
        where = (report.shard, report.members)
        inputs = self._inputs.get(where)
        if inputs is None:
            parts = self.parts(*where)
            if parts is None:
                return None
            inputs = self._inputs[where] = inputs_digest(list(parts))
        return inputs == report.inputs

    def is_peaceful(self, members: int) -> bool:
        """Do the known uploads of a set agree on every shared key?"""
        return not any(
            members >> place & 1 and any(members >> other & 1 for other in others)
            for place, others in self._at_odds.items()
        )

    # Inside ------------------------------------------------------------------------------

    def _leave_out(self) -> int:
        """Who goes so that all others agree.

        The order of the first slice breaks ties: it is drawn anew with every attempt, so a liar
        that quarrels with one member is itself the one to go every other time.
        """
        ranks = self._ranks[0]
        standing = {
            place: [o for o in self._at_odds[place] if not self.barred >> o & 1]
            for place in sorted(self._at_odds, key=ranks.__getitem__)
            if not self.barred >> place & 1
        }
        return sum(1 << place for place in left_out(standing))

    def _look_again(self) -> None:
        self.wanted = self._setting.everyone & ~self.barred & ~self._leave_out()
        self._target = None
        self._usable_now.clear()
        self._over.clear()
        self._new.clear()

    def _usable(self, shard: int) -> dict[tuple[int, int], Report]:
        """Reports on a slice, without those that summed something else than was uploaded."""
        if shard not in self._usable_now:
            self._usable_now[shard], self._best[shard] = {}, 0
            for where, report in self.by_slice[shard].items():
                self._add_usable(where, report)
        return self._usable_now[shard]

    def _add_usable(self, where: tuple[int, int], report: Report) -> None:
        if self.is_sound(report) is False:
            return
        self._usable_now[report.shard][where] = report
        self._new.setdefault(report.members, []).append((report, where[0]))
        over = self._over.setdefault(report.members, {})
        over.setdefault(report.shard, []).append(where)
        best = self._best[report.shard]
        # Ties by the set itself: who heard the same works towards the same, in whatever order.
        if (report.members.bit_count(), report.members) > (best.bit_count(), best):
            self._best[report.shard] = report.members
            self._target = None
