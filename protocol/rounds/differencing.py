"""Which sums of the same updates may be opened one after another (§5.7).

Two sums over different members differ by the updates of those in only one of them.  As long
as the base state stays the same, updates are taken to stay the same too (rounding anew hides
nothing worth mentioning), so a new survivor set is admitted only if no linear combination of
it with the sets opened before is about fewer than `floor` members.  Repeating a set is free.

Members whose updates a quorum has agreed to expose (§5.7) are not counted: their updates are taken
to be known to everyone, so that they hide nobody and are hidden from nobody.
"""

from collections.abc import Sequence
from itertools import combinations
from math import gcd

SETS_AT_MOST = 4
"""Independent sets per base state that are still compared; beyond, only repeats are let in."""

Row = tuple[int, ...]
"""Up to a factor: no entry of a combination is asked for more than whether it is zero, so that
whole numbers do and nothing is ever divided but a common divisor."""


def isolates(
    opened: Sequence[frozenset[bytes]],
    new: frozenset[bytes],
    floor: int,
    exposed: frozenset[bytes] = frozenset(),
) -> bool:
    """Would opening `new` as well single out fewer than `floor` members, `exposed` aside?"""
    if not opened or new in opened:
        return not opened and len(new) < floor
    if exposed:
        return isolates([each - exposed for each in opened], new - exposed, floor)
    members = sorted(new.union(*opened))
    rows = _independent([_row(each, members) for each in opened])
    more = _independent([*rows, _row(new, members)])
    if len(more) == len(rows):
        return False  # a combination of what is known tells nothing new
    if len(more) > SETS_AT_MOST:
        return True
    return _least_support(more, len(members)) < floor


def _row(members: frozenset[bytes], order: Sequence[bytes]) -> Row:
    return tuple(int(member in members) for member in order)


def _independent(rows: Sequence[Row]) -> list[Row]:
    """A basis in echelon form of what the rows span."""
    basis: list[Row] = []
    for row in rows:
        left = row
        for known in basis:
            lead = _lead(known)
            if factor := left[lead]:
                pairs = zip(left, known, strict=True)
                left = tuple(known[lead] * x - factor * y for x, y in pairs)
        if any(left):
            common = gcd(*left)
            basis.append(tuple(x // common for x in left))
    return basis


def _lead(row: Row) -> int:
    return next(i for i, x in enumerate(row) if x)


def _least_support(rows: list[Row], columns: int) -> int:
    """The fewest non-zero entries of any non-zero combination of independent rows.

    A combination with least support vanishes on columns that span all but one dimension, so
    it is the only one, up to scale, that vanishes on some `len(rows) - 1` of them.
    """
    best = min(sum(1 for x in row if x) for row in rows)
    kinds = sorted({tuple(row[i] for row in rows) for i in range(columns)})
    for chosen in combinations(kinds, len(rows) - 1):
        weights = _orthogonal(chosen, len(rows))
        if weights is not None:
            support = sum(
                1
                for i in range(columns)
                if sum(w * row[i] for w, row in zip(weights, rows, strict=True))
            )
            best = min(best, support)
    return best


def _orthogonal(vectors: Sequence[Row], size: int) -> Row | None:
    """The vector orthogonal to `size` - 1 independent ones, or None if they are not."""
    basis = _independent(vectors)
    if len(basis) < size - 1:
        return None
    leads = [_lead(row) for row in basis]
    free = next(i for i in range(size) if i not in leads)
    out = [0] * size
    out[free] = 1
    # A row is zero at the leads of the rows before it: solve from the last one backwards.
    for row, lead in zip(reversed(basis), reversed(leads), strict=True):
        rest = sum(row[i] * out[i] for i in range(size) if i != lead)
        out = [row[lead] * x for x in out]
        out[lead] = -rest
    return tuple(out)
