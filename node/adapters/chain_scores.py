"""Reputation as the contract computes it: what went well, against what did not.

One good and one bad case are added to both sides, so a newcomer stands at 50 and one deal does
not make a hundred (contracts/src/Reputation.sol).
"""

from collections.abc import Mapping

MARKET_FIELDS = (
    *("delivered", "failed", "undecided", "unanswered"),
    *("received", "overruled"),
)
BOARD_FIELDS = (
    *("caught", "cleared", "right", "wrong", "votes"),
    *("accused", "accusing"),
)


def scores(
    market: Mapping[str, int], board: Mapping[str, int]
) -> Mapping[str, tuple[int, int]]:
    """Role to score from 0 to 100, and the number of cases it rests on."""
    bad = market["failed"] + market["undecided"] + market["unanswered"]
    return {
        "provider": _score(market["delivered"], bad),
        "grantee": _score(market["received"], market["overruled"]),
        "host": _score(board["cleared"], board["caught"]),
        "challenger": _score(board["right"], board["wrong"]),
    }


def _score(good: int, bad: int) -> tuple[int, int]:
    return (good + 1) * 100 // (good + bad + 2), good + bad
