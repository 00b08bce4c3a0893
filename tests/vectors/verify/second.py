"""A second verifier, written from docs/verify.md alone.

    python tests/vectors/verify/second.py FILE [TRUNK]

takes a bundle or a case and ends with the status that §6 gives.  Python's integers, hashlib and an Ed25519 library; nothing of
this project is imported, no array library, nothing is optimised.  Numbers in brackets are
sections of the document.
"""

import hashlib
import sys
from math import isqrt
from pathlib import Path

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

RIGHT, WRONG, NOTHING = 0, 1, 2
RESIDUAL, MID = (1 << 23) - 1, (1 << 24) - 1
OP_SPECS = (
    "4a3cedd562391b6cb19c4c785803b8f4bf7923f4c6e5c91b312f3635d5796273",
    "cc89753ca6067d38fd6a5c0b74ddadb2ce61bfe653bd41f9c003571e46ff250a",
)
LABELS = (b"rexis-model-root-3", b"rexis-stock-root-2")
# What a trunk may be [2.1], and an order [4.1].
SIZES = {
    "layers": 1024,
    "width": 16_384,
    "inner": 65_536,
    "heads": 1024,
    "kv_heads": 1024,
    "head_dim": 1024,
    "tokens": 4096,
    "F": 20,
    "norm_bias": 1 << 60,
    "score_multiplier": 1 << 23,
}
SHAPE = (4096, 4096, 16_384)
BATCH, RECEIPT_BYTES, FILE_BYTES, TIME = 4096, 1 << 16, 1 << 30, 253_402_300_799


class ProvesNothingError(Exception):
    """Damaged, incomplete, or parts that do not belong together."""


def need(true, reason):
    if not true:
        raise ProvesNothingError(reason)


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def big(number, size=4):
    return number.to_bytes(size, "big")


def little(data, signed=False):
    return int.from_bytes(data, "little", signed=signed)


# --- MessagePack, the one spelling of each value [4.1] ------------------------------


def pack(value):
    if value is None:
        return b"\xc0"
    if isinstance(value, int):
        if value < 128:
            return bytes([value])
        size = next(s for s in (1, 2, 4, 8) if value < 1 << 8 * s)
        return bytes([0xCC + (1, 2, 4, 8).index(size)]) + big(value, size)
    if isinstance(value, list):
        n = len(value)
        head = bytes([0x90 | n]) if n < 16 else b"\xdc" + big(n, 2)
        return head + b"".join(map(pack, value))
    data = value.encode() if isinstance(value, str) else value
    if isinstance(value, str) and len(data) < 32:
        return bytes([0xA0 | len(data)]) + data
    size = next(s for s in (1, 2, 4) if len(data) < 1 << 8 * s)
    first = 0xD9 if isinstance(value, str) else 0xC4
    return bytes([first + (1, 2, 4).index(size)]) + big(len(data), size) + data


def unpack(data):
    """The value of these bytes, if they are the ones that `pack` makes of it."""
    value, end = _unpacked(data, 0)
    need(end == len(data) and pack(value) == data, "not canonical")
    return value


