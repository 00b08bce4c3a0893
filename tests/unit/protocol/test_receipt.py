"""Receipts: what is signed, what a root covers, what a proof of inclusion fixes."""

import hashlib

import nacl.signing
import pytest

from protocol import merkle
from protocol.audit import Audit, Entry, Fault, open_audit, seal_audit
from protocol.boundary import boundary_root, case_root, case_salt
from protocol.envelope import seal
from protocol.errors import (
    InclusionError,
    MalformedMessageError,
    SignatureError,
    VerificationError,
)
from protocol.evaluation import (
    BatchAnswer,
    BatchRequest,
    Opening,
    OpenRequest,
    PlaceRequest,
    Release,
    SealedKey,
)
from protocol.provenance import Step, seal_step
from protocol.receipt import (
    Order,
    batch_proof,
    batch_root,
    open_order,
    open_receipt,
    seal_order,
    seal_receipt,
)
from protocol.types import PublicKey, digest
from protocol.wire import decode, encode

CLINIC, HOST, AUDITOR = (nacl.signing.SigningKey(bytes([i]) * 32) for i in (1, 2, 3))
SHAPE = (2, 3, 4)
ROWS = [bytes(range(i, i + 72)) for i in range(4)]
SALT = bytes(range(32))


def key(signing):
    return bytes(signing.verify_key)


def sign(signing):
    return lambda message: signing.sign(message).signature


def an_order(**fields):
    fields = {
        "model_root": digest(b"model"),
        "host": key(HOST),
        "job": bytes(16),
        "shape": SHAPE,
        "input_root": boundary_root(ROWS[0], SHAPE, 0, SALT),
        **fields,
    }
    return Order(**fields)


def an_order_sealed(**fields):
    return seal_order(sign(CLINIC), key(CLINIC), an_order(**fields))


def roots():
    return [boundary_root(rows, SHAPE, i, SALT) for i, rows in enumerate(ROWS)][1:]


def a_receipt(order=None, after=None, time=1_700_000_000, signing=HOST):
    return seal_receipt(
        sign(signing),
        key(signing),
        an_order_sealed() if order is None else order,
        roots() if after is None else after,
        time,
    )


def an_audit(**fields):
    names = ("receipt", "batch", "host", "model_root")
    return Audit(
        **{
            **{name: digest(name.encode()) for name in names},
            "first": 0,
            "count": 3,
            "fault": None,
            "time": 1_700_000_000,
            **fields,
        }
    )


def test_a_receipt_says_who_asked_who_answered_and_what_came_out():
    receipt = open_receipt(a_receipt())
    assert (receipt.requester, receipt.host) == (key(CLINIC), key(HOST))
    assert receipt.model_root == digest(b"model")
    assert receipt.order.job == bytes(16)
    assert receipt.roots[0] == receipt.order.input_root
    assert list(receipt.roots[1:]) == roots()
    assert receipt.layers == 3
    assert receipt.time == 1_700_000_000
    assert receipt.digest == digest(a_receipt())


def test_every_flipped_bit_of_a_receipt_is_refused():
    sealed = a_receipt()
    for place in range(len(sealed)):
        for bit in (0, 3, 7):
            altered = bytearray(sealed)
            altered[place] ^= 1 << bit
            with pytest.raises((MalformedMessageError, VerificationError)):
                open_receipt(bytes(altered))


def test_a_receipt_by_another_host_than_the_ordered_is_refused():
    with pytest.raises(VerificationError, match="ordered host"):
        open_receipt(a_receipt(signing=AUDITOR))


