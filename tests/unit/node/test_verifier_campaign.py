"""Ten thousand lies, one number each, and hundreds of honest receipts (long; a quarter of them is
slow): three quarters about trunks of op-spec 1, the others about those of op-spec 2.  LIES=40000
makes it as many times as long.

Every lie is signed for: the host commits to what it has.  A whole replay must name the first
wrong layer, an audit of that layer alone must find it too, and what breaks a signature or a
proof must be refused.  A weight that is changed without any row changing is no lie: the
answer is still the model's, and such a draw is made again.
"""

import dataclasses
import os
from collections import Counter
from itertools import accumulate

import nacl.signing
import numpy as np
import pytest

from ee import integer
from ee.integer import IntegerModelError, known
from node.verifier import bundle
from node.verifier.bundle import Bundle
from node.verifier.replay import Model, Opened, audit
from protocol.boundary import boundary_root
from protocol.errors import ProtocolError
from protocol.receipt import Order, batch_proof, batch_root, seal_order, seal_receipt

SEED = int(os.environ.get("SEED", "20261124"))
LIES, HONEST = int(os.environ.get("LIES", "10000")), 400
SHARES = {"boundary": 0.4, "output": 0.15, "weights": 0.2, "order": 0.05, "bytes": 0.2}

CLINIC, HOST = (nacl.signing.SigningKey(bytes([i]) * 32) for i in (1, 2))
LIMIT = (1 << 23) - 1


TRUNKS = {
    "op-spec 1, causal": (0.375, lambda: known.drawn_trunk(causal=True)),
    "op-spec 1, encoder": (0.375, lambda: known.drawn_trunk(causal=False)),
    "as BERT": (0.125, lambda: stock(0)),
    "as GPT-2": (0.0625, lambda: stock(1)),
    "as Qwen2": (0.0625, lambda: stock(2)),
}
"""What part of the campaign is about which trunk."""


def stock(number):
    style, causal = known.STOCK[number]
    return known.drawn_stock(style, causal=causal)


