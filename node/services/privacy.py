"""What a run has cost in privacy, for people to read (docs/protocol.md §8.1)."""

from collections.abc import Mapping, Sequence
from typing import Any

from protocol.budget import Budget, epsilon
from protocol.runs import Plan, Privacy


def privacy_row(
    plan: Plan,
    rounds: Sequence[Mapping[str, Any]],
    done: int,
    members: Sequence[str],
    *,
    allowed: int,
) -> dict[str, Any] | None:
    """Of a run with so many rounds done of those `allowed`; None where sums carry no noise.

    `rounds` say who was in each.  Of a round whose verdict this node never had it does not
    know, and counts everybody as present.
    """
    privacy = plan.privacy
    if not isinstance(privacy, Privacy):
        return None
    absent = {
        name: sum(name not in one["survivors"] for one in rounds) for name in members
    }
    spent = Budget(privacy.epsilon, privacy.delta).spent(done, privacy.multiplier)
    return {
        "clip": privacy.clip,
        "multiplier": privacy.multiplier,
        "delta": privacy.delta,
        "budget": privacy.epsilon,
        "rounds": allowed,
        "spent": round(spent.record, 4),
        "membership": round(spent.member, 4),
        "members": {
            # One record may turn a clipped update into any other: the noise counts half.
            name: round(
                epsilon(done - absent[name], privacy.multiplier / 2, privacy.delta), 4
            )
            for name in members
        },
    }
