"""Federations to try the Chain port on: in memory, on the development chain, on anvil."""

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import requests
import trio

from node.adapters.evm_chain import EvmChain, account_address, deploy
from node.ports.chain import Chain
from protocol.members import ROLE_DATA_PROVIDER, Member
from protocol.types import digest

CHAIN_ID = 20261
CONFIRMATIONS = 2
KEYS = {
    name: sha256(b"test account " + name.encode()).digest()
    for name in ("owner", "clinic", "other", "researcher", "stranger")
}
ACCOUNTS = {name: account_address(key) for name, key in KEYS.items()}
RECORD, ROOT, RUN = digest(b"record"), digest(b"root"), digest(b"run")
FAR = 4_000_000_000


@dataclass(frozen=True)
class World:
    """A fresh federation without members."""

    chain: Callable[[str], Chain]
    tick_s: float = 0.0
    """How long to wait for the next second; most chains here count one per block."""

    async def tick(self) -> None:
        await trio.sleep(self.tick_s)


@contextmanager
def devchain(
    folder: Path, accounts: Iterable[bytes] | None = None, *options: str
) -> Iterator[str]:
    """A development chain in a process of its own, and its URL."""
    funded = ACCOUNTS.values() if accounts is None else accounts
    funds = [part for a in funded for part in ("--fund", "0x" + a.hex())]
    command = [sys.executable, "-m", "node.devchain", "--port", "0"]
    where = ["--db", str(folder / "chain.sqlite"), "--chain-id", str(CHAIN_ID)]
    with subprocess.Popen(
        [*command, *where, *funds, *options], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
        process.terminate()


def follow_blocks(url: str, stop: threading.Event) -> None:
    session, seen = requests.Session(), ""

    def ask(method: str, *params: str) -> str:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return str(session.post(url, json=body, timeout=10).json()["result"])

    while not stop.wait(0.005):
        if ask("eth_blockNumber") != seen:
            for _ in range(CONFIRMATIONS):
                ask("dev_fund", "0x" + ACCOUNTS["stranger"].hex(), "0x1")
            seen = ask("eth_blockNumber")


def on_evm(url: str, confirmations: int, tick_s: float = 0.0) -> World:
    contracts = deploy(url, CHAIN_ID, KEYS["owner"])
    return World(
        lambda name: EvmChain(
            url=url,
            chain_id=CHAIN_ID,
            contracts=contracts,
            account_key=KEYS[name],
            confirmations=confirmations,
            poll_s=0.01,
        ),
        tick_s,
    )


def anvil_program() -> str | None:
    """anvil, from contracts/tools (`npm ci` there) or from the path."""
    tools = Path(__file__).parents[2] / "contracts" / "tools" / "node_modules"
    found = sorted(tools.glob("@foundry-rs/anvil-*-*/bin/anvil"))
    return str(found[0]) if found else shutil.which("anvil")


@contextmanager
def anvil(accounts: Iterable[bytes] | None = None) -> Iterator[str]:
    """A second implementation of the EVM and of its JSON-RPC."""
    program = anvil_program()
    if program is None:
        pytest.skip("anvil is not installed: run `npm ci` in contracts/tools")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    # Without the limit on history anvil's memory grows with every block.
    options = [
        "--port",
        str(port),
        "--chain-id",
        str(CHAIN_ID),
        "--no-cors",
        "--silent",
    ]
    with subprocess.Popen(
        [program, *options, "--prune-history", "64", "--accounts", "1"]
    ) as process:
        session = requests.Session()

        def ask(method: str, *params: object) -> object:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            return session.post(url, json=body, timeout=10).json()["result"]

        for _ in range(400):
            try:
                ask("eth_chainId")
                break
            except requests.ConnectionError:
                time.sleep(0.05)
        for account in ACCOUNTS.values() if accounts is None else accounts:
            ask("anvil_setBalance", "0x" + account.hex(), hex(10**21))
        yield url
        process.terminate()


def member(who: str, **changes: object) -> Member:
    fields = {
        "node_key": digest(b"node " + who.encode()),
        "seal_key": digest(b"seal " + who.encode()),
        "account": ACCOUNTS[who],
        "roles": ROLE_DATA_PROVIDER,
        "name": who,
    }
    return Member(**{**fields, **changes})
