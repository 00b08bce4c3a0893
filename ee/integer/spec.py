"""The op-spec: every rule of the integer trunk, to the bit (docs/verify.md §2).

The two texts below are normative.  The digest of a trunk's rules, taken together with the
tables, is in its header and so in its model root: a trunk made for other rules is another
model.  Change one letter and every published root changes, which is why the digests are
pinned by a test.

The tables come from integer arithmetic on long integers alone.  A library's `exp` may
differ in its last bit from one machine to the next; a long division may not.
"""

import hashlib
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

WEIGHT_LIMIT = 63
"""7-bit weights: with 8-bit rows, u8 x s8 kernels that add pairs in 16 bits cannot
saturate, so the fast int8 products of every CPU stay exact."""
ROW_BITS = 7
WIDE_BITS = 13
LIMB = 128
RESIDUAL_LIMIT = (1 << 23) - 1
MID_LIMIT = (1 << 24) - 1
MID_BITS = 14
NORM_BITS = 16
ROPE_BITS = 14
SIGMOID_BITS = 16
SCORE_UNITS = 256
SCORE_LIMIT = 1 << 30
SCORE_SHIFT = 42
EXP_TOP = 127 * LIMB
TABLE_SIZE = 4096
ACCUMULATOR_LIMIT = 1 << 52

TEXT = """\
rexis integer trunk, op-spec 1

All quantities are integers.  half(n, e) is floor(n / 2^e + 1/2) for any integer e.
clamp(n, L) limits n to [-L, L].  bits(n) is the bit length of |n|.
A sum of products has no order: no step may round, wrap or saturate inside it.

rows(y, B): one exponent for a row, s = max(0, bits(max |y|) - B); the row becomes
  half(y, s), for B = 7 clamped to 127.
linear(q, s; W, m, R): half(m[o] * sum_k q[k] * W[o][k], R - s) for output channel o;
  W in [-63, 63], 0 <= m, and m * (largest possible |sum|) < 2^52.

The residual is an array of rows of H integers in [-(2^23-1), 2^23-1], F fraction bits.
norm(x): S = sum x^2 + E; a the largest even integer with S * 2^a < 2^62;
  r = isqrt(S * 2^a); G = floor(isqrt(H * 2^40) * 2^31 / r);
  y = half(x * G, 35 - a/2) has 16 fraction bits; the result is rows(y, 7).

A layer maps rows x of a sequence to rows x'':
 1 q, k, v = clamp(linear(norm(x)), 2^24-1) with 14 fraction bits.
 2 RoPE on q and k, per head, halves (u, w) of the head, tables C and Z of 14 bits:
   u' = half(u*C - w*Z, 14), w' = half(w*C + u*Z, 14), clamped to 2^24-1.
 3 q, k and v become rows(., 7) per token and head, with exponents sq, sk, sv.
   Query head h reads key-value head floor(h * kv_heads / heads).
 4 V(i) is every j <= i of the sequence if the trunk is causal, every j if not.
   z[i][j] = clamp(half(M * sum q[i]*k[j], 42 - sq[i] - sk[j]), 2^30) for j in V(i);
   t = max over V(i) of z[i][.], less z[i][j]; e[i][j] = EXP[t], 0 for t > 4095.
 5 p[i] = max over V(i) of sv[j]; w[i][j] = half(e[i][j], p[i] - sv[j]);
   N = sum over V(i) of w[i][j] * v[j] * 2^p[i]; D = sum over V(i) of e[i][j];
   o[i] = clamp(floor((2*N + D) / (2*D)), 2^24-1).
 6 x' = clamp(x + clamp(linear(rows(o, 7)), 2^23-1), 2^23-1); o is one row of all heads.
 7 g, u = clamp(linear(norm(x')), 2^24-1) with 14 fraction bits.
 8 i = half(|g|, 6); c = SIGMOID[i], 2^16 for i > 4095; c = 2^16 - c where g < 0;
   a = half(g * c, 16); h = rows(a * u, 13), not clamped.
 9 x'' = clamp(x' + clamp(linear(h), 2^23-1), 2^23-1).  Two limbs of h serve int8
   kernels: hi = half(h, 7), lo = h - 128 * hi.

EXP[t] = round(16256 * 2^(-t/256)), SIGMOID[t] = round(2^16 / (1 + exp(-t/256))),
for t in 0..4095, as unsigned 32-bit little-endian.
"""

