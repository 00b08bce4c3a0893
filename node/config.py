"""What an operator may choose, what each choice means, and what is refused.

A field's description is the comment above it in the file that `rexis init` writes, so no
key goes unexplained.  A value is TOML, then the environment: REXIS_CHAIN__URL is `url` in
`[chain]`.  Secrets are never values here, only the names of files.
"""

import difflib
import json
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from node.errors import ConfigError
from node.locations import Home

PREFIX = "REXIS_"
FILE_LIMIT_BYTES = 1 << 20
_NAME = r"^[A-Za-z0-9_.-]{1,32}$"
_PEER_ID = r"^[1-9A-HJ-NP-Za-km-z]{40,64}$"
_ADDRESS = r"^/(ip4|ip6|dns|dns4|dns6)/[^/ ]+/tcp/[0-9]{1,5}$"
_ACCOUNT = r"^(0x[0-9a-fA-F]{40})?$"

Address = Annotated[
    str,
    Meta(
        pattern=_ADDRESS,
        description="an address such as /ip4/192.0.2.1/tcp/4001",
    ),
]
Contract = Annotated[
    str,
    Meta(pattern=_ACCOUNT, description='0x and 40 hex digits, or "" while unknown'),
]
Seconds = Annotated[
    float, Meta(ge=0.1, le=604800, description="seconds, 0.1 to 604800")
]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every table."""


class Peer(Table, frozen=True):
    """A member and where to dial it."""

    peer_id: Annotated[
        str, Meta(pattern=_PEER_ID, description="a peer id, as `rexis init` prints it")
    ]
    addresses: tuple[Address, ...] = ()


class Node(Table, frozen=True):
    """Who this node is."""

    name: Annotated[
        str,
        Meta(
            pattern=_NAME,
            description="this node's name in the registry: 1 to 32 of A-Z a-z 0-9 _ . -",
        ),
    ] = "node"
    role: Annotated[
        Literal["institution", "verifier", "researcher"],
        Meta(
            description="institution (data, training, hosting), verifier (replays "
            "receipts, no torch) or researcher (reads what it is granted)"
        ),
    ] = "institution"


class Network(Table, frozen=True):
    """Where this node listens, and whom it keeps connected."""

    listen: Annotated[
        tuple[Address, ...],
        Meta(
            max_length=16,
            description="addresses to listen on, such as /ip4/0.0.0.0/tcp/4001",
        ),
    ] = ("/ip4/127.0.0.1/tcp/4001",)
    peers: Annotated[
        tuple[Peer, ...],
        Meta(
            max_length=1024,
            description="members to stay connected to: "
            '{ peer_id = "12D3...", addresses = ["/ip4/192.0.2.1/tcp/4001"] }',
        ),
    ] = ()


class Contracts(Table, frozen=True):
    """Where the federation's contracts are; the same for every member."""

    registry: Annotated[
        Contract, Meta(description="address of the member registry")
    ] = ""
    datasets: Annotated[Contract, Meta(description="address of the dataset tokens")] = (
        ""
    )
    anchors: Annotated[
        Contract, Meta(description="address of the model, round and receipt anchors")
    ] = ""


class Chain(Table, frozen=True):
    """The Ethereum chain the federation uses."""

    url: Annotated[
        str,
        Meta(
            pattern=r"^https?://[^ ]+$",
            description="an Ethereum JSON-RPC address, http:// or https://",
        ),
    ] = "http://127.0.0.1:8545"
    chain_id: Annotated[
        int,
        Meta(
            ge=1, le=2**53, description="the chain's id; a node on another is refused"
        ),
    ] = 31337
    confirmations: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="blocks on top of one before it counts as final, 0 to 1000",
        ),
    ] = 0
    poll_ms: Annotated[
        int,
        Meta(
            ge=50,
            le=60_000,
            description="how often the chain is asked for a new block, in milliseconds",
        ),
    ] = 250
    contracts: Contracts = Contracts()


class Worker(Table, frozen=True):
    """The untrusted process that computes the keyed trunk."""

    socket: Annotated[
        str,
        Meta(
            max_length=100,
            description="unix socket of the worker; empty: worker.sock in the home",
        ),
    ] = ""
    host: Annotated[
        str,
        Meta(
            max_length=100,
            description="member whose worker trains our trunks, by name or peer id; empty: ours",
        ),
    ] = ""
    lend: Annotated[
        bool, Meta(description="whether members may train on our worker")
    ] = False


