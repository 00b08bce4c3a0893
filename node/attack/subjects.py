"""The two models that are attacked, with the bases and the text of each."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import torch
from torch import Tensor

from ee.attacks.base import Base
from ee.attacks.causal import train_causal
from ee.attacks.search import UNKNOWN
from ee.attacks.view import Bases
from ee.attacks.vocabulary import Text
from node.attack.material import Texts, perturbed, read_minilm, read_texts, shuffled

DISTANCE = 0.3
"""Of the perturbed base; where searches of activations mostly stop."""
MODELS = ("minilm", "causal")

Say = Callable[[str], None]


class Size(msgspec.Struct, frozen=True):
    """How much of everything."""

    words: int = 1024
    tokens: int = 10
    steps: int = 700
    searched: int = 6
    two_way_choices: int = 128
    two_way_searched: int = 4
    public: int = 4000
    many: int = 1500
    inverter_steps: int = 300
    summed: int = 200


QUICK = Size(
    words=512, tokens=8, steps=150, searched=5, two_way_choices=48, two_way_searched=4,
    public=1000, many=400, inverter_steps=100,
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """One model with its text, in its own token numbers."""

    name: str
    public: Base
    bases: tuple[Bases, ...]
    victim_ids: Tensor
    public_ids: Tensor
    injury: Tensor
    text: Text


def subject(model: str, size: Size, seed: int, say: Say) -> Subject:
    """The one of `MODELS` that is named; trains it where that is needed."""
    say("reading the weights and the text")
    texts = read_texts(size.words, size.tokens, seed)
    if model == "minilm":
        return minilm(texts, size, seed)
    return causal(texts, size, seed, say)


def minilm(texts: Texts, size: Size, seed: int) -> Subject:
    """MiniLM as it was published."""
    base = Base(read_minilm())
    stop = torch.full((len(texts.ids), 1), texts.stop)
    ids = torch.cat([texts.ids[:, :-1], stop], dim=1)
    template = torch.full((ids.shape[1],), UNKNOWN)
    template[0], template[-1] = texts.start, texts.stop
    private, moved = shuffled(base, seed), perturbed(base, seed, DISTANCE)
    bases = (
        Bases("public", base, base),
        Bases("perturbed", base, Base(moved)),
        Bases("private", base, Base(private)),
    )
    text = Text(template, texts.words, texts.filler)
    return _subject("minilm", bases, ids, texts, text, size)


def causal(texts: Texts, size: Size, seed: int, say: Say) -> Subject:
    """Two small causal bodies, trained here on two halves of the public text."""
    ids = texts.small(texts.ids)
    corpus = ids[len(ids) // 4 :]
    half = len(corpus) // 2
    bodies: list[Base] = []
    for number, part in enumerate((corpus[:half], corpus[half:])):
        body, loss = train_causal(
            part, len(texts.words) + 1, seed=seed + number, steps=size.steps,
            progress=lambda step, loss: say(f"training a causal model: {step}, {loss:.2f}"),
        )  # fmt: skip
        say(f"causal model {number + 1}: {loss:.2f} nats a token")
        bodies.append(body)
    moved = Base(perturbed(bodies[0], seed, DISTANCE))
    bases = (
        Bases("public", bodies[0], bodies[0]),
        Bases("perturbed", bodies[0], moved),
        Bases("private", bodies[1], bodies[0]),
    )
    template = torch.full((ids.shape[1],), UNKNOWN)
    template[0] = 0
    candidates = torch.arange(1, len(texts.words) + 1)
    text = Text(template, candidates, 0)
    return _subject("causal", bases, ids, texts, text, size)


def _subject(
    name: str,
    bases: tuple[Bases, ...],
    ids: Tensor,
    texts: Texts,
    text: Text,
    size: Size,
) -> Subject:
    quarter = len(ids) // 4
    public = ids[quarter:]
    return Subject(
        name, bases[0].attacker, bases, ids[:quarter], public, texts.injury[:quarter],
        replace(text, public=public[: size.public]),
    )  # fmt: skip
