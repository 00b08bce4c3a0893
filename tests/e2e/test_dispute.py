"""A lying host loses its bond to a contract, an honest receipt survives: all in processes.

What a requester and a worker would have left behind is written into the homes beforehand: a
released trunk, five receipts of one host, and the rows behind them.  One is honest; one lies in
one number of a row; one mixed a head's values wrongly in attention and one activated wrongly (or,
of a model shaped as BERT, left a wrong base behind a norm), and both go on rightly from there and
stick to it when asked; one lies and is silent.  From there on daemons do everything: anchor, audit,
dispute, answer, ask, show, prove.
"""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trio

from ee import integer
from ee.integer import block, known, ops, spec
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
from node.verifier.dispute import Prosecutor, trunk_of
from node.verifier.replay import Model
from protocol.boundary import boundary_root
from protocol.dispute import Part, Turn, claim_from
from protocol.evaluation import Release
from protocol.members import (
    ROLE_AUDITOR,
    ROLE_COMPUTE_HOST,
    ROLE_RESEARCHER,
    Member,
)
from protocol.merkle import leaf_digest
from protocol.receipt import Order, batch_proof, batch_root, seal_order, seal_receipt
from protocol.types import digest
from protocol.wire import encode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHAIN_ID, OWNER = 31337, bytes.fromhex("22" * 32)
LIMIT_S = 240
SALT = bytes(range(32))
ASKER = KeyFile(b"\x31" * 32, b"\x32" * 32, b"\x33" * 32)
PLACE = (0, 5)
"""Case and token of the lies inside a layer."""
KINDS = {
    kind: ("row", Part.MIXED, inside, "silent", "honest")
    for kind, inside in (("table", Part.PRODUCT), ("bert", Part.BASE2))
}
"""Model to what is wrong with each receipt."""
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

    def __init__(self, bench, folder, model):
        self.bench, self.folder, self.kinds = bench, folder, KINDS[model]
        self.trunk = (
            known.drawn_trunk(causal=True)
            if model == "table"
            else known.drawn_stock(known.ENCODER, causal=False)
        )
        self.sealed = []
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
                    audit__tier="freivalds",
                    audit__dispute=True,
                    **{
                        f"chain__contracts__{n}": at for n, at in self.contracts.items()
                    },
                )
            )

    def start(self):
        for name, home in self.homes.items():
            program = "lying_host" if name == "HOST" else "node.app"
            path = os.pathsep.join((str(Path(__file__).parent), *sys.path))
            options = ("--home", str(home.path))
            self.bench.start(program, *options, log=f"{name}.log", PYTHONPATH=path)
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
        """A release both know, and five receipts of the host, in the order of `KINDS`."""
        trunk = self.trunk
        self.model = Model.read(integer.encode(trunk))
        rows = known.drawn_rows(trunk.config)
        self.shape = rows.shape
        true = [integer.pack_rows(one) for one in trunk.forward(rows).boundaries]
        self.rows = true
        answers, stories = [], {}
        for number, kind in enumerate(self.kinds):
            entries, after = None, true[1]
            if isinstance(kind, Part):
                entries, after = consistent(trunk, rows, kind)
            elif kind != "honest":
                after = altered(true[1])
            last = trunk.replay_layer(1, integer.unpack_rows(after, self.shape))
            answers.append([true[0], after, integer.pack_rows(last)])
            self.sealed.append(self.receipt(answers[-1], bytes([number])))
            if entries or kind == "silent":
                stories[leaf_digest(self.sealed[-1]).hex()] = entries
        data, root = integer.encode(trunk), self.model.root
        release = Release(
            *(root, digest(data), len(data), bytes(32), bytes(32)),
            *((self.keys["HOST"].public_key,), (), ()),
        )
        lies = self.homes["HOST"].path / "lies"
        lies.mkdir()
        for leaf, entries in stories.items():
            (lies / leaf).write_bytes(encode(entries) if entries else b"")
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
                for sealed, packed in zip(self.sealed, answers, strict=True):
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


