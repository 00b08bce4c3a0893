"""What a model is: columns, sizes, and the one flat vector its parameters live in.

The layout is a function of the specification alone, so that every member computes the same
offsets, the same first state and the same state root from the same text.
"""

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ee.errors import EncryptionError

Vector = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]

COLUMNS_AT_MOST = 512
WIDTH_AT_MOST = 4096
LAYERS_AT_MOST = 128


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input column: a number with a public centre and scale, or a category."""

    name: str
    centre: float = 0.0
    scale: float = 1.0
    levels: tuple[str, ...] = ()
    """Not empty: a category; the text of each level as it stands in the table."""

    @property
    def numeric(self) -> bool:
        return not self.levels


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A transformer over table columns: stem, trunk, head."""

    columns: tuple[Column, ...]
    width: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    seed: int
    norm_eps: float = 1e-6
    rope_base: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def tokens(self) -> int:
        """One per column, and the summary token at the end."""
        return len(self.columns) + 1

    def to_dict(self) -> dict[str, Any]:
        return dict(msgspec.to_builtins(self))

    @classmethod
    def from_dict(cls, data: Any) -> "ModelSpec":
        """Checked; `EncryptionError` names the value and the limit."""
        try:
            spec = msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise EncryptionError(f"model specification: {error}") from error
        spec.check()
        return spec

    def check(self) -> None:
        """Sizes that fit together, within the limits of this version."""
        names = [column.name for column in self.columns]
        if not 1 <= len(names) <= COLUMNS_AT_MOST or len(set(names)) != len(names):
            raise EncryptionError(
                f"{len(names)} columns, need 1 to {COLUMNS_AT_MOST} with different names"
            )
        for name, value, limit in (
            ("width", self.width, WIDTH_AT_MOST),
            ("layers", self.layers, LAYERS_AT_MOST),
            ("inner", self.inner, 4 * WIDTH_AT_MOST),
            ("heads", self.heads, self.width),
            ("kv_heads", self.kv_heads, self.heads),
        ):
            if not 1 <= value <= limit:
                raise EncryptionError(f"{name} is {value}, need 1 to {limit}")
        if self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise EncryptionError(
                f"width {self.width}, heads {self.heads}, kv_heads {self.kv_heads}:"
                " heads need an even size and whole groups"
            )
        for column in self.columns:
            if column.numeric and not (
                column.scale > 0 and math.isfinite(column.centre / column.scale)
            ):
                raise EncryptionError(f"scale of {column.name} is {column.scale}")


def trunk_config(spec: ModelSpec) -> dict[str, Any]:
    """What a host must know of a model, by stock names: nothing about columns or seeds."""
    return {
        "hidden_size": spec.width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "intermediate_size": spec.inner,
        "rms_norm_eps": spec.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_base},
        "max_position_embeddings": spec.tokens,
    }


class Slot(msgspec.Struct, frozen=True):
    """Where one parameter lies in the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def layout(spec: ModelSpec) -> tuple[Slot, ...]:
    """Stem, trunk, head, in this order."""
    slots: list[Slot] = []
    offset = 0
    for name, shape in (*_stem(spec), *trunk_shapes(spec), *_head(spec)):
        slots.append(Slot(name, shape, offset))
        offset += math.prod(shape)
    return tuple(slots)


def size(spec: ModelSpec) -> int:
    """Number of parameters."""
    last = layout(spec)[-1]
    return last.offset + last.size


def trunk_shapes(spec: ModelSpec) -> list[tuple[str, tuple[int, ...]]]:
    """Matrices of the trunk, (outputs, inputs), Hugging Face names behind `trunk.`."""
    width, inner = spec.width, spec.inner
    kv = spec.kv_heads * spec.head_dim
    shapes: list[tuple[str, tuple[int, ...]]] = []
    for layer in range(spec.layers):
        at = f"trunk.layers.{layer}"
        shapes += [
            (f"{at}.self_attn.q_proj.weight", (width, width)),
            (f"{at}.self_attn.k_proj.weight", (kv, width)),
            (f"{at}.self_attn.v_proj.weight", (kv, width)),
            (f"{at}.self_attn.o_proj.weight", (width, width)),
            (f"{at}.mlp.gate_proj.weight", (inner, width)),
            (f"{at}.mlp.up_proj.weight", (inner, width)),
            (f"{at}.mlp.down_proj.weight", (width, inner)),
        ]
    return shapes


def _stem(spec: ModelSpec) -> list[tuple[str, tuple[int, ...]]]:
    count, width = len(spec.columns), spec.width
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("stem.slope", (count, width)),
        ("stem.place", (count, width)),
        ("stem.missing", (count, width)),
        ("stem.summary", (width,)),
    ]
    for index, column in enumerate(spec.columns):
        if not column.numeric:
            shapes.append((f"stem.levels.{index}", (len(column.levels), width)))
    return shapes


def _head(spec: ModelSpec) -> list[tuple[str, tuple[int, ...]]]:
    return [("head.weight", (spec.width,)), ("head.bias", (1,))]


def initial_state(spec: ModelSpec) -> Vector:
    """The same first vector on every machine: PCG64 from the specification's seed."""
    generator = np.random.Generator(np.random.PCG64(spec.seed))
    state = np.zeros(size(spec), np.float32)
    for slot in layout(spec):
        draw = generator.standard_normal(slot.size)
        if slot.name.startswith("head."):
            continue  # drawn all the same, so that a head of another size moves nothing
        if slot.name.startswith("stem."):
            scale = 0.5
        else:
            scale = 0.4 / math.sqrt(slot.shape[-1])
        state[slot.offset : slot.offset + slot.size] = (scale * draw).astype(np.float32)
    return state


def split(spec: ModelSpec, flat: Vector) -> Arrays:
    """Name to a view of its part of `flat`."""
    if flat.shape != (size(spec),):
        raise EncryptionError(f"state has shape {flat.shape}, needs ({size(spec)},)")
    return {
        slot.name: flat[slot.offset : slot.offset + slot.size].reshape(slot.shape)
        for slot in layout(spec)
    }


def join(spec: ModelSpec, arrays: Arrays) -> Vector:
    """The inverse of `split`; every part must be there, in its shape."""
    flat = np.empty(size(spec), np.float32)
    for slot in layout(spec):
        array = arrays.get(slot.name)
        if array is None or array.shape != slot.shape:
            seen = "missing" if array is None else f"of shape {array.shape}"
            raise EncryptionError(f"{slot.name} is {seen}, needs {slot.shape}")
        flat[slot.offset : slot.offset + slot.size] = array.reshape(-1)
    return flat


def part(arrays: Arrays, name: str) -> Arrays:
    """The arrays of one part (`stem`, `trunk` or `head`), without its prefix."""
    prefix = name + "."
    return {
        k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)
    }