def test_signatures_do_not_cross_domains_or_contexts():
    order = an_order_sealed()
    with pytest.raises(SignatureError, match="envelope domain"):
        open_receipt(order)
    with pytest.raises(SignatureError, match="envelope domain"):
        open_order(a_receipt())
    payload = encode(an_order())
    elsewhere = seal(sign(CLINIC), "rexis/order/1", key(CLINIC), bytes(32), payload)
    with pytest.raises(MalformedMessageError, match="another model"):
        open_order(elsewhere)
    audit = encode(an_audit())
    elsewhere = seal(sign(AUDITOR), "rexis/audit/2", key(AUDITOR), bytes(32), audit)
    with pytest.raises(MalformedMessageError, match="another receipt"):
        open_audit(elsewhere)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": (0, 3, 4)}, "limits are"),
        ({"shape": (4097, 1, 1)}, "limits are"),
        ({"shape": (1, 1, -1)}, "limits are"),
        ({"job": bytes(15)}, "job has 15 bytes, needs 16"),
        ({"host": b""}, "host has 0 bytes"),
        ({"model_root": bytes(33)}, "model root has 33"),
    ],
)
def test_orders_out_of_bounds_are_not_signed(fields, message):
    with pytest.raises(MalformedMessageError, match=message):
        an_order_sealed(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"after": []}, "0 roots"),
        ({"after": [bytes(32)] * 1025}, "1025 roots"),
        ({"after": [bytes(31)]}, "31 bytes"),
        ({"time": -1}, "second -1"),
        ({"time": 10**15}, "second 1000000000000000"),
    ],
)
def test_receipts_out_of_bounds_are_refused(fields, message):
    with pytest.raises(MalformedMessageError, match=message):
        open_receipt(a_receipt(**fields))


def test_an_answer_is_for_its_order_and_its_output():
    order = an_order_sealed()
    receipt = open_receipt(a_receipt(order))
    receipt.check_answer(order, ROWS[3], SALT)
    with pytest.raises(VerificationError, match="another order"):
        receipt.check_answer(an_order_sealed(job=bytes([1]) * 16), ROWS[3], SALT)
    with pytest.raises(VerificationError, match="output root"):
        receipt.check_answer(order, ROWS[2], SALT)
    with pytest.raises(VerificationError, match="output root"):
        receipt.check_answer(order, ROWS[3], bytes(32))
    with pytest.raises(MalformedMessageError, match="71 bytes"):
        receipt.check_answer(order, ROWS[3][1:], SALT)


def test_a_root_covers_every_byte_the_place_and_the_salt():
    rows = bytes(range(72))
    root = boundary_root(rows, SHAPE, 1, SALT)
    others = {
        boundary_root(rows, SHAPE, 2, SALT),
        boundary_root(rows, SHAPE, 1, bytes(32)),
        boundary_root(rows, (3, 2, 4), 1, SALT),
        boundary_root(rows, (2, 4, 3), 1, SALT),
        boundary_root(rows[36:] + rows[:36], SHAPE, 1, SALT),
        boundary_root(rows[12:24] + rows[:12] + rows[24:], SHAPE, 1, SALT),
    }
    for place in range(72):
        altered = bytearray(rows)
        altered[place] ^= 1
        others.add(boundary_root(bytes(altered), SHAPE, 1, SALT))
    assert len(others) == 6 + 72
    assert root not in others


def test_one_case_opens_alone():
    rows, half = bytes(range(72)), 36
    salts = [case_salt(SALT, case) for case in range(2)]
    cases = [
        case_root(rows[c * half : (c + 1) * half], (3, 4), 1, c, salts[c])
        for c in (0, 1)
    ]
    root = boundary_root(rows, SHAPE, 1, SALT)
    proof = merkle.inclusion_proof(cases, 1)
    merkle.verify_inclusion(root, cases[1], 1, 2, proof)
    wrong = case_root(rows[half:], (3, 4), 1, 1, salts[0])
    with pytest.raises(InclusionError):
        merkle.verify_inclusion(root, wrong, 1, 2, proof)


def test_a_root_is_spelled_out():
    # The smallest rows there are, hashed by hand: what a second verifier has to meet.
    row, place = b"\x01\x02\x03", bytes(15) + b"\x01"
    inner = hashlib.sha256(b"rexis-case-salt-1" + SALT + bytes(4)).digest()
    salt = hashlib.sha256(b"rexis-row-salt-1" + inner + place).digest()
    leaf = hashlib.sha256(b"\x00rexis-row-1" + place + salt + row).digest()
    case = hashlib.sha256(b"\x00" + leaf).digest()
    assert boundary_root(row, (1, 1, 1), 0, SALT) == case


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_a_receipt_is_proved_to_be_in_its_batch(count):
    receipts = [bytes([i]) * 40 for i in range(count)]
    root = batch_root(receipts)
    for index, sealed in enumerate(receipts):
        proof = batch_proof(receipts, index)
        proof.verify(root, sealed)
        with pytest.raises(InclusionError):
            proof.verify(root, b"another")
        for other in range(count):
            if other != index:
                fields = (other, proof.size, proof.tree, proof.path)
                with pytest.raises(VerificationError):
                    type(proof)(*fields).verify(root, sealed)
        for size in (0, count - 1, count + 1, 5000):
            fields = (index, size, proof.tree, proof.path)
            with pytest.raises(VerificationError):
                type(proof)(*fields).verify(root, sealed)


