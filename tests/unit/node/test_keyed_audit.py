"""A layer checked with a secret key: what passes, what does not, what proves nothing."""

import random

import msgspec
import nacl.signing
import numpy as np
import pytest

from ee import integer
from ee.integer import IntegerModelError, freivalds, known
from node.verifier import keyed
from node.verifier.replay import Model
from protocol.audit import Audit
from protocol.boundary import boundary_root
from protocol.errors import MalformedMessageError, VerificationError
from protocol.evaluation import TraceAnswer
from protocol.receipt import Order, batch_proof, batch_root, seal_order, seal_receipt

SALT, SECRET = bytes(range(32)), b"\x07" * 32
CLINIC, HOST = (nacl.signing.SigningKey(bytes([i]) * 32) for i in (1, 2))
TRUNKS = {
    "causal": lambda: known.drawn_trunk(causal=True),
    "encoder": lambda: known.drawn_trunk(causal=False),
    "as BERT": lambda: known.drawn_stock(known.STOCK[0][0], causal=False),
}


class Answer:
    """One receipt for a trunk, its rows, and the trace of one layer."""

    def __init__(self, trunk, layer):
        self.trunk, self.layer = trunk, layer
        rows = known.drawn_rows(trunk.config)
        self.shape = rows.shape
        self.boundaries = list(trunk.forward(rows).boundaries)
        model = Model.read(integer.encode(trunk))
        part = integer.encode_slice(model.cut(layer))
        self.key = keyed.read(keyed.key_of(Model.read(part), SECRET))
        before = self.boundaries[layer]
        _, sums = freivalds.shown(trunk.header, trunk.layers[layer], before)
        self.sums = sums
        self.answer = TraceAnswer(
            SALT,
            integer.pack_rows(before),
            freivalds.pack_sums(trunk.layers[layer], sums),
        )

    def seal(self):
        roots = [
            boundary_root(integer.pack_rows(rows), self.shape, at, SALT)
            for at, rows in enumerate(self.boundaries)
        ]
        host, clinic = (bytes(one.verify_key) for one in (HOST, CLINIC))
        root = integer.model_root(self.trunk)
        order = Order(root, host, bytes(16), self.shape, roots[0])
        sealed = seal_order(lambda m: CLINIC.sign(m).signature, clinic, order)
        return seal_receipt(
            lambda m: HOST.sign(m).signature, host, sealed, roots[1:], 1_800_000_000
        )

    def reason(self, *, key=None, answer=None):
        sealed = self.seal()
        batch = [sealed, b"another"]
        about = (sealed, batch_root(batch), batch_proof(batch, 0))
        return keyed.check(key or self.key, *about, answer or self.answer)


@pytest.fixture(params=[(name, layer) for name in TRUNKS for layer in (0, 1)], ids=str)
def told(request):
    name, layer = request.param
    return Answer(TRUNKS[name](), layer)


def test_an_honest_layer_passes(told):
    assert told.reason() == ""


def test_any_wrong_sum_is_found_and_its_matrix_named(told):
    chance = random.Random(told.layer)
    names = [name for name, _ in told.trunk.layers[told.layer].named()]
    for place, name in enumerate(names):
        for _ in range(3):
            sums = [one.copy() for one in told.sums]
            row = chance.randrange(len(sums[place]))
            sums[place][row, chance.randrange(sums[place].shape[1])] += chance.choice(
                (-1, 1, 1000)
            )
            packed = freivalds.pack_sums(told.trunk.layers[told.layer], tuple(sums))
            bent = msgspec.structs.replace(told.answer, sums=packed)
            assert told.reason(answer=bent) == f"sums of {name} are wrong in row {row}"


def test_a_row_that_is_not_what_the_sums_make_is_found(told):
    after = told.boundaries[told.layer + 1].copy()
    after[1, 2, 3] += 1 if after[1, 2, 3] < 0 else -1
    told.boundaries[told.layer + 1] = after
    assert "are not what its sums make" in told.reason()


def test_a_key_of_other_weights_passes_nothing(told):
    parts = [
        msgspec.structs.replace(part, vector=part.vector[8:] + part.vector[:8])
        for part in told.key.parts
    ]
    forged = msgspec.structs.replace(told.key, parts=tuple(parts))
    assert told.reason(key=forged).startswith("sums of ")
    other = msgspec.structs.replace(told.key, secret=b"\x08" * 32)
    assert told.reason(key=other).startswith("sums of ")


def test_what_does_not_belong_together_says_nothing(told):
    rows = bytes([told.answer.rows[0] ^ 1]) + told.answer.rows[1:]
    for bent, error in (
        ({"rows": rows}, VerificationError),
        ({"salt": bytes(32)}, VerificationError),
    ):
        with pytest.raises(error, match="root of the rows"):
            told.reason(answer=msgspec.structs.replace(told.answer, **bent))
    other = Answer(known.drawn_trunk(causal=not told.trunk.config.causal), 0)
    with pytest.raises(VerificationError, match="model root"):
        told.reason(key=other.key)


def test_sums_of_another_length_are_refused_before_they_are_read(told):
    short = (told.answer.sums[0][:-1], *told.answer.sums[1:])
    for sums in (short, told.answer.sums[1:], (*told.answer.sums, b"")):
        bent = msgspec.structs.replace(told.answer, sums=sums)
        assert "need" in told.reason(answer=bent)


def test_sums_travel_and_come_back():
    trunk = known.drawn_trunk(causal=True)
    key = freivalds.layer_key(trunk.layers[0], 0, SECRET)
    shapes = [(21, len(matrix.weight)) for matrix in trunk.layers[0].matrices()]
    limits = [(1 << 31) - 1] * 6 + [(1 << 46) - 1]
    sums = tuple(
        np.where(np.arange(a * b) % 2, limit, -limit).reshape(a, b)
        for (a, b), limit in zip(shapes, limits, strict=True)
    )
    packed = freivalds.pack_sums(trunk.layers[0], sums)
    for one, other in zip(freivalds.unpack_sums(key, packed, 21), sums, strict=True):
        assert np.array_equal(one, other)
    with pytest.raises(IntegerModelError, match="need"):
        freivalds.unpack_sums(key, packed, 20)


def test_a_report_by_key_says_its_error_and_accuses_nobody():
    assert freivalds.error_bits(128, 1) == 50
    assert freivalds.error_bits(128, 12) == 46
    fields = {name: bytes(32) for name in ("receipt", "batch", "host", "model_root")}
    report = Audit(**fields, first=0, count=1, fault=None, time=0)
    replace = msgspec.structs.replace
    replace(report, tier="freivalds", error_bits=50).check()
    for bent in (
        {"tier": "freivalds"},
        {"error_bits": 50},
        {"tier": "a glance", "error_bits": 50},
    ):
        with pytest.raises(MalformedMessageError, match="report of tier"):
            replace(report, **bent).check()
