"""Bring up a small federation in containers, each node making its own keys.

    federate.py found NAME...         deploy the contracts, admit the named members
    federate.py join NAME --role R --port P [--no-start]
                                      make a home, hand in its card, wait, become rexisd

What passes between them is what passes between real institutions and their registrar: a
card of public keys one way, the contracts' addresses and the list of members the other.
Both lie in a shared folder here.  The chain is the development chain, which gives
accounts currency on request; that, and the passphrase made here, are not for production.
"""

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
import trio

from node.adapters.evm_chain import EvmChain, account_address, deploy
from node.adapters.keyfile import create, open_
from node.config import template
from node.errors import NodeError
from node.locations import Home
from node.passphrase import FILE_VARIABLE, read_passphrase
from protocol.members import (
    ROLE_AUDITOR,
    ROLE_COMPUTE_HOST,
    ROLE_DATA_PROVIDER,
    ROLE_RESEARCHER,
    Member,
)

CHAIN_ID = 31337
WAIT_S = 180.0
ROLES = {
    "institution": ROLE_DATA_PROVIDER | ROLE_RESEARCHER | ROLE_COMPUTE_HOST,
    "researcher": ROLE_RESEARCHER,
    "verifier": ROLE_AUDITOR,
}


def found(folder: Path, chain_url: str, names: list[str]) -> None:
    """Deploy, admit the members named, publish the result; done already is no error."""
    if (folder / "federation.json").exists():
        return
    cards = [_wait_json(folder / "members" / f"{name}.json") for name in names]
    registrar = secrets.token_bytes(32)
    accounts = [account_address(registrar).hex(), *(card["account"] for card in cards)]
    for account in accounts:
        _fund(chain_url, "0x" + account)
    contracts = deploy(chain_url, CHAIN_ID, registrar)
    trio.run(_admit, chain_url, contracts, registrar, cards)
    _write_json(
        folder / "federation.json",
        {"chain_url": chain_url, "contracts": contracts, "members": cards},
    )


async def _admit(
    url: str,
    contracts: Mapping[str, str],
    registrar: bytes,
    cards: list[dict[str, Any]],
) -> None:
    chain = EvmChain(
        url=url, chain_id=CHAIN_ID, contracts=contracts, account_key=registrar
    )
    for card in cards:
        member = Member(
            node_key=bytes.fromhex(card["node_key"]),
            seal_key=bytes.fromhex(card["seal_key"]),
            account=bytes.fromhex(card["account"]),
            roles=ROLES[card["role"]],
            name=card["name"],
        )
        await chain.register(member, member.roles)


def join(home: Home, folder: Path, name: str, role: str, port: int) -> None:
    """A home with keys and a config that names every other member."""
    home.create()
    passphrase = _passphrase()
    key = (
        open_(home.keyfile, passphrase)
        if home.keyfile.exists()
        else create(home.keyfile, passphrase)
    )
    card = {
        "name": name,
        "role": role,
        "node_key": key.public_key.hex(),
        "seal_key": key.seal_key.hex(),
        "account": account_address(key.account_key).hex(),
        "peer_id": key.peer_id,
        "address": f"/ip4/127.0.0.1/tcp/{port}",
    }
    _write_json(folder / "members" / f"{name}.json", card)
    federation = _wait_json(folder / "federation.json")
    contracts = federation["contracts"]
    home.config.write_text(
        template(
            node__name=name,
            node__role=role,
            network__listen=[card["address"]],
            network__peers=[
                {"peer_id": other["peer_id"], "addresses": [other["address"]]}
                for other in federation["members"]
                if other["name"] != name
            ],
            chain__url=federation["chain_url"],
            chain__chain_id=CHAIN_ID,
            chain__contracts__registry=contracts["registry"],
            chain__contracts__datasets=contracts["datasets"],
            chain__contracts__anchors=contracts["anchors"],
            worker__socket=os.environ.get("WORKER_SOCKET", ""),
        )
    )


def _passphrase() -> bytes:
    path = Path(os.environ[FILE_VARIABLE])
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24))
    return read_passphrase(os.environ)


def _fund(url: str, account: str) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "dev_fund", "params": [account]}
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            answer = requests.post(url, json=request, timeout=10).json()
            break
        except requests.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)  # the chain is still starting
    if "error" in answer:
        raise NodeError(
            f"the chain at {url} gives no currency: {answer['error']['message']}",
            hint="this script is for the development chain only",
        )


def _write_json(path: Path, value: object) -> None:
    """Whole or not at all: somebody may be waiting for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1))
    partial.rename(path)


def _wait_json(path: Path) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise NodeError(f"{path} did not appear within {WAIT_S:.0f} s")
        time.sleep(0.1)
    return dict(json.loads(path.read_text()))


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, or 1 with one line that says why."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("/federation"))
    commands = parser.add_subparsers(dest="command", required=True)
    founding = commands.add_parser("found")
    founding.add_argument("--chain", default="http://127.0.0.1:8545")
    founding.add_argument("names", nargs="+", metavar="NAME")
    joining = commands.add_parser("join")
    joining.add_argument("name", metavar="NAME")
    joining.add_argument("--home", type=Path, default=Path("/var/lib/rexis"))
    joining.add_argument("--role", choices=sorted(ROLES), required=True)
    joining.add_argument("--port", type=int, required=True)
    joining.add_argument("--no-start", action="store_true")
    options = parser.parse_args(argv)
    try:
        if options.command == "found":
            found(options.folder, options.chain, options.names)
            return 0
        home = Home(options.home)
        join(home, options.folder, options.name, options.role, options.port)
    except NodeError as error:
        sys.stderr.write(f"rexis: error: {error}\nrexis: hint: {error.hint()}\n")
        return 1
    if not options.no_start:
        os.execvp("rexisd", ["rexisd", "--home", str(home.path)])  # noqa: S606
    return 0


if __name__ == "__main__":
    sys.exit(main())
