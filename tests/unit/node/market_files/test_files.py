"""Folders of files are published, fetched and found."""

import io
import stat
from hashlib import sha256

import crypt4gh.lib
import msgspec
import nacl.public
import nacl.signing
import pytest
from file_world import OTHER, READER, TEXTS, VCF, dicom, listed, parquet, write

from node.adapters.memory_store import MemoryBlobs
from node.errors import AccessError, StorageError, TransportError
from node.market import DatasetError, sealed
from node.market.search import Filter, Index
from node.rpc.results import data as results
from protocol.listing import LISTING_TOPIC, open_listing
from protocol.members import ROLE_RESEARCHER, MemberSet


def scans(folder):
    for patient in range(12):
        for part in range(2):
            dicom(folder / f"p{patient:02d}" / f"{part}.dcm", f"P{patient}")
        write(folder / f"p{patient:02d}" / "report.csv", "a,b\n1,2\n")
    return folder


async def test_a_folder_of_scans_is_published_and_read_back(world, tmp_path):
    shown = await listed(world, scans(tmp_path / "scans"))
    msgspec.convert(shown, results.DatasetShown)  # what docs/rpc.md says
    assert shown["units"] == 12
    assert [p["format"] for p in shown["listing"]["parts"]] == ["csv", "dicom"]
    assert "24 DICOM files carry" in shown["warnings"][0]
    await world.owner.market.give(shown["dataset"], READER, [3, 5], 10)
    out = tmp_path / "out"
    got = await world.reader.market.fetch(shown["dataset"], None, out)
    assert got["units"] == [3, 5]
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert files == sorted(
        f"unit-{u:03d}/{kind}/p{u:02d}/{name}"
        for u in (3, 5)
        for kind, name in (
            ("dicom", "0.dcm"),
            ("dicom", "1.dcm"),
            ("csv", "report.csv"),
        )
    )
    read = (out / "unit-003/dicom/p03/0.dcm").read_bytes()
    assert read == (tmp_path / "scans/p03/0.dcm").read_bytes()
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(p.stat().st_mode) & 0o077 == 0 for p in out.rglob("*"))
    with pytest.raises(AccessError, match="is not a table"):
        await world.owner.market.own_rows(shown["dataset"])


async def test_sealed_files_are_opened_by_the_reference_tool(world, tmp_path):
    for number in range(3):
        write(tmp_path / "v" / f"{number}.vcf", VCF + str(number))
    shown = await listed(world, tmp_path / "v")
    await world.owner.market.give(shown["dataset"], READER, [1], 10)
    theirs = bytes(nacl.public.PrivateKey(b"z" * 32))
    out = tmp_path / "out"
    await world.reader.market.fetch(
        shown["dataset"], None, out, crypt4gh_key=sealed.public_half(theirs)
    )
    (file,) = out.iterdir()
    assert file.name == "unit-001.vcf.c4gh"
    plain = io.BytesIO()
    with file.open("rb") as source:
        crypt4gh.lib.decrypt([(0, theirs, None)], source, plain)
    assert plain.getvalue().decode() == VCF + "1"
    with pytest.raises(ValueError, match="supported"), file.open("rb") as source:
        crypt4gh.lib.decrypt([(0, world.other.secret, None)], source, io.BytesIO())


async def test_a_grant_of_some_columns_reads_these_and_no_others(world, tmp_path):
    """Other columns of the same rows are another dataset: with keys, terms and grants of its own."""
    rows = "".join(f"p{n % 3},{n},{n}.5\n" for n in range(30))
    path = write(tmp_path / "visits.csv", "PID,age,lactate\n" + rows)
    ages = await listed(world, path, unit_by="PID", columns=["age"])
    values = await listed(world, path, unit_by="PID", columns=["lactate"])
    assert ages["dataset"] != values["dataset"]
    again = await listed(world, path, unit_by="PID", columns=["age"])
    assert again["dataset"] == ages["dataset"]
    await world.owner.market.give(ages["dataset"], READER, [1], 10)
    out = tmp_path / "ages.csv"
    await world.reader.market.fetch(ages["dataset"], None, out)
    assert out.read_text().split() == ["age", *map(str, range(1, 30, 3))]
    with pytest.raises(AccessError, match="no grant"):
        await world.reader.market.fetch(values["dataset"], None, tmp_path / "no.csv")
    rows_of = await world.owner.market.own_rows(values["dataset"])
    assert rows_of.decode().split()[0] == "lactate"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