class Campaign:
    def __init__(self, seed, trunk):
        self.draw = np.random.default_rng(seed)
        self.trunk = trunk
        data = integer.encode(self.trunk)
        self.model = Model.read(data)
        self.slices = [
            Model.read(integer.encode_slice(self.model.cut(layer))) for layer in (0, 1)
        ]
        self.data = data

    def number(self, below):
        return int(self.draw.integers(below))

    def rows(self):
        """One or two short sequences: ordinary, tiny or huge entries."""
        shape = (1 + self.number(2), 1 + self.number(3), 24)
        size = 10 ** self.draw.uniform(0, 6.9)
        rows = self.draw.normal(0, size, shape)
        return np.clip(rows, -LIMIT, LIMIT).astype(np.int32)

    def sealed(self, boundaries, salt):
        """A receipt for these boundaries, honest or not."""
        shape = boundaries[0].shape
        roots = [
            boundary_root(integer.pack_rows(rows), shape, at, salt)
            for at, rows in enumerate(boundaries)
        ]
        order = seal_order(
            sign(CLINIC),
            bytes(CLINIC.verify_key),
            Order(
                self.model.root,
                bytes(HOST.verify_key),
                self.draw.bytes(16),
                shape,
                roots[0],
            ),
        )
        return seal_receipt(sign(HOST), bytes(HOST.verify_key), order, roots[1:], 1)

    def verdict(self, boundaries, salt, sealed, layer=None):
        at = 0 if layer is None else layer
        opened = Opened(at, salt, integer.pack_rows(boundaries[at]))
        model = self.model if layer is None else self.slices[layer]
        proof = batch_proof([sealed], 0)
        return audit(model, sealed, batch_root([sealed]), proof, opened)

    def honest(self):
        boundaries = list(self.trunk.forward(self.rows()).boundaries)
        salt = self.draw.bytes(32)
        sealed = self.sealed(boundaries, salt)
        assert self.verdict(boundaries, salt, sealed).fault is None
        layer = self.number(2)
        assert self.verdict(boundaries, salt, sealed, layer).fault is None

    def lie(self, kind):
        """One lie of a kind, caught; False where the draw changed nothing."""
        honest = list(self.trunk.forward(self.rows()).boundaries)
        if kind == "bytes":
            return self.refused(honest)
        layer = 1 if kind == "output" else self.number(2)
        told = getattr(self, kind)(honest, layer)
        if np.array_equal(told, honest[layer + 1]):
            return False
        rest = (
            [] if layer == 1 else list(self.trunk.forward(told, start=1).boundaries[1:])
        )
        boundaries, salt = [*honest[: layer + 1], told, *rest], self.draw.bytes(32)
        sealed = self.sealed(boundaries, salt)
        whole = self.verdict(boundaries, salt, sealed).fault
        assert whole is not None
        assert (whole.kind, whole.layer) == ("layer", layer)
        assert self.verdict(boundaries, salt, sealed, layer).fault is not None
        return True

    def boundary(self, honest, layer):
        told = honest[layer + 1].copy()
        place = tuple(self.number(extent) for extent in told.shape)
        near = int(told[place]) + int(self.draw.integers(-3, 4))
        far = int(self.draw.integers(-LIMIT, LIMIT + 1))
        told[place] = min(LIMIT, max(-LIMIT, near if self.number(2) else far))
        return told

    def output(self, honest, layer):
        return self.boundary(honest, layer)

    def weights(self, honest, layer):
        """An honest computation with one number of one layer changed."""
        own = self.trunk.layers[layer]
        matrices, gains = dict(own.named()), list(own.gains)
        kind = self.number(8)
        if gains and kind == 0:
            which = self.number(2)
            gains[which] = self.one_off(gains[which], ("multiplier", "bias"))
        else:
            name = list(matrices)[self.number(len(matrices))]
            fields = ("multiplier",) if own.q.bias is None else ("multiplier", "bias")
            fields = fields if kind == 1 else ("weight",)
            matrices[name] = self.one_off(matrices[name], fields)
        told = integer.Layer.of(matrices, tuple(gains))
        return self.trunk.header.replay(told, honest[layer])

    def one_off(self, part, fields):
        """A matrix or a gain with one entry changed."""
        name = fields[self.number(len(fields))]
        values = getattr(part, name).copy()
        place = tuple(self.number(extent) for extent in values.shape)
        if name == "weight":
            values[place] = self.draw.integers(-63, 64)
        elif name == "bias":
            values[place] += self.draw.integers(-999, 1000)
        else:
            values[place] = max(0, values[place] + self.draw.integers(-99, 1))
        return dataclasses.replace(part, **{name: values})

    def order(self, honest, layer):
        """The other layer, or two rows in each other's place."""
        told = honest[layer + 1]
        if self.number(2) or told.shape[1] < 2:
            return self.trunk.replay_layer(1 - layer, honest[layer])
        return told[:, ::-1].copy()

    def refused(self, honest):
        """A bundle with one flipped bit: a signature, a root or a proof breaks."""
        salt = self.draw.bytes(32)
        batch = [self.sealed(honest, salt), b"another"]
        data = bytearray(
            bundle.write(
                Bundle(
                    batch[0],
                    batch_root(batch),
                    batch_proof(batch, 0),
                    0,
                    salt,
                    integer.pack_rows(honest[0]),
                    b"",
                    self.data,
                )
            )
        )
        # Half of them outside the weights, which are most of the bytes.
        end = len(data) if self.number(2) else len(data) - len(self.data)
        data[self.number(end)] ^= 1 << self.number(8)
        with pytest.raises((ProtocolError, IntegerModelError)):
            bundle.check(bundle.read(bytes(data)))
        return True


def allot(total, shares):
    """`total` in whole parts by `shares` (which sum to 1): cut the line from 0 to
    `total` at rounded places, so that no rounding loses or adds one."""
    ends = [round(total * end) for end in accumulate(shares.values())]
    return {
        kind: end - start
        for kind, start, end in zip(shares, [0, *ends], ends, strict=False)
    }


def sign(signing):
    return lambda message: signing.sign(message).signature


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scale", [0.25, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", TRUNKS)
def test_every_lie_is_caught_and_no_honest_receipt_fails(name, scale):
    part, trunk = TRUNKS[name]
    part *= scale
    lies = round(LIES * part)
    campaign = Campaign(SEED + list(TRUNKS).index(name), trunk())
    caught = Counter()
    for kind, wanted in allot(lies, SHARES).items():
        tries = 0
        while caught[kind] < wanted:
            tries += 1
            assert tries < 20 * wanted, f"SEED={SEED} {kind}: draws change nothing"
            caught[kind] += campaign.lie(kind)
    for _ in range(round(HONEST * part)):
        campaign.honest()
    assert sum(caught.values()) == lies
