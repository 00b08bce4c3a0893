"""Write the vectors of docs/verify.md, or compare them: `generate.py [--check]`.

Nothing here is random: keys are bytes 1 and 2 repeated, the trunk comes out of SHA-256
(`ee.integer.known`), Ed25519 is deterministic.  Run it after a change of the specification
and look at the difference before committing it.
"""

import base64
import hashlib
import json
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import nacl.signing

from ee import integer
from ee.integer import known, spec
from node.verifier import bundle, case
from node.verifier.bundle import Bundle
from node.verifier.case import Case
from node.verifier.dispute import Prosecutor, trunk_of
from node.verifier.replay import Model
from protocol import merkle
from protocol.audit import Audit, Entry, Fault, seal_audit
from protocol.boundary import boundary_root, case_roots, case_salt
from protocol.dispute import NO_LEAF, PARTS, STOCK, Claim, Part
from protocol.receipt import (
    Order,
    batch_proof,
    batch_root,
    seal_order,
    seal_receipt,
)
from protocol.types import digest
from protocol.wire import encode

FILE = Path(__file__).parent / "vectors.json"
SALT = bytes(range(32))
CLINIC, HOST, AUDITOR = (nacl.signing.SigningKey(bytes([i]) * 32) for i in (1, 2, 3))
TIME = 1_700_000_000


def _key(signing):
    return bytes(signing.verify_key)


def _sign(signing):
    return lambda message: signing.sign(message).signature


def _text(data):
    return base64.b64encode(data).decode()


class _Answer:
    """One answered order for a trunk, the causal one of op-spec 1 unless another is given."""

    def __init__(self, trunk=None):
        self.trunk = trunk or known.drawn_trunk(causal=True)
        self.data = integer.encode(self.trunk)
        rows = known.drawn_rows(self.trunk.config)
        self.shape = rows.shape
        self.honest = [
            integer.pack_rows(one) for one in self.trunk.forward(rows).boundaries
        ]

    def order(self):
        return seal_order(
            _sign(CLINIC),
            _key(CLINIC),
            Order(
                integer.model_root(self.trunk),
                _key(HOST),
                bytes(range(16)),
                self.shape,
                boundary_root(self.honest[0], self.shape, 0, SALT),
            ),
        )

    def receipt(self, boundaries):
        roots = [
            boundary_root(rows, self.shape, at, SALT)
            for at, rows in enumerate(boundaries)
        ]
        return seal_receipt(_sign(HOST), _key(HOST), self.order(), roots[1:], TIME)

    def lie(self):
        """The first number after layer 0 is one more, layer 1 is honest again."""
        told = _one_more(self.honest[1])
        rows = integer.unpack_rows(told, self.shape)
        after = integer.pack_rows(self.trunk.replay_layer(1, rows))
        return [self.honest[0], told, after]

    def bundle(self, receipt=None, **fields):
        batch = [self.receipt(self.honest) if receipt is None else receipt, b"another"]
        made = {
            "receipt": batch[0],
            "batch": batch_root(batch),
            "proof": batch_proof(batch, 0),
            "boundary": 0,
            "salt": SALT,
            "rows": self.honest[0],
            "committed": b"",
            "model": self.data,
        }
        return bundle.write(Bundle(**{**made, **fields}))

    def case(self, number, receipt=None, **fields):
        """The file of one case; the trunk is left out."""
        batch = [self.receipt(self.honest) if receipt is None else receipt, b"another"]
        ends, (_, tokens, width) = (0, len(self.honest) - 1), self.shape
        size = 3 * tokens * width
        rows = [self.honest[at][number * size :][:size] for at in ends]
        paths = [
            tuple(merkle.inclusion_proof(roots, number))
            for roots in (
                case_roots(self.honest[at], self.shape, at, SALT) for at in ends
            )
        ]
        made = {
            "receipt": batch[0],
            "batch": batch_root(batch),
            "proof": batch_proof(batch, 0),
            "case": number,
            "salt": case_salt(SALT, number),
            "rows": rows[0],
            "path": paths[0],
            "output": rows[1],
            "output_path": paths[1],
            "model": b"",
        }
        return encode(Case(**{**made, **fields}))


def _one_more(rows):
    """Packed rows whose first number is one more."""
    first = int.from_bytes(rows[:3], "little", signed=True) + 1
    return first.to_bytes(3, "little", signed=True) + rows[3:]


