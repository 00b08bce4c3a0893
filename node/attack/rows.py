"""Rows of the table, and the file that keeps them while a run is under way."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

import ee.attacks
import node.attack


class Row(msgspec.Struct, frozen=True):
    """One cell of the table."""

    attack: str
    model: str
    base: str
    mode: str
    value: float
    chance: float
    control: float
    trials: int
    measure: str
    detail: dict[str, float | None]
    """None: never, where a number was looked for and not reached."""


class _Finished(msgspec.Struct, frozen=True):
    """One attack on one model, as a line of the file."""

    run: str
    attack: str
    rows: list[Row]


class Kept:
    """Finished attacks of one run, one line each; a run that was cut off goes on from there.

    A line counts only for the same model, seed and sizes under the same source of the suite:
    rows of two programs are never mixed in one table.
    """

    def __init__(self, path: Path, *about: object) -> None:
        """`about`: what the rows depend on besides the program."""
        self._path = path
        told = hashlib.sha256(repr(about).encode() + _source())
        self._run = told.hexdigest()
        self._known: dict[str, list[Row]] = {}
        lines = path.read_bytes().splitlines() if path.exists() else []
        for line in lines:
            try:
                one = msgspec.json.decode(line, type=_Finished)
            except msgspec.DecodeError:
                continue  # the run was killed while it wrote this
            if one.run == self._run:
                self._known[one.attack] = one.rows

    def found(self, attack: str) -> list[Row] | None:
        """Its rows, if it was finished before."""
        return self._known.get(attack)

    def keep(self, attack: str, rows: Sequence[Row]) -> None:
        """Write them down, before the next attack begins."""
        line = msgspec.json.encode(_Finished(self._run, attack, list(rows)))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            # First the end of a line that a kill may have torn.
            file.write(b"\n" + line + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _source() -> bytes:
    """A digest of the programs that make rows."""
    total = hashlib.sha256()
    for package in (ee.attacks, node.attack):
        for path in sorted(Path(str(package.__file__)).parent.glob("*.py")):
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.digest()
