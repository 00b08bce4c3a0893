"""MiniLM, fine-tuned here to name the chapter of a description of ICD-10-CM, then in integers.

The published body and a linear head on the mean row are trained in float32 on some texts of
every chapter.  Held-out texts are then answered by the stock model, by the integer trunk of the
same weights, by integer trunks under keys, and by one with a single scale per matrix, which is
the control: it has to be seen to fail.  Cosines are those of mean rows against the stock model's.
"""

import dataclasses
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee import integer
from ee.integer import Matrix, bounds, spec
from ee.integer.quantise import matrix_of
from ee.integer.stock import FloatMatrix, float_layers

SHORTEST, LONGEST = 5, 24
"""Tokens of a text, both ends with it."""
BATCH, RATE = 32, 5e-5
Answer = Callable[[Any], NDArray[np.float64]]
"""Stem rows (texts, tokens, width) to rows behind the last norm."""


@dataclass(frozen=True)
class Size:
    """How much of it: texts per chapter, passes, keys."""

    train: int
    held_out: int
    passes: int
    keys: int


FULL, QUICK = Size(160, 200, 2, 3), Size(12, 20, 1, 1)


@dataclass(frozen=True)
class Text:
    ids: tuple[int, ...]
    chapter: int


def run(size: Size) -> dict[str, Any]:
    """Share of held-out texts whose chapter was named, in points, and cosines."""
    import torch

    train, held_out = _texts(size)
    torch.manual_seed(0)
    model, head = _tuned(train, size.passes)
    return _compared(model, head, held_out, size)


def _texts(size: Size) -> tuple[list[Text], list[Text]]:
    """Training and held-out texts, as many of each chapter as there are, up to the size."""
    from node.attack.material import read_cutter, read_descriptions

    seen = read_descriptions()
    cut = read_cutter().encode_batch(list(seen))
    by_chapter = defaultdict(list)
    for encoding, chapter in zip(cut, seen.values(), strict=True):
        if SHORTEST <= len(encoding.ids) <= LONGEST:
            by_chapter[chapter].append(Text(tuple(encoding.ids), chapter - 1))
    draw, train, held_out = random.Random(0), [], []
    for texts in by_chapter.values():
        draw.shuffle(texts)
        part = min(size.held_out, len(texts) // 2)
        held_out += texts[:part]
        train += texts[part : part + size.train]
    return train, held_out


def _batches(texts: list[Text], count: int) -> Iterator[list[Text]]:
    """Of texts of one length, so that no mask is needed."""
    by_length = defaultdict(list)
    for text in texts:
        by_length[len(text.ids)].append(text)
    for _, same in sorted(by_length.items()):
        for start in range(0, len(same), count):
            yield same[start : start + count]


def _tuned(texts: list[Text], passes: int) -> tuple[Any, Any]:
    """The body and its head, trained by AdamW in float32."""
    import torch

    from node.attack.material import read_minilm

    model = read_minilm().eval()  # no dropout: a few passes do not overfit
    head = torch.nn.Linear(model.config.hidden_size, 1 + max(t.chapter for t in texts))
    parameters = [*model.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": list(model.parameters()), "lr": RATE},
            {"params": list(head.parameters()), "lr": 50 * RATE},
        ]
    )
    draw = random.Random(1)
    for _ in range(passes):
        batches = list(_batches(draw.sample(texts, len(texts)), BATCH))
        draw.shuffle(batches)
        for batch in batches:
            rows = model(torch.tensor([text.ids for text in batch])).last_hidden_state
            wanted = torch.tensor([text.chapter for text in batch])
            loss = torch.nn.functional.cross_entropy(head(rows.mean(1)), wanted)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
    return model, head


