"""The number of a grant: its dataset and the place of its grantee among the members.

There is one grant per dataset and grantee, members are never taken from the list and accounts
never change hands, so the number means the same for ever.  It fits the 53 bits of a JSON number
for 2^33 datasets and a million members.
"""

from collections.abc import Sequence
from dataclasses import replace

from node.ports.chain import Grant

PLACE_BITS = 20


def grant_id(dataset: int, place: int) -> int:
    """`place` is the member's position in the order of admission."""
    assert 0 <= place < 1 << PLACE_BITS
    return dataset << PLACE_BITS | place


def grant_place(grant: int) -> tuple[int, int]:
    """Dataset and place."""
    return grant >> PLACE_BITS, grant & (1 << PLACE_BITS) - 1


def narrowed(final: Sequence[Grant], newest: Sequence[Grant]) -> list[Grant]:
    """Final grants, less whatever the newest block takes away and that is not final yet."""
    now = {one.grant: one for one in newest}
    return [_both(grant, now.get(grant.grant, grant)) for grant in final]


def _both(grant: Grant, newest: Grant) -> Grant:
    return replace(
        grant,
        units=grant.units & newest.units,
        purposes=grant.purposes & newest.purposes,
        until=min(grant.until, newest.until),
        revoked=grant.revoked or newest.revoked,
    )