async def test_who_withdraws_is_told_where_the_same_rows_are_still_to_be_had(
    world, tmp_path, suffix
):
    if suffix == "csv":
        rows = "".join(f"p{n % 3},{n},{n}.5\n" for n in range(30))
        path = write(tmp_path / "visits.csv", "PID,Age,BMI\n" + rows)
    else:
        path = parquet(tmp_path / "visits.parquet")
    whole, ages, other_cut = [
        (await listed(world, path, **how))["dataset"]
        for how in (
            {"unit_by": "PID"},
            {"unit_by": "PID", "columns": ["Age"]},
            # The same table in other units: of another number, so not named.
            {"columns": ["BMI"]},
        )
    ]
    owner = world.owner.market
    assert (await owner.show(whole))["slices"] == [ages]
    assert (await owner.show(ages))["slices"] == [whole]
    assert (await owner.show(other_cut))["slices"] == []
    # Which listings share rows is the owner's knowledge alone.
    assert (await world.reader.market.show(whole))["slices"] == []
    done = await owner.withdraw(whole, [0, 1])
    assert done["same_rows"] == [{"dataset": ages, "units": [0, 1]}]
    assert (await owner.withdraw(ages, [1]))["same_rows"] == []
    assert (await owner.withdraw(whole, [0, 1]))["same_rows"] == [
        {"dataset": ages, "units": [0]}
    ]
    assert (await owner.withdraw(ages, [0]))["same_rows"] == []


async def test_no_plain_digest_of_a_table_is_stored(world, tmp_path):
    rows = "".join(f"p{n % 3},{n}\n" for n in range(30))
    path = write(tmp_path / "visits.csv", "PID,Age\n" + rows)
    await listed(world, path, unit_by="PID")
    found = sha256(path.read_bytes()).digest()
    cuts = await world.owner.store.scan("market.cut")
    assert len(cuts) == 1
    assert all(found not in key + value for key, value in cuts)


async def test_a_parquet_table_comes_back_whole_and_as_rows(world, tmp_path):
    import pyarrow.parquet as pq

    path = parquet(tmp_path / "t.parquet")
    shown = await world.owner.market.publish([path], *TEXTS, unit_by="PID")
    assert shown["listing"]["rows"] == [10, 10, 10, 10]
    rows = await world.owner.market.own_rows(shown["dataset"])
    assert rows.decode().splitlines()[0].replace('"', "") == "PID,Age,BMI"
    assert len(rows.splitlines()) == 41
    await world.owner.market.give(shown["dataset"], READER, None, 10)
    out = tmp_path / "out.parquet"
    await world.reader.market.fetch(shown["dataset"], None, out)
    got, sent = pq.read_table(out), pq.read_table(path)
    assert sorted(got["Age"].to_pylist()) == sent["Age"].to_pylist()
    assert got.schema.names == sent.schema.names


async def test_a_range_of_a_unit_is_read_alone(world, tmp_path):
    write(tmp_path / "v" / "a.fa", ">x\n" + "ACGT" * 100_000)
    shown = await listed(world, tmp_path / "v")
    found = await world.owner.market.own_bytes(
        shown["dataset"], 0, offset=200_003, length=8
    )
    assert found == b"ACGTACGT"


class DiskFull(MemoryBlobs):
    """Takes a few blobs, then no more."""

    def __init__(self, left):
        super().__init__()
        self.left = left

    def put(self, data):
        if self.left == 0:
            raise StorageError("no space left on disk")
        self.left -= 1
        return super().put(data)


async def cut(world, folder):
    """A publishing of six units that the disk stops after three."""
    for number in range(6):
        write(folder / f"{number}.fa", ">x\n" + "ACGT" * 1000 + str(number))
    owner = world.owner
    owner.blobs = DiskFull(7)
    owner.transport._blobs = owner.blobs
    owner.start(world)
    with pytest.raises(StorageError, match="no space"):
        await listed(world, folder)
    return owner


