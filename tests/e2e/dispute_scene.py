"""A host, a verifier and their chain in processes, with homes as a requester and a worker
would have left them: a released trunk, receipts of the host, and the rows behind them."""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import trio

from ee import integer
from ee.integer import block, ops, spec
from node.adapters.blob_dir import BlobDir
from node.adapters.evm_chain import EvmChain, account_address, deploy
from node.adapters.keyfile import KeyFile, open_
from node.adapters.sqlite_store import SqliteStore
from node.clock import now_s
from node.config import Peer, template
from node.demo import bonds
from node.demo.programs import free_ports
from node.locations import Home
from node.rpc.client import call
from node.services.faults import altered
from node.services.outbox import Outbox
from node.services.receipts import Receipts
from node.verifier.replay import Model
from protocol.boundary import boundary_root
from protocol.dispute import Part
from protocol.evaluation import Release
from protocol.members import (
    ROLE_AUDITOR,
    ROLE_COMPUTE_HOST,
    ROLE_RESEARCHER,
    Member,
)
from protocol.merkle import leaf_digest
from protocol.receipt import Order, seal_order, seal_receipt
from protocol.types import digest
from protocol.wire import encode

CHAIN_ID, OWNER = 31337, bytes.fromhex("22" * 32)
LIMIT_S = 240
SALT = bytes(range(32))
ASKER = KeyFile(b"\x31" * 32, b"\x32" * 32, b"\x33" * 32)
PLACE = (0, 5)
"""Case and token of the lies inside a layer."""
ROLES = {
    "HOST": ("institution", ROLE_COMPUTE_HOST),
    "AUD": ("verifier", ROLE_AUDITOR),
    "ASKER": (None, ROLE_RESEARCHER),
}


def until(found, every_s=0.2):
    deadline = time.monotonic() + LIMIT_S
    while True:
        value = found()
        if value:
            return value
        assert time.monotonic() < deadline
        time.sleep(every_s)


class Scene:
    """Chain, two daemons, and somebody who asked."""

    def __init__(self, bench, folder, trunk, rows, kinds):
        self.bench, self.folder, self.kinds = bench, folder, kinds
        self.trunk, self.drawn = trunk, rows
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

    def configure(self, **changes):
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
                    **{
                        f"chain__contracts__{n}": at for n, at in self.contracts.items()
                    },
                    **changes,
                )
            )

    def start(self, name, program="node.app"):
        path = os.pathsep.join((str(Path(__file__).parent), *sys.path))
        options = ("--home", str(self.homes[name].path))
        return self.bench.start(program, *options, log=f"{name}.log", PYTHONPATH=path)

    def connected(self, name):
        """To how many; None while it does not answer."""
        try:
            return self.call(name, "status.get")["connected"]
        except Exception:  # not there yet; a deadline bounds it
            return None

    def call(self, name, method, **params):
        return call(self.homes[name].rpc_socket, method, params, timeout_s=30)

    async def write_homes(self):
        """A release both know, and five receipts of the host, in the order of `KINDS`."""
        trunk = self.trunk
        self.model = Model.read(integer.encode(trunk))
        rows = self.drawn
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
