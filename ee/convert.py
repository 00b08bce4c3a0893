"""Keying and unkeying as streams of tensors, for models that do not fit into memory.

Tensors come one at a time and leave one at a time; what is held besides is the vectors
(gains, shifts, biases), one layer's key, and slices in float64.  Reading and writing files
is the caller's (`node.model.convert`).
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from ee.canonical import Cut, trunk_tensors
from ee.errors import EncryptionError
from ee.keys.key import Key

Named = tuple[str, Tensor]


def key_stream(
    cut: Cut,
    key: Key,
    vectors: Mapping[str, Tensor],
    matrices: Iterable[Named],
    dtype: torch.dtype,
) -> Iterator[Named]:
    """A stock checkpoint to a keyed trunk; see `ee.canonical.trunk_tensors`.

    The tensors of `matrices` may be changed in place and are not held on to.
    """
    for name, tensor in trunk_tensors(cut, vectors, matrices, dtype):
        yield name, tensor if key.plan.carries(name, tensor) else key.key(name, tensor)


def unkey_stream(key: Key, tensors: Iterable[Named]) -> Iterator[Named]:
    """A keyed trunk to the canonical one; every tensor of the plan must come by once."""
    known = set(key.plan.shapes())
    expected = set(known)
    for name, tensor in tensors:
        if name in known and name not in expected:
            raise EncryptionError(f"{name} came twice")
        expected.discard(name)
        home = tensor if key.plan.carries(name, tensor) else key.unkey(name, tensor)
        yield name, home
    if expected:
        raise EncryptionError(
            f"the keyed trunk lacks {len(expected)} tensors, first {min(expected)}"
        )
