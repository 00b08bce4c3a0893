"""From masked uploads to one sum per slice, over one set of members (§5.5).

Owners pull the parts of their slice and add them up still masked; everyone pulls the masked
sums.  Nothing here is secret: parts and sums are uniform to whoever lacks a mask, so they may
be pulled, added and added again over any set of members.  A set is final only by the
certificate that the attempt asks for once every slice has a sum over the same set.

An owner that is late is replaced by the next in the slice's order.  A member whose part is
missing anywhere is left out everywhere: reports over different sets make every reporter add
again over what they have in common.
"""

from collections.abc import Callable

from protocol.aggregate.shards import Slice
from protocol.rounds import pairs
from protocol.rounds.desk import Desk
from protocol.rounds.events import Drop, Fetch, Sum, Summed
from protocol.rounds.messages import (
    Heard,
    Report,
    Survivors,
    Upload,
    inputs_digest,
)
from protocol.rounds.policy import Cohort
from protocol.rounds.reports import TURNS, Reports
from protocol.rounds.setting import Setting
from protocol.types import Digest, Millis


class Gathering:
    """Uploads, parts, reports and sums of one attempt."""

    def __init__(
        self,
        setting: Setting,
        cohort: Cohort,
        desk: Desk,
        isolates: Callable[[frozenset[bytes]], bool],
    ) -> None:
        """`isolates`: would a sum over these members single somebody out (§5.7)?"""
        self.setting = setting
        self._isolates = isolates
        self._open: dict[int, bool] = {}
        """Sets that were looked at, and whether a sum over them may be opened."""
        self._cohort = cohort
        self._desk = desk
        self.said = Reports(setting, cohort.thresholds.survivors)
        self.dirty = True
        """Has anything happened that `advance` should look at?"""
        self.version = 0
        """Counts what is heard and done: what follows from that alone is worked out once."""
        self.here: set[Digest] = set()
        self.offsets: dict[int, int] = {}
        """When each member's parts had come to this node, for the next deadline."""
        self._sources: dict[Digest, tuple[bytes, ...]] = {}
        self._asked: set[tuple[int, int]] = set()
        self._begun_to_add: set[int] = set()
        self._turns: dict[int, int] = {}
        self._own: dict[tuple[int, int], Digest] = {}
        self._begun: dict[int, Millis] = {}
        self._held = [0] * len(setting.slices)
        """Per slice, the members whose part is here."""
        self._part_of: dict[bytes, list[tuple[int, int]]] = {}
        """Slice and member of a part; a liar may announce another's."""
        self._proposal: tuple[int, Survivors | None] = (-1, None)
        self._pulled: dict[int, int] = {}
        """Per slice, the members whose part has been asked for."""
        self._turns_to_add = sorted(
            (each.order.index(desk.me), each.index)
            for each in setting.slices
            if desk.me in each.order
        )
        """This node's rank in the order of each slice, the slices it owns first."""
        self._owned = [i for rank, i in self._turns_to_add if rank == 0]

    def reconsider(self) -> None:
        """Other sets may be summed than before."""
        self._open.clear()
        self.dirty = True

    # What is heard and done ------------------------------------------------------------

    def upload(self, sender: bytes, body: Upload, envelope: bytes) -> bool:
        """A member's parts by digest; False if it is none of this attempt's."""
        if sender not in self.setting.members:
            return False
        place = self.setting.place(sender)
        if len(body.shards) != len(self.setting.slices) or not pairs.is_shaped(
            body, place, len(self.setting.members)
        ):
            return False
        if self.said.add_upload(place, body, envelope):
            for shard, part in enumerate(body.shards):
                self._part_of.setdefault(part, []).append((shard, place))
                if part in self.here:
                    self._held[shard] |= 1 << place
            self._changed()
        return True

    def report(self, sender: bytes, body: Report) -> bool:
        """Somebody's sum of a slice."""
        setting = self.setting
        if sender not in setting.members or body.shard >= len(setting.slices):
            return False
        if body.turn >= TURNS or body.members & ~setting.everyone:
            return False
        if self.said.add_report(setting.place(sender), body):
            self._changed()
        return True

    def bar(self, member: bytes) -> None:
        """Leave out a member that uploaded two different things."""
        if member in self.setting.members:
            self.said.bar(self.setting.place(member))
            self._changed()

    def have(self, *blobs: Digest) -> None:
        """These are blobs on this node."""
        for blob in blobs:
            if blob not in self.here:
                self.here.add(blob)
                for shard, place in self._part_of.get(blob, ()):
                    self._held[shard] |= 1 << place
        self._changed()

    def fetched(self, blob: Digest, now: Millis) -> None:
        if blob in self._sources:
            self._sources.pop(blob)
            self.have(blob)
            self._note_arrivals(now)

    def summed(self, event: Summed) -> Heard | None:
        """A sum asked for is here: report it."""
        if (event.shard, event.members) not in self._asked:
            return None
        self.have(event.sum)
        self._own[event.shard, event.members] = event.sum
        turn = self._turns.get(event.shard, 0)
        if turn >= TURNS:
            return None
        self._turns[event.shard] = turn + 1
        parts = self.said.parts(event.shard, event.members)
        report = Report(
            event.shard,
            turn,
            event.members,
            inputs_digest(list(parts or ())),
            event.sum,
            event.carry,
        )
        setting = self.setting
        return self._desk.say(
            setting.key(f"report/{event.shard}/{turn}"),
            setting.context,
            setting.round,
            setting.attempt,
            report,
        )

    def resume(self, report: Report) -> None:
        """A report this node made before a restart; its sum is a blob here."""
        self.have(Digest(report.sum))
        self._turns[report.shard] = max(
            self._turns.get(report.shard, 0), report.turn + 1
        )
        self._asked.add((report.shard, report.members))
        self._begun_to_add.add(report.shard)
        self._begun[report.shard] = self.setting.since
        self._own[report.shard, report.members] = Digest(report.sum)

    # What is to be done ----------------------------------------------------------------

    def advance(self, now: Millis) -> None:
        """Pull, add and pull again as far as what is known allows."""
        self.dirty = False
        target = self.said.target()
        late = now >= self.setting.deadline
        for index in self._mine(target, now) if late else self._owned:
            each = self.setting.slices[index]
            self._begun.setdefault(index, now)
            self.pull_parts(each, self.said.wanted)
            self._add_up(each, target, now)
        if target:
            for report, place in self.said.take_new(target):
                self._pull_sum(report, place)

    def proposal(self) -> Survivors | None:
        """A set that every slice is summed over, with all sums on this node."""
        if self._proposal[0] != self.version:
            self._proposal = (self.version, self._make_proposal())
        return self._proposal[1]

    def _make_proposal(self) -> Survivors | None:
        members = self.said.target()
        if not self.said.is_everywhere(members):
            return None
        chosen = self.said.chosen(members, self.here)
        reports = tuple(chosen[s.index][0] for s in self.setting.slices)
        reporters = tuple(chosen[s.index][1] for s in self.setting.slices)
        uploads = self.said.uploads_of(members)
        value = Survivors(members, uploads or b"", reports, reporters)
        return value if self.judge(value) else None

    def judge(self, value: Survivors) -> bool | None:
        """Is every sum of this set reported, consistent, and here?  None: not yet."""
        setting = self.setting
        size = value.members.bit_count()
        if value.members & ~setting.everyone or (
            size < self._cohort.thresholds.survivors
        ):
            return False
        if not len(value.reports) == len(value.reporters) == len(setting.slices):
            return False
        if not self.said.is_peaceful(value.members):
            return False
        verdict: bool | None = True
        members, here, is_sound = value.members, self.here, self.said.is_sound
        for index, (report, place, heard) in enumerate(
            zip(value.reports, value.reporters, self.said.by_slice, strict=True)
        ):
            if report.shard != index or report.members != members:
                return False
            known = heard.get((place, report.turn))
            if known is None:
                verdict = None
                continue
            sound = known == report and is_sound(report)
            if sound is None:
                verdict = None
            elif not sound:
                return False
            elif report.sum not in here:
                self._pull_sum(report, place)
                verdict = None
        uploads = self.said.uploads_of(value.members)
        if uploads is None:
            return None
        return False if uploads != value.uploads else verdict

    def pull(self, blob: Digest, sources: tuple[bytes, ...], limit_bytes: int) -> None:
        """Ask for a blob, once per list of sources."""
        if blob in self.here or self._sources.get(blob) == sources:
            return
        others = tuple(dict.fromkeys(s for s in sources if s != self._desk.me))
        if not others:
            return
        self._sources[blob] = sources
        self._desk.do(Fetch(others, blob, max(1, limit_bytes)))

    def slice_bytes(self, each: Slice) -> int:
        """Size of a part, or of a sum of parts."""
        return each.size * self._cohort.ring.bytes_each

    def audited(self, shard: int, members: int) -> Digest | None:
        """The sum of a slice as this node adds it up itself; None while it is being done."""
        own = self._own.get((shard, members))
        if own is None:
            each = self.setting.slices[shard]
            self.pull_parts(each, members)
            # Whoever was barred since is in the certified sum all the same.
            self._ask(each, members, self._held[shard])
        return own

    def held(self, shard: int) -> int:
        """Whose part of a slice is on this node."""
        return self._held[shard] & ~self.said.barred

    def close(self, now: Millis) -> None:
        """Stop pulling.  Uploads that never came whole count with the time they were given."""
        for place in self.said.uploads:
            self.offsets.setdefault(place, now - self.setting.since)
        if self._sources:
            self._desk.do(Drop(tuple(sorted(self._sources))))
            self._sources.clear()

    def blobs(self) -> list[Digest]:
        """Every part and sum this node may hold of this attempt."""
        parts = [
            Digest(s) for upload in self.said.uploads.values() for s in upload.shards
        ]
        reports = [report for each in self.said.by_slice for report in each.values()]
        sums = [Digest(report.sum) for report in reports]
        carries = [Digest(report.carry) for report in reports if report.carry]
        return [*parts, *sums, *carries]

    # Inside ------------------------------------------------------------------------------

    def _mine(self, target: int, now: Millis) -> list[int]:
        """Slices that it is this node's turn to sum, after the deadline.

        Rank r comes in r times `backup_ms` after the deadline if nobody before it reported
        what can still be used.  If somebody did, it waits the time of an upload longer: the
        sum may be on its way, or have died with its reporter.
        """
        begun, served = self._begun, self.said.is_served
        late, setting = now - self.setting.deadline, self.setting
        backup_ms, allowed_ms = setting.backup_ms, setting.allowed_ms
        out = []
        for rank, index in self._turns_to_add:
            late_by = late - rank * backup_ms
            if (
                rank == 0
                or index in begun
                or late_by >= allowed_ms
                or (late_by >= 0 and not served(index, target))
            ):
                out.append(index)
        return out

    def pull_parts(self, each: Slice, members: int) -> None:
        asked = self._pulled.get(each.index, 0)
        if not members & self.said.uploaded & ~asked:
            return
        for place, upload in self.said.uploads.items():
            if (members & ~asked) >> place & 1:
                asked |= 1 << place
                sources = (self.setting.members[place], *each.order)
                part = Digest(upload.shards[each.index])
                self.pull(part, sources, self.slice_bytes(each))
        self._pulled[each.index] = asked

    def _add_up(self, each: Slice, target: int, now: Millis) -> None:
        held = self.held(each.index) & self.said.wanted
        if target and not target & ~held and self._may_open(target):
            self._ask(each, target, held)
            return
        if each.index in self._turns:
            return
        if each.index in self._begun_to_add:
            return
        everyone = self.said.wanted
        enough = held.bit_count() >= self._cohort.thresholds.survivors
        # After a rejection it may have to be everyone: what could never be certified is not
        # added up, or owners would be told to add up what they all have of that (§5.7).
        if held == everyone or (
            enough and now >= self._cutoff(each) and self._may_open(held)
        ):
            self._ask(each, held, held)

    def _may_open(self, members: int) -> bool:
        found = self._open.get(members)
        if found is None:
            named = frozenset(self.setting.named(members))
            found = self._open[members] = not self._isolates(named)
        return found

    def _cutoff(self, each: Slice) -> int:
        """Until when missing parts are waited for: a backup starts late, and waits its turn."""
        if each.order[0] == self._desk.me:
            return self.setting.deadline
        return self._begun[each.index] + self.setting.backup_ms

    def _ask(self, each: Slice, members: int, held: int) -> bool:
        if (each.index, members) in self._asked:
            return True
        parts = None if members & ~held else self.said.parts(each.index, members)
        if parts is None:
            return False
        self._asked.add((each.index, members))
        self._begun_to_add.add(each.index)
        carry = self._cohort.policy.checked
        self._desk.do(Sum(self.setting.context, each, members, parts, carry))
        return True

    def _pull_sum(self, report: Report, place: int) -> None:
        """From its reporter, then from whoever has it by now."""
        wanted = Digest(report.sum)
        if wanted in self.here or wanted in self._sources:
            return
        each = self.setting.slices[report.shard]
        sources = (self.setting.members[place], *self._cohort.members)
        self.pull(wanted, sources, self.slice_bytes(each))

    def _changed(self) -> None:
        self.dirty = True
        self.version += 1

    def _note_arrivals(self, now: Millis) -> None:
        for place, upload in self.said.uploads.items():
            if self._owned and place not in self.offsets:
                parts = {Digest(upload.shards[index]) for index in self._owned}
                if parts <= self.here:
                    self.offsets[place] = now - self.setting.since
