"""From masked uploads to one sum per slice, over one set of members (§5.5).

Owners pull the parts of their slice and add them up still masked; everyone pulls the masked
sums.  Nothing here is secret: parts and sums are uniform to whoever lacks a mask, so they may
be pulled, added and added again over any set of members.  A set is final only by the
certificate that the attempt asks for once every slice has a sum over the same set.

An owner that is late is replaced by the next in the slice's order.  A member whose part is
missing anywhere is left out everywhere: reports over different sets make every reporter add
again over what they have in common.
"""

from dataclasses import dataclass

from protocol.aggregate.shards import Slice
from protocol.rounds.desk import Desk
from protocol.rounds.events import Drop, Fetch, Sum, Summed
from protocol.rounds.messages import (
    Heard,
    Report,
    Survivors,
    Upload,
    inputs_digest,
    uploads_digest,
)
from protocol.rounds.policy import Cohort
from protocol.types import Digest, Millis

TURNS = 8
"""Reports of one member on one slice: a set can shrink only so often before the deadline."""


@dataclass(frozen=True)
class Setting:
    """What an attempt fixes before anything is uploaded."""

    context: bytes
    round: int
    attempt: int
    members: tuple[bytes, ...]
    slices: tuple[Slice, ...]
    since: Millis
    """When this node knew the opening, on its own clock."""
    allowed_ms: int
    """Time for uploads."""
    backup_ms: int

    @property
    def deadline(self) -> int:
        return self.since + self.allowed_ms

    def place(self, member: bytes) -> int:
        return self.members.index(member)

    @property
    def everyone(self) -> int:
        return (1 << len(self.members)) - 1

    def named(self, members: int) -> tuple[bytes, ...]:
        """The members of a set."""
        return tuple(m for i, m in enumerate(self.members) if members >> i & 1)

    def key(self, what: str) -> str:
        """Where a statement of this attempt is recorded."""
        return f"{self.round}/said/{self.context.hex()}/{what}"