@pytest.fixture(params=["table", pytest.param("bert", marks=pytest.mark.long)])
def scene(bench, tmp_path, request):
    made = Scene(bench, tmp_path, request.param)
    trio.run(made.write_homes)
    made.configure()
    made.start()
    return made


def consistent(trunk, rows, part):
    """Layer 0 with one number of a part bent and all that follows from it: parts, rows after."""
    (case, token), layer, shape = PLACE, trunk.layers[0], trunk.header.shape
    sequence = rows[case : case + 1]
    found = integer.trace_token(trunk.header, layer, sequence, token)
    entries = [list(leaves) for leaves in found]

    def numbers(part, kind):
        joined = b"".join(entries[part])
        return np.frombuffer(joined, kind).astype(np.float64)

    def wide(values, kind):
        row = np.asarray(values).astype(kind)
        return [row[at : at + 64].tobytes() for at in range(0, len(row), 64)]

    def tops(values):
        row = [values[at : at + 64] for at in range(0, len(values), 64)]
        return [np.array([np.abs(one).max() for one in row]).astype(">i8").tobytes()]

    def short(made, kind):
        return [bytes([int(made.s[0])]) + made.q[0].astype(kind).tobytes()]

    mixed = numbers(Part.MIXED, ">i4")
    mixed[7] += 20_000 if part is Part.MIXED else 0
    entries[Part.MIXED], entries[Part.MIXED_TOP] = wide(mixed, ">i4"), tops(mixed)
    made = ops.rows(mixed[None].copy(), spec.ROW_BITS)
    entries[Part.MIXED_ROW] = short(made, ">i1")
    change = layer.o.apply(made, spec.RESIDUAL_LIMIT)[0]
    limits = (-spec.RESIDUAL_LIMIT, spec.RESIDUAL_LIMIT)
    _, base = block.normed(shape, layer, sequence[0], 0)
    middle = np.clip(base[token] + change, *limits).astype(np.int32)
    entries[Part.MIDDLE] = [middle.astype(">i4").tobytes()]
    made, base = block.normed(shape, layer, middle[None], 1)
    if shape.style.post:
        base[0, 9] += 2_000 if part is Part.BASE2 else 0
        packed = integer.pack_rows(base[None])
        entries[Part.BASE2] = [
            b"".join(packed[at : at + 3][::-1] for at in range(0, len(packed), 3))
        ]
        made = ops.rows(base.astype(np.float64), spec.ROW_BITS)
    entries[Part.NORM2] = short(made, ">i1")
    gate = layer.gate.apply(made, spec.MID_LIMIT)[0]
    entries[Part.GATE] = wide(gate, ">i4")
    product = ops.activated(gate[None], trunk.header.activations)[0]
    if layer.up is not None:
        up = layer.up.apply(made, spec.MID_LIMIT)[0]
        entries[Part.UP], product = wide(up, ">i4"), product * up
    product[9] += 1 << 30 if part is Part.PRODUCT else 0
    entries[Part.PRODUCT] = wide(product, ">i8")
    entries[Part.PRODUCT_TOP] = tops(product)
    made = ops.rows(product[None].copy(), spec.WIDE_BITS)
    entries[Part.WIDE] = short(made, ">i2")
    change = layer.down.apply_wide(made, spec.RESIDUAL_LIMIT)[0]
    after = trunk.replay_layer(0, rows)
    bent = np.clip(base[0] + change, *limits).astype(np.int32)
    assert (bent != after[case, token]).any()
    after[case, token] = bent
    return entries, integer.pack_rows(after)


