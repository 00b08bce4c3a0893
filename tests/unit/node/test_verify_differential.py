"""Files whose signers lie, to both verifiers: ours, and the one that was written from the page.

A byte changed in a signed file is found by its signature, whatever else is wrong.  Here host and
requester sign what was changed, and the batch is anchored with it, so only what the page says
about sizes, places and numbers is left to decide.
"""

import base64
import importlib.util
import json
import random
from collections import Counter
from pathlib import Path

import nacl.signing
import pytest

from ee import integer
from node.verifier import bundle
from node.verifier import case as one_case
from protocol.envelope import seal
from protocol.errors import ProtocolError
from protocol.receipt import batch_proof, batch_root

FOLDER = Path(__file__).resolve().parents[2] / "vectors" / "verify"
VECTORS = json.loads((FOLDER / "vectors.json").read_text())
CLINIC, HOST = (nacl.signing.SigningKey(bytes([i]) * 32) for i in (1, 2))
EDGES = (0, 1, 2, 7, 8, 24, 25, 127, 128, 255, 256, 1024, 1025, 4096, 4097, 16_385)
EDGES += (1 << 16, 1 << 32, 253_402_300_799, 253_402_300_800, (1 << 64) - 1)
BOUNDS = {
    *("sizes", "heads", "an odd head", "an angle", "an entry of ACT", "a shift"),
    *("a gain", "a multiplier", "a bias", "a weight"),
}


def reader():
    found = importlib.util.spec_from_file_location(
        "second_to_bend", FOLDER / "second.py"
    )
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


second = reader()


def bent(value, chance):
    """The same kind of value, or one too many or too few of it."""
    if isinstance(value, int):
        return chance.choice(EDGES)
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list) and value and chance.random() < 0.6:
        at = chance.randrange(len(value))
        return [*value[:at], bent(value[at], chance), *value[at + 1 :]]
    if isinstance(value, list):
        return chance.choice((value[:-1], value + value[-1:], []))
    if not value or chance.random() < 0.5:
        return chance.choice((value[:-1], value + b"\0", b""))
    at = chance.randrange(len(value))
    return value[:at] + bytes([value[at] ^ 1 << chance.randrange(8)]) + value[at + 1 :]


def root_of(data, monkeypatch):
    """The model root of a trunk out of bounds, or None where there is none to compute."""
    need = second.need
    with monkeypatch.context() as lenient:
        lenient.setattr(
            second, "need", lambda true, why: why in BOUNDS or need(true, why)
        )
        try:
            return second.trunk_of(data)["root"]
        except (second.ProvesNothingError, ValueError, IndexError, ZeroDivisionError):
            return None


def sealed(key, domain, context, fields):
    def sign(message):
        return key.sign(message).signature

    return seal(sign, domain, bytes(key.verify_key), context, second.pack(fields))


def lied(vector, chance, monkeypatch):
    """A file and the trunk beside it, something in them changed and all signed again."""
    trunk = b""
    if "trunk" in vector:
        trunk = base64.b64decode(VECTORS["trunks"][vector["trunk"]]["trunk"])
    file = second.unpack(base64.b64decode(vector["bundle"]))
    answered = second.unpack(second.unpack(file[1])[4])
    order = second.unpack(second.unpack(answered[1])[4])
    where = chance.choice(("order", "receipt", "file", "trunk"))
    if where == "order":
        at = chance.randrange(len(order))
        order[at] = bent(order[at], chance)
    if where == "receipt":
        at = chance.choice((0, 2, 3))
        answered[at] = bent(answered[at], chance)
    if where == "trunk":
        data = bytearray(file[-1] or trunk)
        # The numbers of the header are a small part, and what most is bound by.
        at = chance.randrange(54, chance.choice((106, len(data))))
        data[at] = chance.choice((0, 1, 2, 127, 255, data[at] ^ 1))
        order[1] = root_of(bytes(data), monkeypatch) or order[1]
        file[-1], trunk = (bytes(data), b"") if file[-1] else (b"", bytes(data))
    context = order[1] if isinstance(order[1], bytes) else b""
    answered[1] = sealed(CLINIC, "rexis/order/1", context, order)
    signed = sealed(HOST, "rexis/receipt/1", second.sha(answered[1]), answered)
    batch = [signed, b"another"]
    proof = batch_proof(batch, 0)
    file[1:3] = signed, batch_root(batch)
    file[3] = ["batch-proof", proof.index, proof.size, proof.tree, [*proof.path]]
    if where == "file":
        at = chance.randrange(1, len(file) - 1)
        file[at] = bent(file[at], chance)
    return where, second.pack(file), trunk


def ours(data, trunk):
    files = one_case if b"rexis-case-1" in data[:16] else bundle
    try:
        return int(files.check(files.read(data), trunk).fault is not None)
    except (ProtocolError, integer.IntegerModelError):
        return 2


@pytest.mark.slow
def test_both_decide_the_same_about_files_whose_signers_lie(monkeypatch):
    chance, seen = random.Random(7), Counter()
    files = [v for v in VECTORS["bundles"] + VECTORS["cases"] if v["expected"] < 2]
    for turn in range(200):
        vector = files[turn % len(files)]
        where, data, trunk = lied(vector, chance, monkeypatch)
        found = ours(data, trunk)
        assert found == second.status(data, trunk), (turn, vector["name"], where)
        seen[where, found] += 1
    # All three ways out are among them: otherwise nothing but refusals would be compared.
    assert {found for _, found in seen} == {0, 1, 2}
    assert {where for where, _ in seen} == {"order", "receipt", "file", "trunk"}
