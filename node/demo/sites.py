"""The places of the demo: homes, ports, keys, configuration, registration.

Everything here is what an operator would do by hand with `rexis init`, an editor and the
registry's owner key; the demo does it for six nodes.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from node.adapters.evm_chain import EvmChain, account_address, deploy
from node.adapters.keyfile import open_
from node.config import Peer, template
from node.demo import bonds
from node.demo.programs import DemoError, Programs, free_ports, until
from node.errors import RpcError
from node.locations import Home
from node.rpc.client import call
from protocol.members import (
    ROLE_AUDITOR,
    ROLE_COMPUTE_HOST,
    ROLE_DATA_PROVIDER,
    ROLE_RESEARCHER,
    Member,
)

CLINICS = ("MN", "KY", "MS", "NY")
RESEARCHER, VERIFIER = "LAB", "AUD"
CHAIN_ID = 31337
LIAR, CORRUPTED = "NY", 2
"""The host that is told to alter one number of its first answers."""

_ROLES = {
    **dict.fromkeys(CLINICS, ROLE_DATA_PROVIDER | ROLE_RESEARCHER | ROLE_COMPUTE_HOST),
    RESEARCHER: ROLE_RESEARCHER,
    VERIFIER: ROLE_AUDITOR,
}
_KINDS = {
    **dict.fromkeys(CLINICS, "institution"),
    RESEARCHER: "researcher",
    VERIFIER: "verifier",
}


@dataclass(frozen=True)
class Site:
    """One node's place."""

    name: str
    kind: str
    home: Home
    port: int
    peer_id: str

    def call(
        self, method: str, timeout_s: float = 120.0, **params: object
    ) -> dict[str, Any]:
        """Ask the node over its admin socket."""
        return call(self.home.rpc_socket, method, params, timeout_s=timeout_s)


@dataclass(frozen=True)
class Place:
    """All of the demo's nodes and their chain."""

    folder: Path
    sites: Mapping[str, Site]
    chain_url: str
    contracts: Mapping[str, str]
    owner_key: bytes
    coin: str

    def environment(self) -> dict[str, str]:
        """What every program of the demo is started with."""
        return {"REXIS_PASSPHRASE_FILE": str(self.folder / "passphrase")}


def prepare(folder: Path, programs: Programs) -> Place:
    """Chain, contracts, six homes, six registrations."""
    passphrase = folder / "passphrase"
    passphrase.write_text(secrets.token_urlsafe(24))
    passphrase.chmod(0o600)
    names = (*CLINICS, RESEARCHER, VERIFIER)
    chain_port, *ports = free_ports(1 + len(names))
    url = f"http://127.0.0.1:{chain_port}"
    homes = {name: Home(folder / name) for name in names}
    for name, port in zip(names, ports, strict=True):
        _init(homes[name], name, _KINDS[name], port, passphrase)
    secret = passphrase.read_bytes().strip()
    keys = {name: open_(homes[name].keyfile, secret) for name in names}
    owner_key = secrets.token_bytes(32)
    accounts = [account_address(key.account_key) for key in keys.values()]
    funded = [account_address(owner_key), *accounts]
    start_chain(folder, chain_port, programs, funded)
    settings = bonds.settings(url, owner_key)
    contracts = deploy(url, CHAIN_ID, owner_key, settings)
    members = [
        Member(
            node_key=key.public_key,
            seal_key=key.seal_key,
            account=account_address(key.account_key),
            roles=_ROLES[name],
            name=name,
        )
        for name, key in keys.items()
    ]
    trio.run(_register, url, contracts, owner_key, members)
    rich = {name: keys[name].account_key for name in (LIAR, VERIFIER)}
    trio.run(_endow, url, contracts, settings.token, rich)
    sites = {
        name: Site(name, _KINDS[name], homes[name], port, keys[name].peer_id)
        for name, port in zip(names, ports, strict=True)
    }
    for site in sites.values():
        _configure(site, sites, url, contracts)
    return Place(folder, sites, url, contracts, owner_key, settings.token)


