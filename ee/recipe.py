"""A stock model in a run: which one, what it reads, and what of it learns; without torch.

The counterpart of `ee.spec` for models of `ee.arch`.  A base is a stock configuration drawn
from a seed, or a checkpoint that every member has and knows by its digest.  A run's vector is
the *difference* to the base: it begins with zeros, whatever the base and the machine.
"""

import re
from typing import Any, Literal

import msgspec

from ee.errors import EncryptionError

TOKENS_AT_MOST = 2048
CLASSES_AT_MOST = 1024
_DIGEST = re.compile("[0-9a-f]{64}")
_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

PAD, FIRST_LETTER = 1, 4
"""Numbers of letters: 0 begins a row, 1 fills it, 2 ends it, 3 is any other letter."""


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A base that members have on disk, in a folder of their own of this name."""

    name: str
    digest: str
    """SHA-256 over configuration, tensors and tokenizer (`rexis model inspect`)."""
    private: bool = False
    """True: no host can have these weights, so one that is not trusted may see them keyed."""


class StockSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="stock",
                tag_field="kind"):  # fmt: skip
    """A stock model that reads one column of text, or of letters, and tells classes apart."""

    text: str
    """The column."""
    classes: tuple[str, ...]
    """The answers, as they stand in the label's column."""
    config: dict[str, Any] = {}
    """A stock configuration with its `model_type`; empty where there is a checkpoint."""
    checkpoint: Checkpoint | None = None
    seed: int = 0
    """Of a base that is drawn, and of the adapters' frozen halves."""
    letters: str = ""
    """One token each (`ACDEFGHIKLMNPQRSTVWY`); empty: the checkpoint's own tokenizer."""
    tokens: int = 64
    """Longer rows are cut."""
    stem_layers: int = 1
    learns: Literal["adapters", "all"] = "adapters"
    """`adapters`: LoRA with A frozen, and the head.  `all`: every parameter."""
    adapt: tuple[str, ...] = ()
    """Endings of the adapted layers' names; empty: all that attention reads with."""
    rank: int = 8
    scale: float = 2.0
    pool: Literal["mean", "last"] = "mean"
    """Which row of the trunk's answer the head reads."""

    def to_dict(self) -> dict[str, Any]:
        return dict(msgspec.to_builtins(self))

    @classmethod
    def from_dict(cls, data: Any) -> "StockSpec":
        """Checked; `EncryptionError` names the value and the limit."""
        try:
            spec = msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise EncryptionError(f"model specification: {error}") from error
        spec.check()
        return spec

    def check(self) -> None:
        """What can be told without the stock library."""
        if (self.checkpoint is None) == (not self.config):
            raise EncryptionError(
                "model specification: needs a config or a checkpoint, one of the two"
            )
        if self.checkpoint is not None:
            _require("checkpoint name", self.checkpoint.name, _NAME)
            _require("checkpoint digest", self.checkpoint.digest, _DIGEST)
        elif not self.letters:
            raise EncryptionError(
                "model specification: without a checkpoint there is no tokenizer; give letters"
            )
        if len(set(self.letters)) != len(self.letters):
            raise EncryptionError(f"letters {self.letters!r} name one twice")
        if not 2 <= len(set(self.classes)) == len(self.classes) <= CLASSES_AT_MOST:
            raise EncryptionError(
                f"{len(self.classes)} classes, need 2 to {CLASSES_AT_MOST} different ones"
            )
        for name, value, least, most in (
            ("tokens", self.tokens, 4, TOKENS_AT_MOST),
            ("stem_layers", self.stem_layers, 0, 128),
            ("rank", self.rank, 1, 1024),
        ):
            if not least <= value <= most:
                raise EncryptionError(f"{name} is {value}, need {least} to {most}")
        if not 0 < self.scale <= 1024:
            raise EncryptionError(f"scale is {self.scale}, need more than 0, to 1024")


def is_stock(data: Any) -> bool:
    """Whether a model file's `spec` names a stock model; else it is one over table columns."""
    return isinstance(data, dict) and data.get("kind") == "stock"


def _require(what: str, value: str, form: re.Pattern[str]) -> None:
    if not form.fullmatch(value):
        raise EncryptionError(f"{what} is {value[:80]!r}, needs {form.pattern}")