@pytest.mark.parametrize("late", [0, 1])
async def test_a_publishing_nobody_comes_back_to_loses_its_keys_after_a_fortnight(
    world, tmp_path, late
):
    owner = await cut(world, tmp_path / "v")
    assert len(owner.blobs._held) >= 6
    world.now += 14 * 86_400 + late
    owner.blobs.left = 100
    write(tmp_path / "w" / "a.fa", ">x\nACGT\n")
    await listed(world, tmp_path / "w")
    left = (
        await owner.store.scan("market.draft"),
        await owner.store.scan("market.chunk"),
    )
    if late:
        assert left == ([], [])
        assert len(owner.blobs._held) <= 3  # of the new one, and a chunk nobody noted
    else:
        assert len(left[0]) == 1
        assert len(left[1]) >= 3


async def test_a_publishing_that_was_cut_goes_on_under_the_same_keys(world, tmp_path):
    folder = tmp_path / "v"
    owner = await cut(world, folder)
    drafts = await owner.store.scan("market.draft")
    sealed_before = set(owner.blobs._held)
    owner.blobs.left = 100
    shown = await listed(world, folder)
    assert len(drafts) == 1
    # Three units were whole before: nothing of them was made again.
    assert len(owner.blobs._held) == 12
    assert sealed_before <= set(owner.blobs._held)
    assert await owner.store.scan("market.draft") == []
    assert await owner.store.scan("market.chunk") == []
    rows = [
        await owner.market.own_bytes(shown["dataset"], u, offset=0, length=9000)
        for u in range(6)
    ]
    assert rows == [(folder / f"{u}.fa").read_bytes() for u in range(6)]
    assert (await listed(world, folder))["dataset"] == shown["dataset"]


async def test_a_new_version_has_new_keys_and_names_the_old(world, tmp_path):
    folder = tmp_path / "v"
    write(folder / "a.vcf", VCF)
    first = await listed(world, folder)
    write(folder / "b.vcf", VCF)
    second = await world.owner.market.publish(
        [folder], *TEXTS, replaces=first["dataset"]
    )
    assert second["dataset"] != first["dataset"]
    assert second["listing"]["version"] == 2
    assert second["listing"]["previous"] == first["record"]
    shelf = world.owner.market._shelf
    old = {e.root for e in shelf.own(first["dataset"])[2].entries}
    new = {e.root for e in shelf.own(second["dataset"])[2].entries}
    assert not old & new


async def test_what_a_version_means_for_the_others_is_told(world, tmp_path):
    """It takes nothing away: readers, withdrawals and searches have to be told."""
    owner = world.owner.market

    async def version(number, replaces=None):
        path = tmp_path / f"{number}.fa"
        if not path.exists():  # a file is recognised by its time, too
            write(path, f">x\n{'ACGT' * number}\n")
        return await owner.publish([path], *TEXTS, replaces=replaces)

    first = (await version(1))["dataset"]
    await owner.give(first, READER, None, 10)
    shown = await version(2, first)
    second = shown["dataset"]
    (warning,) = shown["warnings"]
    assert f"{first} stays as it is, and {READER} can read it" in warning
    assert f"give grants of dataset {second};" in warning
    assert (await version(2, first))["dataset"] == second  # the same call again
    with pytest.raises(DatasetError, match=f"replaced by dataset {second} already"):
        await version(3, first)
    third = (await version(3, second))["dataset"]
    rows = await owner.search()
    msgspec.convert(rows, list[results.DatasetRow])
    newer = {row["dataset"]: row["replaced_by"] for row in rows}
    assert newer == {first: second, second: third, third: None}
    await world.reader.market.show(first)
    assert (await world.reader.market.show(second))[
        "replaced_by"
    ] is None  # not heard yet
    await world.reader.market.show(third)
    assert (await world.reader.market.show(second))["replaced_by"] == third
    done = await owner.withdraw(second)
    msgspec.convert(done, results.DatasetsWithdraw)
    assert done["versions"] == [first, third]
    assert (await owner.withdraw(third))["versions"] == [first]
    # Of a version that nobody can read there may be another.
    fourth = await version(4, first)
    assert fourth["listing"]["version"] == 2


