"""What is said of a file comes from its head, and nothing that names a person."""

import gzip
import tracemalloc
import zlib

import pytest
from file_world import VCF, dicom, edf, h5ad, parquet, write

from node.market import DatasetError, formats
from node.market.kinds import sniff
from node.market.plan import of_paths


def test_formats_are_known_by_their_bytes(tmp_path):
    made = {
        "dicom": dicom(tmp_path / "a"),
        "vcf": write(tmp_path / "b", VCF),
        "fasta": write(tmp_path / "c", ">x\nACGT\n"),
        "edf": edf(tmp_path / "d"),
        "h5ad": h5ad(tmp_path / "e"),
        "parquet": parquet(tmp_path / "f"),
        "png": write(tmp_path / "g", b"\x89PNG\r\n\x1a\n" + b"x" * 20),
        "jpeg": write(tmp_path / "h", b"\xff\xd8\xff\xe0"),
        "tiff": write(tmp_path / "i", b"II*\0"),
        "csv": write(tmp_path / "j.csv", "a,b\n1,2\n"),
        "wfdb": write(tmp_path / "k.hea", "rec 1 360 10\n"),
        "bytes": write(tmp_path / "l.xyz", "what is this"),
    }
    assert {name: sniff(path) for name, path in made.items()} == {
        name: name for name in made
    }
    zipped = write(tmp_path / "m.vcf.gz", gzip.compress(VCF.encode()))
    assert sniff(zipped) == "vcf"
    nifti = write(tmp_path / "n.nii", bytes(344) + b"n+1\0")
    assert sniff(nifti) == "nifti"


def test_a_description_names_fields_and_no_value(tmp_path):
    made = {
        "dicom": dicom(tmp_path / "a.dcm"),
        "vcf": write(tmp_path / "b.vcf", VCF),
        "edf": edf(tmp_path / "d.edf"),
        "h5ad": h5ad(tmp_path / "e.h5ad"),
        "parquet": parquet(tmp_path / "f.parquet"),
        "fasta": write(tmp_path / "c.fa", ">JANE DOE\nMKLV\n"),
    }
    said = {name: formats.describe(name, [path]) for name, path in made.items()}
    columns = {
        name: [(c.name, c.kind) for c in one.columns] for name, one in said.items()
    }
    assert columns["vcf"] == [("FORMAT.GT", "text"), ("INFO.AF", "number")]
    assert columns["edf"] == [("ECG I", "number"), ("ECG II", "number")]
    assert columns["h5ad"] == [("cell_type", "text"), ("n_genes", "integer")]
    assert columns["parquet"][1:] == [("Age", "integer"), ("BMI", "number")]
    assert ("Modality", "text") in columns["dicom"]
    assert said["dicom"].details == ["modality CT"]
    assert said["fasta"].details == ["protein sequences"]
    assert "1 DICOM files carry" in said["dicom"].warnings[0]
    everything = repr(said)
    for person in ("Doe", "DOE", "JANE", "1961", "P1", "T cell", "p0"):
        assert person not in everything


@pytest.mark.parametrize(
    ("format_", "data"),
    [
        ("dicom", b"\0" * 128 + b"DICMgarbage"),
        ("parquet", b"PAR1garbage"),
        ("h5ad", b"\x89HDF\r\n\x1a\n" + b"garbage"),
        ("edf", b"0       " + b"x" * 300),
        ("csv", b"a,b\n1\n"),
        ("csv", b"a,a\n1,2\n"),
        ("csv", b"\xff\xfe"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path, format_, data):
    path = write(tmp_path / "x.csv", data)
    with pytest.raises(DatasetError):
        formats.describe(format_, [path])


def test_a_broken_archive_or_annotation_is_one_clear_line_too(tmp_path):
    """Each of these ends in an error of another library's own."""
    lines = VCF.split("#CHROM", maxsplit=1)[0] + '##INFO=<ID=A,Type="Float">\n' * 9000
    packer = zlib.compressobj(wbits=31)
    whole_blocks = packer.compress(lines.encode()) + packer.flush(zlib.Z_FULL_FLUSH)
    with pytest.raises(DatasetError, match="while decompressing"):
        of_paths([write(tmp_path / "a.vcf.gz", whole_blocks + b"\xff" * 40)], None)

    whole = h5ad(tmp_path / "b.h5ad")
    head, node, rest = whole.read_bytes().rpartition(b"SNOD")  # of `obs`, not the root
    assert node
    write(whole, head + b"XXXX" + rest)
    with pytest.raises(DatasetError, match="cannot be read as what it seems"):
        of_paths([whole], None)


def test_what_a_broken_file_is_called_is_told_to_its_owner(tmp_path):
    cut = gzip.compress(VCF.encode())[:40]
    for name, data in (("a.vcf.gz", cut), ("b.dcm", b"x"), ("c.txt", b"x")):
        write(tmp_path / "in" / name, data)
    plan = of_paths([tmp_path / "in"], None)
    assert [part.format for part in plan.parts] == ["bytes"]
    assert [text.split(":")[0] for text in plan.warnings] == [
        "1 files are called .dcm and are not",
        "1 files are called .vcf and are not",
    ]


def test_a_sequence_on_one_line_is_not_taken_into_memory(tmp_path, monkeypatch):
    """A chromosome has a quarter of a gigabyte; its alphabet is known after the first of it."""
    monkeypatch.setattr(formats, "HEADER_LIMIT_BYTES", 1 << 16)
    path = write(tmp_path / "a.fa", ">x\n" + "MKLV" * (1 << 20))
    tracemalloc.start()
    said = formats.describe("fasta", [path])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said.details == ["protein sequences"]
    assert peak < 1 << 20


def test_a_record_of_signals_is_one_unit(tmp_path):
    for name in ("a.hea", "a.dat", "b.hea", "b.dat", "b.atr"):
        write(tmp_path / "in" / name, "rec 1 360 10\n")
    plan = of_paths([tmp_path / "in"], None)
    assert [unit.records for unit in plan.units] == [2, 3]
    assert [part.format for part in plan.parts] == ["wfdb"]


def test_an_identifier_in_a_field_name_stops_the_publishing(tmp_path):
    path = edf(tmp_path / "a.edf", labels=("ECG", "555-123-4567"))
    with pytest.raises(DatasetError, match="telephone"):
        formats.describe("edf", [path])
