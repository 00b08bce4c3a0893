"""A look before publishing: it says what publishing then says, and does nothing of it."""

import dataclasses

import msgspec
import pytest
from file_world import OWNER, READER, TEXTS, VCF, dicom, listed, parquet, write

from node.errors import AccessError
from node.market import DatasetError
from node.market.preview import NAMES_SHOWN
from node.market.publish import Description
from node.rpc.results import data as results

ONLY_PUBLIC = [
    "licence",
    "duo",
    "source",
    "disease",
    "version",
    "previous",
    "parts",
    "packed",
    "columns",
    "rows",
]


def said(**how):
    title, licence, duo, source = TEXTS
    given = {"unit_by": None, **how}
    return Description(title, licence, tuple(duo), source, **given)


async def looked(world, path, *, who=None, replaces=None, **how):
    shown = await world.owner.market.preview(
        [path], said(**how), replaces=replaces, who=who
    )
    msgspec.convert(shown, results.DatasetsPreview)  # what docs/rpc.md says
    return shown


async def left(world):
    """All that a publishing leaves behind."""
    owner = world.owner
    return (
        {key: dict(rows) for key, rows in owner.store._records.items() if rows},
        len(owner.store._events),
        set(owner.blobs._held),
        len(await owner.chain.datasets()),
    )


def visits(folder):
    people = [f"p{n}" for n in (5, 3, 9)]
    rows = "".join(f"{people[n % 3]},{n},{n}.5\n" for n in range(36))
    return write(folder / "visits.csv", "PID,age,mrn\n" + rows)


def patients(folder):
    for number in range(3):
        dicom(folder / f"{number}.dcm", f"P{number}", name="Doe^Jane")
    return folder


def genomes(folder):
    for number in range(3):
        write(folder / f"{number}.vcf", VCF)
    return folder


def studies(folder):
    for number in range(3):
        write(folder / f"s{number}" / "report.txt", "text")
        write(folder / f"s{number}" / "more.txt", "more")
    return folder


CASES = [
    (visits, {"unit_by": "PID"}, ["p5", "p3", "p9"]),
    (visits, {"unit_by": "PID", "columns": ("age",)}, ["p5", "p3", "p9"]),
    (visits, {}, ["rows 1 to 12", "rows 13 to 24", "rows 25 to 36"]),
    (
        lambda folder: parquet(folder / "v.parquet"),
        {"unit_by": "PID"},
        ["p0", "p1", "p2", "p3"],
    ),
    (patients, {"unit_by": "patient"}, ["P0", "P1", "P2"]),
    (genomes, {}, ["0.vcf", "1.vcf", "2.vcf"]),
    (studies, {}, ["s0", "s1", "s2"]),
]


@pytest.mark.parametrize(
    ("make", "how", "names"),
    CASES,
    ids=["person", "columns", "rows", "parquet", "patient", "files", "folders"],
)
async def test_it_says_what_publishing_says_and_leaves_nothing(
    world, tmp_path, make, how, names
):
    folder = tmp_path / "data"
    folder.mkdir()
    path = make(folder)
    before = await left(world)
    shown = await looked(world, path, **how, who=names[1])
    assert await left(world) == before
    assert [held["names"] for held in shown["holds"]] == [[name] for name in names]
    assert shown["unit"] == 1
    made = await listed(world, path, **how)
    assert await left(world) != before
    listing = made["listing"]
    assert {key: shown[key] for key in ONLY_PUBLIC} == {
        key: listing[key] for key in ONLY_PUBLIC
    }
    assert shown["warnings"] == made["warnings"]
    assert len(shown["holds"]) == made["units"]
    # Which unit holds whom is in nothing that others are shown.
    if how:
        assert not any(name in repr(listing) for name in names)


async def test_the_unit_it_names_is_the_one_that_holds_the_person(world, tmp_path):
    rows = "".join(f"q{(n * 7) % 100:02d},{n}\n" for n in range(200))
    path = write(tmp_path / "visits.csv", "PID,age\n" + rows)
    made = await listed(world, path, unit_by="PID")
    await world.owner.market.give(made["dataset"], READER, None, 10)
    for who in ("q00", "q49", "q93"):
        shown = await looked(world, path, unit_by="PID", who=who)
        out = tmp_path / f"{who}.csv"
        await world.reader.market.fetch(
            made["dataset"], None, out, units=[shown["unit"]]
        )
        assert f"\n{who}," in out.read_text()
    assert len(shown["holds"]) == made["units"] == 64
    assert sum(held["named"] for held in shown["holds"]) == 100
    assert sum(held["records"] for held in shown["holds"]) == 200


async def test_of_many_in_one_unit_it_shows_some_and_finds_all(world, tmp_path):
    rows = "".join(f"r{n:04d},{n}\n" for n in range(64 * 20))
    path = write(tmp_path / "visits.csv", "PID,age\n" + rows)
    shown = await looked(world, path, unit_by="PID", who="r0019")
    assert shown["unit"] == 0
    first = shown["holds"][0]
    assert (first["named"], first["records"]) == (20, 20)
    assert first["names"] == [f"r{n:04d}" for n in range(NAMES_SHOWN)]


async def test_what_publishing_refuses_it_refuses(world, tmp_path):
    path = visits(tmp_path)
    with pytest.raises(DatasetError, match="no unit holds 'p4'"):
        await looked(world, path, unit_by="PID", who="p4")
    with pytest.raises(DatasetError, match="no column 'PIN'"):
        await looked(world, path, unit_by="PIN")
    with pytest.raises(DatasetError, match="cannot be read"):
        await looked(world, tmp_path / "absent.csv")
    wrong = dataclasses.replace(said(), title="call 030 1234567")
    with pytest.raises(DatasetError, match="telephone number"):
        await world.owner.market.preview([path], wrong)
    with pytest.raises(AccessError, match="not of this node"):
        await looked(world, path, unit_by="PID", replaces=4)


async def test_of_a_next_version_it_shows_which(world, tmp_path):
    path = visits(tmp_path)
    first = await listed(world, path, unit_by="PID")
    shown = await looked(world, path, unit_by="PID", replaces=first["dataset"])
    assert (shown["version"], shown["previous"]) == (2, first["record"])
    assert first["owner"] == OWNER
