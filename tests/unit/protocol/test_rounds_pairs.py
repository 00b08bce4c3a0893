"""What uploads say of pair keys, and whom a contradiction leaves out."""

import hashlib

import pytest

from protocol.aggregate.shards import slices
from protocol.rounds import pairs
from protocol.rounds.messages import Upload
from protocol.rounds.quarrels import left_out
from protocol.rounds.reports import Reports
from protocol.rounds.setting import Setting
from protocol.types import Digest, Millis

MEMBERS = tuple(bytes([i]) * 32 for i in range(5))


def key(i: int, j: int) -> bytes:
    return hashlib.sha256(bytes(sorted((i, j)))).digest()


def upload(place: int, **other: bytes) -> Upload:
    """`o3=...`: another digest at place 3."""
    digests = [
        other.get(f"o{j}", b"" if j == place else pairs.key_digest(key(place, j)))
        for j in range(5)
    ]
    return Upload((bytes(32),) * 5, tuple(digests))


def reports(context: bytes = bytes(32)) -> Reports:
    owned = slices(40, 4, MEMBERS, context)
    return Reports(Setting(context, 0, 0, MEMBERS, owned, Millis(0), 1, 1), 3)


def test_uploads_that_agree_leave_nobody_out():
    said = reports()
    for place in range(5):
        said.add_upload(place, upload(place), b"")
    assert said.wanted == 0b11111
    assert said.is_peaceful(0b11111)


def test_who_contradicts_several_is_left_out():
    said = reports()
    for place in range(4):
        said.add_upload(place, upload(place), b"")
    said.add_upload(4, upload(4, o1=bytes(32), o2=bytes(32)), b"")
    assert said.wanted == 0b01111
    assert not said.is_peaceful(0b10010)
    assert said.is_peaceful(0b11001)


def test_of_two_who_contradict_each_other_one_goes_and_not_always_the_same():
    gone = set()
    for attempt in range(12):
        said = reports(hashlib.sha256(bytes([attempt])).digest())
        for place in range(4):
            said.add_upload(place, upload(place), b"")
        said.add_upload(4, upload(4, o1=bytes(32)), b"")
        gone.add(0b11111 & ~said.wanted)
    assert gone == {0b00010, 0b10000}


def test_a_barred_member_takes_nobody_with_it():
    said = reports()
    said.bar(4)
    for place in range(4):
        said.add_upload(place, upload(place), b"")
    said.add_upload(4, upload(4, o1=bytes(32)), b"")
    assert said.wanted == 0b01111


@pytest.mark.parametrize("liar", [1, 4])
def test_the_open_key_names_the_liar_whichever_of_the_two_was_left_out(liar):
    other = 5 - liar
    uploads = {place: upload(place) for place in range(5)}
    uploads[liar] = upload(liar, **{f"o{other}": bytes(32)})
    for gone in (liar, other):
        keys = {j: key(gone, j) for j in range(5) if j != gone}
        assert pairs.false_digests(gone, keys, uploads) == [liar]


def test_an_upload_has_a_digest_for_everyone_but_its_member():
    assert pairs.is_shaped(upload(2), 2, 5)
    assert not pairs.is_shaped(upload(2), 3, 5)
    assert not pairs.is_shaped(upload(2), 2, 6)
    assert not pairs.is_shaped(upload(2, o1=b""), 2, 5)


def test_both_holders_derive_the_same_keys():
    from protocol.rounds import prekeys
    from protocol.rounds.messages import PreKey
    from protocol.rounds.stock import Known

    secrets = [hashlib.sha256(m).digest() for m in MEMBERS]
    used = {}
    for member, secret in zip(MEMBERS, secrets, strict=True):
        public = prekeys.public_of(secret)
        made = PreKey(bytes(32), 0, 0, public, bytes(32), (), ())
        used[member] = Known(member, made, Digest(bytes(32)), b"", None)
    context = Digest(bytes(32))
    all_keys = [
        pairs.pair_keys(s, m, [o for o in MEMBERS if o != m], used, context)
        for m, s in zip(MEMBERS, secrets, strict=True)
    ]
    said = [
        Upload((), pairs.digests(MEMBERS, m, keys))
        for m, keys in zip(MEMBERS, all_keys, strict=True)
    ]
    for i, one in enumerate(said):
        assert pairs.is_shaped(one, i, 5)
        for j, other in enumerate(said):
            assert pairs.agree(one, i, other, j)


def test_least_quarrelsome_members_stay():
    star = {"liar": ["a", "b", "c"], "a": ["liar"], "b": ["liar"], "c": ["liar"]}
    assert left_out(star) == ["liar"]
    assert left_out({"a": ["b"], "b": ["a"]}) == ["a"]
    assert left_out({"a": [], "b": []}) == []