async def test_groups_of_columns_of_one_table_are_found_as_one(world, tmp_path):
    """Each has keys and grants of its own; that they belong together is what their owner says."""
    owner, reader = world.owner.market, world.reader.market
    path = parquet(tmp_path / "visits.parquet")
    cut = {"vitals": ["Age"], "labs": ["BMI"]}
    numbers = {
        name: (
            await owner.publish(
                [path], *TEXTS, unit_by="PID", columns=columns, group=name
            )
        )["dataset"]
        for name, columns in cut.items()
    }
    # Of the same columns under no name, and under another title: neither is of the groups.
    for title, group in ((TEXTS[0], None), ("Other", "age")):
        await owner.publish(
            [path], title, *TEXTS[1:], unit_by="PID", columns=["Age"], group=group
        )
    for number in numbers.values():
        await reader.show(number)
    for market in (owner, reader):
        shown = await market.show(numbers["labs"])
        msgspec.convert(shown, results.DatasetShown)
        assert shown["group"] == "labs"
        assert shown["groups"] == [
            {"name": name, "dataset": numbers[name], "columns": columns}
            for name, columns in cut.items()
        ]
    await owner.give(numbers["vitals"], READER, [1], 10)
    got = await reader.fetch(numbers["vitals"], None, tmp_path / "got.csv")
    assert got["columns"] == ["Age"]
    with pytest.raises(AccessError, match="no grant"):
        await reader.fetch(numbers["labs"], None, tmp_path / "got.csv")


@pytest.mark.parametrize(
    ("group", "columns", "reason"),
    [
        ("Labs 2", ["Age"], "group 'Labs 2'"),
        ("labs", [], "group 'labs' of 0 columns"),
        ("p123456789", ["Age"], "long number|nine"),
    ],
)
async def test_what_is_no_name_of_a_group_is_refused(
    world, tmp_path, group, columns, reason
):
    path = parquet(tmp_path / "visits.parquet")
    with pytest.raises(DatasetError, match=reason):
        await world.owner.market.publish([path], *TEXTS, columns=columns, group=group)


async def test_another_members_word_replaces_nothing(world, tmp_path):
    first = await listed(world, write(tmp_path / "a.fa", ">x\nACGT\n"))
    false = write(tmp_path / "b.fa", ">x\nACGTA\n")
    theirs, own = world.other.market, world.other.market._owner._tools.shelf
    await theirs.publish([false], *TEXTS)
    listing = open_listing(world.owner.market._shelf.own(first["dataset"])[0].listing)
    mine = own.own(own.datasets()[0])[1]
    index = Index()
    index.add(1, listing)
    index.add(2, msgspec.structs.replace(mine, previous=listing.digest()))
    assert index.newer(listing) is None
    index.add(3, msgspec.structs.replace(listing, previous=listing.digest()))
    assert index.newer(listing) == 3


async def test_a_grantee_passes_ciphertext_on_to_grantees_only(world, tmp_path):
    write(tmp_path / "v" / "a.vcf", VCF)
    shown = await listed(world, tmp_path / "v")
    dataset = shown["dataset"]
    await world.owner.market.give(dataset, READER, [0], 10)
    await world.reader.market.fetch(dataset, None, tmp_path / "out")
    (piece,) = [
        d
        for d in world.reader.blobs._held
        if world.owner.market._shelf.place(d) and len(world.reader.blobs._held[d]) > 100
    ]
    other = world.other.peer_id
    await world.reader.market.refresh()
    assert not world.reader.market.may_fetch(other, piece)
    await world.owner.market.give(dataset, OTHER, [0], 10)
    await world.reader.market.refresh()
    assert world.reader.market.may_fetch(other, piece)
    await world.other.transport.fetch(
        world.reader.peer_id, piece, limit_bytes=1 << 20, timeout_s=5
    )
    # A restarted holder still knows what it holds.
    world.reader.start(world)
    await world.reader.market.refresh()
    assert world.reader.market.may_fetch(other, piece)


async def test_what_the_owner_cannot_give_comes_from_another_grantee(world, tmp_path):
    write(tmp_path / "v" / "a.fa", ">x\n" + "ACGT" * 50_000)
    dataset = (await listed(world, tmp_path / "v"))["dataset"]
    await world.owner.market.give(dataset, OTHER, [0], 10)
    await world.other.market.fetch(dataset, None, tmp_path / "other")
    await world.owner.market.give(dataset, READER, [0], 10)
    await world.other.market.refresh()
    # The owner still releases keys; its ciphertext is out of reach.
    whole, world.owner.blobs._held = world.owner.blobs._held, {}
    got = await world.reader.market.fetch(dataset, None, tmp_path / "out")
    assert got["bytes"] == (tmp_path / "v" / "a.fa").stat().st_size
    # And where nobody has it, the owner's own words are what is told.
    world.reader.blobs._held.clear()
    world.other.blobs._held.clear()
    with pytest.raises(TransportError, match="is not here"):
        await world.reader.market.fetch(dataset, None, tmp_path / "again")
    world.owner.blobs._held = whole
    await world.reader.market.fetch(dataset, None, tmp_path / "again")