def start_chain(
    folder: Path, port: int, programs: Programs, funded: Sequence[bytes] = ()
) -> None:
    """The chain, for the first time or after it was killed."""
    programs.start(
        "chain",
        "node.devchain",
        *("--db", str(folder / "chain.sqlite"), "--port", str(port)),
        *("--chain-id", str(CHAIN_ID)),
        *(part for account in funded for part in ("--fund", "0x" + account.hex())),
    )
    programs.wait_for_line("chain", "ready")


async def _register(
    url: str, contracts: Mapping[str, str], owner_key: bytes, members: list[Member]
) -> None:
    chain = EvmChain(
        url=url, chain_id=CHAIN_ID, contracts=contracts, account_key=owner_key
    )
    for member in members:
        await chain.register(member, member.roles)


async def _endow(
    url: str, contracts: Mapping[str, str], coin: str, keys: Mapping[str, bytes]
) -> None:
    """Coins for those who will need them; the liar stakes like an honest host."""
    for name, key in keys.items():
        chain = EvmChain(
            url=url, chain_id=CHAIN_ID, contracts=contracts, account_key=key
        )
        await bonds.give(chain, coin)
        if name == LIAR:
            await bonds.stake(chain)


def start(place: Place, programs: Programs) -> None:
    """A worker for each clinic, then all daemons; returns when every one is ready."""
    for name in CLINICS:
        socket = str(place.sites[name].home.worker_socket)
        programs.start(f"{name}-worker", "node.worker", "--socket", socket)
    for name in place.sites:
        start_daemon(place, programs, name)
    for name in CLINICS:
        programs.wait_for_line(f"{name}-worker", "ready")
    for name in place.sites:
        wait_ready(place, programs, name)


def start_daemon(place: Place, programs: Programs, name: str) -> None:
    """One daemon."""
    home = place.sites[name].home.path
    programs.start(name, "node.app", "--home", str(home), env=place.environment())


def wait_ready(
    place: Place, programs: Programs, name: str, timeout_s: float = 60
) -> None:
    """Until the node answers and has found every other node."""
    others, site = len(place.sites) - 1, place.sites[name]

    def ready() -> bool:
        programs.check(name)
        try:
            return int(site.call("status.get")["connected"]) >= others
        except RpcError:
            return False  # the socket is not there yet

    until(ready, f"{name} and its {others} peers", timeout_s)


def _init(home: Home, name: str, kind: str, port: int, passphrase: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "node.cli.main", "--home", str(home.path), "init"),
            *("--name", name, "--role", kind),
            *("--listen", f"/ip4/127.0.0.1/tcp/{port}", "--json"),
        ],
        env={**os.environ, "REXIS_PASSPHRASE_FILE": str(passphrase)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise DemoError(f"rexis init for {name} failed: {done.stderr.strip()}")


def _configure(
    site: Site, sites: Mapping[str, Site], url: str, contracts: Mapping[str, str]
) -> None:
    """What an operator would edit: the chain, the contracts, the other members."""
    others = tuple(
        Peer(one.peer_id, (f"/ip4/127.0.0.1/tcp/{one.port}",))
        for one in sites.values()
        if one is not site
    )
    site.home.config.write_text(
        template(
            node__name=site.name,
            node__role=site.kind,
            network__listen=(f"/ip4/127.0.0.1/tcp/{site.port}",),
            network__peers=others,
            chain__url=url,
            chain__chain_id=CHAIN_ID,
            chain__contracts__registry=contracts["registry"],
            chain__contracts__datasets=contracts["datasets"],
            chain__contracts__anchors=contracts["anchors"],
            audit__rate=1.0,
            audit__full=1.0,
            audit__dispute=site.name == VERIFIER,
            dev__corrupt_receipts=CORRUPTED if site.name == LIAR else 0,
        )
    )
