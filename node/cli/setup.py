"""What is done before a daemon runs: `rexis init` makes a node, `rexis config check` reads one."""

import json
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from node.cli import federation
from node.cli.shell import Noun, Shell, WrongValueError, print_fields, say, verb
from node.errors import ConfigError, StorageError
from node.locations import Home

_ROLES: Mapping[str, tuple[str, ...]] = {
    "institution": ("data provider", "researcher", "compute host"),
    "verifier": ("auditor",),
    "researcher": ("researcher",),
}


@click.group()
def _top() -> None:
    """Holds the command that has no noun."""


@click.group(cls=Noun)
def config() -> None:
    """The configuration file, and the passphrase of the key file."""


@verb(_top)
@click.option("--name", required=True, help="How members will call this node.")
@click.option(
    "--role",
    type=click.Choice(list(_ROLES)),
    default="institution",
    show_default=True,
)
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help="Such as /ip4/0.0.0.0/tcp/4001; may be repeated.",
)
@click.option("--chain-url", metavar="URL", help="Ethereum JSON-RPC of the federation.")
@click.option("--chain-id", type=int, help="Its chain id.")
@click.option(
    "--federation",
    "federation_file",
    callback=federation.read_option,
    metavar="FILE",
    help="What `rexis chain deploy --json` printed: chain and contracts.",
)
def init(
    shell: Shell,
    name: str,
    role: str,
    listen: tuple[str, ...],
    chain_url: str | None,
    chain_id: int | None,
    federation_file: federation.Federation | None,
) -> None:
    """Make a node: its folder, its keys, its configuration.

    Nothing that is there already is replaced. The passphrase of the key file is asked for, or
    read from the file named by REXIS_PASSPHRASE_FILE. The member card, card.json in the home, is
    public: the registrar of the federation needs it. --json prints it.
    """
    values: dict[str, object] = {"node__name": name, "node__role": role}
    if listen:
        values["network__listen"] = list(listen)
    if federation_file is not None:
        values |= federation_file.config()
    if chain_url is not None:
        values["chain__url"] = chain_url
    if chain_id is not None:
        values["chain__chain_id"] = chain_id
    keys = _made(shell.home, values)
    card = {"name": name, "role": role, "roles": list(_ROLES[role]), **keys}
    _write_new(shell.home.card, json.dumps(card, indent=2) + "\n")

    def human() -> None:
        print_fields(
            [
                ("name", name),
                ("peer id", keys["peer_id"]),
                ("node key", keys["node_key"]),
                ("seal key", keys["seal_key"]),
                ("account", keys["account"]),
            ]
        )
        say("")
        say(f"1. look through {shell.home.config}")
        say(f"2. send {shell.home.card} to the federation's registrar")
        say(f"3. start the node: rexisd --home {shell.home.path}")

    shell.result(card, human)


def _made(home: Home, values: Mapping[str, object]) -> dict[str, str]:
    """Files first that can be made again, the keys last; nothing half is left behind."""
    from node.adapters import keyfile
    from node.cli.account import address
    from node.config import template
    from node.passphrase import read_passphrase

    try:
        text = template(**values)
    except ConfigError as error:
        said = str(error).split(": expected")[0].removeprefix("config key ")
        raise WrongValueError(said, hint=error.hint()) from error
    for path in (home.keyfile, home.config, home.card):
        if path.exists():
            raise StorageError(
                f"{path} exists already",
                hint="this node was made before; choose another --home for a new one",
            )
    passphrase = read_passphrase(os.environ, confirm=True)
    home.create()
    _require_own_folder(home.path)
    _write_new(home.config, text)
    try:
        key = keyfile.create(home.keyfile, passphrase)
    except BaseException:
        home.config.unlink()
        raise
    return {
        "peer_id": key.peer_id,
        "node_key": key.public_key.hex(),
        "seal_key": key.seal_key.hex(),
        "account": "0x" + address(key.account_key).hex(),
    }


def _require_own_folder(path: Path) -> None:
    """Mode 0700; an empty folder that somebody made for us is tightened, no other."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & 0o077:
        return
    if any(path.iterdir()):
        raise StorageError(
            f"{path} has mode {mode:04o} and is not empty",
            hint=f"choose a folder of its own, or run `chmod 700 {path}`",
        )
    path.chmod(0o700)


def _write_new(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


@verb(config)
def passphrase(shell: Shell) -> None:
    """Seal the key file under another passphrase; a running daemon goes on.

    Both are asked for, or read from the files named by REXIS_PASSPHRASE_FILE and
    REXIS_NEW_PASSPHRASE_FILE. Backups of the key file still open with the old one.
    """
    from node.adapters import keyfile
    from node.passphrase import read_new_passphrase, read_passphrase

    home = shell.home
    # A wrong one is said before a new one is asked for.
    key = keyfile.open_(home.keyfile, read_passphrase(os.environ))
    keyfile.reseal(home.keyfile, key, read_new_passphrase(os.environ))
    answer = {"keyfile": os.fspath(home.keyfile), "peer_id": key.peer_id}

    def human() -> None:
        say(f"{home.keyfile} is sealed under the new passphrase")
        say("put it where the daemon reads it, and back the key file up again")

    shell.result(answer, human)


@verb(config)
def check(shell: Shell) -> None:
    """Read the configuration as the daemon would, and say what is wrong.

    Shows every value and where it comes from: the file, the environment, or the default.
    """
    import msgspec

    from node.config import load

    home = shell.home
    tree = msgspec.to_builtins(load(home, os.environ))
    file = tomllib.loads(home.config.read_text())
    rows = [
        {"key": path, "value": value, "from": _origin(path, file)}
        for path, value in _leaves(tree)
    ]
    warnings = _warnings(home, tree)

    def human() -> None:
        from node.cli import render

        cells = [[row["key"], row["from"], _cell(row["value"])] for row in rows]
        render.table(["key", "from", "value"], cells)
        say("")
        say(f"{home.config} is valid")
        for warning in warnings:
            say(f"warning: {warning}")

    shell.result(
        {"path": os.fspath(home.config), "values": rows, "warnings": warnings}, human
    )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found


def _origin(path: str, file: Any) -> str:
    variable = "REXIS_" + path.upper().replace(".", "__")
    if variable in os.environ:
        return variable
    for name in path.split("."):
        if not isinstance(file, dict) or name not in file:
            return "default"
        file = file[name]
    return "file"


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        peers = [one["peer_id"] if isinstance(one, dict) else str(one) for one in value]
        return ", ".join(peers) or "none"
    return str(value) if value != "" else '""'


def _warnings(home: Home, tree: Mapping[str, Any]) -> list[str]:
    """What the daemon would refuse or an operator would regret, though each value is legal."""
    found = []
    missing = [
        name for name, address in tree["chain"]["contracts"].items() if not address
    ]
    if missing:
        found.append(
            f"chain.contracts has no {', '.join(missing)}; the daemon does not start without"
        )
    if not home.keyfile.exists():
        found.append(f"there is no key file {home.keyfile}")
    if not tree["network"]["peers"]:
        found.append("network.peers is empty; this node dials nobody")
    if tree["dev"]["corrupt_receipts"]:
        found.append("dev.corrupt_receipts is set; this node will lie on purpose")
    mode = stat.S_IMODE(home.path.stat().st_mode)
    if mode & 0o077:
        found.append(f"{home.path} has mode {mode:04o}; the daemon needs 0700")
    return found


COMMANDS = (init, config)
