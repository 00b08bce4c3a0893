"""Each kind of file, real and small: published, judged by the field's own tools, read back.

Croissant is read by `mlcroissant`, the sealed file is opened by `crypt4gh`, and what comes out is
what went in.
"""

import gzip
import io
import json
import logging
import struct

import crypt4gh.lib
import nacl.public
import pytest
from file_world import READER, TEXTS, VCF, dicom, edf, h5ad, parquet, write

from node.market import DatasetError, sealed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
THEIRS = bytes(nacl.public.PrivateKey(b"z" * 32))
ROWS = "PID,Age\n" + "".join(f"p{n},{20 + n}\n" for n in range(24))


def image(path):
    from PIL import Image

    Image.new("RGB", (4, 3), (9, 200, 30)).save(path)
    return path


def nifti(path):
    """A header of NIfTI-1 and a volume of eight voxels behind it."""
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, 2, 2, 2, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 2, 8)
    struct.pack_into("<f", head, 108, 352.0)
    head[344:348] = b"n+1\0"
    return write(path, bytes(head) + bytes(range(8)))


def wfdb(path):
    write(path.with_suffix(".dat"), bytes(range(40)))
    return write(
        path,
        "rec 2 360 10\nrec.dat 16 200 12 0 0 0 0 MLII\nrec.dat 16 200 12 0 0 0 0 V5\n",
    )


KINDS = {
    "csv": ("t.csv", lambda path: write(path, ROWS)),
    "parquet": ("t.parquet", parquet),
    "dicom": ("t.dcm", dicom),
    "png": ("t.png", image),
    "jpeg": ("t.jpg", image),
    "tiff": ("t.tif", image),
    "nifti": ("t.nii", nifti),
    "fasta": ("t.fa", lambda path: write(path, ">chr1\nACGTACGT\n")),
    "vcf": ("t.vcf.gz", lambda path: write(path, gzip.compress(VCF.encode()))),
    "h5ad": ("t.h5ad", h5ad),
    "edf": ("t.edf", edf),
    "wfdb": ("t.hea", wfdb),
}


def faults(document, path):
    import mlcroissant

    path.write_text(json.dumps(document))
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    issues = mlcroissant.Dataset(jsonld=path).metadata.ctx.issues
    return [*issues.errors, *issues.warnings]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_file_of_this_kind_is_listed_sealed_and_read_back(
    world, tmp_path, kind
):
    name, make = KINDS[kind]
    (tmp_path / "in").mkdir()
    source = make(tmp_path / "in" / name)
    shown = await world.owner.market.publish([source], *TEXTS)
    listing = shown["listing"]
    assert [part["format"] for part in listing["parts"]] == [kind]
    assert faults(listing["croissant"], tmp_path / "croissant.json") == []
    for private in ("Doe", "JANE", "p17", "1961"):
        assert private not in json.dumps(shown)
    dataset = shown["dataset"]
    await world.owner.market.give(dataset, READER, None, 1)
    out = tmp_path / "sealed"
    await world.reader.market.fetch(
        dataset, None, out, crypt4gh_key=sealed.public_half(THEIRS)
    )
    opened = []
    for file in sorted(out.iterdir()):
        plain = io.BytesIO()
        with file.open("rb") as stream:
            crypt4gh.lib.decrypt([(0, THEIRS, None)], stream, plain)
        opened.append(plain.getvalue())
    if not listing["packed"] and kind not in {"csv", "parquet"}:
        assert opened == [source.read_bytes()]
    await world.reader.market.fetch(dataset, None, tmp_path / "plain")
    read = tmp_path / "plain"
    files = [read] if read.is_file() else [p for p in read.rglob("*") if p.is_file()]
    if kind == "csv":
        assert files[0].read_text().split() == ROWS.split()
    elif kind == "parquet":
        import pyarrow.parquet as pq

        assert pq.read_table(files[0]).equals(pq.read_table(source))
    else:
        assert source.read_bytes() in [one.read_bytes() for one in files]


async def test_the_checks_can_fail(world, tmp_path):
    source = write(tmp_path / "t.fa", ">chr1\nACGT\n")
    shown = await world.owner.market.publish([source], *TEXTS)
    document = shown["listing"]["croissant"]
    document["recordSet"][0]["field"][0]["source"] = {"fileSet": {"@id": "nowhere"}}
    with pytest.raises(Exception, match="nowhere"):
        faults(document, tmp_path / "croissant.json")
    rest = TEXTS[1:]
    for bad in (
        "Scans of jane.doe@clinic.org",
        "Patient 1234567890",
        "Born 1961-02-03",
    ):
        with pytest.raises(DatasetError, match="would be public"):
            await world.owner.market.publish([source], bad, *rest)
