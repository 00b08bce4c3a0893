"""How files and tables become consent units."""

import csv
import io

import pytest
from file_world import VCF, dicom, parquet, write

from node.market import DatasetError, plan
from node.market.parquet import to_csv
from protocol.listing import UNITS_LIMIT


def test_folders_are_units_and_more_than_64_are_put_together(tmp_path):
    for number in range(70):
        write(tmp_path / f"p{number:03d}" / "a.fa", ">x\nACGT\n")
        write(tmp_path / f"p{number:03d}" / "b.vcf", VCF)
    made = plan.of_paths([tmp_path], None)
    assert len(made.units) == UNITS_LIMIT
    assert made.packed
    assert [part.name for part in made.parts] == ["fasta", "vcf"]
    assert [unit.records for unit in made.units] == [4] * 6 + [2] * 58
    assert made.rows() == (None,) * 64
    assert [part.records for part in made.parts] == [70, 70]


def test_single_files_stay_what_they_are(tmp_path):
    for number in range(12):
        write(tmp_path / f"{number}.vcf", VCF)
    made = plan.of_paths([tmp_path], None)
    assert not made.packed
    assert len(made.units) == 12
    assert made.parts[0].records == 12


def test_dicom_is_cut_by_patient(tmp_path):
    for number in range(6):
        dicom(tmp_path / f"{number}.dcm", patient=f"P{number % 2}")
    made = plan.of_paths([tmp_path], "patient")
    assert [unit.records for unit in made.units] == [3, 3]
    write(tmp_path / "x.vcf", VCF)
    with pytest.raises(DatasetError, match="not DICOM"):
        plan.of_paths([tmp_path], "patient")


def test_a_table_may_call_its_column_as_files_are_cut(tmp_path):
    rows = "".join(f"p{number % 3},{number}\n" for number in range(30))
    path = write(tmp_path / "visits.csv", "patient,x\n" + rows)
    assert [unit.records for unit in plan.of_paths([path], "patient").units] == [10] * 3
    other = write(tmp_path / "other.csv", "who,x\n" + rows)
    with pytest.raises(DatasetError, match="'patient'"):
        plan.of_paths([other], "patient")


def test_a_parquet_table_is_cut_by_a_column_and_padded(tmp_path):
    made = plan.of_paths([parquet(tmp_path / "t.parquet")], "PID")
    assert [unit.records for unit in made.units] == [10, 10, 10, 10]
    assert all(len(unit.extents[0]) % 4096 == 0 for unit in made.units)
    assert not made.packed


VISITS = "PID,age,lactate\n" + "".join(f"p{n % 3},{n},{n}.5\n" for n in range(30))


def test_of_a_table_some_columns_are_cut_as_all_of_it_would_be(tmp_path):
    """The column that names the person need not be one of them."""
    path = write(tmp_path / "visits.csv", VISITS)
    made = plan.of_paths([path], "PID", ["lactate", "age"])
    assert [column.name for column in made.parts[0].columns] == ["age", "lactate"]
    assert [column.kind for column in made.parts[0].columns] == ["integer", "number"]
    assert made.rows() == plan.of_paths([path], "PID").rows() == (10, 10, 10)
    second = made.units[1].extents[0].decode().split()
    assert second == ["age,lactate", *(f"{n},{n}.5" for n in range(1, 30, 3))]
    assert not any(b"p1" in unit.extents[0] for unit in made.units)


def test_of_parquet_likewise(tmp_path):
    import pyarrow.parquet as pq

    path = parquet(tmp_path / "t.parquet")
    whole = pq.read_table(path)
    names = [name for name in whole.column_names if name != "PID"][:1]
    made = plan.of_paths([path], "PID", names)
    assert [column.name for column in made.parts[0].columns] == names
    unit = pq.read_table(io.BytesIO(made.units[0].extents[0]))
    assert unit.column_names == names
    first = [n for n, who in enumerate(whole["PID"]) if who == whole["PID"][0]]
    assert unit.column(0).to_pylist() == whole.select(names).take(first)[0].to_pylist()