class _Unchecked(_Answer):
    """For a trunk that is none: its bytes are another's with those of a matrix exchanged."""

    def __init__(self, **fields):
        super().__init__()
        good, data = self.trunk, self.data
        matrix = replace(good.layers[0].q, **fields)
        layer = replace(good.layers[0], q=matrix)
        self.trunk = replace(good, layers=(layer, *good.layers[1:]))
        start = len(data) - sum(
            len(one.weight.tobytes()) + 4 * len(one.multiplier) + 1
            for each in good.layers
            for one in each.matrices()
        )
        parts = [
            bytes([matrix.shift]),
            matrix.multiplier.tobytes(),
            matrix.weight.tobytes(),
        ]
        body = b"".join(parts)
        self.data = data[:start] + body + data[start + len(body) :]


def _bundles(answer, stock):
    lie = answer.lie()
    part = integer.encode_slice(integer.cut(answer.trunk, 0))
    other = integer.encode(known.drawn_trunk(causal=False))
    good = answer.bundle()
    impossible = [answer.honest[0], b"\x00\x00\x80" + answer.honest[1][3:]]
    impossible.append(answer.honest[2])
    at = good.index(SALT)
    flipped = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    bent = answer.receipt(answer.honest).replace(b"rexis/receipt/1", b"Rexis/receipt/1")
    cases = [
        ("passes", good, 0, "the whole receipt replays"),
        (
            "passes, one layer",
            answer.bundle(boundary=0, model=part),
            0,
            "layer 0 replays from its slice",
        ),
        (
            "layer 0 is wrong",
            answer.bundle(answer.receipt(lie), committed=lie[1], model=part),
            1,
            "case 0, token 0, column 0 is one more than the layer gives",
        ),
        (
            "layer 0 is wrong, rows after it not shown",
            answer.bundle(answer.receipt(lie)),
            1,
            "the root after layer 0 is not the replayed one",
        ),
        (
            "too few layers",
            answer.bundle(answer.receipt(answer.honest[:2])),
            1,
            "the receipt has one layer, its model has two",
        ),
        ("no model", answer.bundle(model=b""), 2, "nothing to replay with"),
        ("another model", answer.bundle(model=other), 2, "model root differs"),
        (
            "rows of another boundary",
            answer.bundle(rows=answer.honest[1]),
            2,
            "the rows do not have the input root",
        ),
        ("salt flipped", flipped, 2, "the rows do not have the input root"),
        (
            "signature broken",
            answer.bundle(bent),
            2,
            "the domain label is not the one signed",
        ),
        ("batch root", answer.bundle(batch=bytes(32)), 2, "the proof is for another"),
        (
            "proof of the other leaf",
            answer.bundle(proof=batch_proof([b"another", b"x"], 0)),
            2,
            "the receipt is not under this tree",
        ),
        ("cut short", good[:-1], 2, "ends inside a field"),
        ("one byte more", good + b"\x00", 2, "bytes after the value"),
        ("not canonical", b"\xdc\x00\x09" + good[1:], 2, "an array header too long"),
        ("empty", b"", 2, "no value"),
        (
            "from layer 1 on",
            answer.bundle(boundary=1, rows=answer.honest[1]),
            0,
            "a whole trunk replays from the boundary of the rows to the end",
        ),
        (
            "rows behind the last layer",
            answer.bundle(boundary=2, rows=answer.honest[2]),
            2,
            "nothing follows them that could be replayed",
        ),
        (
            "slice of another layer",
            answer.bundle(boundary=1, rows=answer.honest[1], model=part),
            2,
            "the slice has layer 0",
        ),
        (
            "rows after a layer that is right",
            answer.bundle(committed=answer.honest[1]),
            2,
            "no layer is wrong",
        ),
        (
            "a number that no row has",
            answer.bundle(answer.receipt(impossible), boundary=1, rows=impossible[1]),
            1,
            "the host signed for -2^23 after layer 0",
        ),
        *(
            (name, one.bundle(model=one.data), 2, reason)
            for name, one, reason in _unchecked(answer)
        ),
    ]
    made = [_file(*case) for case in cases]
    for number, (name, one) in enumerate(stock, 2):
        bare = one.bundle(model=b"")
        made.append(_file(f"{name}, trunk beside it", bare, 0, "it replays", number))
    name, one = stock[0]
    lie, last = one.lie(), integer.encode_slice(integer.cut(one.trunk, 0))
    made += [
        _file(
            f"{name}, layer 0 is wrong",
            one.bundle(one.receipt(lie), committed=lie[1], model=last),
            1,
            "case 0, token 0, column 0 is one more than the layer gives",
        ),
        _file("trunk inside and beside it", good, 2, "one of two models", 0),
        _file("a trunk of another model beside it", bare, 2, "model root differs", 0),
    ]
    return made


