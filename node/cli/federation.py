"""Two small public files that people hand to each other.

The federation file names chain and contracts; the registrar makes it with `rexis chain deploy
--json` and gives it to all.  A member card is what `rexis init --json` printed; each member
gives its own to the registrar.  Both are checked here, since both came by e-mail.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

_FILE_LIMIT_BYTES = 1 << 16
CONTRACTS = ("registry", "datasets", "anchors")
ROLE_NAMES = ("data provider", "researcher", "compute host", "auditor")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,32}")


class BadFileError(ValueError):
    """A file is not what it was given as; the message names file and field."""


@dataclass(frozen=True)
class Federation:
    """Which chain, which contracts."""

    chain_url: str
    chain_id: int
    contracts: dict[str, str]

    def config(self) -> dict[str, object]:
        """As keys of `node.config.template`."""
        return {
            "chain__url": self.chain_url,
            "chain__chain_id": self.chain_id,
            **{f"chain__contracts__{name}": self.contracts[name] for name in CONTRACTS},
        }


@dataclass(frozen=True)
class Card:
    """A member as it presents itself; nothing here is proved yet."""

    name: str
    peer_id: str
    node_key: bytes
    seal_key: bytes
    account: bytes
    roles: tuple[str, ...]


def read_federation(path: Path) -> Federation:
    """The federation file, or `BadFileError`."""
    tree = _object(path)
    contracts = tree.get("contracts")
    if not isinstance(contracts, dict):
        raise BadFileError(f"{path} has no contracts; that is no federation file")
    for name in CONTRACTS:
        _text(path, contracts, name, _ADDRESS)
    chain_id = tree.get("chain_id")
    if type(chain_id) is not int or chain_id < 1:
        raise BadFileError(f"chain_id in {path} is {chain_id!r:.80}, not a number")
    url = _text(path, tree, "chain_url", re.compile(r"https?://[^ ]+"))
    return Federation(url, chain_id, {name: contracts[name] for name in CONTRACTS})


def read_card(path: Path) -> Card:
    """A member card, or `BadFileError`."""
    tree = _object(path)
    roles = tree.get("roles")
    if not isinstance(roles, list) or not set(roles) <= set(ROLE_NAMES) or not roles:
        raise BadFileError(
            f"roles in {path} are {roles!r:.80}, of {', '.join(ROLE_NAMES)}"
        )
    return Card(
        name=_text(path, tree, "name", _NAME),
        peer_id=_text(
            path, tree, "peer_id", re.compile(r"[1-9A-HJ-NP-Za-km-z]{40,64}")
        ),
        node_key=_bytes(path, tree, "node_key", 32),
        seal_key=_bytes(path, tree, "seal_key", 32),
        account=_bytes(path, tree, "account", 20),
        roles=tuple(roles),
    )


def read_option(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> Federation | None:
    """A click callback."""
    if value is None:
        return None
    try:
        return read_federation(Path(value).expanduser())
    except BadFileError as error:
        raise click.BadParameter(str(error)) from error


def _object(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise BadFileError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _FILE_LIMIT_BYTES:
        raise BadFileError(f"{path} has more than {_FILE_LIMIT_BYTES} bytes")
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"{path} is not JSON") from error
    if not isinstance(tree, dict):
        raise BadFileError(f"{path} holds no JSON object")
    return tree


def _text(path: Path, tree: Any, field: str, pattern: re.Pattern[str]) -> str:
    value = tree.get(field)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise BadFileError(f"{field} in {path} is {value!r:.80}")
    return value


def _bytes(path: Path, tree: Any, field: str, length: int) -> bytes:
    digits = re.compile(f"(0x)?[0-9a-fA-F]{{{2 * length}}}")
    return bytes.fromhex(_text(path, tree, field, digits).removeprefix("0x"))