class Limits(Table, frozen=True):
    """The most this node will take from others, or hold."""

    blob_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 40,
            description="largest blob fetched from a peer, in bytes, 1 MiB to 1 TiB",
        ),
    ] = 2 << 30
    receipt_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 50,
            description="rows that a compute host holds for audits of its answers, in bytes, "
            "1 MiB to 1 PiB; with more it answers nobody until some are 90 days old",
        ),
    ] = 64 << 30
    rpc_connections: Annotated[
        int,
        Meta(
            ge=1, le=1024, description="programs on the admin socket at once, 1 to 1024"
        ),
    ] = 32


class Training(Table, frozen=True):
    """How long each step of a round may take before it is given up."""

    train_s: Annotated[
        Seconds,
        Meta(
            description="until every member has trained and announced its masked update, "
            "in seconds"
        ),
    ] = 600.0
    phase_s: Annotated[
        Seconds,
        Meta(description="each further step of the sum, in seconds"),
    ] = 120.0


class Audit(Table, frozen=True):
    """What a verifier node looks at."""

    rate: Annotated[
        float,
        Meta(
            ge=0.0,
            le=1.0,
            description="share of anchored receipts that are replayed, 0 to 1; drawn after "
            "the anchor by this node's own coins",
        ),
    ] = 0.25
    full: Annotated[
        float,
        Meta(
            ge=0.0,
            le=1.0,
            description="share of those that are replayed whole, 0 to 1; of the others one "
            "layer is, any of them",
        ),
    ] = 0.1
    tier: Annotated[
        Literal["replay", "freivalds"],
        Meta(
            description="replay: a layer is computed again from its weights. freivalds: it is "
            "checked with a secret key made from them once, and they are not kept; a wrong one "
            "passes with 2^-40 or less, and what does not pass is replayed",
        ),
    ] = "replay"
    dispute: Annotated[
        bool,
        Meta(
            description="take a host that showed a wrong number to the contract; costs gas and, "
            "until it is decided, the federation's bond",
        ),
    ] = False


class Log(Table, frozen=True):
    """What is written to stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="debug, info, warning or error"),
    ] = "info"
    format: Annotated[
        Literal["json", "console"],
        Meta(description="json (one object a line) or console (for people)"),
    ] = "json"


class Dev(Table, frozen=True):
    """Faults on purpose, for tests and the demo; leave them at zero."""

    corrupt_receipts: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="how many of the next inferences get one number altered, 0 to 1000",
        ),
    ] = 0


class Config(Table, frozen=True):
    """All of it."""

    node: Node = Node()
    network: Network = Network()
    chain: Chain = Chain()
    worker: Worker = Worker()
    limits: Limits = Limits()
    training: Training = Training()
    audit: Audit = Audit()
    log: Log = Log()
    dev: Dev = Dev()


def load(home: Home, environ: Mapping[str, str]) -> Config:
    """The file in `home`, overridden by the environment, checked key by key."""
    tree = _file(home)
    _override(tree, environ)
    checked = {
        path: _value(path, kind, _at(tree, path))
        for path, kind in _keys(Config)
        if _at(tree, path) is not msgspec.UNSET
    }
    _refuse_unknown(tree, Config, "")
    return msgspec.convert(_nested(checked), Config)


def template(**values: object) -> str:
    """A config file with every key explained; `network__listen=[...]` sets one."""
    known = {path.replace(".", "__"): (path, kind) for path, kind in _keys(Config)}
    for name in values:
        if name not in known:
            raise ConfigError(f"there is no config key {name.replace('__', '.')!r}")
    lines = [
        "# A Rexis node. Every key is optional; what stands here is the default or what",
        "# `rexis init` was told. The environment overrides: REXIS_CHAIN__URL=... .",
    ]
    table = ""
    for name, (path, kind) in known.items():
        *tables, key = path.split(".")
        if ".".join(tables) != table:
            table = ".".join(tables)
            lines += ["", *_comment(_struct(tables).__doc__ or ""), f"[{table}]"]
        value = values.get(name, _default(path))
        _value(path, kind, value)
        lines += [*_comment(_description(kind)), f"{key} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


def _file(home: Home) -> dict[str, Any]:
    try:
        with home.config.open("rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {home.config}",
            hint=f"make a node with `rexis --home {home.path} init`",
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read {home.config}: {error.strerror}") from error
    if len(data) > FILE_LIMIT_BYTES:
        raise ConfigError(f"{home.config} is larger than {FILE_LIMIT_BYTES} bytes")
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{home.config} is not TOML: {error}",
            hint="text values stand in quotes; lists in square brackets",
        ) from error


def _override(tree: dict[str, Any], environ: Mapping[str, str]) -> None:
    kinds = dict(_keys(Config))
    for name, text in sorted(environ.items()):
        path = name.removeprefix(PREFIX).lower().replace("__", ".")
        if not name.startswith(PREFIX) or "." not in path:
            continue  # REXIS_PASSPHRASE_FILE and the like are not config keys
        if path not in kinds:
            raise ConfigError(
                f"{name} names no config key", hint=_nearest(path, list(kinds))
            )
        *tables, key = path.split(".")
        place: Any = tree
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ConfigError(f"config key {table} is {place!r}, needs a table")
        place[key] = _from_text(text, kinds[path])


def _from_text(text: str, kind: Any) -> Any:
    """Words stay words; anything else is written as in JSON, or commas for a list."""
    plain = get_args(kind)[0]
    if plain is str or get_origin(plain) is Literal:
        return text
    try:
        return json.loads(text)
    except ValueError:
        is_list = get_origin(plain) is tuple
        return [part.strip() for part in text.split(",")] if is_list else text


def _keys(struct: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each key by its path, with its annotated type."""
    for name, kind in get_type_hints(struct, include_extras=True).items():
        if get_origin(kind) is None:
            yield from _keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


