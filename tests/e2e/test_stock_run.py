"""A run over a stock checkpoint by real daemons; one trains at the worker of another member.

NORTH's trunk is keyed at home and trained at GPU's worker over libp2p.  The base is refused
where it is another one, the lent worker is stopped for a while and killed in the middle of a
round, and all members end with the same bytes.
"""

import csv
import io
import json
import os
import random
import signal
import time

import pytest
import trio

from node.adapters.evm_chain import EvmChain, account_address, deploy
from node.adapters.keyfile import open_
from node.config import Peer, template
from node.demo.programs import free_ports
from node.errors import NodeError
from node.locations import Home
from node.model.base import base_digest
from node.rpc.client import call
from protocol.members import ROLE_COMPUTE_HOST, ROLE_DATA_PROVIDER, Member

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHAIN_ID, OWNER = 31337, bytes.fromhex("22" * 32)
LIMIT_S = 240
NAMES = ("NORTH", "SOUTH", "GPU")
LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def until(found, what):
    deadline = time.monotonic() + LIMIT_S
    while not (value := found()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return value


def checkpoint(folder, seed):
    """A small stock checkpoint, as somebody who never heard of us would write it."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=24,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    LlamaModel(config).save_pretrained(folder)


def peptides(seed):
    """Sequences of two kinds: one is rich in four of the letters."""
    draw = random.Random(seed)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "peptide", "kind"])
    for number in range(60):
        active = number % 2
        pool = LETTERS[:4] * (3 * active) + LETTERS
        sequence = "".join(draw.choices(pool, k=draw.randint(10, 24)))
        writer.writerow([f"{seed}-{number}", sequence, ("inert", "active")[active]])
    return out.getvalue()


class Scene:
    """A chain, three institutions, and a worker for each."""

    def __init__(self, bench, folder):
        self.bench, self.folder = bench, folder
        self.homes = {name: Home(folder / name) for name in NAMES}
        self.ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        for name, home in self.homes.items():
            done = bench.rexis(
                *("--home", home.path, "init", "--name", name),
                *("--role", "institution", "--json"),
            )
            assert done.returncode == 0, done.stderr
        secret = b"a long passphrase for a test"
        self.keys = {name: open_(h.keyfile, secret) for name, h in self.homes.items()}
        self._chain()
        self._configure()

    def _chain(self):
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        accounts = [account_address(k.account_key) for k in self.keys.values()]
        self.bench.start(
            *("node.devchain", "--db", str(self.folder / "chain.sqlite")),
            *("--port", str(port), "--chain-id", str(CHAIN_ID)),
            *(
                part
                for one in [account_address(OWNER), *accounts]
                for part in ("--fund", "0x" + one.hex())
            ),
            log="chain.log",
        )
        log = self.folder / "chain.log"
        until(lambda: "ready" in log.read_text(), "the chain")
        self.contracts = deploy(self.url, CHAIN_ID, OWNER)
        trio.run(self._register)

    async def _register(self):
        owner = EvmChain(
            url=self.url,
            chain_id=CHAIN_ID,
            contracts=self.contracts,
            account_key=OWNER,
        )
        roles = ROLE_DATA_PROVIDER | ROLE_COMPUTE_HOST
        for name, key in self.keys.items():
            account = account_address(key.account_key)
            member = Member(key.public_key, key.seal_key, account, roles, name)
            await owner.register(member, roles)

    def _configure(self):
        for name, home in self.homes.items():
            others = [one for one in NAMES if one != name]
            home.config.write_text(
                template(
                    node__name=name,
                    node__role="institution",
                    network__listen=(f"/ip4/127.0.0.1/tcp/{self.ports[name]}",),
                    network__peers=tuple(
                        Peer(
                            self.keys[one].peer_id,
                            (f"/ip4/127.0.0.1/tcp/{self.ports[one]}",),
                        )
                        for one in others
                    ),
                    chain__url=self.url,
                    chain__chain_id=CHAIN_ID,
                    worker__host="GPU" if name == "NORTH" else "",
                    worker__lend=name == "GPU",
                    **{
                        f"chain__contracts__{n}": at for n, at in self.contracts.items()
                    },
                )
            )

    def start(self):
        for name, home in self.homes.items():
            self.bench.start("node.app", "--home", str(home.path), log=f"{name}.log")
        for name in ("SOUTH", "GPU"):
            self.worker(name)
        for name in NAMES:
            until(lambda name=name: self.connected(name), f"{name} to be up")

    def worker(self, name):
        """A worker on the host of `name`; NORTH has none of its own."""
        path = self.homes[name].worker_socket
        path.unlink(missing_ok=True)
        log = f"{name}-worker.log"
        process = self.bench.start("node.worker", "--socket", str(path), log=log)
        until(path.exists, f"the worker of {name}")
        return process

    def connected(self, name):
        try:
            return self.call(name, "status.get")["connected"] == len(NAMES) - 1
        except NodeError:  # not there yet; the deadline bounds it
            return False

    def call(self, name, method, **params):
        socket = self.homes[name].rpc_socket
        return call(socket, method, params, timeout_s=300)

    def publish(self, name, number):
        table = self.folder / f"{name}.csv"
        table.write_text(peptides(number))
        table.chmod(0o600)
        shown = self.call(
            name,
            "datasets.publish",
            paths=[str(table)],
            title=f"peptides of {name}",
            licence="CC0-1.0",
            duo=["DUO:0000042"],
            source="made for a test",
        )
        return int(shown["dataset"])


@pytest.fixture
def scene(bench, tmp_path):
    made = Scene(bench, tmp_path)
    made.start()
    return made


def plan(digest):
    base = {"name": "tiny", "digest": digest, "private": True}
    return {
        "title": "peptides",
        "spec": {
            "kind": "stock",
            "text": "peptide",
            "classes": ["inert", "active"],
            "checkpoint": base,
            "letters": LETTERS,
            "tokens": 32,
            "rank": 4,
        },
        "task": {"id": "id", "label": "kind", "held_out_percent": 30},
        "train": {"steps": 25, "batch": 16, "trunk_rate": 0.02, "ends_rate": 0.02},
        "sum": {"patience_ms": 60_000, "upload_floor_ms": 30_000},
    }


def test_a_run_over_a_checkpoint_with_a_borrowed_worker(scene, bench, tmp_path):
    base = tmp_path / "base"
    checkpoint(base, 1)
    for name in ("NORTH", "GPU"):
        scene.homes[name].models.mkdir()
        (scene.homes[name].models / "tiny").symlink_to(base)
    checkpoint(scene.homes["SOUTH"].models / "tiny", 2)
    datasets = {name: scene.publish(name, i) for i, name in enumerate(NAMES)}

    model = tmp_path / "model.json"
    model.write_text(json.dumps(plan(base_digest(base))))
    home = ("--home", scene.homes["NORTH"].path)
    done = bench.rexis(
        *(*home, "run", "propose", model, "--rounds", "3", "--dataset"),
        *(datasets["NORTH"], *(p for n in NAMES for p in ("--member", n)), "--json"),
    )
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)["run"]

    def join(name):
        until(
            lambda: any(r["run"] == run for r in scene.call(name, "runs.list")["runs"]),
            f"{name} to hear of the run",
        )
        args = ("--home", scene.homes[name].path, "run", "join", run)
        return bench.rexis(*args, "--dataset", datasets[name])

    refused = join("SOUTH")
    assert refused.returncode == 1
    assert "the run needs" in refused.stderr
    assert "rexis model inspect" in refused.stderr
    mine = scene.homes["SOUTH"].models
    (mine / "tiny").rename(tmp_path / "another")
    (mine / "tiny").symlink_to(base)
    for name in ("SOUTH", "GPU"):
        done = join(name)
        assert done.returncode == 0, done.stderr

    # The lent worker belongs to two: GPU itself, and NORTH over libp2p.
    lent = scene.bench.running[-1]

    def show(name):
        return scene.call(name, "runs.show", run=run)

    def stepping():
        progress = show("NORTH")["progress"]
        return progress and progress["what"] == "training" and progress["step"]

    until(stepping, "NORTH to train")
    os.kill(lent.pid, signal.SIGSTOP)
    time.sleep(2)
    os.kill(lent.pid, signal.SIGCONT)
    until(stepping, "NORTH to train on")
    lent.kill()
    lent.wait()
    reason = until(lambda: show("NORTH")["reason"], "NORTH to say what is wrong")
    assert "went away" in reason, reason
    scene.worker("GPU")

    until(
        lambda: all(show(name)["phase"] == "finished" for name in NAMES),
        "the run to finish",
    )
    roots = {show(name)["state_root"] for name in NAMES}
    assert len(roots) == 1
    assert show("NORTH")["reason"] is None
    files = {
        (home.states / f"{root}.state").read_bytes()
        for home in scene.homes.values()
        for root in roots
    }
    assert len(files) == 1

    out = tmp_path / "trained"
    done = bench.rexis(*home, "run", "export", run, out, "--json")
    assert done.returncode == 0, done.stderr
    assert (out / "model.safetensors").exists()
    test = tmp_path / "unseen.csv"
    test.write_text(peptides(9))
    done = bench.rexis(*home, "run", "score", run, test, "--json")
    assert done.returncode == 0, done.stderr
    scored = json.loads(done.stdout)
    assert scored["records"] == 60
    assert scored["auc"] > 0.7, scored
