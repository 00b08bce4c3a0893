"""Where what was granted is written, and what it costs to get it there."""

import gzip

import pytest
from file_world import READER, TEXTS, VCF, listed, parquet, write

from node.errors import AccessError, StorageError, TransportError


async def files(world, tmp_path, count=3):
    for number in range(count):
        write(tmp_path / "in" / f"{number}.vcf.gz", gzip.compress(VCF.encode()))
    shown = await listed(world, tmp_path / "in")
    await world.owner.market.give(shown["dataset"], READER, None, 10)
    return shown["dataset"]


@pytest.mark.parametrize("where", ["nowhere/out", "taken"])
async def test_nothing_is_fetched_for_which_there_is_no_place(world, tmp_path, where):
    dataset = await files(world, tmp_path)
    (tmp_path / "taken").mkdir()
    with pytest.raises(StorageError, match=r"cannot be written|exists"):
        await world.reader.market.fetch(dataset, None, tmp_path / where)
    assert not world.reader.blobs._held
    await world.reader.market.fetch(dataset, None, tmp_path / "out")
    assert world.reader.blobs._held


async def test_for_a_table_likewise(world, tmp_path):
    shown = await world.owner.market.publish([parquet(tmp_path / "t.parquet")], *TEXTS)
    await world.owner.market.give(shown["dataset"], READER, None, 10)
    with pytest.raises(StorageError, match="cannot be written"):
        await world.reader.market.fetch(
            shown["dataset"], None, tmp_path / "nowhere" / "t.csv"
        )
    assert not world.reader.blobs._held


async def test_a_packed_file_keeps_the_suffix_that_tools_go_by(world, tmp_path):
    dataset = await files(world, tmp_path, 1)
    write(tmp_path / "plain" / "a.vcf", VCF)
    other = (await listed(world, tmp_path / "plain"))["dataset"]
    await world.owner.market.give(other, READER, None, 10)
    for number, name in ((dataset, "unit-000.vcf.gz"), (other, "unit-000.vcf")):
        out = tmp_path / f"out{number}"
        await world.reader.market.fetch(number, None, out)
        assert [one.name for one in out.iterdir()] == [name]


async def test_a_table_is_written_as_its_name_says(world, tmp_path):
    shown = await world.owner.market.publish([parquet(tmp_path / "t.parquet")], *TEXTS)
    rows = await world.owner.market.publish(
        [write(tmp_path / "t.csv", "a,b\n1,2\n")], *TEXTS
    )
    for one in (shown, rows):
        await world.owner.market.give(one["dataset"], READER, None, 10)
    fetch = world.reader.market.fetch
    await fetch(shown["dataset"], None, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith('"PID","Age","BMI"\n')
    await fetch(shown["dataset"], None, tmp_path / "out.table")
    assert (tmp_path / "out.table").read_bytes().startswith(b"PAR1")
    with pytest.raises(AccessError, match="would hold CSV"):
        await fetch(rows["dataset"], None, tmp_path / "rows.parquet")


async def test_the_chain_is_not_asked_for_every_unit(world, tmp_path):
    """Of the grants, which say who else may hold a unit."""
    asked = []
    grants = world.reader.chain.grants

    async def counted(dataset):
        asked.append(world.now)
        return await grants(dataset)

    world.reader.chain.grants = counted
    dataset = await files(world, tmp_path, 12)
    await world.reader.market.fetch(dataset, None, tmp_path / "out")
    assert len(asked) == 2  # with the keys, and once all is here


@pytest.mark.parametrize(
    ("error", "said", "hint"),
    [
        (AccessError("not allowed"), "not given any further", "revoked meanwhile"),
        (
            TransportError("stream was reset"),
            "from clinic was cut",
            "same command again",
        ),
    ],
)
async def test_what_cut_a_fetch_and_what_to_do_is_told(
    world, tmp_path, error, said, hint, monkeypatch
):
    dataset = await files(world, tmp_path)

    async def fails(*_asked, **_how):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(world.reader.transport, "fetch", fails)
        with pytest.raises(type(error), match=said) as caught:
            await world.reader.market.fetch(dataset, None, tmp_path / "out")
    assert str(error) in str(caught.value)
    assert hint in caught.value.hint()
    await world.reader.market.fetch(dataset, None, tmp_path / "out")


async def test_an_owner_that_does_not_answer_is_named(world, tmp_path, monkeypatch):
    dataset = await files(world, tmp_path)

    async def fails(*_asked, **_how):
        raise TransportError("stream was reset")

    monkeypatch.setattr(world.reader.transport, "request", fails)
    with pytest.raises(TransportError, match="asking clinic failed: stream") as caught:
        await world.reader.market.fetch(dataset, None, tmp_path / "out")
    assert "again" in caught.value.hint()
