"""A copy that broke off is refused before it is listed, where its format tells."""

import gzip
import struct

import pytest
from file_world import VCF, dicom, write

from node.market import DatasetError, whole
from node.market.plan import of_paths

EXPLICIT, IMPLICIT, BIG = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
)
BGZF_HEAD = bytes.fromhex("1f8b08040000000000ff060042430200")


def bgzf(data):
    """One block and the end of a BGZF file, as bgzip makes them."""
    packed = gzip.compress(data, mtime=0)[10:]
    size = struct.pack("<H", len(BGZF_HEAD) + 2 + len(packed) - 1)
    return BGZF_HEAD + size + packed + whole._BGZF_END


def test_what_is_all_there_passes(tmp_path):
    assert gzip.decompress(bgzf(VCF.encode())).decode() == VCF
    made = {
        "a.vcf": VCF,
        "b.vcf.gz": gzip.compress(VCF.encode()),
        "c.vcf.gz": bgzf(VCF.encode()),
        "d.fa": ">x\nACGT",
    }
    for name, data in made.items():
        assert of_paths([write(tmp_path / name, data)], None).units
    assert of_paths([dicom(tmp_path / "e.dcm")], "patient").units


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.vcf", VCF.split("#CHROM")[0], "has no line #CHROM"),
        ("a.vcf.gz", gzip.compress(VCF.encode() * 2000)[:-9], "cannot be read"),
        ("b.vcf.gz", bgzf(VCF.encode())[:-28], "lacks the end of a BGZF file"),
        ("b.fa.gz", gzip.compress(b">x\n" + b"ACGT" * 9999)[:-9], "cannot be read"),
        ("a.fa", "", "is empty"),
    ],
    # Not the bytes: a gzip has the second it was made in, and a test needs one name.
    ids=["no #CHROM", "gzipped VCF", "BGZF", "gzipped FASTA", "nothing"],
)
def test_what_breaks_off_is_named(tmp_path, name, data, reason):
    with pytest.raises(
        DatasetError, match=f"{name}.* {reason}|{name} {reason}"
    ) as said:
        of_paths([write(tmp_path / name, data)], None)
    assert "leave it out" in said.value.hint()


def test_a_scan_whose_pixels_are_cut_is_refused(tmp_path):
    path = dicom(tmp_path / "a.dcm")
    write(path, path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match="pixels need") as said:
        of_paths([path], "patient")
    assert "leave it out" in said.value.hint()


@pytest.mark.parametrize(
    ("syntax", "head"),
    [
        (EXPLICIT, b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<I", 16)),
        (IMPLICIT, b"\xe0\x7f\x10\x00" + struct.pack("<I", 16)),
        (BIG, b"\x7f\xe0\x00\x10OW\0\0" + struct.pack(">I", 16)),
    ],
    ids=["explicit", "implicit", "big-endian"],
)
def test_pixels_are_counted_in_every_syntax(tmp_path, syntax, head):
    for size, fits in ((16, True), (15, False)):
        path = write(tmp_path / "a", head + bytes(size))
        with path.open("rb") as file:
            if fits:
                whole.require_pixels(path, file, syntax)
            else:
                with pytest.raises(DatasetError, match=f"has {len(head) + 15} bytes"):
                    whole.require_pixels(path, file, syntax)


def test_compressed_pixels_are_followed_to_their_end(tmp_path):
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", 4) + b"abcd"
    head = b"\xe0\x7f\x10\x00OB\0\0" + b"\xff" * 4
    pixels = head + item * 3 + b"\xfe\xff\xdd\xe0\0\0\0\0"
    for cut in (0, 1, 9, 12, 20):
        path = write(tmp_path / "a", pixels[: len(pixels) - cut])
        with path.open("rb") as file:
            if not cut:
                whole.require_pixels(path, file, "1.2.840.10008.1.2.4.50")
            else:
                with pytest.raises(DatasetError, match="pixels need"):
                    whole.require_pixels(path, file, "1.2.840.10008.1.2.4.50")
