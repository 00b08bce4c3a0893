"""The published vectors, read by other eyes: msgpack, hashlib and a few lines of arithmetic."""

import hashlib
import importlib.util
import itertools
import json
from pathlib import Path

import msgpack
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

FOLDER = Path(__file__).parents[2] / "vectors"
VECTORS = json.loads((FOLDER / "rounds.json").read_text())


def b(text: str) -> bytes:
    return bytes.fromhex(text)


def test_the_file_is_what_the_code_makes():
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.build() == VECTORS


def test_digests_are_sha256_over_a_label_and_the_encoding():
    epoch, opening = VECTORS["epoch"], VECTORS["opening"]
    label = {"epoch": b"rexis-epoch-1", "opening": b"rexis-context-1"}
    assert (
        hashlib.sha256(label["epoch"] + b(epoch["encoded"])).hexdigest()
        == epoch["digest"]
    )
    context = hashlib.sha256(label["opening"] + b(opening["encoded"])).hexdigest()
    assert context == opening["context"]
    tag, run, digest, *_ = msgpack.unpackb(b(opening["encoded"]))
    assert (tag, digest.hex()) == ("opening", epoch["digest"])
    assert len(run) == 32


def test_shares_are_values_of_a_polynomial_over_gf_256():
    def times(x: int, y: int) -> int:
        product = 0
        for bit in range(8):
            if y >> bit & 1:
                product ^= x << bit
        for bit in range(15, 7, -1):
            if product >> bit & 1:
                product ^= 0x11B << (bit - 8)
        return product

    case = VECTORS["shamir"]
    secret, coins = b(case["secret"]), b(case["coins"])
    for x, share in enumerate(case["shares"], 1):
        for i in range(32):
            square, linear = coins[i], coins[32 + i]
            value = times(times(square, x) ^ linear, x) ^ secret[i]
            assert b(share)[i] == value


def stream(key: bytes, words: int) -> np.ndarray:
    cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(cipher.update(bytes(2 * words)), "<u2")


def test_masks_are_ctr_keystreams_and_vanish_in_the_sum():
    masked, plain, selves = (np.zeros(40, "<u2") for _ in range(3))
    for member in VECTORS["masks"]:
        words = np.frombuffer(b(member["rounded"]), "<u2").copy()
        plain += words
        for key in member["added"]:
            words += stream(b(key), 40)
        for key in member["taken_off"]:
            words -= stream(b(key), 40)
        assert words.tobytes().hex() == member["masked"]
        masked += words
        selves += stream(b(member["added"][0]), 40)
    np.testing.assert_array_equal(masked - selves, plain)


def test_tags_are_combinations_over_whole_numbers():
    case, prime = VECTORS["check"], (1 << 61) - 1
    key = hashlib.sha256(b"rexis-check-2" + b(case["seed"])).digest()
    cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    raw = np.frombuffer(cipher.update(bytes(8 * 4098)), "<u8")
    drawn = [int(r) >> 3 for r in raw]
    entries = range(case["start"], case["start"] + 24)
    factors = [drawn[j % 4096] * drawn[4096 + j // 4096] for j in entries]
    for part, tag in zip(case["parts"], case["tags"], strict=True):
        words = np.frombuffer(b(part), "<u2")
        wanted = sum(f * int(w) for f, w in zip(factors, words, strict=True)) % prime
        assert wanted == tag
    assert sum(case["tags"]) % prime == case["tag_of_sum"]


def test_both_holders_of_a_mask_say_the_same_of_its_key():
    cases = VECTORS["masks"]
    for i, one in enumerate(cases):
        keys = {
            hashlib.sha256(b"rexis-pair-digest-1" + b(key)).hexdigest()
            for key in (*one["added"][1:], *one["taken_off"])
        }
        assert one["pairs"][i] == ""
        assert keys == set(one["pairs"]) - {""}
        for j, other in enumerate(cases):
            assert one["pairs"][j] == other["pairs"][i]


def test_functionals_are_sums_with_coefficients_from_the_keystream():
    case = VECTORS["sketch"]
    key = hashlib.sha256(b"rexis-sketch-1" + b(case["seed"])).digest()
    cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    length, (bits, used) = case["length"], case["ring"]
    raw = np.frombuffer(cipher.update(bytes(8 * length)), np.uint8).reshape(length, 8)
    coins = np.unpackbits(raw, axis=1).astype(int)
    factors = coins[:, :32] + coins[:, 32:] - 1
    update = np.arange(length) % 100 - 50
    mask = stream(b(case["mask_key"]), length).astype(int)
    each = 4 ** (bits - used)
    ends = [0, each, length]  # 2.4 blocks are two
    for row, (start, stop) in enumerate(itertools.pairwise(ends)):
        for name, vector in (("of_update", update), ("of_mask", mask)):
            found = vector[start:stop] @ factors[start:stop]
            wanted = np.array(case[name][row])
            np.testing.assert_array_equal(found % (1 << bits), wanted % (1 << bits))


@pytest.mark.parametrize("place", range(4))
def test_a_pre_key_is_what_its_digest_says(place):
    case = VECTORS["prekeys"][place]
    data = b(case["encoded"])
    assert hashlib.sha256(b"rexis-prekey-1" + data).hexdigest() == case["digest"]
    tag, epoch, number, floor, public, _, shares, sealed = msgpack.unpackb(data)
    assert (tag, number, floor, len(public)) == ("prekey", 0, 0, 32)
    assert epoch.hex() == VECTORS["epoch"]["digest"]
    scope = hashlib.sha256(epoch + b(case["member"]) + bytes(8)).digest()
    for kind, share in enumerate(case["shares_of_first_member"]):
        text = b"rexis-share-1" + scope + bytes([0, kind]) + b(share)
        assert shares[0][32 * kind : 32 * kind + 32] == hashlib.sha256(text).digest()
    assert {len(each) for each in sealed} == {80}
