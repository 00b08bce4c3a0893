"""What the commands of `rexis-verify` share: a file comes in, a result goes out."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click

from ee.integer import SLICE_MAGIC, TRUNK_MAGIC
from node.verifier.bundle import BUNDLE_LIMIT_BYTES
from node.verifier.replay import Told, silent
from protocol.errors import MalformedMessageError

T = TypeVar("T")

_COMMANDS = {
    b"rexis-bundle-1": "bundle",
    b"rexis-case-1": "case",
    b"lineage-1": "lineage",
    b"query-bundle": "query",
    b"query-rounds": "query",
}
"""Tags, which stand in a file's first bytes, and the command for such a file."""
_WORDS = {
    "bundle": "a bundle",
    "case": "a case",
    "lineage": "a lineage",
    "query": "answers to a query",
}
_TAG_BYTES = 24
_CLEAR = "\r\x1b[K"
"""To the line's beginning, and nothing on it."""

as_json_option = click.option("--json", "as_json", is_flag=True, help="one JSON object")


class FileError(Exception):
    """What was handed in is not such a file, or cannot be read."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def opened(
    path: Path,
    command: str,
    read: Callable[[bytes], T],
    limit_bytes: int = BUNDLE_LIMIT_BYTES,
) -> T:
    """The file at `path`, as the `read` of this command reads it; `FileError` for all others."""
    data = _content(path, limit_bytes)
    other = _command(data)
    if other not in (None, command):
        raise FileError(
            f"{path} is {_WORDS[other]}",
            hint=f"check it with rexis-verify {other} {path}",
        )
    if data.startswith((TRUNK_MAGIC, SLICE_MAGIC)):
        raise FileError(
            f"{path} is a model",
            hint="name it with --trunk, and the file with its answers in its place",
        )
    try:
        return read(data)
    except MalformedMessageError as error:
        raise FileError(
            f"{path} is damaged, or not {_WORDS[command]}: {error}",
            hint="get it again from who wrote it; nothing is proved by this one",
        ) from error


def trunk(path: Path | None) -> bytes:
    """Bytes of a trunk that lies beside, empty if none does; its root is looked at elsewhere."""
    if path is None:
        return b""
    data = _content(path, BUNDLE_LIMIT_BYTES)
    if not data.startswith((TRUNK_MAGIC, SLICE_MAGIC)):
        other = _command(data)
        raise FileError(
            f"{path} is {'no trunk' if other is None else _WORDS[other]}",
            hint="name the model's file with --trunk: HOME/trunks/MODEL.trunk of a node",
        )
    return data


@contextmanager
def replays() -> Iterator[Told]:
    """Where a replay stands, on stderr, where a person looks: many long sequences take minutes."""
    if not sys.stderr.isatty():
        yield silent
        return

    def told(done: int, layers: int) -> None:
        sys.stderr.write(f"{_CLEAR}replaying layer {done + 1} of {layers}")
        sys.stderr.flush()

    try:
        yield told
    finally:
        sys.stderr.write(_CLEAR)
        sys.stderr.flush()


def say(text: str) -> None:
    """The result on stdout; a reader that has seen enough of it changes no exit status."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _content(path: Path, limit_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size <= limit_bytes:
            return path.read_bytes()
    except OSError as error:
        raise FileError(
            f"cannot read {path}: {error.strerror}",
            hint="name a file that is there and that this user may read",
        ) from error
    raise FileError(
        f"{path} has {size} bytes, limit is {limit_bytes}",
        hint="no file of this kind is so large",
    )


def _command(data: bytes) -> str | None:
    head = data[:_TAG_BYTES]
    return next((command for tag, command in _COMMANDS.items() if tag in head), None)
