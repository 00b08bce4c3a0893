"""From the rows of a table to texts, and from texts to the numbers a stock model reads."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ee.recipe import FIRST_LETTER, PAD
from ee.stock import Rows
from node.compute import table
from node.errors import ComputeError

_BEGIN, _END, _OTHER = 0, 2, 3

Labelled = tuple[list[str], NDArray[np.int64], NDArray[np.bool_]]
"""Texts, the number of each one's class, and which are held out."""


def labelled_texts(
    data: bytes, question: table.ClassTask, text: str, classes: Sequence[str]
) -> Labelled:
    """Every record of a CSV file whose class is known."""
    header, lines = table.read_csv(data)
    places = []
    for name in (question.id, question.label, text):
        if name not in header:
            raise ComputeError(f"the table has no column {name!r}")
        places.append(header.index(name))
    key, label, read = places
    numbers = {name: number for number, name in enumerate(classes)}
    known = []
    for number, line in enumerate(lines, 2):
        found = line[label].strip()
        if found in {"", "NA"}:
            continue
        if found not in numbers:
            raise ComputeError(
                f"line {number}: {question.label} is not one of {list(classes)}"
            )
        known.append(line)
    if not known:
        raise ComputeError(f"no record has a value in {question.label!r}")
    percent = question.held_out_percent
    return (
        [line[read].strip() for line in known],
        np.array([numbers[line[label].strip()] for line in known]),
        np.array([table.is_held_out(line[key], percent) for line in known]),
    )


def spelt(letters: str, tokens: int, texts: Sequence[str]) -> Rows:
    """One number a letter, between a beginning and an end."""
    numbers = {letter: FIRST_LETTER + i for i, letter in enumerate(letters)}
    return _padded(
        [
            [_BEGIN, *(numbers.get(one, _OTHER) for one in text[: tokens - 2]), _END]
            for text in texts
        ],
        PAD,
    )


def cut(path: Path, tokens: int, texts: Sequence[str]) -> Rows:
    """As the tokenizer in the file cuts them."""
    return cutter(path, tokens)(texts)


def cutter(path: Path, tokens: int) -> Callable[[Sequence[str]], Rows]:
    """The same for whoever cuts often, or may open no file later."""
    from tokenizers import Tokenizer

    if not path.is_file():
        raise ComputeError(
            f"the base has no {path.name}", hint="give `letters` in the model file"
        )
    known = Tokenizer.from_file(str(path))
    known.enable_truncation(tokens)
    known.no_padding()
    return lambda texts: _padded(
        [encoding.ids for encoding in known.encode_batch(list(texts))], 0
    )


def _padded(numbers: list[list[int]], filler: int) -> Rows:
    # A tokenizer that puts nothing around a text makes no token of a blank one, and attention
    # over no row is no number: such a record reads one filler.
    numbers = [row or [filler] for row in numbers]
    lengths = np.array([len(row) for row in numbers])
    ids = np.full((len(numbers), int(lengths.max())), filler, np.int64)
    mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int32)
    ids[mask == 1] = [number for row in numbers for number in row]
    return Rows(ids, mask)
