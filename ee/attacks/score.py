"""What an attack has won: tokens recovered, against guessing without looking."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Finding:
    """The outcome of one attack on one view."""

    value: float
    """Balanced recovery, unless `detail` names another measure."""
    chance: float
    """What a guess that ignores the view scores."""
    trials: int
    """Independent guesses behind the value, for its spread."""
    detail: dict[str, float] = field(default_factory=dict)


def recovery(guess: Tensor, truth: Tensor, choices: int) -> Finding:
    """Recovery of tokens; both (sequences, tokens), only the positions in question.

    The value is balanced: the mean, over the distinct tokens of the text, of the fraction of
    their occurrences recovered.  A guesser who always names the commonest word recovers one
    token of that many, however common it is, so the value is about the words that tell
    something.  `occurrences` is the plain rate, `sequences` the rate of flawless ones.
    """
    hits = guess == truth
    kinds = truth.unique()
    each = [float(hits[truth == kind].float().mean()) for kind in kinds]
    return Finding(
        value=sum(each) / len(each),
        chance=max(1.0 / len(kinds), 1.0 / choices),
        trials=len(kinds),
        detail={
            "occurrences": float(hits.float().mean()),
            "sequences": float(hits.all(dim=1).float().mean()),
        },
    )