class Gathering:
    """Uploads, parts, reports and sums of one attempt."""

    def __init__(self, setting: Setting, cohort: Cohort, desk: Desk) -> None:
        self.setting = setting
        self._cohort = cohort
        self._desk = desk
        self.uploads: dict[int, Upload] = {}
        self.reports: list[dict[tuple[int, int], Report]] = [{} for _ in setting.slices]
        """Per slice, by reporter and turn."""
        self.dirty = True
        """Has anything happened that `advance` should look at?"""
        self.version = 0
        """Counts what is heard and done: what follows from that alone is worked out once."""
        self.here: set[Digest] = set()
        self.offsets: dict[int, int] = {}
        """When each member's parts had come to this node, for the next deadline."""
        self._sources: dict[Digest, tuple[bytes, ...]] = {}
        self._asked: set[tuple[int, int]] = set()
        self._turns: dict[int, int] = {}
        self._own: dict[tuple[int, int], Digest] = {}
        self._begun: dict[int, Millis] = {}
        self._sound: set[tuple[int, int, int]] = set()
        self._barred = 0
        self._usable_now: dict[int, dict[tuple[int, int], Report]] = {}
        self._best: dict[int, int] = {}
        """Per slice, the largest set that a usable report is over; kept up with `_usable_now`."""
        self._held_now: dict[int, int] = {}
        self._target: int | None = None
        self._uploads_named: dict[int, Digest] = {}
        self._proposal: tuple[int, Survivors | None] = (-1, None)
        self._to_pull: dict[int, list[tuple[Report, int]]] = {}
        """By set, usable reports over it whose sums have not been asked for yet."""
        self._over: dict[int, dict[int, list[tuple[int, int]]]] = {}
        """By set and slice, reporter and turn of the usable reports."""
        self._pulled: dict[int, int] = {}
        """Per slice, the members whose part has been asked for."""
        places = {member: place for place, member in enumerate(setting.members)}
        self._orders = [
            {places[member]: rank for rank, member in enumerate(each.order)}
            for each in setting.slices
        ]
        """Per slice, the rank of each place in its order."""
        self._ranks = {
            each.index: each.order.index(desk.me)
            for each in setting.slices
            if desk.me in each.order
        }
        self._owned = [i for i, rank in self._ranks.items() if rank == 0]

    # What is heard and done ------------------------------------------------------------

    def upload(self, sender: bytes, body: Upload) -> bool:
        """A member's parts by digest; False if it is none of this attempt's."""
        if sender not in self.setting.members:
            return False
        if len(body.shards) != len(self.setting.slices):
            return False
        if self.setting.place(sender) not in self.uploads:
            self.uploads[self.setting.place(sender)] = body
            self._look_again()
        return True

    def report(self, sender: bytes, body: Report) -> bool:
        """Somebody's sum of a slice."""
        setting = self.setting
        if sender not in setting.members or body.shard >= len(setting.slices):
            return False
        if body.turn >= TURNS or body.members & ~setting.everyone:
            return False
        where = (setting.place(sender), body.turn)
        if where not in self.reports[body.shard]:
            self.reports[body.shard][where] = body
            self._changed()
            self._target = None
            if body.shard in self._usable_now:
                self._add_usable(where, body)
        return True

    def bar(self, member: bytes) -> None:
        """Leave out a member that uploaded two different things."""
        if member in self.setting.members:
            self._barred |= 1 << self.setting.place(member)
            self._look_again()

    def own_parts(self, shards: tuple[Digest, ...]) -> None:
        """The masked parts of this node are blobs here."""
        self._have(*shards)

    def fetched(self, blob: Digest, now: Millis) -> None:
        if blob in self._sources:
            self._sources.pop(blob)
            self._have(blob)
            self._note_arrivals(now)

    def summed(self, event: Summed) -> Heard | None:
        """A sum asked for is here: report it."""
        if (event.shard, event.members) not in self._asked:
            return None
        self._have(event.sum)
        self._own[event.shard, event.members] = event.sum
        turn = self._turns.get(event.shard, 0)
        if turn >= TURNS:
            return None
        self._turns[event.shard] = turn + 1
        parts = self.parts(event.shard, event.members)
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
        self._have(Digest(report.sum))
        self._turns[report.shard] = max(
            self._turns.get(report.shard, 0), report.turn + 1
        )
        self._asked.add((report.shard, report.members))
        self._begun[report.shard] = self.setting.since
        self._own[report.shard, report.members] = Digest(report.sum)

    # What is to be done ----------------------------------------------------------------

    def advance(self, now: Millis) -> None:
        """Pull, add and pull again as far as what is known allows."""
        self.dirty = False
        target = self.target()
        late = now >= self.setting.deadline
        slices = self.setting.slices
        for each in slices if late else [slices[i] for i in self._owned]:
            if self._is_mine(each, target, now):
                self._begun.setdefault(each.index, now)
                self._pull_parts(each, self.setting.everyone & ~self._barred)
                self._add_up(each, target, now)
        if target:
            for report, place in self._to_pull.pop(target, ()):
                self._pull_sum(report, place)

    def target(self) -> int:
        """What the best reports of all slices have in common; 0 while a slice has none."""
        if self._target is None:
            self._target = self._common()
        return self._target

    def _common(self) -> int:
        common = self.setting.everyone & ~self._barred
        if not all(self.reports):
            return 0
        for each in self.setting.slices:
            self._usable(each.index)
            common &= self._best[each.index]
        return common if common.bit_count() >= self._cohort.thresholds.survivors else 0

    def chosen(self, members: int) -> dict[int, tuple[Report, int]]:
        """For each slice that has one, a report over `members`, and its reporter.

        Those whose sum is here come first, then the order of the slice.
        """
        out: dict[int, tuple[Report, int]] = {}
        for shard, reports in self._over.get(members, {}).items():
            ranks, known = self._orders[shard], self.reports[shard]
            _, _, turn, place = min(
                (
                    known[place, turn].sum not in self.here,
                    ranks[place],
                    turn,
                    place,
                )
                for place, turn in reports
            )
            out[shard] = (known[place, turn], place)
        return out

    def proposal(self) -> Survivors | None:
        """A set that every slice is summed over, with all sums on this node."""
        if self._proposal[0] != self.version:
            self._proposal = (self.version, self._make_proposal())
        return self._proposal[1]

    def _make_proposal(self) -> Survivors | None:
        members = self.target()
        if len(self._over.get(members, ())) < len(self.setting.slices):
            return None
        chosen = self.chosen(members)
        reports = tuple(chosen[s.index][0] for s in self.setting.slices)
        reporters = tuple(chosen[s.index][1] for s in self.setting.slices)
        uploads = self.uploads_of(members)
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
        verdict: bool | None = True
        for index, (report, place) in enumerate(
            zip(value.reports, value.reporters, strict=True)
        ):
            if report.shard != index or report.members != value.members:
                return False
            known = self.reports[index].get((place, report.turn))
            if known is None:
                verdict = None
                continue
            sound = known == report and self._is_sound(report, place)
            if sound is None:
                verdict = None
            elif not sound:
                return False
            elif Digest(report.sum) not in self.here:
                self._pull_sum(report, place)
                verdict = None
        uploads = self.uploads_of(value.members)
        if uploads is None:
            return None
        return False if uploads != value.uploads else verdict

    def uploads_of(self, members: int) -> Digest | None:
        """Digest of the uploads of a set, if all are known."""
        if members not in self._uploads_named:
            places = [i for i in range(len(self.setting.members)) if members >> i & 1]
            if not all(place in self.uploads for place in places):
                return None
            # The first upload of a member stands, so this stands too.
            name = uploads_digest([self.uploads[place] for place in places])
            self._uploads_named[members] = name
        return self._uploads_named[members]

    def parts(self, shard: int, members: int) -> tuple[Digest, ...] | None:
        """Digests of the parts of a slice, if all uploads of the set are known."""
        places = [i for i in range(len(self.setting.members)) if members >> i & 1]
        if not all(place in self.uploads for place in places):
            return None
        return tuple(Digest(self.uploads[place].shards[shard]) for place in places)

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
            self._pull_parts(each, members)
            self._ask(each, members, self.held(shard))
        return own

    def held(self, shard: int) -> int:
        """Whose part of a slice is on this node."""
        if shard not in self._held_now:
            out = 0
            for place, upload in self.uploads.items():
                if upload.shards[shard] in self.here:
                    out |= 1 << place
            self._held_now[shard] = out & ~self._barred
        return self._held_now[shard]

    def close(self, now: Millis) -> None:
        """Stop pulling.  Uploads that never came whole count with the time they were given."""
        for place in self.uploads:
            self.offsets.setdefault(place, now - self.setting.since)
        if self._sources:
            self._desk.do(Drop(tuple(sorted(self._sources))))
            self._sources.clear()

    def blobs(self) -> list[Digest]:
        """Every part and sum this node may hold of this attempt."""
        parts = [Digest(s) for upload in self.uploads.values() for s in upload.shards]
        reports = [report for each in self.reports for report in each.values()]
        sums = [Digest(report.sum) for report in reports]
        carries = [Digest(report.carry) for report in reports if report.carry]
        return [*parts, *sums, *carries]

    # Inside ------------------------------------------------------------------------------

    def _is_mine(self, each: Slice, target: int, now: Millis) -> bool:
        """Is it this node's turn to sum the slice?

        Rank r comes in r times `backup_ms` after the deadline if nobody before it reported
        what can still be used.  If somebody did, it waits the time of an upload longer: the
        sum may be on its way, or have died with its reporter.
        """
        rank = self._ranks.get(each.index)
        if rank is None:
            return False
        if rank == 0 or each.index in self._begun:
            return True
        setting = self.setting
        turn = setting.deadline + rank * setting.backup_ms
        if now < turn:
            return False
        served = any(
            not target or report.members == target
            for report in self._usable(each.index).values()
        )
        return not served or now >= turn + setting.allowed_ms

    def _pull_parts(self, each: Slice, members: int) -> None:
        asked = self._pulled.get(each.index, 0)
        if not members & ~asked:
            return
        for place, upload in self.uploads.items():
            if (members & ~asked) >> place & 1:
                asked |= 1 << place
                sources = (self.setting.members[place], *each.order)
                part = Digest(upload.shards[each.index])
                self.pull(part, sources, self.slice_bytes(each))
        self._pulled[each.index] = asked

    def _add_up(self, each: Slice, target: int, now: Millis) -> None:
        held = self.held(each.index)
        if each.index in self._turns:
            if target:
                self._ask(each, target, held)
            return
        if any(shard == each.index for shard, _ in self._asked):
            return
        everyone = self.setting.everyone & ~self._barred
        enough = held.bit_count() >= self._cohort.thresholds.survivors
        if held == everyone or (enough and now >= self._cutoff(each)):
            self._ask(each, held, held)

    def _cutoff(self, each: Slice) -> int:
        """Until when missing parts are waited for: a backup starts late, and waits its turn."""
        if each.order[0] == self._desk.me:
            return self.setting.deadline
        return self._begun[each.index] + self.setting.backup_ms

    def _ask(self, each: Slice, members: int, held: int) -> bool:
        if (each.index, members) in self._asked:
            return True
        parts = self.parts(each.index, members)
        if parts is None or members & ~held:
            return False
        self._asked.add((each.index, members))
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

    def _have(self, *blobs: Digest) -> None:
        self.here.update(blobs)
        self._changed()
        self._held_now.clear()

    def _changed(self) -> None:
        self.dirty = True
        self.version += 1

    def _look_again(self) -> None:
        self._changed()
        self._target = None
        self._usable_now.clear()
        self._to_pull.clear()
        self._over.clear()
        self._held_now.clear()

    def _usable(self, shard: int) -> dict[tuple[int, int], Report]:
        """Reports on a slice, without those that summed something else than was uploaded."""
        if shard not in self._usable_now:
            self._usable_now[shard], self._best[shard] = {}, 0
            for where, report in self.reports[shard].items():
                self._add_usable(where, report)
        return self._usable_now[shard]

    def _add_usable(self, where: tuple[int, int], report: Report) -> None:
        if self._is_sound(report, where[0]) is False:
            return
        self._usable_now[report.shard][where] = report
        self._to_pull.setdefault(report.members, []).append((report, where[0]))
        over = self._over.setdefault(report.members, {})
        over.setdefault(report.shard, []).append(where)
        best = self._best[report.shard]
        if report.members.bit_count() > best.bit_count():
            self._best[report.shard] = report.members

    def _is_sound(self, report: Report, place: int) -> bool | None:
        """Does a report say it summed what the members say they uploaded?"""
        where = (report.shard, place, report.turn)
        if where in self._sound:
            return True
        parts = self.parts(report.shard, report.members)
        if parts is None:
            return None
        if inputs_digest(list(parts)) != report.inputs:
            return False
        self._sound.add(where)
        return True

    def _note_arrivals(self, now: Millis) -> None:
        for place, upload in self.uploads.items():
            if self._owned and place not in self.offsets:
                parts = {Digest(upload.shards[index]) for index in self._owned}
                if parts <= self.here:
                    self.offsets[place] = now - self.setting.since
