"""Folders of files as datasets: described, cut, published, found, fetched, withdrawn."""

import dataclasses
import gzip
import io
import stat

import crypt4gh.lib
import msgspec
import nacl.public
import nacl.signing
import pytest

from node.adapters.memory_chain import Ledger, MemoryChain
from node.adapters.memory_store import MemoryBlobs, MemoryStore
from node.adapters.memory_transport import MemoryNetwork, MemoryTransport
from node.errors import AccessError, ChainError, StorageError, TransportError
from node.market import DatasetError, formats, plan, sealed
from node.market.search import Filter
from node.rpc import results
from node.services.market import Market
from node.services.provenance import Provenance
from protocol import lineage
from protocol.listing import LISTING_TOPIC, UNITS_LIMIT
from protocol.members import Member, peer_id

TEXTS = ("Chest scans", "CC-BY-4.0", ["DUO:0000042"], "Clinic MN, 2024")
OWNER, READER, OTHER = "clinic", "lab", "peer"
DAY = 1_700_000_000


class Node:
    def __init__(self, world, number, name):
        signing = nacl.signing.SigningKey(bytes([number]) * 32)
        self.public_key, self.name = bytes(signing.verify_key), name
        self.peer_id = peer_id(self.public_key)
        self.secret = bytes(nacl.public.PrivateKey(bytes([number + 50]) * 32))
        self.seal_key = sealed.public_half(self.secret)
        self.sign = lambda message: signing.sign(message).signature
        self.account = bytes([number]) * 20
        self.store, self.blobs = MemoryStore(), MemoryBlobs()
        self.chain = MemoryChain(world.ledger, self.account)
        self.transport = MemoryTransport(
            network=world.network,
            peer=self.peer_id,
            allowed=lambda _: True,
            blobs=self.blobs,
            may_fetch=lambda *asked: self.market.may_fetch(*asked),  # noqa: PLW0108 - not made yet
        )
        self.start(world)

    def start(self, world):
        """A new process over the same store and blobs."""
        self.transport._served.clear()
        self.market = Market(
            store=self.store,
            blobs=self.blobs,
            signer=self,
            chain=self.chain,
            transport=self.transport,
            now=lambda: world.now,
            open_key=lambda: self.secret,
        )
        self.market.serve()

    def member(self):
        return Member(self.public_key, self.seal_key, self.account, 15, self.name)


class World:
    def __init__(self):
        self.now = DAY
        self.network = MemoryNetwork()
        self.ledger = Ledger(bytes([99]) * 20, lambda: self.now)
        names = (OWNER, READER, OTHER)
        self.nodes = {n: Node(self, i, n) for i, n in enumerate(names, 1)}
        self.owner, self.reader, self.other = self.nodes.values()


@pytest.fixture
async def world(nursery):
    world = World()
    registrar = MemoryChain(world.ledger, world.ledger.owner)
    for node in world.nodes.values():
        await registrar.register(node.member(), 15)
        await nursery.start(node.transport.run)
    for node in world.nodes.values():
        for other in world.nodes.values():
            if other is not node:
                node.transport.keep_connected(other.peer_id, ("there",))
    return world


# --- making files --------------------------------------------------------------


def dicom(path, patient="P1", modality="CT", name="Doe^Jane"):
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = CTImageStorage
    data.PatientID, data.PatientName, data.Modality = patient, name, modality
    data.Rows = data.Columns = 4
    data.BitsAllocated = data.BitsStored = 8
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.PixelData = bytes(range(16))
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


VCF = """##fileformat=VCFv4.2
##INFO=<ID=AF,Number=A,Type=Float,Description="Allele frequency">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tJANE_DOE_1961
1\t100\t.\tA\tG\t50\tPASS\tAF=0.1\tGT\t0/1
"""


def edf(path, labels=("ECG I", "ECG II"), person="DOE 1961-02-03"):
    head = b"0       " + person.ljust(80).encode() + b"Startdate 01-JAN-2020".ljust(80)
    head += b"01.01.2010.10.10" + str(256 * (len(labels) + 1)).ljust(8).encode()
    head += b" " * 44 + b"1       " + b"1       " + str(len(labels)).ljust(4).encode()
    return write(
        path, head + b"".join(x.ljust(16).encode() for x in labels) + b"x" * 99
    )


def h5ad(path):
    import h5py

    with h5py.File(path, "w") as file:
        observations = file.create_group("obs")
        observations.attrs["column-order"] = ["cell_type", "n_genes"]
        observations["cell_type"] = ["T cell", "B cell"]
        observations["n_genes"] = [10, 20]
        file["X"] = [[1.0, 2.0], [3.0, 4.0]]
    return path


def parquet(path, rows=40):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "PID": [f"p{i % 4}" for i in range(rows)],
            "Age": list(range(rows)),
            "BMI": [i / 2 for i in range(rows)],
        }
    )
    pq.write_table(table, path)
    return path


# --- what may be said ----------------------------------------------------------


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


# --- how it is cut -------------------------------------------------------------


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


