"""The key of a trunk, and what it does to weights and activations (docs/ee.md §2).

Rows are row vectors: a matrix of Hugging Face shape (outputs, inputs) acts as y = x W'.
With an orthogonal Q on the residual, x becomes x Q, and every part of a gain-free pre-norm
block has a partner that computes the keyed result from the keyed input:

    q, k   W -> R W Q    R turns each RoPE frequency's plane in each key-value group;
                         planes of one frequency commute with RoPE, and the same R on both
                         sides leaves every score as it was
    v      W -> A' W Q   A is dense orthogonal, one per key-value head
    o      W -> Q' W A   undoes A, returns to the keyed residual
    gate   W -> P W Q    P permutes the inner units: SwiGLU acts on each alone
    up     W -> P W Q
    down   W -> Q' W P'

Key-value heads are permuted with their query groups as well.  All factors are orthogonal,
so an optimiser that commutes with orthogonal maps (Muon) trains the keyed trunk exactly as
it would the plain one.  What a host sees all the same is in docs/threat-model.md.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ee.errors import EncryptionError, KeyMismatchError
from ee.spec import Arrays, ModelSpec

Matrix = NDArray[np.float64]
SEED_BYTES = 32


@dataclass(frozen=True)
class LayerKey:
    """What is drawn for one layer."""

    turns: NDArray[np.float64]
    """(kv_heads, head_dim / 2) angles, one per RoPE plane."""
    mixes: Matrix
    """(kv_heads, head_dim, head_dim), orthogonal."""
    groups: NDArray[np.int64]
    """Permutation of key-value heads."""
    inner: NDArray[np.int64]
    """Permutation of the inner units."""


@dataclass(frozen=True)
class TrunkKey:
    """Everything that opens one keyed trunk; made for one session, then destroyed."""

    spec: ModelSpec
    residual: Matrix
    layers: tuple[LayerKey, ...]
    _print: bytes

    @classmethod
    def generate(cls, seed: bytes, spec: ModelSpec) -> "TrunkKey":
        """The key of `seed`; 32 secret bytes, never used twice."""
        if len(seed) != SEED_BYTES:
            raise EncryptionError(f"key seed has {len(seed)} bytes, needs {SEED_BYTES}")
        # A 256-bit entropy pool seeds PCG64; the stream is only as secret as the seed, and
        # nothing a host sees is the stream itself but orthogonal images of weights.
        words = np.frombuffer(hashlib.sha256(b"rexis-trunk-key" + seed).digest(), "<u4")
        generator = np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(words.tolist()))
        )
        residual = _orthogonal(generator, spec.width)
        layers = tuple(_layer_key(generator, spec) for _ in range(spec.layers))
        mark = hashlib.sha256(b"rexis-trunk-key-print" + seed).digest()
        return cls(spec, residual, layers, mark)

    def fingerprint(self) -> bytes:
        """Names the key without telling anything about it."""
        return self._print

    def enter(self, x: NDArray[Any]) -> NDArray[Any]:
        """Plain rows (..., width) to keyed rows; gradients go the same way."""
        return (x @ self.residual).astype(x.dtype)

    def leave(self, y: NDArray[Any]) -> NDArray[Any]:
        """Keyed rows to plain rows."""
        return (y @ self.residual.T).astype(y.dtype)


def key_trunk(trunk: Arrays, key: TrunkKey) -> Arrays:
    """The keyed weights, in the dtype they came in."""
    return _mapped(trunk, key, inverse=False)


def unkey_trunk(trunk: Arrays, key: TrunkKey) -> Arrays:
    """The inverse of `key_trunk`; also brings weight gradients and updates home."""
    return _mapped(trunk, key, inverse=True)


def _mapped(trunk: Arrays, key: TrunkKey, *, inverse: bool) -> Arrays:
    out: Arrays = {}
    for name, weight in trunk.items():
        parts = name.split(".")
        kind = parts[3].removesuffix("_proj") if len(parts) == 5 else ""
        if parts[0] != "layers" or kind not in _SIDES:
            raise EncryptionError(
                f"no key is known for {name}; it is refused, not passed"
            )
        index = int(parts[1])
        if index >= len(key.layers):
            raise KeyMismatchError(f"{name}: the key has {len(key.layers)} layers")
        left, right = _factors(key, key.layers[index], kind)
        if weight.shape != (left.shape[0], right.shape[0]):
            raise KeyMismatchError(
                f"{name} is {weight.shape}, the key is for {(left.shape[0], right.shape[0])}"
            )
        wide = weight.astype(np.float64)
        mapped = left.T @ wide @ right.T if inverse else left @ wide @ right
        out[name] = mapped.astype(weight.dtype)
    return out


_SIDES = frozenset({"q", "k", "v", "o", "gate", "up", "down"})


def _factors(key: TrunkKey, layer: LayerKey, kind: str) -> tuple[Matrix, Matrix]:
    """Orthogonal (left, right) with keyed W = left W right."""
    spec, residual = key.spec, key.residual
    repeat = spec.heads // spec.kv_heads
    match kind:
        case "q":
            return _heads(_turn_matrices(layer.turns), layer.groups, repeat), residual
        case "k":
            return _heads(_turn_matrices(layer.turns), layer.groups, 1), residual
        case "v":
            return _heads(layer.mixes.swapaxes(1, 2), layer.groups, 1), residual
        case "o":
            mixes = _heads(layer.mixes.swapaxes(1, 2), layer.groups, repeat)
            return residual.T, mixes.T
        case "gate" | "up":
            return np.eye(spec.inner)[layer.inner], residual
        case _:
            return residual.T, np.eye(spec.inner)[layer.inner].T


def _turn_matrices(turns: NDArray[np.float64]) -> Matrix:
    """(heads, dim, dim); RoPE pairs entry i with entry i + dim / 2."""
    heads, half = turns.shape
    out = np.zeros((heads, 2 * half, 2 * half))
    low, high = np.arange(half), np.arange(half) + half
    out[:, low, low] = out[:, high, high] = np.cos(turns)
    out[:, low, high] = -np.sin(turns)
    out[:, high, low] = np.sin(turns)
    return out


def _heads(blocks: Matrix, groups: NDArray[np.int64], repeat: int) -> Matrix:
    """Block matrix: new group g is old group groups[g] under its block, `repeat` heads each."""
    count, dim, _ = blocks.shape
    out = np.zeros((count * repeat * dim, count * repeat * dim))
    for new, old in enumerate(groups):
        for member in range(repeat):
            row, column = (new * repeat + member) * dim, (old * repeat + member) * dim
            out[row : row + dim, column : column + dim] = blocks[old]
    return out


def _layer_key(generator: np.random.Generator, spec: ModelSpec) -> LayerKey:
    half = spec.head_dim // 2
    return LayerKey(
        turns=generator.uniform(-np.pi, np.pi, (spec.kv_heads, half)),
        mixes=np.stack(
            [_orthogonal(generator, spec.head_dim) for _ in range(spec.kv_heads)]
        ),
        groups=generator.permutation(spec.kv_heads),
        inner=generator.permutation(spec.inner),
    )


def _orthogonal(generator: np.random.Generator, size: int) -> Matrix:
    """Haar-distributed: QR of a Gaussian with the signs of R's diagonal put right."""
    q, r = np.linalg.qr(generator.standard_normal((size, size)))
    return q * np.sign(np.diag(r))