def _unchecked(answer):
    """Roots and signatures of these are in order; the trunk is out of bounds."""
    first = answer.trunk.layers[0].q
    weight, multiplier = first.weight.copy(), first.multiplier.copy()
    weight[0, 0], multiplier[0] = 64, 1 << 23
    return (
        ("a weight of 64", _Unchecked(weight=weight), "weights are -63 to 63"),
        ("a multiplier of 2^23", _Unchecked(multiplier=multiplier), "below 2^23"),
    )


def _file(name, data, status, reason, trunk=None):
    """`trunk`: the number of the one that is handed over beside the file."""
    made = {"name": name, "bundle": _text(data), "expected": status, "reason": reason}
    if status == 1:
        beside = b"" if trunk is None else integer.encode(_drawn()[trunk])
        made["fault"] = _fault(data, beside)
    return made if trunk is None else {**made, "trunk": trunk}


def _fault(data, beside):
    """What a report of this file says: kind, layer, and the number if it can be named."""
    files = case if b"rexis-case-1" in data[:16] else bundle
    fault = files.check(files.read(data), beside).fault
    entry = fault.entry
    names = () if entry is None else entry.__struct_fields__
    return {
        "kind": fault.kind,
        "layer": fault.layer,
        "entry": None if entry is None else {n: getattr(entry, n) for n in names},
    }


def _reports(receipt):
    """One that passed, one by key, one that names a number, one that cannot."""
    about = {
        "receipt": digest(receipt),
        "batch": batch_root([receipt, b"another"]),
        "host": _key(HOST),
        "model_root": bytes(range(32)),
        "time": TIME + 60,
    }
    entry = Entry(0, 1, 2, committed=-3, computed=4, differing=5)
    made = (
        Audit(**about, first=0, count=2, fault=None),
        Audit(**about, first=1, count=1, fault=None, tier="freivalds", error_bits=50),
        Audit(**about, first=0, count=1, fault=Fault("layer", 0, entry)),
        Audit(**about, first=0, count=0, fault=Fault("shape", 0)),
    )
    signed = [seal_audit(_sign(AUDITOR), _key(AUDITOR), one) for one in made]
    return [
        {"report": _text(data), "says": one.describe()}
        for data, one in zip(signed, made, strict=True)
    ]


def _cases(answer):
    """Files of one case, for the trunk of the bundles beside them."""
    good, size = answer.case(1), 3 * answer.shape[1] * answer.shape[2]
    wrong = [*answer.honest[:2], _one_more(answer.honest[2])]
    lied = answer.receipt(wrong)
    paths = [
        tuple(merkle.inclusion_proof(case_roots(wrong[2], answer.shape, 2, SALT), at))
        for at in (0, 1)
    ]
    told = wrong[2][:size]
    return [
        _file("case passes", good, 0, "the case replays", 0),
        _file(
            "case is wrong",
            answer.case(0, lied, output=told, output_path=paths[0]),
            1,
            "token 0, column 0 of the output is one more than the trunk gives",
            0,
        ),
        _file(
            "another case of a wrong answer",
            answer.case(1, lied, output_path=paths[1]),
            0,
            "what was altered is in case 0",
            0,
        ),
        _file("case's salt", answer.case(1, salt=SALT), 2, "not the case's own", 0),
        _file("case's number", answer.case(1, case=0), 2, "not where it stands", 0),
        _file("case 2^32", answer.case(1, case=1 << 32), 2, "there are three", 0),
        _file("case's path", answer.case(1, path=()), 2, "the path is too short", 0),
        _file("case without a trunk", good, 2, "nothing to replay with"),
        _file("case cut short", good[:-1], 2, "ends inside a field", 0),
    ]


def _prosecutor(answer):
    """Of a claim about layer 1, case 0, token 5, with the model's numbers."""
    boundaries = answer.honest
    roots = [boundary_root(boundaries[at], answer.shape, at, SALT) for at in (1, 2)]
    model = Model.read(integer.encode(answer.trunk))
    config, trunk = answer.trunk.config, trunk_of(model)
    style = config.style
    bits = (config.causal, style.centred, style.post, style.rotary, style.gated)
    flags = sum(bit << place for place, bit in enumerate(bits))
    claim = Claim(
        *(model.root, *roots, model.roots[1], trunk.tables, *answer.shape),
        layer=1,
        case_number=0,
        token=5,
        inner=config.inner,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        positions=config.tokens,
        flags=flags + (STOCK if config.op_spec == 2 else 0),
        bias=config.norm_bias,
        multiplier=config.score_multiplier,
    )
    return trunk, Prosecutor(model, claim, SALT, *boundaries[1:])


