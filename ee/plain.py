"""A table model's scores in the clear, numpy alone.

For whoever has the whole state and only asks what it says, without the seconds that torch takes
to load.  The trunk is `ee.trunk`'s, stock Llama without a key, and a
test holds the two together.
"""

import numpy as np
from numpy.typing import NDArray

from ee.spec import Arrays, ModelSpec, Vector, part, split
from ee.table import Values, final_norm, head_scores, stem_tokens

Floats = NDArray[np.float32]
BATCH = 256
"""Records at once: what is in memory is a few times batch x tokens x width."""


def log_odds(spec: ModelSpec, state: Vector, values: Values) -> Floats:
    """(records,) from `ee.table.parse`'s values."""
    arrays = split(spec, state)
    stem, trunk, head = (part(arrays, name) for name in ("stem", "trunk", "head"))
    found = [np.zeros(0, np.float32)]
    for start in range(0, len(values), BATCH):
        rows = stem_tokens(spec, stem, values[start : start + BATCH])
        last = final_norm(spec, hidden(spec, trunk, rows))[:, -1]
        found.append(head_scores(head, last))
    return np.concatenate(found)


def hidden(spec: ModelSpec, trunk: Arrays, rows: Floats) -> Floats:
    """(records, tokens, width) to the residual before the final norm."""
    turn = _turn(spec)
    # A token sees itself and those before it.
    seen = np.tri(spec.tokens, dtype=np.bool_)
    for layer in range(spec.layers):
        own = part(trunk, f"layers.{layer}")
        rows = rows + _attended(spec, own, final_norm(spec, rows), turn, seen)
        inner = final_norm(spec, rows)
        gate = inner @ own["mlp.gate_proj.weight"].T
        up = inner @ own["mlp.up_proj.weight"].T
        # x times its logistic function, which tanh gives without an overflow.
        rows = rows + (gate * 0.5 * (1 + np.tanh(gate / 2)) * up) @ (
            own["mlp.down_proj.weight"].T
        )
    return rows


def _attended(
    spec: ModelSpec,
    own: Arrays,
    rows: Floats,
    turn: tuple[Floats, Floats],
    seen: NDArray[np.bool_],
) -> Floats:
    def heads(name: str, count: int) -> Floats:
        # (records, heads, tokens, head_dim)
        made = rows @ own[f"self_attn.{name}_proj.weight"].T
        return made.reshape(*rows.shape[:2], count, spec.head_dim).swapaxes(1, 2)

    query = _turned(heads("q", spec.heads), turn)
    key = _turned(heads("k", spec.kv_heads), turn)
    value = heads("v", spec.kv_heads)
    key, value = (
        np.repeat(one, spec.heads // spec.kv_heads, 1) for one in (key, value)
    )
    scores = query @ key.swapaxes(2, 3) / np.float32(spec.head_dim**0.5)
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (weights / weights.sum(-1, keepdims=True)) @ value
    flat = mixed.swapaxes(1, 2).reshape(rows.shape)
    return np.asarray(flat @ own["self_attn.o_proj.weight"].T)


def _turn(spec: ModelSpec) -> tuple[Floats, Floats]:
    """Cosine and sine of each place (tokens) and frequency (head_dim, two halves)."""
    powers = np.arange(0, spec.head_dim, 2) / spec.head_dim
    angles = np.outer(np.arange(spec.tokens), spec.rope_base**-powers)
    both = np.concatenate([angles, angles], axis=1)
    return np.cos(both).astype(np.float32), np.sin(both).astype(np.float32)


def _turned(heads: Floats, turn: tuple[Floats, Floats]) -> Floats:
    cosine, sine = turn
    first, second = np.split(heads, 2, axis=-1)
    turned = heads * cosine + np.concatenate([-second, first], axis=-1) * sine
    return turned.astype(np.float32)