def test_a_parquet_table_is_cut_by_a_column_and_padded(tmp_path):
    made = plan.of_paths([parquet(tmp_path / "t.parquet")], "PID")
    assert [unit.records for unit in made.units] == [10, 10, 10, 10]
    assert all(len(unit.extents[0]) % 4096 == 0 for unit in made.units)
    assert not made.packed


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


# --- published, fetched --------------------------------------------------------


def scans(folder):
    for patient in range(12):
        for part in range(2):
            dicom(folder / f"p{patient:02d}" / f"{part}.dcm", f"P{patient}")
        write(folder / f"p{patient:02d}" / "report.csv", "a,b\n1,2\n")
    return folder


async def listed(world, folder):
    return await world.owner.market.publish([folder], *TEXTS)


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


async def test_a_publishing_that_was_cut_goes_on_under_the_same_keys(world, tmp_path):
    folder = tmp_path / "v"
    for number in range(6):
        write(folder / f"{number}.fa", ">x\n" + "ACGT" * 1000 + str(number))
    owner = world.owner
    owner.blobs = DiskFull(7)
    owner.transport._blobs = owner.blobs
    owner.start(world)
    with pytest.raises(StorageError, match="no space"):
        await listed(world, folder)
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
    from node.ports import Announcement

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


# --- withdrawn -----------------------------------------------------------------


async def test_a_withdrawn_unit_has_no_key_no_body_and_no_grant(world, tmp_path):
    path = write(
        tmp_path / "t.csv",
        "who,x\n" + "".join(f"patient-{i % 3},{i}\n" for i in range(60)),
    )
    owner, reader = world.owner.market, world.reader.market
    shown = await owner.publish([path], *TEXTS, unit_by="who")
    dataset = shown["dataset"]
    await owner.give(dataset, READER, None, 10)
    await reader.fetch(dataset, None, tmp_path / "before.csv")
    gone_blobs = set(world.owner.blobs._held)
    told = await owner.withdraw(dataset, [1])
    assert told["units"] == [1]
    assert told["left"] == [0, 2]
    assert [one["left"] for one in told["grants"]] == [[0, 2]]
    assert any(
        "lab was given the keys of units [1]" in s for s in told["cannot_be_undone"]
    )
    # Its two blobs are deleted, and its use in coming rounds has ended.
    assert len(gone_blobs - set(world.owner.blobs._held)) == 2
    assert b"patient-1" not in await owner.own_rows(dataset)
    assert b"patient-2" in await owner.own_rows(dataset)
    # Long enough that ciphertext does not have it by chance.
    assert all(b"patient-1" not in v for v in world.owner.blobs._held.values())
    record = world.owner.market._shelf.own(dataset)[0]
    assert [bool(one) for one in record.headers] == [True, False, True]
    # The rest is still granted, until the same day; the unit to nobody.
    active = [g for g in await owner.grants(dataset) if g["active"]]
    assert [g["units"] for g in active] == [[0, 2]]
    assert (await reader.fetch(dataset, None, tmp_path / "after.csv"))["units"] == [
        0,
        2,
    ]
    with pytest.raises(AccessError, match="withdrawn"):
        await owner.give(dataset, READER, [1], 10)
    with pytest.raises(AccessError, match=r"units \[1\]"):
        await reader.fetch(dataset, None, tmp_path / "x.csv", units=[1])
    with pytest.raises(AccessError, match="withdrawn"):
        await owner.own_bytes(dataset, 1, offset=0, length=1)
    # The same data do not come back by the back door.
    with pytest.raises(AccessError, match="were withdrawn"):
        await owner.publish([path], *TEXTS, unit_by="who")
    # After a restart it is as gone as before.
    world.owner.start(world)
    assert b"patient-1" not in await world.owner.market.own_rows(dataset)


async def test_a_withdrawn_dataset_is_read_by_nobody(world, tmp_path):
    write(tmp_path / "v" / "a.vcf", VCF)
    shown = await listed(world, tmp_path / "v")
    dataset = shown["dataset"]
    await world.owner.market.give(dataset, READER, None, 10)
    told = await world.owner.market.withdraw(dataset)
    assert told["left"] == []
    assert world.owner.blobs._held == {}
    with pytest.raises(AccessError, match="no grant"):
        await world.reader.market.fetch(dataset, None, tmp_path / "x")
    # Again is harmless.
    again = await world.owner.market.withdraw(dataset)
    assert again["grants"] == []
    with pytest.raises(AccessError, match="not of this node"):
        await world.reader.market.withdraw(dataset)


async def test_keys_are_destroyed_also_while_the_chain_is_down(world, tmp_path):
    write(tmp_path / "v" / "a.vcf", VCF)
    shown = await listed(world, tmp_path / "v")
    await world.owner.market.give(shown["dataset"], READER, None, 10)

    async def down(*_):
        raise ChainError("the chain does not answer")

    chain = world.owner.chain
    withdraw, chain.withdraw_dataset = chain.withdraw_dataset, down
    with pytest.raises(ChainError):
        await world.owner.market.withdraw(shown["dataset"])
    record = world.owner.market._shelf.own(shown["dataset"])[0]
    assert record.headers == (b"",)
    assert world.owner.blobs._held == {}
    chain.withdraw_dataset = withdraw
    told = await world.owner.market.withdraw(shown["dataset"])
    assert len(told["grants"]) == 1


