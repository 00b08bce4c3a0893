"""What is said of a file comes from its head, and nothing that names a person."""

import gzip

import pytest
from file_world import VCF, dicom, edf, h5ad, parquet, write

from node.market import DatasetError, formats


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
    assert {name: formats.sniff(path) for name, path in made.items()} == {
        name: name for name in made
    }
    zipped = write(tmp_path / "m.vcf.gz", gzip.compress(VCF.encode()))
    assert formats.sniff(zipped) == "vcf"
    nifti = write(tmp_path / "n.nii", bytes(344) + b"n+1\0")
    assert formats.sniff(nifti) == "nifti"


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


def test_an_identifier_in_a_field_name_stops_the_publishing(tmp_path):
    path = edf(tmp_path / "a.edf", labels=("ECG", "555-123-4567"))
    with pytest.raises(DatasetError, match="telephone"):
        formats.describe("edf", [path])