def test_liars_are_slashed_and_an_honest_receipt_survives_a_malicious_challenger(scene):
    lies = len(scene.kinds) - 1

    def closed():
        rows = scene.disputes("AUD").values()
        return sum(row["outcome"] is not None for row in rows)

    # All but the silent one: a bent row, attention, activation.
    until(lambda: closed() == lies - 1)
    for row in scene.disputes("AUD").values():
        assert (row["host"], row["challenger"], row["layer"]) == ("HOST", "AUD", 0)
        assert row["outcome"] in (None, "upheld")
    # The verifier holds no weights: what its keys do not pass it fetches, replays and proves.
    reports = {
        row["receipt"]: (row["verdict"], row["tier"])
        for row in scene.call("AUD", "audits.list")["audits"]
    }
    verdicts = [reports[digest(one).hex()] for one in scene.sealed]
    assert verdicts == [("failed", "replay")] * lies + [("passed", "freivalds")]

    # Somebody who knows all the rows disputes the honest receipt, and shows what there is.
    number = trio.run(malicious, scene)
    rich = scene.chain(OWNER)
    moved = rich.link.web3.provider.make_request("dev_move", [hex(scene.move_s + 60)])
    assert "error" not in moved
    trio.run(bonds.give, rich, scene.coin)  # the next block
    until(lambda: scene.disputes("HOST")[number]["outcome"])
    assert scene.disputes("HOST")[number]["outcome"] == "rejected"
    until(lambda: closed() == lies + 1)
    outcomes = {n: row["outcome"] for n, row in scene.disputes("AUD").items()}
    assert [o for n, o in outcomes.items() if n != number] == ["upheld"] * lies
    # The liars inside the layer were asked for just what they bent.
    assert trio.run(asked, scene) == set(scene.kinds[1:3])
    # Of each lie a bond goes, half to who proved it; and half of the bond of who proved none.
    stake = bonds.STAKE / bonds.BOND
    held = scene.holdings("AUD")
    assert (held.challenger, held.host) == (1.5 * lies, stake - lies)
    assert scene.holdings("HOST").challenger == 0.5
    shown = scene.bench.rexis(
        "--home", scene.homes["AUD"].path, "dispute", "list", "--json"
    )
    assert len(json.loads(shown.stdout)["disputes"]) == lies + 1
    # Whoever holds a file of one of these receipts is told what the chain has.
    root = batch_root(scene.sealed).hex()
    told = scene.bench.rexis(
        *("--home", scene.homes["AUD"].path, "receipt", "anchored", "HOST", root[:9])
    )
    assert f"batch  {root}\nof     {lies + 1} receipts\n" in told.stdout


async def malicious(scene):
    """Every part of the true answer, shown as if it were wrong; the dispute's number."""
    arbiter, honest = EvmDisputes(scene.chain(ASKER.account_key)), len(scene.kinds) - 1
    number = await arbiter.accuse(
        scene.accounts["HOST"],
        batch_root(scene.sealed),
        batch_proof(scene.sealed, honest),
        scene.sealed[honest],
        trunk_of(scene.model),
        (1, 0, 5),
    )
    with trio.fail_after(LIMIT_S):
        while (await arbiter.standing(number)).turn is not Turn.CHALLENGER:
            await trio.sleep(0.2)
        while not (found := await answered(scene, number)):
            await trio.sleep(0.2)
    claim, roots = found
    prosecutor = Prosecutor(scene.model, claim, SALT, *scene.rows[1:])
    trace = prosecutor.trace()
    assert trace.roots == roots
    for part in filter(trace.has, list(Part)[:-1]):
        proof = prosecutor.proof(trace, part, 0, 0, trace.leaf(part, 0))
        with pytest.raises(ContractRefusedError, match="NotWrong"):
            await arbiter.prove(number, claim, roots, proof)
    return number


async def asked(scene):
    """Parts that were asked for in any dispute."""
    parts, closed = set(), 0
    async for event in scene.chain(OWNER).follow(0):
        if event.kind == "PartAsked":
            parts.add(event.data["part"])
        closed += event.kind == "DisputeClosed"
        if closed == len(scene.kinds):
            break
    return parts


async def answered(scene, number):
    """The claim and the host's answer, from the chain's own log."""
    claim = None
    with trio.move_on_after(10):
        async for event in scene.chain(OWNER).follow(0):
            if event.data.get("number") != number:
                continue
            if event.kind == "DisputeOpened":
                claim = claim_from(event.data)
            if event.kind == "DisputeAnswered":
                return claim, tuple(map(bytes, event.data["roots"]))
    return None
