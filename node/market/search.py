"""Find listings by words and by what may be done with them, from what this node has seen.

The index is made of listings that were verified against the chain.  It is small (a
federation has hundreds of datasets, not millions) and is rebuilt when the node starts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from node.market.plan import WHOLE
from protocol import duo
from protocol.listing import Listing

_WORD = re.compile(r"[^\W_]+")
_TITLE_WEIGHT, _FIELD_WEIGHT, _SOURCE_WEIGHT = 4, 2, 1


@dataclass(frozen=True)
class Filter:
    """What a listing must have; None and empty ask nothing."""

    purpose: str | None = None
    """A DUO permission term that the dataset must allow."""
    commercial: bool = False
    """Leave out what forbids commercial use."""
    format: str | None = None
    licence: str | None = None
    disease: str | None = None
    columns: tuple[str, ...] = ()
    rows_at_least: int = 0
    """Rows that are shown; suppressed counts count as none."""

    def admits(self, listing: Listing) -> bool:
        """Whether the listing has all of it."""
        names = {column.name for part in listing.parts for column in part.columns}
        return (
            (self.purpose is None or duo.permits(listing.duo, self.purpose))
            and not (self.commercial and duo.NON_COMMERCIAL & set(listing.duo))
            and self.format in {None, *(part.format for part in listing.parts)}
            and self.licence in {None, listing.licence}
            and self.disease in {None, listing.disease}
            and names >= set(self.columns)
            and sum(count or 0 for count in listing.rows) >= self.rows_at_least
        )


class Index:
    """Words of listings, and the listings by number."""

    def __init__(self) -> None:
        self._listings: dict[int, Listing] = {}
        self._words: dict[str, dict[int, int]] = {}

    def add(self, dataset: int, listing: Listing) -> None:
        """The listing of `dataset`, in the place of an earlier one."""
        if self._listings.get(dataset) == listing:
            return
        self.remove(dataset)
        self._listings[dataset] = listing
        fields = [column.name for part in listing.parts for column in part.columns]
        details = [detail for part in listing.parts for detail in part.details]
        formats = [part.format for part in listing.parts]
        terms = [duo.label(code) for code in listing.duo]
        for weight, texts in (
            (_TITLE_WEIGHT, [listing.title]),
            (_FIELD_WEIGHT, [*fields, *details, *formats, *terms]),
            (_SOURCE_WEIGHT, [listing.source, listing.disease or ""]),
        ):
            for word in {word for text in texts for word in words(text)}:
                places = self._words.setdefault(word, {})
                places[dataset] = places.get(dataset, 0) + weight

    def remove(self, dataset: int) -> None:
        """Nothing happens if it is not there."""
        if self._listings.pop(dataset, None) is None:
            return
        for places in self._words.values():
            places.pop(dataset, None)

    def holds(self, dataset: int, record: bytes) -> bool:
        """Whether the listing here is the one that the chain has."""
        listing = self._listings.get(dataset)
        return listing is not None and listing.digest() == record

    def newer(self, listing: Listing) -> int | None:
        """What the same owner says replaces this listing; another's word counts nothing."""
        record = listing.digest()
        found = [
            number
            for number, one in self._listings.items()
            if one.previous == record and one.owner == listing.owner
        ]
        return max(found, default=None)

    def groups(self, listing: Listing) -> list[tuple[int, Listing]]:
        """Groups of columns of the same table, this one too, as their owner lists them.

        The same owner says so by one title, source and version; that the rows are the same shows
        in their counts.
        """
        if group_of(listing) is None:
            return []
        return [
            (number, one)
            for number, one in sorted(self._listings.items())
            if group_of(one) is not None and _table(one) == _table(listing)
        ]

    def find(self, text: str, wanted: Filter) -> list[int]:
        """Datasets with all words of `text`, best first; by number where equal.

        The last word may be the beginning of one, as a person types it.
        """
        scores = self._scores(words(text))
        return sorted(
            (n for n in scores if wanted.admits(self._listings[n])),
            key=lambda number: (-scores[number], number),
        )

    def _scores(self, asked: Sequence[str]) -> dict[int, int]:
        scores = dict.fromkeys(self._listings, 0)
        for place, word in enumerate(asked):
            found: dict[int, int] = {}
            last = place == len(asked) - 1
            for known, places in self._words.items():
                if known == word or (last and known.startswith(word)):
                    for number, weight in places.items():
                        found[number] = found.get(number, 0) + weight
            scores = {n: score + found[n] for n, score in scores.items() if n in found}
        return scores


def group_of(listing: Listing) -> str | None:
    """What the owner calls the columns of this listing, if they are a group of a table's."""
    name = listing.parts[0].name
    return name if listing.table and name != WHOLE else None


def _table(listing: Listing) -> tuple[object, ...]:
    same = listing.owner, listing.title, listing.source, listing.version, listing.rows
    return *same, listing.parts[0].format


def words(text: str) -> list[str]:
    """Lower-case words in order; `BodyMassIndex` and `body_mass` are several."""
    split = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return [word.lower() for word in _WORD.findall(split)]
