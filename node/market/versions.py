"""Which datasets of this node are versions of one another: the line that `--replaces` makes.

A version is a listing of its own, under keys, grants and numbers of units of its own.  So what is
done to one reaches no other, and whoever does it has to be told of the others.
"""

from collections.abc import Iterator

from node.market import DatasetError
from node.market.shelf import OwnDataset, Shelf


class Versions:
    """Of the datasets on `shelf`, which is loaded."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def require_last(self, dataset: int, record: OwnDataset | None) -> None:
        """Raise `DatasetError` if something else than `record` replaces `dataset` already.

        Two next versions would leave nobody knowing which one is the newest.
        """
        for number in self._next(dataset):
            one = self._shelf.own(number)[0]
            if any(one.headers) and (
                record is None or one.fingerprint != record.fingerprint
            ):
                raise DatasetError(
                    f"dataset {dataset} is replaced by dataset {number} already",
                    hint=f"replace {number}, or withdraw it first",
                )

    def replaced(self, dataset: int) -> int | None:
        """The dataset that is the next version of this one and can still be read."""
        left = (n for n in self._next(dataset) if any(self._shelf.own(n)[0].headers))
        return next(left, None)

    def others(self, dataset: int) -> list[int]:
        """Every other version that can still be read, before it or after it, by number."""
        line, waiting = {dataset}, [dataset]
        while waiting:
            here = waiting.pop()
            near = {*self._next(here), *self._previous(here)} - line
            line |= near
            waiting += near
        return sorted(
            number
            for number in line - {dataset}
            if any(self._shelf.own(number)[0].headers)
        )

    def _next(self, dataset: int) -> Iterator[int]:
        record = self._shelf.own(dataset)[1].digest()
        for number in self._shelf.datasets():
            if self._shelf.own(number)[1].previous == record:
                yield number

    def _previous(self, dataset: int) -> Iterator[int]:
        before = self._shelf.own(dataset)[1].previous
        for number in self._shelf.datasets() if before else ():
            if self._shelf.own(number)[1].digest() == before:
                yield number