# --- found ---------------------------------------------------------------------


async def test_a_listing_is_heard_and_found_without_asking_its_owner(world, tmp_path):
    write(tmp_path / "v" / "a.vcf", VCF)
    await listed(world, tmp_path / "v")
    assert await world.reader.market.search("chest") == []
    said = await anext(world.reader.transport.announcements())
    assert said.topic == LISTING_TOPIC
    await world.reader.market.heard(said)
    await world.reader.market.refresh()
    (found,) = await world.reader.market.search("CHEST sca")
    assert found["title"] == "Chest scans"
    for nothing in ("brain", "chest brain", "hest"):
        assert await world.reader.market.search(nothing) == []


async def test_a_forged_or_unanchored_listing_is_not_kept(world, tmp_path):
    write(tmp_path / "v" / "a.vcf", VCF)
    await listed(world, tmp_path / "v")
    said = await anext(world.reader.transport.announcements())
    from node.ports.transport import Announcement

    bent = said.payload[:-1] + bytes([said.payload[-1] ^ 1])
    await world.reader.market.heard(Announcement(said.origin, said.topic, bent))
    relayed = Announcement(world.other.peer_id, said.topic, said.payload)
    await world.reader.market.heard(relayed)
    await world.reader.market.refresh()
    world.ledger.tokens.clear()
    await world.reader.market.heard(said)
    await world.reader.market.refresh()
    assert await world.reader.store.scan("market.seen") == []


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), {"scans", "genes", "table"}),
        (Filter(purpose="DUO:0000042"), {"scans", "table"}),
        (Filter(purpose="DUO:0000007"), {"scans", "genes", "table"}),
        (Filter(commercial=True), {"scans", "genes"}),
        (Filter(format="fasta"), {"genes"}),
        (Filter(licence="MIT"), {"table"}),
        (Filter(disease="MONDO:0005070"), {"genes"}),
        (Filter(columns=("Age",)), {"table"}),
        (Filter(rows_at_least=20), {"table"}),
    ],
)
async def test_filters(world, tmp_path, wanted, found):
    market = world.owner.market
    write(tmp_path / "s" / "a.png", b"\x89PNG\r\n\x1a\n")
    write(tmp_path / "g" / "a.fa", ">x\nACGT\n")
    table = write(tmp_path / "t.csv", "Age\n" + "1\n" * 30)
    general = ["DUO:0000042"]
    await market.publish([tmp_path / "s"], "scans", "CC-BY-4.0", general, "x")
    await market.publish(
        [tmp_path / "g"],
        *("genes", "CC-BY-4.0", ["DUO:0000007"], "x"),
        disease="MONDO:0005070",
    )
    not_for_profit = ["DUO:0000042", "DUO:0000018"]
    await market.publish([table], "table", "MIT", not_for_profit, "x")
    rows = await market.search("", wanted)
    assert {row["title"] for row in rows} == found


@pytest.mark.parametrize(
    ("wanted", "why", "hint"),
    [
        (Filter(format="dcm"), "'dcm' is no format", "dicom"),
        (Filter(purpose="DUO:0000021"), "is not a permission", "DUO:0000007"),
    ],
)
async def test_a_filter_that_no_listing_could_meet_is_refused(world, wanted, why, hint):
    with pytest.raises(DatasetError, match=why) as caught:
        await world.owner.market.search("", wanted)
    assert hint in caught.value.hint()


async def test_who_may_list_nothing_is_told_before_anything_is_encrypted(
    world, tmp_path, monkeypatch
):
    write(tmp_path / "v" / "a.vcf", VCF)
    chain = world.owner.market._tools.chain
    known = await chain.members()
    less = MemberSet.of(
        [msgspec.structs.replace(one, roles=ROLE_RESEARCHER) for one in known.members]
    )

    async def members():
        return less

    monkeypatch.setattr(chain, "members", members)
    with pytest.raises(AccessError, match="is no data provider on the chain"):
        await world.owner.market.publish([tmp_path / "v"], *TEXTS)
    assert await world.owner.store.scan("market.draft") == []


async def test_a_misspelt_disease_is_no_search_without_results(world):
    with pytest.raises(DatasetError, match="'lung' is not a term such as MONDO"):
        await world.reader.market.search("", Filter(disease="lung"))
