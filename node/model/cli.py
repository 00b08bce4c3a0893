"""`rexis model key | unkey | rotate | forget | inspect`: models on disk, without a daemon.

The command line mounts `COMMANDS` lazily: this module imports no torch until a command
runs, so `--help` stays instant.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from node.errors import NodeError
from node.passphrase import read_passphrase

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.argument("checkpoint", type=FOLDER)
@click.option(
    "--out", required=True, type=FOLDER, help="New folder for the keyed trunk."
)
@click.option(
    "--ends", required=True, type=FOLDER, help="New folder for stem and head."
)
@click.option("--key-file", required=True, type=FILE, help="New file for the key.")
@click.option("--institution", required=True, metavar="NAME", help="Whose key it is.")
@click.option("--host", required=True, metavar="NAME", help="Who gets the trunk.")
@click.option("--session", required=True, metavar="NAME", help="What for; named once.")
@click.option(
    "--stem-layers",
    default=1,
    show_default=True,
    metavar="K",
    help="Blocks that stay here. With 0 equal tokens are equal rows to the host.",
)
@click.option(
    "--strength",
    type=click.Choice(["permutation", "orthogonal", "general"]),
    default="orthogonal",
    show_default=True,
    help="General is stronger and for inference only.",
)
@click.option(
    "--turn",
    type=click.Choice(["dense", "hadamard"]),
    default="dense",
    show_default=True,
    help="Hadamard keys wide models fast.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the keyed trunk; bfloat16 is not exact.",
)
@AS_JSON
def key(
    checkpoint: Path,
    out: Path,
    ends: Path,
    key_file: Path,
    institution: str,
    host: str,
    session: str,
    stem_layers: int,
    strength: str,
    turn: str,
    dtype: str,
    *,
    as_json: bool,
) -> None:
    """Cut a stock checkpoint and key its trunk under a fresh key.

    The trunk folder is a stock checkpoint a host may have.  The ends and the key file stay
    here; the key file's passphrase comes from REXIS_PASSPHRASE_FILE or the terminal.
    """
    import torch

    from ee.arch.sites import Options, Strength, Turn
    from node.model import convert, key_document
    from node.model.wrapping import Passphrase

    context = _context(institution, host, session)
    key_document.require_place(key_file)
    wrapping = Passphrase(read_passphrase(os.environ, confirm=True))
    secret = key_document.new_secret()
    made = convert.key(
        checkpoint,
        out,
        ends,
        secret=secret,
        context=context,
        stem_layers=stem_layers,
        options=Options(Strength(strength), Turn(turn)),
        dtype=getattr(torch, dtype),
    )
    document = key_document.KeyDocument.wrap(
        secret, context, made.key.opens(), wrapping
    )
    with _undone(out, ends):
        key_document.write_new(key_file, document)
    _print(
        {
            "fingerprint": document.fingerprint.hex(),
            "architecture": document.opens.architecture,
            "tensors": made.tensors,
            "dropout_left_out": dict(made.dropped),
            "trunk": str(out),
            "trunk_bytes": made.trunk_bytes,
            "ends": str(ends),
            "ends_bytes": made.ends_bytes,
            "key_file": str(key_file),
        },
        as_json=as_json,
    )


@click.command()
@click.argument("trunk", type=FOLDER)
@click.option("--ends", required=True, type=FOLDER, help="What `key` left behind.")
@click.option("--key-file", required=True, type=FILE)
@click.option(
    "--out", required=True, type=FOLDER, help="New folder for the whole model."
)
@click.option("--destroy", is_flag=True, help="Destroy the key file afterwards.")
@AS_JSON
def unkey(
    trunk: Path, ends: Path, key_file: Path, out: Path, *, destroy: bool, as_json: bool
) -> None:
    """Bring a keyed trunk home and join it with its ends to a stock checkpoint."""
    from ee.arch.sites import Options, Strength, Turn
    from node.model import convert, key_document
    from node.model.wrapping import Passphrase

    document = key_document.read(key_file)
    secret = document.unwrap(Passphrase(read_passphrase(os.environ)))
    opens = document.opens
    opened = convert.unkey(
        trunk,
        ends,
        out,
        secret=secret,
        context=document.context,
        options=Options(Strength(opens.strength), Turn(opens.turn)),
    )
    if destroy:
        key_document.destroy(key_file)
    _print(
        {
            "fingerprint": opened.fingerprint().hex(),
            "model": str(out),
            "key_destroyed": destroy,
        },
        as_json=as_json,
    )


@click.command()
@click.argument("trunk", type=FOLDER)
@click.option("--ends", required=True, type=FOLDER, help="What `key` left behind.")
@click.option("--key-file", required=True, type=FILE, help="The key it is under.")
@click.option("--out", required=True, type=FOLDER, help="New folder for the trunk.")
@click.option("--new-key-file", required=True, type=FILE, help="New file for its key.")
@click.option("--session", required=True, metavar="NAME", help="What for; named once.")
@click.option("--host", metavar="NAME", help="Who gets it. Default: the same host.")
@click.option("--destroy", is_flag=True, help="Destroy the old key file afterwards.")
@AS_JSON
def rotate(
    trunk: Path,
    ends: Path,
    key_file: Path,
    out: Path,
    new_key_file: Path,
    session: str,
    host: str | None,
    *,
    destroy: bool,
    as_json: bool,
) -> None:
    """Put a keyed trunk under a fresh key, for another session or another host."""
    from ee.arch.sites import Options, Strength, Turn
    from node.errors import ModelError
    from node.model import convert, key_document
    from node.model.wrapping import Passphrase

    document = key_document.read(key_file)
    before = document.context
    after = _context(before.institution, host or before.host, session)
    if after == before:
        raise ModelError(
            f"session {session!r} at {after.host} has a key already;"
            " a key serves one session and is not used again",
            hint="give every session a name and a key file of its own",
        )
    key_document.require_place(new_key_file)
    wrapping = Passphrase(read_passphrase(os.environ))
    opens, secret = document.opens, key_document.new_secret()
    made = convert.rotate(
        trunk,
        ends,
        out,
        old=(document.unwrap(wrapping), before),
        new=(secret, after),
        options=Options(Strength(opens.strength), Turn(opens.turn)),
    )
    fresh = key_document.KeyDocument.wrap(secret, after, made.opens(), wrapping)
    with _undone(out):
        key_document.write_new(new_key_file, fresh)
    if destroy:
        key_document.destroy(key_file)
    _print(
        {
            "old_fingerprint": document.fingerprint.hex(),
            "fingerprint": fresh.fingerprint.hex(),
            "trunk": str(out),
            "key_file": str(new_key_file),
            "old_key_destroyed": destroy,
        },
        as_json=as_json,
    )


@click.command()
@click.argument("key_file", type=FILE)
@AS_JSON
def forget(key_file: Path, *, as_json: bool) -> None:
    """Destroy a key file. What it opens stays closed, but for who has a backup of it."""
    from node.model import key_document

    document = key_document.read(key_file)
    key_document.destroy(key_file)
    _print(
        {"fingerprint": document.fingerprint.hex(), "key_destroyed": True},
        as_json=as_json,
    )


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--stem-layers", default=1, show_default=True, metavar="K")
@AS_JSON
def inspect(path: Path, stem_layers: int, *, as_json: bool) -> None:
    """What a checkpoint folder or a key file is, and what opens what."""
    from node.model import inspection

    _print(inspection.described(path, stem_layers), as_json=as_json)


COMMANDS = (key, unkey, rotate, forget, inspect)


def _context(institution: str, host: str, session: str) -> Any:
    from ee.errors import EncryptionError
    from ee.ledger import Context
    from node.errors import ModelError

    try:
        return Context(institution, host, session)
    except EncryptionError as error:
        raise ModelError(str(error)) from error


@contextmanager
def _undone(*folders: Path) -> Iterator[None]:
    """Without its key a trunk opens never again, so it goes when the key cannot be kept."""
    try:
        yield
    except NodeError:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _print(answer: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer))
        return
    for name, value in answer.items():
        click.echo(f"{name.replace('_', ' ')}: {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} = {each}" for name, each in value.items()) or "none"
    return f"{value}"
