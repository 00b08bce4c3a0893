"""A lying host loses its bond to a contract, an honest receipt survives: all in processes.

What a requester and a worker would have left behind is written into the homes beforehand: a
released trunk, two receipts of one host, and the rows behind them.  One receipt lies in one
number.  From there on daemons do everything: anchor, audit, dispute, answer, prove.
"""

import json
import time
from types import SimpleNamespace

import pytest
import trio

from ee import integer
from ee.integer import known
from node.adapters.blob_dir import BlobDir
from node.adapters.evm_chain import EvmChain, account_address, deploy
from node.adapters.evm_disputes import EvmDisputes
from node.adapters.keyfile import KeyFile, open_
from node.adapters.sqlite_store import SqliteStore
from node.clock import now_s
from node.config import Peer, template
from node.demo import bonds
from node.demo.programs import free_ports
from node.errors import ContractRefusedError
from node.locations import Home
from node.rpc.client import call
from node.services.faults import altered
from node.services.outbox import Outbox
from node.services.receipts import Receipts
from node.verifier import dispute
from node.verifier.replay import Model
from protocol.boundary import boundary_root, open_row
from protocol.dispute import Claim, Turn, salted
from protocol.evaluation import Release
from protocol.members import (
    ROLE_AUDITOR,
    ROLE_COMPUTE_HOST,
    ROLE_RESEARCHER,
    Member,
)
from protocol.receipt import Order, batch_proof, batch_root, seal_order, seal_receipt
from protocol.types import digest
from protocol.wire import encode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHAIN_ID, OWNER = 31337, bytes.fromhex("22" * 32)
LIMIT_S = 240
SALT = bytes(range(32))
ASKER = KeyFile(b"\x31" * 32, b"\x32" * 32, b"\x33" * 32)
ROLES = {
    "HOST": ("institution", ROLE_COMPUTE_HOST),
    "AUD": ("verifier", ROLE_AUDITOR),
    "ASKER": (None, ROLE_RESEARCHER),
}


def until(found):
    deadline = time.monotonic() + LIMIT_S
    while True:
        value = found()
        if value:
            return value
        assert time.monotonic() < deadline
        time.sleep(0.2)


class Scene:
    """Chain, two daemons, and somebody who asked."""

    def __init__(self, bench, folder):
        self.bench, self.folder = bench, folder
        self.homes = {name: Home(folder / name) for name in ("HOST", "AUD")}
        self.ports = dict(zip(self.homes, free_ports(2), strict=True))
        for name, home in self.homes.items():
            done = bench.rexis(
                *("--home", home.path, "init", "--name", name),
                *("--role", ROLES[name][0], "--json"),
            )
            assert done.returncode == 0, done.stderr
        secret = b"a long passphrase for a test"
        self.keys = {name: open_(h.keyfile, secret) for name, h in self.homes.items()}
        self.keys["ASKER"] = ASKER
        self.accounts = {
            n: account_address(k.account_key) for n, k in self.keys.items()
        }
        self._chain()

    def _chain(self):
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        funded = [account_address(OWNER), *self.accounts.values()]
        self.bench.start(
            *("node.devchain", "--db", str(self.folder / "chain.sqlite")),
            *("--port", str(port), "--chain-id", str(CHAIN_ID), "--allow-time-travel"),
            *(part for one in funded for part in ("--fund", "0x" + one.hex())),
            log="chain.log",
        )
        log = self.folder / "chain.log"
        deadline = time.monotonic() + LIMIT_S
        while "ready" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        settings = bonds.settings(self.url, OWNER)
        self.move_s, self.coin = settings.move_s, settings.token
        self.contracts = deploy(self.url, CHAIN_ID, OWNER, settings)
        trio.run(self._register)

    async def _register(self):
        owner = self.chain(OWNER)
        for name, key in self.keys.items():
            account, roles = self.accounts[name], ROLES[name][1]
            member = Member(key.public_key, key.seal_key, account, roles, name)
            await owner.register(member, roles)
            await bonds.give(self.chain(key.account_key), self.coin)
        await bonds.stake(self.chain(self.keys["HOST"].account_key))

    def chain(self, key):
        return EvmChain(
            url=self.url, chain_id=CHAIN_ID, contracts=self.contracts, account_key=key
        )

    def configure(self):
        for name, home in self.homes.items():
            (other,) = [one for one in self.homes if one != name]
            address = f"/ip4/127.0.0.1/tcp/{self.ports[other]}"
            home.config.write_text(
                template(
                    node__name=name,
                    node__role=ROLES[name][0],
                    network__listen=(f"/ip4/127.0.0.1/tcp/{self.ports[name]}",),
                    network__peers=(Peer(self.keys[other].peer_id, (address,)),),
                    chain__url=self.url,
                    chain__chain_id=CHAIN_ID,
                    audit__rate=1.0,
                    audit__full=1.0,
                    audit__dispute=True,
                    **{
                        f"chain__contracts__{n}": at for n, at in self.contracts.items()
                    },
                )
            )

    def start(self):
        for name, home in self.homes.items():
            log = f"{name}.log"
            self.bench.start("node.app", "--home", str(home.path), log=log)
        for name in self.homes:
            until(lambda name=name: self.answers(name))

    def answers(self, name):
        try:
            return self.call(name, "status.get")["connected"] >= 1
        except Exception:  # not there yet; the deadline bounds it
            return False

    def call(self, name, method, **params):
        return call(self.homes[name].rpc_socket, method, params, timeout_s=30)

    async def write_homes(self):
        """A release both know, and two receipts of the host; one of them lies."""
        trunk = known.drawn_trunk(causal=True)
        self.model = Model.read(integer.encode(trunk))
        rows = known.drawn_rows(trunk.config)
        self.shape = rows.shape
        true = [integer.pack_rows(one) for one in trunk.forward(rows).boundaries]
        bent = altered(true[1])
        after = trunk.replay_layer(1, integer.unpack_rows(bent, self.shape))
        lie = [true[0], bent, integer.pack_rows(after)]
        self.rows = true[1]
        self.sealed = [self.receipt(lie, b"\x01"), self.receipt(true, b"\x02")]
        data = integer.encode(trunk)
        root = self.model.root
        release = Release(
            *(root, digest(data), len(data), bytes(32), bytes(32)),
            *((self.keys["HOST"].public_key,), (), ()),
        )
        for name, home in self.homes.items():
            store = SqliteStore.open(home.database)
            blobs = BlobDir(home.blobs)
            await store.put("releases", root, encode(release))
            source = self.keys["HOST"].public_key
            await store.put("release-sources", root, source)
            if name == "HOST":
                blobs.put(data)
                receipts = Receipts(
                    store=store,
                    blobs=blobs,
                    outbox=Outbox(store, self.chain(OWNER)),
                    transport=SimpleNamespace(serve=lambda *_, **__: None),
                    federation=None,
                )
                for sealed, packed in zip(self.sealed, (lie, true), strict=True):
                    await receipts.keep(sealed, SALT, blobs.put(b"".join(packed)))
            store.close()

    def receipt(self, boundaries, job):
        host = self.keys["HOST"]
        roots = [
            boundary_root(rows, self.shape, place, SALT)
            for place, rows in enumerate(boundaries)
        ]
        order = Order(self.model.root, host.public_key, job * 16, self.shape, roots[0])
        sealed = seal_order(ASKER.sign, ASKER.public_key, order)
        return seal_receipt(host.sign, host.public_key, sealed, roots[1:], now_s())

    def holdings(self, challenger):
        who = {"challenger": self.accounts[challenger], "host": self.accounts["HOST"]}
        return trio.run(bonds.holdings, self.chain(OWNER), self.coin, who)

    def disputes(self, name):
        return {
            row["dispute"]: row for row in self.call(name, "disputes.list")["disputes"]
        }


