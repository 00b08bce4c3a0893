"""Whom to leave out where members contradict each other and nobody can tell who is right.

Two honest members never quarrel, so every quarrel has a liar in it: leaving out whoever has the
most of them leaves out few honest ones.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Member = TypeVar("Member", bound=Hashable)


def left_out(partners: Mapping[Member, Sequence[Member]]) -> list[Member]:
    """Members without whom no quarrel is left; `partners` lists each one's, on both sides.

    Ties go by the order of the mapping, so that everyone who sees the same leaves out the same.
    """
    counts = {member: len(others) for member, others in partners.items()}
    out: list[Member] = []
    while counts:
        worst = max(counts, key=counts.__getitem__)
        if not counts.pop(worst):
            break
        out.append(worst)
        for other in partners[worst]:
            if other in counts:
                counts[other] -= 1
    return out