def _post_roots(answer):
    """What a host that is right answers about a layer that has all its parts but one."""
    trace = _prosecutor(answer)[1].trace()
    return {"roots": [root.hex() for root in trace.roots]}


def _dispute(answer):
    """What a host that is right answers to a claim, and one number of every part."""
    trunk, prosecutor = _prosecutor(answer)
    trace = prosecutor.trace()
    proofs = []
    for part in Part:
        if part is not Part.AFTER and not trace.has(part):
            continue
        leaf = NO_LEAF if part is Part.AFTER else trace.leaf(part, 0)
        # A row of the largest of each block may have one number.
        place = int(part not in (Part.MIXED_TOP, Part.PRODUCT_TOP))
        shown = prosecutor.proof(trace, part, 0, place, leaf)
        proofs.append(_plain(shown))
    return {
        "numbers": trunk.numbers.hex(),
        "claim": _plain(prosecutor.claim),
        "roots": [root.hex() for root in trace.roots],
        "heights": [trace.height(part) for part in range(PARTS)],
        "proofs": proofs,
    }


def _plain(value):
    """Structures as objects, bytes in hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dict__}
    return value


@lru_cache(maxsize=1)
def _drawn():
    """The trunks, in the order of the file."""
    own = [known.drawn_trunk(causal=causal) for causal in (True, False)]
    return own + [
        known.drawn_stock(style, causal=causal) for style, causal in known.STOCK
    ]


def vectors():
    """Everything, as plain values."""
    answer = _Answer()
    named = ("BERT's block", "GPT-2's block", "Qwen2's block")
    styles = _drawn()[2:]
    stock = [(n, _Answer(trunk)) for n, trunk in zip(named, styles, strict=True)]
    receipt = answer.receipt(answer.honest)
    trunks = []
    for trunk in _drawn():
        rows = known.drawn_rows(trunk.config)
        trunks.append(
            {
                "op_spec": trunk.config.op_spec,
                "causal": trunk.config.causal,
                "trunk": _text(integer.encode(trunk)),
                "layer_roots": [integer.layer_root(one).hex() for one in trunk.layers],
                "model_root": integer.model_root(trunk).hex(),
                "shape": list(rows.shape),
                "boundaries": [
                    _text(integer.pack_rows(one))
                    for one in trunk.forward(rows).boundaries
                ],
            }
        )
    return {
        "op_spec": {
            "text_sha256": hashlib.sha256(spec.TEXT.encode()).hexdigest(),
            "exp_sha256": hashlib.sha256(
                spec.exp_table().astype("<u4").tobytes()
            ).hexdigest(),
            "sigmoid_sha256": hashlib.sha256(
                spec.sigmoid_table().astype("<u4").tobytes()
            ).hexdigest(),
            "digest": integer.op_spec_digest().hex(),
            "second_text_sha256": hashlib.sha256(spec.STOCK_TEXT.encode()).hexdigest(),
            "second_digest": integer.op_spec_digest(2).hex(),
        },
        "trunks": trunks,
        "boundary": {
            "salt": SALT.hex(),
            "case_salts": [case_salt(SALT, case).hex() for case in range(3)],
            "roots": [
                boundary_root(rows, answer.shape, at, SALT).hex()
                for at, rows in enumerate(answer.honest)
            ],
        },
        "receipt": {
            "order": _text(answer.order()),
            "receipt": _text(receipt),
            "digest": digest(receipt).hex(),
            "requester": _key(CLINIC).hex(),
            "host": _key(HOST).hex(),
            "batch": batch_root([receipt, b"another"]).hex(),
        },
        "reports": _reports(receipt),
        "bundles": _bundles(answer, stock),
        "cases": _cases(answer),
        "dispute": _dispute(answer),
        "dispute_post": _post_roots(stock[0][1]),
    }


def main() -> int:
    text = json.dumps(vectors(), indent=1) + "\n"
    if sys.argv[1:] == ["--check"]:
        same = FILE.is_file() and FILE.read_text() == text
        if not same:
            sys.stderr.write(f"{FILE} is not what generate.py makes\n")
        return 0 if same else 1
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