def test_a_batch_is_its_order_and_its_count():
    a, b = b"a" * 40, b"b" * 40
    assert (
        len({batch_root([a, b]), batch_root([b, a]), batch_root([a]), merkle.root([a])})
        == 4
    )


@pytest.mark.parametrize(
    "fault",
    [
        None,
        Fault("receipt", 0),
        Fault("layer", 2),
        Fault("layer", 2, Entry(1, 2, 3, -4, -5, 1)),
    ],
)
def test_a_report_travels_and_describes_itself(fault):
    sealed = seal_audit(sign(AUDITOR), key(AUDITOR), an_audit(fault=fault))
    audit, signer = open_audit(sealed)
    assert (audit.fault, signer) == (fault, key(AUDITOR))
    said = audit.describe()
    assert said["verdict"] == ("passed" if fault is None else "failed")
    if fault is not None and fault.entry is not None:
        assert said["entry"] == {
            "case": 1,
            "token": 2,
            "column": 3,
            "committed": -4,
            "computed": -5,
            "differing": 1,
        }
        assert said["layer"] == 2
    with pytest.raises((MalformedMessageError, VerificationError)):
        open_audit(sealed[:-1] + bytes([sealed[-1] ^ 1]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host": b"short"}, "host is not 32 bytes"),
        ({"first": -1}, "layers -1"),
        ({"count": 2000}, "2000 more"),
        ({"fault": Fault("suspicion", 0)}, "fault of kind 'suspicion'"),
    ],
)
def test_reports_out_of_bounds_are_not_signed(fields, message):
    with pytest.raises(MalformedMessageError, match=message):
        seal_audit(sign(AUDITOR), key(AUDITOR), an_audit(**fields))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (BatchRequest(b""), "batch root has 0 bytes"),
        (BatchAnswer(()), "batch of 0 receipts"),
        (PlaceRequest(bytes(31)), "31 bytes"),
        (OpenRequest(bytes(32), 1025), "boundary is 1025"),
        (OpenRequest(bytes(32), -1), "boundary is -1"),
        (Opening(b"", b""), "salt has 0 bytes"),
    ],
)
def test_messages_out_of_bounds_are_refused(made, message):
    with pytest.raises(MalformedMessageError, match=message):
        decode(encode(made), type(made)).check()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, bytes(31), "model_root has 31"),
        (2, 0, "trunk of 0 bytes"),
        (2, 1 << 31, "limit is 1073741824"),
        (5, (b"x",), "node key has 1"),
        (6, (SealedKey(b"y", b""),), "node key has 1"),
    ],
)
def test_releases_out_of_bounds_are_refused(place, value, message):
    fields = released()
    Release(*fields).check()
    fields[place] = value
    with pytest.raises(MalformedMessageError, match=message):
        Release(*fields).check()


def released(model=b"m" * 32, state=b"s" * 32, *, trained=None, used=None):
    """Fields of a release whose two steps lead from a listing to the model."""
    key = nacl.signing.SigningKey(bytes(32))
    steps = (
        Step("train", (b"l" * 32,), trained or state, "rexis", "1", KEY, 1),
        Step("release", used or (state,), model, "rexis", "1", KEY, 2),
    )
    sealed = tuple(seal_step(lambda m: key.sign(m).signature, KEY, s) for s in steps)
    return [model, bytes(32), 9, bytes(32), state, (), (), sealed]


KEY = PublicKey(bytes(nacl.signing.SigningKey(bytes(32)).verify_key))


def test_a_release_names_what_it_was_trained_on_and_nothing_else_fits():
    assert Release(*released()).sources() == (b"l" * 32,)
    whole, other = released(), released(model=b"o" * 32)
    for fields, error in (
        ([*whole[:7], ()], MalformedMessageError),
        ([*whole[:7], whole[7][::-1]], VerificationError),
        ([*whole[:7], other[7]], VerificationError),
        ([*whole[:4], b"x" * 32, *whole[5:]], VerificationError),
        (released(used=(b"x" * 32,)), VerificationError),
        (released(trained=b"t" * 32), VerificationError),
    ):
        with pytest.raises(error):
            Release(*fields).check()
