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


def test_a_sum_of_masked_parts_opens_by_the_seeds_and_the_key_of_who_is_gone():
    found, members = VECTORS["sum"], VECTORS["masks"]
    total = np.frombuffer(b("".join(found["sums"])), "<u2").copy()
    # Only the vectors show the masks of the fourth apart: by the others' digests of its keys.
    gone = {
        digest: key
        for key in (*members[3]["added"][1:], *members[3]["taken_off"])
        for digest in [hashlib.sha256(b"rexis-pair-digest-1" + b(key)).hexdigest()]
    }
    for member in members[:3]:
        key = gone[member["pairs"][3]]
        added = key in member["added"]
        total -= stream(b(member["added"][0]), 40)
        total = (np.subtract if added else np.add)(total, stream(b(key), 40))
    assert total.tobytes().hex() == found["unmasked"]
    plain = [np.frombuffer(b(m["rounded"]), "<u2") for m in members[:3]]
    np.testing.assert_array_equal(sum(plain[1:], plain[0]), total)


def test_what_is_certified_and_what_follows_are_digests_of_what_they_name():
    found, context = VECTORS["sum"], b(VECTORS["opening"]["context"])
    tag, members, _, reports, reporters = msgpack.unpackb(b(found["survivors"]))
    assert (tag, members, len(reporters)) == ("survivors", 7, 4)
    for data, report in zip(found["sums"], reports, strict=True):
        _, _, turn, over, _, total, _ = report
        assert (turn, over) == (0, 7)
        assert total == hashlib.sha256(b(data)).digest()
    value = hashlib.sha256(b"rexis-value-1" + b(found["survivors"]))
    assert value.hexdigest() == found["value"]
    seeds = b"".join(b(member["seed"]) for member in VECTORS["masks"][:3])
    text = b"rexis-beacon-1" + context + value.digest() + seeds
    assert hashlib.sha256(text).hexdigest() == found["beacon"]
    head = hashlib.sha256(b"rexis-verdict-1" + b(found["verdict"]))
    assert head.hexdigest() == found["head"]
    assert msgpack.unpackb(b(found["verdict"]))[6] == context
    assert msgpack.unpackb(b(found["verdict"]))[8:] == [7, []]
    assert msgpack.unpackb(b(found["rejected"]))[2] is False
    assert msgpack.unpackb(b(found["rejected"]))[8:] == [7, [15, 7]]


def test_a_state_steps_in_the_roundings_that_are_written_down():
    case, weights = VECTORS["step"], VECTORS["step"]["weights"]
    entries = [37 * j % 4001 - 2000 for j in range(4096)] + [0]
    factor = weights["all"] / (weights["members"] * weights["survivors"])
    raw = b""
    for j, entry in enumerate(entries):
        base = np.float32(j - 2000) / np.float32(7)
        mean = np.float32(entry * (factor * 2.0 ** case["scales"][j // 4096]))
        raw += (np.float32(case["rate"]) * mean + base).astype("<f4").tobytes()
    assert raw[:16].hex() == case["first_entries"]
    assert hashlib.sha256(b"\0" + raw).hexdigest() == case["state_root"]
    half, squares = 2 ** (case["input_bits"] - 1) - 1, sum(e * e for e in entries)
    j = 0
    while 4**j * half**2 * 4096 * case["survivors"] < 36 * squares:
        j += 1
    while 4.0 ** (j - 1) * half**2 * 4096 * case["survivors"] >= 36 * squares:
        j -= 1
    assert case["next_scales"] == [case["scales"][0] + j, case["scales"][1]]
    scales = np.array(case["next_scales"], np.int8).tobytes()
    assert hashlib.sha256(b"\0" + scales).hexdigest() == case["scales_root"]


def test_a_state_with_momentum_steps_in_the_roundings_that_are_written_down():
    case = VECTORS["step"]
    weights, moving = case["weights"], case["momentum"]
    factor = weights["all"] / (weights["members"] * weights["survivors"])
    entries = [37 * j % 4001 - 2000 for j in range(4096)] + [0]
    means = [
        np.float32(entry * (factor * 2.0 ** case["scales"][j // 4096]))
        for j, entry in enumerate(entries)
    ]
    state = [np.float32(j - 2000) / np.float32(7) for j in range(4097)]
    speed = [np.float32(0)] * 4097
    rate, mu = np.float32(case["rate"]), np.float32(moving["momentum"])
    scales = np.array(case["next_scales"], np.int8).tobytes()
    for wanted in moving["rounds"]:
        for j, mean in enumerate(means):
            speed[j] = mu * speed[j] + mean
            state[j] = rate * (mu * speed[j] + mean) + state[j]
        raw = b"".join(entry.astype("<f4").tobytes() for entry in state)
        held = b"".join(entry.astype("<f4").tobytes() for entry in speed)
        assert raw[:16].hex() == wanted["first_entries"]
        assert held[:16].hex() == wanted["first_velocities"]
        assert hashlib.sha256(b"\0" + raw).hexdigest() == wanted["state_root"]
        assert (
            hashlib.sha256(b"\0" + held + scales).hexdigest() == wanted["scales_root"]
        )


def test_turns_go_around_from_a_place_that_the_slot_gives():
    for case in VECTORS["proposers"]:
        name = hashlib.sha256(b"rexis-slot-1" + b(case["slot"])).digest()
        assert name.hex() == case["name"]
        drawn = hashlib.sha256(b"rexis-proposer-2" + name).digest()[:8]
        first = int.from_bytes(drawn, "big")
        assert case["seats"] == [(first + view) % 4 for view in range(6)]


def test_one_entry_of_each_stretch_is_chosen_by_the_round():
    case = VECTORS["coordinates"]
    text = b"rexis-coordinates-1" + b(case["run"]) + case["round"].to_bytes(8, "big")
    words = stream(hashlib.sha256(text).digest(), 2 * 7).view("<u4")
    widths = [min(8, 50 - 8 * j) for j in range(7)]
    wanted = [
        8 * j + int(w) % m
        for j, (w, m) in enumerate(zip(words[:7], widths, strict=True))
    ]
    assert case["places"] == wanted


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