def _struct(tables: list[str]) -> Any:
    struct: Any = Config
    for name in tables:
        struct = get_type_hints(struct)[name]
    return struct


def _default(path: str) -> object:
    value: object = Config()
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _at(tree: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(tree, dict) or name not in tree:
            return msgspec.UNSET
        tree = tree[name]
    return tree


def _nested(checked: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in checked.items():
        *tables, key = path.split(".")
        place = tree
        for table in tables:
            place = place.setdefault(table, {})
        place[key] = value
    return tree


def _value(path: str, kind: Any, value: Any) -> Any:
    try:
        if isinstance(value, float) and not math.isfinite(value):
            raise msgspec.ValidationError("not a finite number")
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"config key {path} is {value!r}: {str(error).lower()}",
            hint=f"it takes {_description(kind)}",
        ) from error
    return value


def _description(kind: Any) -> str:
    # The last Meta is the outermost: what the field says, not what its type says.
    notes = [m.description for m in kind.__metadata__ if isinstance(m, Meta)]
    return next((text for text in reversed(notes) if text), "")


def _refuse_unknown(tree: Mapping[str, Any], struct: Any, prefix: str) -> None:
    hints = get_type_hints(struct, include_extras=True)
    for name, value in tree.items():
        path = prefix + name
        if name not in hints:
            known = [key for key, _ in _keys(Config)]
            raise ConfigError(
                f"unknown config key {path}",
                hint=_nearest(path, known + [prefix + key for key in hints]),
            )
        if get_origin(hints[name]) is None:
            if not isinstance(value, dict):
                raise ConfigError(
                    f"config key {path} is {value!r}, needs a table",
                    hint=f"write [{path}] and its keys below it",
                )
            _refuse_unknown(value, hints[name], path + ".")


def _nearest(path: str, known: list[str]) -> str:
    tail = path.rsplit(".", 1)[-1]
    same_tail = [key for key in known if key.rsplit(".", 1)[-1] == tail]
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.6) or same_tail
    if near:
        return f"did you mean {near[0]}?"
    return "the sections are " + ", ".join(get_type_hints(Config))


def _comment(text: str) -> list[str]:
    words, lines = text.split(), ["#"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > 88:
            lines.append("#")
        lines[-1] += " " + word
    return lines


def _toml(value: object) -> str:
    if isinstance(value, Peer):
        value = msgspec.to_builtins(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inside} }}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool | int | float | str):
        return json.dumps(
            value, ensure_ascii=False
        )  # TOML's basic strings and numbers are JSON's
    raise ConfigError(f"{value!r} cannot stand in a config file")


def worker_socket(home: Home, config: Config) -> str:
    """Where the worker is, after the default."""
    return config.worker.socket or os.fspath(home.worker_socket)