STOCK_TEXT = """\
rexis integer trunk, op-spec 2: stock blocks

Op-spec 1 holds, its tables included, with these changes.  A trunk says of itself whether it
is centred, post-norm, rotary and gated, and brings a table ACT of 8193 numbers in [0, 2^16].

linear(q, s; W, m, R, b): half(m[o] * sum_k q[k] * W[o][k], R - s) + b[o]; |b| < 2^24.
norm(x): if the trunk is centred, x - floor((2 * sum x + H) / (2 * H)) takes the place of x.
norm(x) gives two rows: what the matrices read, and the base that step 6 or 9 adds to.
  not post-norm: rows(y, 7), and the base is the row x of the residual.
  post-norm: the base is n = clamp(half(m[k] * y[k], R) + b[k], 2^23-1) with m, R and b of
  this norm, |m| < 2^23, |b| < 2^23; the matrices read rows(n, 7).
 2 is left out if the trunk is not rotary; head_dim may then be odd.
 6 x' = clamp(base + clamp(linear(rows(o, 7)), 2^23-1), 2^23-1), the base of step 1.
 8 i = min(half(|g|, 6), 4096) with the sign of g; c = ACT[4096 + i]; a = half(g * c, 16);
   h = rows(a * u, 13) if the trunk is gated; h = rows(a, 13) if not, and there is no u.
 9 x'' = clamp(base + clamp(linear(h), 2^23-1), 2^23-1), the base of step 7.
"""
ACTIVATION_SIZE = 2 * TABLE_SIZE + 1

_GUARD = 160
"""Fraction bits of the long integers behind the tables: 140 more than any entry shows."""


@lru_cache(maxsize=1)
def exp_table() -> NDArray[np.float64]:
    """EXP, as exact integers in float64."""
    # 2^(-1/256) by eight square roots of one half.
    root = 1 << (_GUARD - 1)
    for _ in range(8):
        root = math.isqrt(root << _GUARD)
    return _frozen([_rounded(EXP_TOP * power) for power in _powers(root)])


@lru_cache(maxsize=1)
def sigmoid_table() -> NDArray[np.float64]:
    """SIGMOID, as exact integers in float64."""
    one = 1 << _GUARD
    # exp(-1/256) by its series; 40 terms of 256^-n / n! are far below one unit.
    term, total = one, 0
    for n in range(1, 41):
        total += term
        term = -term // (256 * n)
    top = one << (_GUARD + SIGMOID_BITS)
    return _frozen([_rounded(top // (one + power)) for power in _powers(total)])


@lru_cache(maxsize=1)
def silu_table() -> NDArray[np.float64]:
    """C of op-spec 1's step 8 for the signed index -4096 to 4096: what ACT is there."""
    one = float(1 << SIGMOID_BITS)
    right = np.append(sigmoid_table(), one)
    return np.concatenate([one - right[:0:-1], right])


@lru_cache(maxsize=2)
def op_spec_digest(number: int = 1) -> bytes:
    """SHA-256 of the text and both tables; op-spec 2 is both texts, for it rests on the first."""
    text = TEXT if number == 1 else TEXT + STOCK_TEXT
    tables = (
        exp_table().astype("<u4").tobytes() + sigmoid_table().astype("<u4").tobytes()
    )
    return hashlib.sha256(text.encode("ascii") + tables).digest()


def _powers(base: int) -> list[int]:
    powers = [1 << _GUARD]
    while len(powers) < TABLE_SIZE:
        powers.append((powers[-1] * base) >> _GUARD)
    return powers


def _rounded(value: int) -> int:
    return (value + (1 << (_GUARD - 1))) >> _GUARD


def _frozen(values: list[int]) -> NDArray[np.float64]:
    table = np.array(values, dtype=np.float64)
    table.setflags(write=False)
    return table