# --- bad output ----------------------------------------------------------------


async def test_an_existing_folder_is_not_written_into(world, tmp_path):
    write(tmp_path / "v" / "a.vcf", VCF)
    shown = await listed(world, tmp_path / "v")
    await world.owner.market.give(shown["dataset"], READER, None, 10)
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match="exists"):
        await world.reader.market.fetch(shown["dataset"], None, tmp_path / "out")
    with pytest.raises(StorageError, match="cannot be written"):
        await world.reader.market.fetch(shown["dataset"], None, tmp_path / "no" / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "/abs", "link"])
def test_a_tar_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    import tarfile

    from node.market import folder

    path = tmp_path / "unit-000.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        if name == "link":
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(StorageError, match="no plain file below it"):
        folder._unpack(path)


async def test_what_is_under_way_is_told_and_gone_when_it_ends(world, tmp_path):
    write(tmp_path / "study" / "a" / "x.bin", b"x" * (9 << 20))
    seen = []
    put_many = world.owner.store.put_many

    async def look(writes, **more):
        seen.extend(world.owner.market.works())
        return await put_many(writes, **more)

    world.owner.store.put_many = look
    await world.owner.market.publish([tmp_path / "study"], *TEXTS)
    assert {row["what"] for row in seen} == {"encrypting", "anchoring"}
    done = [row["done_bytes"] for row in seen if row["what"] == "encrypting"]
    assert done[0] == 0
    assert max(done) == 9 << 20
    assert {row["path"] for row in seen} == {str(tmp_path / "study")}
    assert world.owner.market.works() == []
    with pytest.raises(DatasetError):
        await world.owner.market.publish([tmp_path / "none"], *TEXTS)
    assert world.owner.market.works() == []


class Nobody:
    """A service that keeps no records of runs, releases or receipts."""

    async def signed(self):
        return [], []

    async def placed(self):
        return []

    receipts = placed


class NoReleases:
    def signed(self):
        return [b"no release at all"]


def provenance_of(node):
    return Provenance(
        chain=node.chain,
        market=node.market,
        runs=Nobody(),
        releases=NoReleases(),
        receipts=Nobody(),
        certificates=Nobody(),
    )


async def test_provenance_is_shown_around_a_dataset_and_written(world, tmp_path):
    write(tmp_path / "a.csv", "x\n1\n")
    first = await world.owner.market.publish([tmp_path / "a.csv"], *TEXTS)
    write(tmp_path / "b.csv", "x\n2\n")
    await world.owner.market.publish([tmp_path / "b.csv"], *TEXTS)
    await world.owner.market.give(first["dataset"], READER, None, 2)
    graph = provenance_of(world.owner)
    shown = await graph.show(f"dataset:{first['dataset']}", "both")
    results.ProvenanceShow(**shown)
    assert [one["kind"] for one in shown["things"]].count("dataset") == 1
    proofs = {(one["relation"], one["proof"]) for one in shown["relations"]}
    assert ("prov:wasAttributedTo", "signature and chain") in proofs
    assert ("rexis:grantedTo", "chain") in proofs
    assert len(shown["doubts"]) == 1
    whole = await graph.show(None, "both")
    assert len(whole["things"]) > len(shown["things"])
    for form, start in (("prov", b"{"), ("svg", b"<svg"), ("dot", b"digraph")):
        path = tmp_path / form
        made = await graph.export(None, "both", form, path)
        assert path.read_bytes().startswith(start)
        assert made["bytes"] == path.stat().st_size
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(AccessError, match="0 things are called"):
        await graph.show("dataset:99", "back")


async def test_the_records_of_one_node_are_verified_by_another(world, tmp_path):
    write(tmp_path / "a.csv", "x\n1\n")
    await world.owner.market.publish([tmp_path / "a.csv"], *TEXTS)
    path = tmp_path / "records"
    await provenance_of(world.owner).export(None, "both", "records", path)
    records = lineage.open_records(path.read_bytes())
    _, facts = await world.reader.market.lineage([])
    assert len(lineage.build(records, facts).edges) == 2
    none = dataclasses.replace(facts, tokens=())
    assert lineage.build(records, none).edges == []


async def test_what_was_revoked_can_be_given_again_and_revoked_again(world, tmp_path):
    write(tmp_path / "a.csv", "x\n1\n")
    owner, reader = world.owner.market, world.reader.market
    dataset = (await owner.publish([tmp_path / "a.csv"], *TEXTS))["dataset"]
    for attempt in range(2):
        grant = (await owner.give(dataset, READER, None, 2))["grant"]
        await reader.fetch(dataset, None, tmp_path / f"read-{attempt}")
        assert not (await owner.revoke(grant))["active"]
        with pytest.raises(AccessError, match="no grant"):
            await reader.fetch(dataset, None, tmp_path / "never")
