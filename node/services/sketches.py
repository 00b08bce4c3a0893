"""What the sketches of a rejected round showed, for people to read (docs/protocol.md §5.10).

Nothing is decided here: members look at it and talk, and the next epoch has whom they want.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from node.ports.compute import Compute
from protocol.aggregate.weighing import Answer
from protocol.rounds import events as ev


async def drawn(
    effect: ev.Draw, compute: Compute, common: Mapping[str, Any]
) -> ev.Drawn:
    """The own sketches as a blob; `common`: where blobs lie, and the vector's length and ring."""
    found = await compute.call(
        "round.draw",
        {
            **common,
            "shards": list(effect.shards),
            "keys": list(effect.keys),
            "seed": effect.seed,
        },
    )
    return ev.Drawn(effect.context, found["blob"])


async def weighed(
    effect: ev.Weigh, compute: Compute, common: Mapping[str, Any]
) -> ev.Weighed:
    """What everyone's sketches say together."""
    found = await compute.call(
        "round.weigh",
        {
            **common,
            "said": list(effect.said),
            "alone": effect.alone,
            "sums": list(effect.sums),
            "weights": list(effect.weights),
            "opened": effect.opened,
            "parts": [list(parts) for parts in effect.parts],
            "seed": effect.seed,
        },
    )
    answer = Answer(
        tuple(found["malformed"]),
        tuple((one, other) for one, other in found["differ"]),
        tuple(found["false"]),
        found["balanced"],
        tuple(found["times"]),
        tuple(found["worst"]),
    )
    return ev.Weighed(effect.context, effect.turn, answer)


def sketch_row(effect: ev.Measured, name_of: Callable[[bytes], str]) -> dict[str, Any]:
    """One rejected round, by members' names; lengths are multiples of the typical one."""
    lengths = zip(effect.members, effect.times, effect.worst, strict=False)
    return {
        "round": effect.round,
        "lengths": {
            name_of(member): {"whole": whole / 1000, "block": block / 1000}
            for member, whole, block in lengths
        },
        "outliers": [name_of(member) for member in effect.outliers],
        "false": [name_of(member) for member in effect.false],
        "silent": [name_of(member) for member in effect.silent],
    }


def newest_sketch(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Of the last round that was looked into; None if none was."""
    found = (row["sketch"] for row in reversed(rounds) if row.get("sketch"))
    return next(found, None)
