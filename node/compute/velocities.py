"""Velocities of the outer step: before the scales in one file, so one root names both.

With momentum the file that an opening calls scales holds a velocity for each entry of the
state, then the exponents.  Like them it is no part of the model: whoever trains, scores,
releases or keys a state never opens it.
"""

from io import FileIO
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ee.outer import look_ahead
from node.compute import state
from node.compute.state import Vector
from protocol.aggregate.ring import WORD_BYTES, Exponents
from protocol.types import Digest

Places = slice | NDArray[np.integer]


def write_first(folder: Path, exponents: Exponents, count: int) -> Digest:
    """Put `count` velocities of zero and then the exponents under their root."""
    with state.StateFile(folder, WORD_BYTES * count + exponents.size) as out:
        out.write(memoryview(bytes(WORD_BYTES * count)))
        out.write(exponents.data.cast("B"))
        return out.commit()


class Velocities:
    """One pass over all of them: each is read, moved on and written once."""

    def __init__(
        self, folder: Path, root: bytes, count: int, exponents: int, momentum: float
    ) -> None:
        """Of the file called `root`, which has `count` velocities and then `exponents`.

        Its root is not checked here: rounding has done that this round.
        """
        self._file: FileIO = state.open_state(folder, root, count, exponents)
        self._out = state.StateFile(folder, WORD_BYTES * count + exponents)
        self._momentum = momentum
        self._buffer = np.empty(0, "<f4")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._out.__exit__(*error)

    def ahead(self, mean: Vector, count: int, places: Places) -> Vector:
        """What the step takes in place of `mean`, which is of `places` in the next `count`.

        The others of these velocities stay as they are.
        """
        if self._buffer.size < count:
            self._buffer = np.empty(count, "<f4")
        stretch = state.filled(self._file, self._buffer[:count])
        stretch[places], ahead = look_ahead(
            stretch[places], mean, momentum=self._momentum
        )
        self._out.write(stretch.data.cast("B"))
        return ahead

    def commit(self, exponents: Exponents) -> Digest:
        """The root of all that was moved on, and then the exponents; on disk by then."""
        self._out.write(exponents.data.cast("B"))
        return self._out.commit()
