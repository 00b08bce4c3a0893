"""Three nodes over memory, and files of every kind."""

from dataclasses import replace

import nacl.public
import nacl.signing

from node.adapters.deployment import Settings
from node.adapters.memory_chain import Ledger, MemoryChain
from node.adapters.memory_coins import Coins, Values
from node.adapters.memory_market import Market as Rules
from node.adapters.memory_market_port import MemoryMarket
from node.adapters.memory_store import MemoryBlobs, MemoryStore
from node.adapters.memory_transport import MemoryNetwork, MemoryTransport
from node.errors import AccessError
from node.market import sealed
from node.ports.market import Seats
from node.services.market import Market
from protocol.members import Member, peer_id
from protocol.types import digest

TEXTS = ("Chest scans", "CC-BY-4.0", ["DUO:0000042"], "Clinic MN, 2024")
OWNER, READER, OTHER = "clinic", "lab", "peer"
DAY = 1_700_000_000
COIN = bytes([77]) * 20


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
            trade=MemoryMarket(world.rules, self.account),
            committees=world.committees(self.account),
        )
        self.market.serve()

    def member(self):
        return Member(self.public_key, self.seal_key, self.account, 15, self.name)


class PaperCommittees:
    """Committees that an account signs for by name; the rules count what they do."""

    def __init__(self, world, account):
        self.world, self.account = world, account

    async def make(self, accounts, threshold):
        address = bytes([200 + len(self.world.papers)]) * 20
        self.world.papers[address] = Seats(tuple(accounts), threshold, 0)
        return address

    async def seats(self, committee):
        return self.world.papers.get(committee)

    async def sign(self, committee, decision):
        return paper(self.account, committee, decision)

    async def signer(self, committee, decision, signature):
        for account in self.world.papers[committee].accounts:
            if signature == paper(account, committee, decision):
                return account
        raise AccessError("the committee's signature is none")

    async def decide(self, committee, decision, signatures):
        seats = self.world.papers[committee]
        signers = [await self.signer(committee, decision, one) for one in signatures]
        assert len(set(signers)) >= seats.threshold
        if decision.key_digest is None:
            self.world.rules.reject(committee, decision.request)
        else:
            self.world.rules.approve(committee, decision.request, decision.key_digest)
        self.world.papers[committee] = replace(seats, nonce=seats.nonce + 1)


def paper(account, committee, decision):
    return digest(account + committee + repr(decision).encode())


class World:
    def committees(self, account):
        return PaperCommittees(self, account)

    def __init__(self):
        self.now = DAY
        self.network = MemoryNetwork()
        self.ledger = Ledger(bytes([99]) * 20, lambda: self.now)
        self.coins = Coins()
        values = Values(*Settings(answer_s=3600, dispute_s=3600, bond=7).values())
        self.rules = Rules(self.ledger, self.coins, values, COIN)
        self.rules.accepted.add(COIN)
        self.papers = {}
        names = (OWNER, READER, OTHER)
        self.nodes = {n: Node(self, i, n) for i, n in enumerate(names, 1)}
        self.owner, self.reader, self.other = self.nodes.values()


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


async def listed(world, folder, **how):
    return await world.owner.market.publish([folder], *TEXTS, **how)