def _unpacked(data, at):
    need(at < len(data), "ends inside a value")
    kind, at = data[at], at + 1
    sizes = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDC: 2}
    sizes |= {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
    if kind < 0x80:
        return kind, at
    if kind == 0xC0:
        return None, at
    if kind in sizes:
        need(at + sizes[kind] <= len(data), "ends inside a length")
        number, at = (
            int.from_bytes(data[at : at + sizes[kind]], "big"),
            at + sizes[kind],
        )
        if 0xCC <= kind <= 0xCF:
            return number, at
    elif kind >> 4 == 9:
        number = kind & 15
    elif kind >> 5 == 5:
        number = kind & 31
    else:
        raise ProvesNothingError(f"a value of kind {kind:#x}")
    if kind == 0xDC or kind >> 4 == 9:
        items = []
        for _ in range(number):
            item, at = _unpacked(data, at)
            items.append(item)
        return items, at
    part = data[at : at + number]
    need(len(part) == number, "ends inside a string")
    if kind >> 5 == 5 or kind == 0xD9:
        try:
            return part.decode(), at + number
        except UnicodeDecodeError as error:
            raise ProvesNothingError("a text that is none") from error
    return part, at + number


def fields(value, tag, kinds):
    """Of a tagged array; `kinds` has a letter for each: text, bytes, number, list."""
    need(isinstance(value, list) and value[:1] == [tag], f"no {tag}")
    types = {"t": str, "b": bytes, "n": int, "l": list}
    need(
        [type(one) for one in value[1:]] == [types[k] for k in kinds], f"{tag}'s fields"
    )
    return value[1:]


def digests(values):
    need(all(isinstance(d, bytes) and len(d) == 32 for d in values), "a digest")
    return values


# --- trees, envelopes, boundaries [2.2, 4] ------------------------------------------


def tree(hashes):
    """Over leaves that are hashed already."""
    while len(hashes) > 1:
        odd = hashes[-1:] if len(hashes) % 2 else []
        pairs = zip(hashes[::2], hashes[1::2], strict=False)
        hashes = [sha(b"\x01", a, b) for a, b in pairs] + odd
    return hashes[0]


def leaf(*parts):
    return sha(b"\x00", *parts)


def climbed(node, index, size, path):
    need(0 <= index < size, "a place outside its tree")
    path, last = list(path), size - 1
    while last:
        if index & 1 or index < last:
            need(path, "a path too short")
            other = path.pop(0)
            node = sha(b"\x01", other, node) if index & 1 else sha(b"\x01", node, other)
        index, last = index >> 1, last >> 1
    need(not path, "a path too long")
    return node


def opened(data, domain):
    """Sender, context and content of an envelope whose signature is right."""
    need(len(data) <= RECEIPT_BYTES, "a receipt too long")
    label, sender, context, payload, signature = fields(unpack(data), "env", "tbbbb")
    need(label == domain, f"an envelope of {label!r}")
    parts = (b"rexis-envelope-v1", domain.encode(), sender, context, payload)
    message = b"".join(big(len(part), 8) + part for part in parts)
    try:
        VerifyKey(sender).verify(message, signature)
    except (BadSignatureError, ValueError, TypeError) as error:
        raise ProvesNothingError("a signature") from error
    return sender, context, unpack(payload)


def case_root(packed, tokens, width, boundary, case, own):
    """`own` is the case's salt."""
    size, leaves = 3 * width, []
    need(len(packed) == size * tokens, "rows of another length")
    need(len(own) == 32, "a salt")
    for token in range(tokens):
        place = b"".join(map(big, (boundary, case, token, width)))
        row_salt = sha(b"rexis-row-salt-1", own, place)
        row = packed[token * size : (token + 1) * size]
        leaves.append(leaf(b"rexis-row-1", place, row_salt, row))
    return tree(leaves)


def boundary_root(packed, shape, boundary, salt):
    cases, tokens, width = shape
    size = 3 * tokens * width
    need(len(packed) == cases * size, "rows of another length")
    need(len(salt) == 32, "a salt")
    roots = []
    for case in range(cases):
        own, rows_ = sha(b"rexis-case-salt-1", salt, big(case)), packed[case * size :]
        roots.append(case_root(rows_[:size], tokens, width, boundary, case, own))
    return tree([leaf(root) for root in roots])


def entries_of(packed, shape):
    """Nested rows, or None where a number is no row's [4.2]."""
    numbers = [little(packed[i : i + 3], True) for i in range(0, len(packed), 3)]
    if min(numbers) < -RESIDUAL:
        return None
    cases, tokens, width = shape
    rows_ = [numbers[i : i + width] for i in range(0, len(numbers), width)]
    return [rows_[i : i + tokens] for i in range(0, cases * tokens, tokens)]


# --- the op-spec [2] -----------------------------------------------------------------


def _powers(base, bits):
    found = [1 << bits]
    while len(found) < 4096:
        found.append(found[-1] * base >> bits)
    return found


def tables():
    """EXP and SIGMOID, with 160 fraction bits on the way."""
    bits, one = 160, 1 << 160
    root = one >> 1
    for _ in range(8):
        root = isqrt(root << bits)
    nearest = [(16256 * p + (one >> 1)) >> bits for p in _powers(root, bits)]
    term, power, n = one, 0, 0
    while term:
        power, n = power + term, n + 1
        term = -term // (256 * n) if n < 60 else 0
    top = one << (bits + 16)
    curve = [(top // (one + p) + (one >> 1)) >> bits for p in _powers(power, bits)]
    return nearest, curve


EXP, SIGMOID = tables()


def half(n, e):
    return (n + (1 << (e - 1))) >> e if e > 0 else n << -e


def clamp(n, limit):
    return max(-limit, min(limit, n))


def rows(values, bits):
    s = max(0, max(map(abs, values)).bit_length() - bits)
    made = [half(v, s) for v in values]
    return ([clamp(v, 127) for v in made] if bits == 7 else made), s


def linear(short, matrix, limit):
    q, s = short
    found = []
    for m, b, weights in zip(matrix["m"], matrix["b"], matrix["w"], strict=True):
        total = m * sum(a * w for a, w in zip(q, weights, strict=True))
        found.append(clamp(half(total, matrix["shift"] - s) + b, limit))
    return found


def norm(trunk, x, gain):
    """What the matrices read, and the base; `gain` is of a post-norm layer."""
    base, width = x, len(x)
    if trunk["centred"]:
        mean = (2 * sum(x) + width) // (2 * width)
        x = [v - mean for v in x]
    total = sum(v * v for v in x) + trunk["norm_bias"]
    a = (62 - total.bit_length()) & ~1
    g = (isqrt(width << 40) << 31) // isqrt(total << a)
    y = [half(v * g, 35 - a // 2) for v in x]
    if trunk["post"]:
        of = zip(gain["m"], gain["b"], y, strict=True)
        y = base = [clamp(half(m * v, gain["shift"]) + b, RESIDUAL) for m, b, v in of]
    return rows(y, 7), base


def activated(trunk, g):
    index = half(abs(g), 6)
    if trunk["op_spec"] == 2:
        index = min(index, 4096)
        return half(g * trunk["act"][4096 + (-index if g < 0 else index)], 16)
    c = SIGMOID[index] if index < 4096 else 1 << 16
    return half(g * ((1 << 16) - c if g < 0 else c), 16)


def turned(trunk, head, position):
    """RoPE, if the trunk has it; the angles are cosines, then sines."""
    if not trunk["rotary"]:
        return head
    angles = trunk["angles"][position]
    middle, made = len(head) // 2, [0] * len(head)
    for k in range(middle):
        u, w, c, z = head[k], head[k + middle], angles[k], angles[k + middle]
        made[k] = clamp(half(u * c - w * z, 14), MID)
        made[k + middle] = clamp(half(w * c + u * z, 14), MID)
    return made


def layer_parts(trunk, layer, sequence, i):
    """Every part of §10.2 for token i of a sequence, as numbers, and the row after.

    Parts that a layer has not are empty.
    """
    dim, heads, kv = trunk["head_dim"], trunk["heads"], trunk["kv_heads"]

    def cut(row):
        return [row[at : at + dim] for at in range(0, len(row), dim)]

    both = [norm(trunk, x, layer.get("gain 0")) for x in sequence]
    normed, bases = [one for one, _ in both], [base for _, base in both]
    keys = [cut(linear(n, layer["k"], MID)) for n in normed]
    values = [cut(linear(n, layer["v"], MID)) for n in normed]
    query = cut(linear(normed[i], layer["q"], MID))
    short_v = [[rows(head, 7) for head in token] for token in values]
    seen = range(i + 1 if trunk["causal"] else len(sequence))
    scores, mixed = [], []
    for h in range(heads):
        g = h * kv // heads
        q, sq = rows(turned(trunk, query[h], i), 7)
        z = []
        for j in seen:
            k, sk = rows(turned(trunk, keys[j][g], j), 7)
            total = trunk["score_multiplier"] * sum(
                a * b for a, b in zip(q, k, strict=True)
            )
            z.append(clamp(half(total, 42 - sq - sk), 1 << 30))
        scores.append(z)
        e = [EXP[t] if t < 4096 else 0 for t in (max(z) - one for one in z)]
        p = max(short_v[j][g][1] for j in seen)
        w = [half(e[j], p - short_v[j][g][1]) for j in seen]
        for d in range(dim):
            n = sum(w[j] * short_v[j][g][0][d] for j in seen) << p
            mixed.append(clamp((2 * n + sum(e)) // (2 * sum(e)), MID))
    short_mixed = rows(mixed, 7)
    change = linear(short_mixed, layer["o"], RESIDUAL)
    middle = [clamp(a + b, RESIDUAL) for a, b in zip(bases[i], change, strict=True)]
    norm2, base2 = norm(trunk, middle, layer.get("gain 1"))
    gate = linear(norm2, layer["gate"], MID)
    product, up = [activated(trunk, g) for g in gate], []
    if trunk["gated"]:
        up = linear(norm2, layer["up"], MID)
        product = [a * u for a, u in zip(product, up, strict=True)]
    wide = rows(product, 13)
    change = linear(wide, layer["down"], RESIDUAL)
    after = [clamp(a + b, RESIDUAL) for a, b in zip(base2, change, strict=True)]
    if not trunk["post"]:
        bases, base2 = [], []
    attention = (bases, normed, query, keys, values, short_v, scores, mixed)
    return (
        *attention,
        short_mixed,
        middle,
        base2,
        norm2,
        gate,
        up,
        product,
        wide,
        after,
    )


def replayed(trunk, layer, cases):
    return [
        [layer_parts(trunk, layer, rows_, i)[-1] for i in range(len(rows_))]
        for rows_ in cases
    ]


def packed(cases):
    flat = (n for rows_ in cases for row in rows_ for n in row)
    return b"".join((n & 0xFFFFFF).to_bytes(3, "little") for n in flat)


# --- trunks and slices [2.1, 2.2] ----------------------------------------------------


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        need(self.at + size <= len(self.data), "ends inside a trunk")
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, count, size, signed=False):
        data = self.take(count * size)
        steps = range(0, len(data), size)
        return [little(data[i : i + size], signed) for i in steps]


def trunk_of(data):
    """A trunk, or one layer of it; `root` is computed."""
    reader, whole = Reader(data), data.startswith(b"rexis-integer-trunk-1\n")
    need(whole or data.startswith(b"rexis-integer-slice-1\n"), "no trunk")
    reader.take(22)
    start, digest = reader.at, reader.take(32).hex()
    need(digest in OP_SPECS, "another op-spec")
    spec = OP_SPECS.index(digest) + 1
    numbers = reader.numbers(8, 4) + reader.numbers(2, 8)
    trunk = dict(zip(SIZES, numbers, strict=True), op_spec=spec)
    (flags,) = reader.numbers(1, 4)
    need(flags < (2, 32)[spec - 1], "flags")
    # Of op-spec 1: neither centred nor post-norm, rotary and gated.
    flags += 0b11000 if spec == 1 else 0
    for place, name in enumerate(("causal", "centred", "post", "rotary", "gated")):
        trunk[name] = flags >> place & 1
    need(all(1 <= trunk[name] <= top for name, top in SIZES.items()), "sizes")
    need(trunk["heads"] % trunk["kv_heads"] == 0, "heads")
    need(not trunk["rotary"] or trunk["head_dim"] % 2 == 0, "an odd head")
    head, angles = data[start : reader.at], []
    if trunk["rotary"]:
        size = trunk["head_dim"]
        cos, sin = ([reader.take(size) for _ in range(trunk["tokens"])] for _ in "cs")
        angles = [c + s for c, s in zip(cos, sin, strict=True)]
    trunk["angles"] = [
        [little(row[i : i + 2], True) for i in range(0, len(row), 2)] for row in angles
    ]
    need(all(abs(n) <= 1 << 14 for row in trunk["angles"] for n in row), "an angle")
    leaves = [leaf(row) for row in angles]
    if spec == 2:
        act = reader.take(4 * 8193)
        trunk["act"] = [little(act[i : i + 4]) for i in range(0, len(act), 4)]
        need(max(trunk["act"]) <= 1 << 16, "an entry of ACT")
        leaves += [leaf(act[i : i + 128]) for i in range(0, len(act), 128)]
    trunk["tables"], trunk["whole"] = tree(leaves), whole
    if whole:
        trunk["first"], count = 0, trunk["layers"]
    else:
        (trunk["first"],), count = reader.numbers(1, 4), 1
        roots = [reader.take(32) for _ in range(trunk["layers"])]
        need(trunk["first"] < trunk["layers"], "a slice beyond the last layer")
    found = [_layer_of(reader, trunk) for _ in range(count)]
    need(reader.at == len(data), "bytes after the trunk")
    trunk["rows"] = [one for one, _ in found]
    if whole:
        roots = [root for _, root in found]
    need(roots[trunk["first"]] == found[0][1], "a slice with another root")
    trunk["roots"] = roots
    trunk["root"] = sha(LABELS[spec - 1], sha(head, trunk["tables"]), *roots)
    return trunk


def _shapes(trunk):
    """Outputs and inputs of each matrix; a gain has no inputs."""
    width, inner, dim = trunk["width"], trunk["inner"], trunk["head_dim"]
    query, value = trunk["heads"] * dim, trunk["kv_heads"] * dim
    found = {"q": (query, width), "k": (value, width), "v": (value, width)}
    found |= {"o": (width, query), "gate": (inner, width)}
    found |= {"up": (inner, width)} if trunk["gated"] else {}
    found |= {"down": (width, inner)}
    return found | (
        {"gain 0": (width, 0), "gain 1": (width, 0)} if trunk["post"] else {}
    )


def _layer_of(reader, trunk):
    """The matrices and gains, and the layer's root."""
    layer, leaves = {}, []
    for tag, (name, (outputs, inputs)) in enumerate(_shapes(trunk).items()):
        (shift,) = reader.take(1)
        scales = [reader.take(4) for _ in range(outputs)]
        biases = [b""] * outputs
        if trunk["op_spec"] == 2:
            biases = [reader.take(4) for _ in range(outputs)]
        weights = [reader.take(inputs) for _ in range(outputs)]
        for row in range(outputs):
            place = row.to_bytes(4, "little") + inputs.to_bytes(4, "little")
            own = scales[row] + biases[row] + weights[row]
            leaves.append(leaf(bytes([tag, shift]), place, own))
        layer[name] = {
            "shift": shift,
            "m": [little(m, True) for m in scales],
            "b": [little(b, True) for b in biases],
            "w": [[b - 256 * (b > 127) for b in row] for row in weights],
        }
        need(shift < 128, "a shift")
        _require_bounds(layer[name], name, inputs)
    return layer, tree(leaves)


def _require_bounds(matrix, name, inputs):
    if inputs == 0:
        need(all(abs(n) <= RESIDUAL for n in matrix["m"] + matrix["b"]), "a gain")
        return
    largest = 63 * inputs * (8192 if name == "down" else 127)
    top = min(RESIDUAL, ((1 << 52) - 1) // largest)
    need(min(matrix["m"]) >= 0 and max(matrix["m"]) <= top, "a multiplier")
    need(max(map(abs, matrix["b"])) <= MID, "a bias")
    need(all(abs(w) <= 63 for row in matrix["w"] for w in row), "a weight")


# --- a bundle [4, 5, 6] --------------------------------------------------------------


def receipt_of(sealed, batch, proof):
    """Model, shape of the rows, roots of all boundaries; both signatures hold."""
    index, size, top, path = fields(proof, "batch-proof", "nnbl")
    need(1 <= size <= BATCH, "a batch of another size")
    need(
        climbed(leaf(sealed), index, size, digests(path)) == top, "the receipt's place"
    )
    need(sha(b"rexis-receipt-batch-1", big(size), top) == batch, "the batch root")
    host, context, content = opened(sealed, "rexis/receipt/1")
    sealed_order, after, time = fields(content, "receipt", "bln")
    need(context == sha(sealed_order) and time <= TIME, "a receipt of another order")
    need(1 <= len(after) <= SIZES["layers"], "a receipt of no layer")
    _, context, content = opened(sealed_order, "rexis/order/1")
    model, ordered, job, shape, given = fields(content, "order", "bbblb")
    need(context == model and ordered == host, "an order to another host")
    need(len(shape) == 3 and all(isinstance(n, int) for n in shape), "a shape")
    of = zip(shape, SHAPE, strict=True)
    need(len(job) == 16 and all(1 <= n <= top for n, top in of), "an order's sizes")
    return model, shape, digests([model, given, *after])[1:]


def model_of(inside, beside, root):
    need(bool(inside) != bool(beside), "no model, or two")
    trunk = trunk_of(inside or beside)
    need(trunk["root"] == root, "another model")
    return trunk


def fits(trunk, shape, roots):
    _, tokens, width = shape
    right = width == trunk["width"] and tokens <= trunk["tokens"]
    return right and len(roots) == trunk["layers"] + 1


def verdict(data, beside=b""):
    """None if the host is right, else (kind, layer, the first wrong number) [4.4].

    Raises `ProvesNothingError`.
    """
    need(len(data) <= FILE_BYTES, "a file too long")
    value = unpack(data)
    if isinstance(value, list) and value[:1] == ["rexis-case-1"]:
        return case_verdict(value, beside)
    sealed, batch, proof, boundary, salt, shown, committed, model = fields(
        value, "rexis-bundle-1", "bblnbbbb"
    )
    root, shape, roots = receipt_of(sealed, batch, proof)
    trunk = model_of(model, beside, root)
    need(boundary < len(roots), "no such boundary")
    need(boundary_root(shown, shape, boundary, salt) == roots[boundary], "the rows")
    if not fits(trunk, shape, roots):
        need(not committed, "rows after a layer, and none is wrong")
        return "shape", 0, None
    first = boundary - trunk["first"]
    need(0 <= first < len(trunk["rows"]), "rows at no layer of this model")
    cases = entries_of(shown, shape)
    if cases is None:
        need(not committed, "rows after a layer, and none was replayed")
        return ("layer", boundary - 1, None) if boundary else ("shape", 0, None)
    for at, layer in enumerate(trunk["rows"][first:], boundary + 1):
        cases = replayed(trunk, layer, cases)
        if boundary_root(packed(cases), shape, at, salt) != roots[at]:
            if not committed:
                return "layer", at - 1, None
            told = boundary_root(committed, shape, at, salt)
            need(told == roots[at], "the host's rows after the layer")
            return "layer", at - 1, first_wrong(committed, cases, 0)
    need(not committed, "rows after a layer, and none is wrong")
    return None


def case_verdict(value, beside):
    """The same of one case [6.1]."""
    sealed, batch, proof, case, salt, given, path, output, output_path, model = fields(
        value, "rexis-case-1", "bblnbblblb"
    )
    root, shape, roots = receipt_of(sealed, batch, proof)
    cases, tokens, width = shape
    ends = ((0, given, path), (len(roots) - 1, output, output_path))
    for at, shown, climb in ends:
        own = leaf(case_root(shown, tokens, width, at, case, salt))
        need(climbed(own, case, cases, digests(climb)) == roots[at], "the case's place")
    trunk = model_of(model, beside, root)
    need(trunk["whole"], "a layer, no trunk")
    found = entries_of(given, (1, tokens, width))
    if not fits(trunk, shape, roots) or found is None:
        return "shape", 0, None
    for layer in trunk["rows"]:
        found = replayed(trunk, layer, found)
    if packed(found) == output:
        return None
    return "output", 0, first_wrong(output, found, case)


def first_wrong(shown, cases, first):
    """(case, token, column, committed, computed, how many differ); cases count from `first`."""
    own = packed(cases)
    if len(shown) != len(own):
        return None
    entries = range(0, len(own), 3)
    wrong = [at // 3 for at in entries if shown[at : at + 3] != own[at : at + 3]]
    tokens, width = len(cases[0]), len(cases[0][0])
    case, rest = divmod(wrong[0], tokens * width)
    token, column = divmod(rest, width)
    told = little(shown[3 * wrong[0] : 3 * wrong[0] + 3], signed=True)
    number = cases[case][token][column]
    return first + case, token, column, told, number, len(wrong)


def status(data, beside=b""):
    """What `rexis-verify` ends with."""
    try:
        return RIGHT if verdict(data, beside) is None else WRONG
    except (ProvesNothingError, TypeError, ValueError, OverflowError, IndexError):
        return NOTHING


# --- a host's answer in a dispute [10.2] ---------------------------------------------


def answer_roots(trunk, layer, sequence, place, salt):
    """Roots of the eighteen parts; `place` is (layer, case, token)."""
    number, case, i = place
    found = layer_parts(trunk, layer, sequence, i)
    bases, normed, query, keys, values, short_v, scores, mixed = found[:8]
    short_mixed, middle, base2, norm2, gate, up, product, wide, _ = found[8:]

    def wide_of(numbers, size):
        return b"".join(n.to_bytes(size, "big", signed=True) for n in numbers)

    def short(row, size=1):
        return bytes([row[1]]) + wide_of(row[0], size)

    def blocks(row):
        return [row[at : at + 64] for at in range(0, len(row), 64)]

    def tops(row):
        return [wide_of([max(map(abs, block)) for block in blocks(row)], 8)]

    columns = [
        bytes(token[g][1] for token in short_v)
        + wide_of([token[g][0][d] for token in short_v], 1)
        for g in range(trunk["kv_heads"])
        for d in range(trunk["head_dim"])
    ]
    parts = [
        [wide_of(row, 3) for row in bases],
        [short(row) for row in normed],
        [wide_of(head, 4) for head in query],
        [wide_of(head, 4) for token in keys for head in token],
        [wide_of(head, 4) for token in values for head in token],
        columns,
        [wide_of(row, 4) for row in scores],
        [wide_of(block, 4) for block in blocks(mixed)],
        tops(mixed),
        [short(short_mixed)],
        [wide_of(middle, 4)],
        [wide_of(base2, 3)] if base2 else [],
        [short(norm2)],
        [wide_of(block, 4) for block in blocks(gate)],
        [wide_of(block, 4) for block in blocks(up)],
        [wide_of(block, 8) for block in blocks(product)],
        tops(product),
        [short(wide, 2)],
    ]
    own, roots = sha(b"rexis-case-salt-1", salt, big(case)), []
    for part, leaves in enumerate(parts):
        hashes = []
        for index, entries in enumerate(leaves):
            at = bytes([part]) + b"".join(map(big, (number, case, i, index)))
            leaf_salt = sha(b"rexis-trace-salt-3", own, at)
            hashes.append(leaf(b"rexis-trace-3", at, leaf_salt, entries))
        roots.append(tree(hashes) if hashes else bytes(32))
    return roots


if __name__ == "__main__":
    sys.exit(status(*(Path(name).read_bytes() for name in sys.argv[1:3])))
