"""One real node in processes of its own: keys, chain, contracts, daemon."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from node.adapters.evm_chain import EvmChain, account_address, deploy
from node.adapters.keyfile import open_
from node.config import template
from node.locations import Home
from node.rpc.client import call
from protocol.members import ROLE_DATA_PROVIDER, Member

# Modules beside each other, the lies of the simulator, which real daemons repeat, the
# federation that chain tests share, and the records that queries are about.
_HERE = Path(__file__).parent
sys.path[:0] = [
    str(_HERE),
    *(str(_HERE.parent / name) for name in ("sim", "conformance", "unit/node/queries")),
]
from movable import federation  # noqa: E402 - the path is made above

CHAIN_ID = 31337
OWNER = bytes.fromhex("22" * 32)
READY_S = 60


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@dataclass
class Bench:
    """What a test starts, and ends again, by id."""

    folder: Path
    env: dict = field(default_factory=dict)
    running: list = field(default_factory=list)

    def start(self, *arguments, log, **env):
        with (self.folder / log).open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **self.env, **env},
            )
        self.running.append(process)
        return process

    def rexis(self, *arguments, **env):
        return subprocess.run(
            [sys.executable, "-m", "node.cli.main", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, **self.env, **env},
        )

    def end(self):
        for process in reversed(self.running):
            if process.poll() is None:
                process.kill()
            process.wait()


@dataclass
class OneNode:
    """A registered node that can be started, killed and started again."""

    bench: Bench
    home: Home
    chain_url: str
    chain: subprocess.Popen
    settings: dict

    def configure(self, **changes):
        self.settings |= changes
        self.home.config.write_text(template(**self.settings))

    def daemon(self, *, wait=True, log="daemon.log", **env):
        home = str(self.home.path)
        process = self.bench.start("node.app", "--home", home, log=log, **env)
        deadline = time.monotonic() + READY_S
        while wait:
            assert process.poll() is None, self.said(log)
            assert time.monotonic() < deadline, self.said(log)
            try:
                self.call("status.get")
            except Exception:  # not there yet; the deadline bounds it
                time.sleep(0.1)
            else:
                break
        return process

    def ends(self, *, log, **env):
        """The daemon ends by itself; its status and all it said."""
        process = self.daemon(wait=False, log=log, **env)
        status = process.wait(READY_S)
        return status, self.said(log)

    def said(self, log):
        return (self.bench.folder / log).read_text(errors="replace")

    def call(self, method, **params):
        return call(self.home.rpc_socket, method, params, timeout_s=120)


@pytest.fixture(scope="module")
def place(request, tmp_path_factory):
    """Four daemons that the tests of a module share; the parameter is the chain."""
    chain = getattr(request, "param", "devchain")
    with federation(tmp_path_factory.mktemp("f"), chain) as found:
        yield found


@pytest.fixture
def bench(tmp_path):
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("a long passphrase for a test\n")
    passphrase.chmod(0o600)
    made = Bench(tmp_path, {"REXIS_PASSPHRASE_FILE": str(passphrase)})
    yield made
    made.end()


@pytest.fixture
def node(bench, tmp_path):
    home = Home(tmp_path / "home")
    listen = f"/ip4/127.0.0.1/tcp/{free_port()}"
    done = bench.rexis(
        *("--home", home.path, "init", "--name", "MN", "--role", "institution"),
        *("--listen", listen, "--json"),
    )
    assert done.returncode == 0, done.stderr
    key = open_(home.keyfile, b"a long passphrase for a test")
    assert json.loads(done.stdout)["peer_id"] == key.peer_id
    port = free_port()
    funded = ["0x" + account_address(k).hex() for k in (OWNER, key.account_key)]
    chain = bench.start(
        *("node.devchain", "--db", str(tmp_path / "chain.sqlite")),
        *("--port", str(port), "--chain-id", str(CHAIN_ID)),
        *(part for account in funded for part in ("--fund", account)),
        log="chain.log",
    )
    deadline = time.monotonic() + READY_S
    while "ready" not in (tmp_path / "chain.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    url = f"http://127.0.0.1:{port}"
    contracts = deploy(url, CHAIN_ID, OWNER)
    member = Member(
        node_key=key.public_key,
        seal_key=key.seal_key,
        account=account_address(key.account_key),
        roles=ROLE_DATA_PROVIDER,
        name="MN",
    )
    owner = EvmChain(url=url, chain_id=CHAIN_ID, contracts=contracts, account_key=OWNER)
    trio.run(owner.register, member, member.roles)
    made = OneNode(bench, home, url, chain, {})
    made.configure(
        node__name="MN",
        network__listen=(listen,),
        chain__url=url,
        chain__chain_id=CHAIN_ID,
        **{f"chain__contracts__{name}": at for name, at in contracts.items()},
    )
    return made