@pytest.fixture
def scene(bench, tmp_path):
    made = Scene(bench, tmp_path)
    trio.run(made.write_homes)
    made.configure()
    made.start()
    return made


def test_a_liar_is_slashed_and_an_honest_receipt_survives_a_malicious_challenger(scene):
    until(lambda: scene.disputes("AUD").get(0, {}).get("outcome"))
    (dispute_,) = scene.disputes("AUD").values()
    assert (dispute_["outcome"], dispute_["host"]) == ("upheld", "HOST")
    assert (dispute_["challenger"], dispute_["layer"]) == ("AUD", 0)
    stake = bonds.STAKE / bonds.BOND
    held = scene.holdings("AUD")
    assert (held.challenger, held.host) == (2, stake - 1)
    reports = {
        row["receipt"]: row["verdict"]
        for row in scene.call("AUD", "audits.list")["audits"]
    }
    lying, honest = (digest(one).hex() for one in scene.sealed)
    assert (reports[lying], reports[honest]) == ("failed", "passed")
    shown = scene.bench.rexis(
        "--home", scene.homes["AUD"].path, "dispute", "list", "--json"
    )
    assert json.loads(shown.stdout)["disputes"][0]["outcome"] == "upheld"

    # Somebody who knows all the rows disputes the honest receipt, and shows what there is.
    trio.run(malicious, scene)
    rich = scene.chain(OWNER)
    moved = rich.link.web3.provider.make_request("dev_move", [hex(scene.move_s + 60)])
    assert "error" not in moved
    trio.run(bonds.give, rich, scene.coin)  # the next block
    until(lambda: scene.disputes("HOST")[1]["outcome"])
    assert scene.disputes("HOST")[1]["outcome"] == "rejected"
    held = scene.holdings("HOST")
    assert (held.challenger, held.host) == (1, stake - 1)


async def malicious(scene):
    arbiter = EvmDisputes(scene.chain(ASKER.account_key))
    number = await arbiter.accuse(
        scene.accounts["HOST"],
        batch_root(scene.sealed),
        batch_proof(scene.sealed, 1),
        scene.sealed[1],
        (1, 0, 5),
    )
    assert number == 1
    with trio.fail_after(LIMIT_S):
        while (await arbiter.standing(number)).turn is not Turn.CHALLENGER:
            await trio.sleep(0.2)
        while not (found := await answered(scene, number)):
            await trio.sleep(0.2)
    claim, hashes = found
    rows = list(salted(dispute.traced(scene.model, claim, scene.rows), SALT, claim))
    assert tuple(row.digest(step, claim) for step, row in enumerate(rows)) == hashes
    before = open_row(scene.rows, scene.shape, 1, SALT, 0, 5)
    for matrix in range(6):
        proof = dispute.proof(scene.model, claim, rows, (matrix, 3), before, before)
        with pytest.raises(ContractRefusedError, match="NotWrong"):
            await arbiter.prove(number, claim, hashes, proof)


async def answered(scene, number):
    """The claim and the host's answer, from the chain's own log."""
    claim = None
    with trio.move_on_after(10):
        async for event in scene.chain(OWNER).follow(0):
            if event.data.get("number") != number:
                continue
            if event.kind == "DisputeOpened":
                names = ("cases", "tokens", "width", "layer", "caseNumber", "token")
                roots = (event.data[n] for n in ("model", "before", "afterwards"))
                claim = Claim(*roots, *(event.data[name] for name in names))
            if event.kind == "DisputeAnswered":
                return claim, tuple(map(bytes, event.data["rows"]))
    return None