def _compared(model: Any, head: Any, texts: list[Text], size: Size) -> dict[str, Any]:
    import torch

    from ee.arch.sites import Options, Strength
    from ee.keys import Key, state_keyed
    from ee.split import split_model

    parts = split_model(model)
    config = parts.cut.trunk_config.to_dict()
    stem, stock = parts.build_stem(), parts.build_trunk()
    canonical = _arrays(parts.trunk)

    def answer(trunk: integer.IntegerTrunk, key: Any = None) -> Answer:
        from ee.integer_torch import TorchTrunk

        twin = TorchTrunk(trunk)

        def answered(rows: Any) -> NDArray[np.float64]:
            entered = rows if key is None else key.enter(rows)
            output = twin.forward(integer.encode_rows(entered.numpy())).output
            left = torch.from_numpy(integer.decode_rows(output))
            plain = left if key is None else key.leave(left)
            return integer.head_norm(plain.numpy(), canonical, config)

        return answered

    def float32(rows: Any) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (
            stock(inputs_embeds=rows).last_hidden_state.double().numpy()
        )
        return found

    plain = integer.quantise_stock(canonical, config, tokens=LONGEST)
    ways: dict[str, Answer] = {
        "fp32": float32,
        "int_plain": answer(plain),
        "one_scale_per_matrix": answer(_one_scale(plain, canonical, config)),
    }
    kinds = [Strength.ORTHOGONAL] * size.keys + [Strength.GENERAL]
    for number, strength in enumerate(kinds):
        seed = number.to_bytes(32, "big")
        key = Key(seed, parts.plan, Options(strength=strength))
        keyed = _arrays(state_keyed(parts.trunk, key))
        trunk = integer.quantise_stock(keyed, config, tokens=LONGEST)
        ways[f"int_{strength}_{number}"] = answer(trunk, key)
    return _scored(stem, head, texts, ways)


def _scored(
    stem: Any, head: Any, texts: list[Text], ways: dict[str, Answer]
) -> dict[str, Any]:
    """Points and cosines of each way; the first is what the others are held against."""
    import torch

    right: dict[str, int] = dict.fromkeys(ways, 0)
    cosines: dict[str, list[float]] = {name: [] for name in ways}
    errors: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for batch in _batches(texts, 64):
            rows = stem(torch.tensor([text.ids for text in batch]))
            wanted = np.array([text.chapter for text in batch])
            first: NDArray[np.float64] | None = None
            for name, answer in ways.items():
                means = answer(rows).mean(1)
                scores = head(torch.from_numpy(means.astype(np.float32)))
                right[name] += int((scores.argmax(-1).numpy() == wanted).sum())
                first = means if first is None else first
                lengths = np.linalg.norm(means, axis=1), np.linalg.norm(first, axis=1)
                cosines[name] += list(
                    (means * first).sum(1) / (lengths[0] * lengths[1])
                )
                errors[name] += list(np.linalg.norm(means - first, axis=1) / lengths[1])
    points = {name: 100 * count / len(texts) for name, count in right.items()}
    lost = {name: points["fp32"] - value for name, value in points.items()}
    honest = [name for name in ways if name.startswith("int_")]
    keyed = [float(np.mean(errors[name])) for name in honest if name != "int_plain"]
    return {
        "held_out": len(texts),
        "points": {name: round(value, 2) for name, value in points.items()},
        "lost_at_most": round(max(lost[name] for name in honest), 2),
        "lost_by_one_scale": round(lost["one_scale_per_matrix"], 2),
        "cosine": {
            name: round(float(np.mean(one)), 4) for name, one in cosines.items()
        },
        "worst_cosine": {name: round(min(one), 4) for name, one in cosines.items()},
        "error_plain": round(float(np.mean(errors["int_plain"])), 4),
        "error_keyed": round(float(np.median(keyed)), 4),
    }


def _arrays(state: Any) -> dict[str, NDArray[np.float64]]:
    return {name: value.double().numpy() for name, value in state.items()}


def _one_scale(
    trunk: integer.IntegerTrunk, state: Any, config: Any
) -> integer.IntegerTrunk:
    """The same trunk with one scale for all channels of a matrix."""
    layers = []
    floats = float_layers(state, config, trunk.config)
    for layer, weights in zip(trunk.layers, floats, strict=True):
        matrices = {
            name: _flattened(matrix, weights.matrices[name], wide=name == "down")
            for name, matrix in layer.named()
        }
        layers.append(integer.Layer.of(matrices, layer.gains))
    made = integer.IntegerTrunk(trunk.header, tuple(layers))
    bounds.check_trunk(made)
    return made


def _flattened(matrix: Matrix, floats: FloatMatrix, *, wide: bool) -> Matrix:
    top = float(np.abs(floats.weight).max())
    even = matrix_of(np.full_like(floats.weight, top), floats.bits, wide=wide)
    short = np.rint(floats.weight * (spec.WEIGHT_LIMIT / top)).astype(np.int8)
    return dataclasses.replace(even, weight=short, bias=matrix.bias)
