"""Write the vectors of docs/verify.md, or compare them: `generate.py [--check]`.

Nothing here is random: keys are bytes 1 and 2 repeated, the trunk comes out of SHA-256
(`ee.integer.known`), Ed25519 is deterministic.  Run it after a change of the specification
and look at the difference before committing it.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path

import nacl.signing

from ee import integer
from ee.integer import known, spec
from node.verifier import bundle
from node.verifier.bundle import Bundle
from node.verifier.dispute import Prosecutor, trunk_of
from node.verifier.replay import Model
from protocol.boundary import boundary_root, case_salt
from protocol.dispute import GATED, NO_LEAF, PARTS, ROTARY, Claim, Part
from protocol.receipt import (
    Order,
    batch_proof,
    batch_root,
    seal_order,
    seal_receipt,
)
from protocol.types import digest

FILE = Path(__file__).parent / "vectors.json"
SALT = bytes(range(32))
CLINIC, HOST = (nacl.signing.SigningKey(bytes([i]) * 32) for i in (1, 2))
TIME = 1_700_000_000


def _key(signing):
    return bytes(signing.verify_key)


def _sign(signing):
    return lambda message: signing.sign(message).signature


def _text(data):
    return base64.b64encode(data).decode()


class _Answer:
    """One answered order for the causal trunk."""

    def __init__(self):
        self.trunk = known.drawn_trunk(causal=True)
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
        told = (int.from_bytes(self.honest[1][:3], "little", signed=True) + 1).to_bytes(
            3, "little", signed=True
        ) + self.honest[1][3:]
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
            "model": integer.encode(self.trunk),
        }
        return bundle.write(Bundle(**{**made, **fields}))


def _bundles(answer):
    lie = answer.lie()
    part = integer.encode_slice(integer.cut(answer.trunk, 0))
    other = integer.encode(known.drawn_trunk(causal=False))
    good = answer.bundle()
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
    ]
    return [
        {"name": name, "bundle": _text(data), "expected": status, "reason": reason}
        for name, data, status, reason in cases
    ]


def _dispute(answer):
    """What a host that is right answers to a claim, and one number of every part."""
    boundaries = answer.honest
    roots = [boundary_root(boundaries[at], answer.shape, at, SALT) for at in (1, 2)]
    model = Model.read(integer.encode(answer.trunk))
    config, trunk = answer.trunk.config, trunk_of(model)
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
        flags=config.causal + ROTARY + GATED,
        bias=config.norm_bias,
        multiplier=config.score_multiplier,
    )
    prosecutor = Prosecutor(model, claim, SALT, *boundaries[1:])
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
        "claim": _plain(claim),
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


def vectors():
    """Everything, as plain values."""
    answer = _Answer()
    receipt = answer.receipt(answer.honest)
    trunks = []
    drawn = [known.drawn_trunk(causal=causal) for causal in (True, False)]
    drawn += [known.drawn_stock(style, causal=causal) for style, causal in known.STOCK]
    for trunk in drawn:
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
        "bundles": _bundles(answer),
        "dispute": _dispute(answer),
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