def categories(folder):
    """What pandas and R write of a column with few values, and beside the columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    who = [f"person {n:02}" for n in range(40)]
    ward = pa.array([f"ward of {one}" for one in who])
    table = pa.table(
        {
            "PID": who,
            "ward": ward.dictionary_encode(),
            "wards": pa.ListArray.from_arrays(range(41), ward.dictionary_encode()),
            "year": pa.array([2000 + n for n in range(40)]).dictionary_encode(),
            "died": [n % 2 == 0 for n in range(40)],
        },
        metadata={"pandas": '{"columns": ["PID", "HIV status"], "stop": 4711}'},
    )
    pq.write_table(table, folder / "t.parquet")
    return folder / "t.parquet"


def test_a_unit_of_parquet_holds_nothing_of_another(tmp_path):
    """A category is stored with all its values, a footer with all columns and a count of rows."""
    import pyarrow.parquet as pq

    made = plan.of_paths([categories(tmp_path)], "PID", ["ward", "wards", "year"])
    (unit,) = made.units[7].extents
    file = pq.ParquetFile(io.BytesIO(unit))
    assert file.read().to_pylist() == [
        {"ward": "ward of person 07", "wards": ["ward of person 07"], "year": 2007}
    ]
    # Unpacked, since the pages are compressed.
    plain = io.BytesIO()
    with pq.ParquetWriter(plain, file.schema_arrow, compression="none") as writer:
        writer.write_table(file.read())
        writer.add_key_value_metadata(file.metadata.metadata)
    for other in (b"person 08", b"HIV", b"4711"):
        assert other not in plain.getvalue()
    assert b"person 07" in plain.getvalue()


def test_cells_of_parquet_are_what_the_listing_calls_them(tmp_path):
    made = plan.of_paths([categories(tmp_path)], "PID")
    kinds = {column.name: column.kind for column in made.parts[0].columns}
    assert (kinds["ward"], kinds["year"], kinds["died"]) == (
        "text",
        "integer",
        "integer",
    )
    units = [bytes(unit.extents[0]) for unit in made.units]
    rows = csv.DictReader(io.StringIO(to_csv(units, list(kinds)).decode()))
    assert list(rows)[1] == {
        "PID": "person 01",
        "ward": "ward of person 01",
        "wards": '["ward of person 01"]',
        "year": "2001",
        "died": "0",
    }


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (["age", "dose"], "no column 'dose'"),
        (["age", "age"], "named twice: age, age"),
    ],
)
@pytest.mark.parametrize("by", [None, "PID"])
def test_columns_that_cannot_be_chosen_are_named(tmp_path, columns, reason, by):
    path = write(tmp_path / "visits.csv", VISITS)
    with pytest.raises(DatasetError, match=reason):
        plan.of_paths([path], by, columns)


def test_columns_are_chosen_of_one_table_only(tmp_path):
    path = write(tmp_path / "d" / "visits.csv", VISITS)
    other = write(tmp_path / "d" / "a.vcf", VCF)
    for paths, by in (([path], "file"), ([path, other], None), ([other], None)):
        with pytest.raises(DatasetError, match="'age' is chosen of what is not"):
            plan.of_paths(paths, by, ["age"])


def test_a_total_beside_one_hidden_count_is_not_told(tmp_path):
    path = write(tmp_path / "t.csv", "who,x\n" + "a,1\n" * 20 + "b,1\n" * 4)
    made = plan.of_paths([path], "who")
    assert made.rows() == (20, None)
    assert made.parts[0].records is None


@pytest.mark.parametrize(
    ("make", "by", "reason"),
    [
        (lambda d: [d], None, "there is no file"),
        (lambda d: [write(d / "a.vcf", VCF)], "column", "cannot be cut by"),
        (
            lambda d: [write(d / "x" / "a.vcf", VCF).parent.parent, write(d / "b", "")],
            "folder",
            "beside the folders|two files",
        ),
        (lambda d: [d / "nowhere"], None, "nowhere cannot be read: No such file"),
        (lambda d: [write(d / "a.csv", "x\n1\n")], "y", "no column 'y'"),
    ],
)
def test_what_cannot_be_cut_is_named(tmp_path, make, by, reason):
    with pytest.raises(DatasetError, match=reason):
        plan.of_paths(make(tmp_path), by)


def test_a_link_is_not_followed(tmp_path):
    write(tmp_path / "d" / "a.vcf", VCF)
    (tmp_path / "d" / "b.vcf").symlink_to(tmp_path / "d" / "a.vcf")
    with pytest.raises(DatasetError, match="is a link"):
        plan.of_paths([tmp_path / "d"], None)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_table_that_is_not_cut_by_commas_is_no_column_of_all_cells(
    tmp_path, separator
):
    text = "PID,age\n1,20\n"
    path = write(tmp_path / "d" / "a.csv", text.replace(",", separator))
    for paths in ([path], [path, write(tmp_path / "d" / "b.csv", path.read_bytes())]):
        with pytest.raises(DatasetError) as said:
            plan.of_paths(paths, None)
        assert said.value.hint() == "write it again as CSV with commas"
    kept = write(tmp_path / "e.csv", "a;b,c|d\n1,2\n")
    assert len(plan.of_paths([kept], None).parts[0].columns) == 2
