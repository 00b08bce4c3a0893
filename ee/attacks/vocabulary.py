"""Attack 1: match rows against the vocabulary by what the key cannot change.

Needs: the rows a host is sent, and the stem's forward weights (or a model the attacker takes
for them).  No known plaintext, no key.  `sorted_rows` is the published attack on permuted
states; `inner_products` replaces its invariant by the one of the orthogonal group, so that
dense rotations fall to it as well.

Source: "Hidden No More" (arXiv 2505.18332) for sorted rows and the left-to-right search.
"""

from dataclasses import dataclass

from torch import Tensor

from ee.attacks.base import Base
from ee.attacks.keying import Observed
from ee.attacks.score import Finding, recovery
from ee.attacks.search import (
    UNKNOWN,
    Bring,
    Signature,
    coordinates,
    prefix_search,
    products,
    sorted_row,
    sweep_search,
    unchanged,
)


@dataclass(frozen=True)
class Text:
    """What the attacker tries: the form of a text, and the words it may hold."""

    template: Tensor
    """(tokens,); known ids, `UNKNOWN` elsewhere."""
    candidates: Tensor
    """(n,) ids."""
    filler: int
    """An id that stands for "not known yet" in a bidirectional search."""
    public: Tensor | None = None
    """(texts, tokens) ids of texts of the same kind that the attacker has."""

    def unknown(self, ids: Tensor) -> Tensor:
        """The columns of (sequences, tokens) that are to be guessed."""
        return ids[:, self.template == UNKNOWN]


def sorted_rows(base: Base, seen: Observed, truth: Tensor, text: Text) -> Finding:
    """The published attack: entries of each row in order of size."""
    return by_signature(base, seen, truth, text, sorted_row)


def inner_products(base: Base, seen: Observed, truth: Tensor, text: Text) -> Finding:
    """The same with norms and inner products of the rows of one text."""
    return by_signature(base, seen, truth, text, products)


def nearest_rows(base: Base, seen: Observed, truth: Tensor, text: Text) -> Finding:
    """The same with the rows as they are: for rows under no key, or one taken off."""
    return by_signature(base, seen, truth, text, coordinates)


def by_signature(
    base: Base,
    seen: Observed,
    truth: Tensor,
    text: Text,
    signature: Signature,
    bring: Bring = unchanged,
) -> Finding:
    """Search with `signature`; `truth` only scores the outcome."""
    if seen.normed:
        own, outer = base.block(seen.depth), bring

        def bring(rows: Tensor) -> Tensor:
            return outer(own.enter(rows))

    if base.causal or seen.depth == 0:
        guess = prefix_search(
            base,
            seen.rows,
            seen.depth,
            text.template,
            text.candidates,
            signature,
            bring,
        )
    else:
        guess = sweep_search(
            base, seen.rows, seen.depth, text.template, text.candidates, signature,
            filler=text.filler, public=text.public, bring=bring,
        )  # fmt: skip
    return recovery(text.unknown(guess), text.unknown(truth), len(text.candidates))
