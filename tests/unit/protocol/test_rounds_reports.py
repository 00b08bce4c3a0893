"""Reports over different sets: everyone works towards one, whatever order they came in."""

import hashlib
import itertools

import pytest

from protocol.aggregate.shards import slices
from protocol.rounds.desk import Desk
from protocol.rounds.events import Sum
from protocol.rounds.gather import Gathering
from protocol.rounds.messages import Report, Upload, inputs_digest
from protocol.rounds.policy import Cohort, Epoch, Policy, Seat
from protocol.rounds.reports import Reports
from protocol.rounds.setting import Setting
from protocol.types import Digest, Millis, PublicKey

MEMBERS = tuple(bytes([i]) * 32 for i in range(5))
EVERYONE = 0b11111
FEW = 0b01111
COHORT = Cohort(
    Epoch(bytes(32), 0, tuple(Seat(m, bytes([9]) * 32, 1) for m in MEMBERS), Policy(80))
)
SETTING = Setting(
    bytes(32), 0, 0, MEMBERS, slices(80, 4, MEMBERS, bytes(32)), Millis(0), 100, 50
)
LATE = Millis(1_000)


def part(place: int, shard: int) -> Digest:
    return Digest(hashlib.sha256(bytes([place, shard])).digest())


def upload(place: int) -> Upload:
    """All say the same of every pair's key, so nobody quarrels."""
    pairs = tuple(b"" if j == place else bytes(32) for j in range(5))
    return Upload(tuple(part(place, s) for s in range(5)), pairs)


def report(shard: int, members: int, turn: int = 0) -> Report:
    parts = [part(i, shard) for i in range(5) if members >> i & 1]
    total = hashlib.sha256(bytes([shard, members])).digest()
    return Report(shard, turn, members, inputs_digest(list(parts)), total, b"")


def reports() -> Reports:
    said = Reports(SETTING, 3)
    for place in range(5):
        said.add_upload(place, upload(place), b"")
    return said


@pytest.mark.parametrize("told", [(0b01111, 0b11110), (0b00111, 0b11001, 0b10110)])
def test_the_same_reports_in_any_order_have_the_same_target(told):
    targets = set()
    for order in itertools.permutations(enumerate(told)):
        said = reports()
        for shard in range(1, 5):
            said.add_report(shard, report(shard, EVERYONE))
        for place, members in order:
            said.add_report(place, report(0, members))
        targets.add(said.target())
    assert len(targets) == 1
    assert targets < set(told)


def test_a_target_follows_reports_as_they_come():
    said = reports()
    for shard in range(5):
        assert said.target() == 0
        said.add_report(shard, report(shard, FEW if shard == 2 else EVERYONE))
    assert said.target() == FEW
    assert not said.is_everywhere(FEW)
    for shard in range(5):
        said.add_report(shard, report(shard, FEW, turn=1))
    assert said.is_everywhere(FEW)
    said.bar(0)
    assert said.target() == FEW & ~1


def test_a_report_of_other_parts_than_were_uploaded_counts_for_nothing():
    said = reports()
    for shard in range(1, 5):
        said.add_report(shard, report(shard, EVERYONE))
    false = report(1, EVERYONE)
    said.add_report(0, Report(0, 0, EVERYONE, false.inputs, false.sum, b""))
    assert said.target() == 0
    said.add_report(1, report(0, EVERYONE))
    assert said.target() == EVERYONE


@pytest.fixture
def made(keys) -> Gathering:
    return gathering(keys, lambda _members: False)


def gathering(keys, isolates) -> Gathering:
    """Of the owner of slice 0, with every upload heard and no part here."""
    me = SETTING.slices[0].order[0]
    desk = Desk(PublicKey(me), bytes(32), keys, lambda *_: True, {})
    made = Gathering(SETTING, COHORT, desk, isolates)
    for place, member in enumerate(MEMBERS):
        assert made.upload(member, upload(place), b"")
    return made


def sums(made: Gathering) -> list[int]:
    made.advance(LATE)
    return [each.members for each in made._desk.drain() if isinstance(each, Sum)]


def test_who_reports_late_adds_over_what_the_others_agree_on(made):
    backup = SETTING.slices[0].order[1]
    for shard in range(5):
        made.report(backup, report(shard, FEW))
    made.have(*(part(place, 0) for place in range(5)))
    assert sums(made) == [FEW]


def test_who_is_late_and_alone_adds_over_what_it_has(made):
    made.have(*(part(place, 0) for place in range(5)))
    assert sums(made) == [EVERYONE]


def test_who_lacks_a_part_of_the_target_says_what_it_has(made):
    backup = SETTING.slices[0].order[1]
    for shard in range(5):
        made.report(backup, report(shard, FEW))
    made.have(*(part(place, 0) for place in range(1, 5)))
    assert sums(made) == [0b11110]


def test_what_may_not_be_opened_is_not_added_up_although_it_is_late(keys):
    """After a rejection the same members meet again, or nobody: a sum over fewer would be agreed on
    by all owners, certified by nobody, and given up."""
    made = gathering(keys, lambda members: len(members) < len(MEMBERS))
    backup = SETTING.slices[0].order[1]
    for shard in range(5):
        made.report(backup, report(shard, FEW))
    made.have(*(part(place, 0) for place in range(1, 5)))
    assert sums(made) == []
    made.have(part(0, 0))
    assert sums(made) == [EVERYONE]


def test_what_may_be_opened_after_all_is_added_up(keys):
    hidden = [True]
    made = gathering(keys, lambda _members: hidden[0])
    made.have(*(part(place, 0) for place in range(1, 5)))
    assert sums(made) == []
    hidden[0] = False
    assert sums(made) == []
    made.reconsider()
    assert sums(made) == [0b11110]
