"""The vectors of runs, read by other eyes: msgpack, hashlib, Ed25519, sets and ranks."""

import hashlib
import importlib.util
import json
import struct
import sys
from itertools import combinations
from pathlib import Path

import msgpack
import nacl.signing
import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "vectors"
VECTORS = json.loads((FOLDER / "runs.json").read_text())
RUN = VECTORS["run"]
RUN_ID = bytes.fromhex(RUN["id"])

POLICY = {
    "length": None,
    "ring_bits": 32,
    "input_bits": 24,
    "noised": False,
    "checked": True,
    "sketched": True,
    "beat_ms": 1_000,
    "fresh_ms": 5_000,
    "patience_ms": 2_000,
    "view_ms": 2_000,
    "ask_ms": 1_500,
    "backup_ms": 3_000,
    "upload_floor_ms": 2_000,
    "upload_cap_ms": 600_000,
    "slowest_bytes_per_s": 500_000,
    "grace_ms": 60_000,
    "idle_ms": 30_000,
}
"""The table of docs/protocol.md §5.1, written down once more."""


def opened(envelope, domain, context):
    """Who signed, and the payload, by the rules of §4."""
    tag, label, sender, where, payload, signature = msgpack.unpackb(
        bytes.fromhex(envelope)
    )
    assert (tag, label, where) == ("env", domain, context)
    fields = (b"rexis-envelope-v1", domain.encode(), sender, context, payload)
    signed = b"".join(struct.pack(">Q", len(each)) + each for each in fields)
    nacl.signing.VerifyKey(sender).verify(signed, signature)
    return sender, msgpack.unpackb(payload)


def test_the_file_is_what_the_code_makes(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    path = FOLDER / "generate_runs.py"
    spec = importlib.util.spec_from_file_location("generate_runs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop("generate", None)
    assert json.loads(json.dumps(module.build())) == VECTORS


def test_a_run_is_called_by_the_digest_of_its_proposal():
    proposal = bytes.fromhex(RUN["proposal"])
    assert hashlib.sha256(proposal).digest() == RUN_ID
    tag, title, plan, initial, rounds, members, created = msgpack.unpackb(proposal)
    assert (tag, rounds, len(initial)) == ("run", 5, 32)
    assert members == sorted(members)
    assert json.loads(plan)["title"] == title
    assert json.dumps(json.loads(plan), sort_keys=True, separators=(",", ":")) == (
        plan.decode()
    )
    assert created > 0
    sender, payload = opened(RUN["sealed_by_first_member"], "rexis/run/1", RUN_ID)
    assert sender == members[0]
    assert msgpack.packb(payload) == proposal


def test_the_first_epoch_follows_from_the_consents():
    _, _, plan, _, _, members, _ = msgpack.unpackb(bytes.fromhex(RUN["proposal"]))
    seats = []
    for envelope in RUN["consents"]:
        sender, consent = opened(envelope, "rexis/run-consent/1", RUN_ID)
        tag, run, _dataset, samples, seal_key = consent
        assert (tag, run) == ("consent", RUN_ID)
        seats.append(["seat", sender, seal_key, samples])
    assert [seat[1] for seat in seats] == members
    numbers = {**POLICY, "length": RUN["entries"], **json.loads(plan)["sum"]}
    epoch = ["epoch", RUN_ID, 0, seats, ["policy", *numbers.values()]]
    encoded = msgpack.packb(epoch)
    assert encoded.hex() == RUN["epoch"]
    name = hashlib.sha256(b"rexis-epoch-1" + encoded).hexdigest()
    assert name == RUN["epoch_name"]


def test_a_stance_is_its_members_word():
    sender, stance = opened(RUN["stance"], "rexis/run-stance/1", RUN_ID)
    assert sender == msgpack.unpackb(bytes.fromhex(RUN["epoch"]))[3][0][1]
    assert stance == ["stance", RUN_ID, 3, "pause"]


def test_seats_follow_from_wishes():
    first = msgpack.unpackb(bytes.fromhex(RUN["epoch"]))
    holders = [seat[1] for seat in first[3]]
    quorum = 2 * len(holders) // 3 + 1
    words = {}
    seen = set()
    for step in VECTORS["seats"]:
        for envelope in step["wishes"]:
            who, wish = opened(envelope, "rexis/run-wish/1", RUN_ID)
            tag, _run, serial, about, word = wish
            before = words.get((who, about), (0, ""))
            assert (tag, serial) == ("wish", before[0] + 1)
            words[who, about] = (serial, word)

        def wanting(about, *wanted):
            return sum(
                words.get((who, about), (0, ""))[1] in wanted
                for who in holders
                if who != about
            )

        def goes(about):
            own = words.get((about, about), (0, ""))[1]
            return own in ("out", "expose") or wanting(about, "out", "expose") >= quorum

        asked = {about for _, about in words} - set(holders)
        seats = [who for who in holders if not goes(who)]
        seats += [who for who in asked if wanting(who, "in") >= quorum]
        same = sorted(seats) == holders or len(seats) < 3
        assert (step["next"] == "") is same
        if not same:
            epoch = msgpack.unpackb(bytes.fromhex(step["next"]))
            assert epoch[2] == first[2] + 1
            assert epoch[4] == first[4]
            assert [seat[1] for seat in epoch[3]] == sorted(seats)
        exposed = [a.hex() for a in sorted(holders) if wanting(a, "expose") >= quorum]
        assert step["exposed"] == exposed
        seen.add((same, bool(exposed), len(seats)))
    assert len(seen) > 3  # it was about something


@pytest.mark.parametrize("case", VECTORS["differences"])
def test_a_sum_is_allowed_if_no_combination_is_about_too_few(case):
    members, before, exposed = case["members"], case["opened"], case["exposed"]
    floor = max(3, (members - 1) // 3 + 2)
    fewest = max(3, -(-2 * members // 3))

    def row(bitmap):
        places = [i for i in range(members) if not exposed >> i & 1]
        return [bitmap >> i & 1 for i in places]

    def singles_out(new):
        rows = np.array([row(each) for each in (*before, new)], float)
        whole = np.linalg.matrix_rank(rows)
        columns = range(rows.shape[1])
        return any(
            np.linalg.matrix_rank(np.delete(rows, group, axis=1)) < whole
            for size in range(1, floor)
            for group in combinations(columns, size)
        )

    def adds_nothing(new):
        rank = np.linalg.matrix_rank
        known = np.array([row(each) for each in before], float)
        return rank(np.vstack([known, row(new)])) == rank(known)

    allowed = [
        new
        for new in range(1 << members)
        if new.bit_count() >= fewest
        and (new in before or adds_nothing(new) or not singles_out(new))
    ]
    assert case["allowed"] == allowed


FIELDS = {
    "heartbeat": 5,
    "proof": 1,
    "evidence": 2,
    "upload": 2,
    "report": 6,
    "release": 2,
    "tags": 1,
    "claim": 6,
    "sketch": 1,
    "reveal": 1,
}


def test_every_kind_of_statement_is_there_with_its_fields():
    *said, vote, proposal = VECTORS["said"]
    found = {}
    for each in said:
        tag, run, number, attempt, body = msgpack.unpackb(bytes.fromhex(each["said"]))
        assert (tag, run, number, attempt) == ("said", RUN_ID, 2, 1)
        found[body[0]] = len(body) - 1
        of_epoch = body[0] in {"heartbeat", "proof", "evidence"}
        text = b"rexis-vector " + (b"epoch" if of_epoch else b"opening")
        _, payload = opened(each["envelope"], "round", hashlib.sha256(text).digest())
        assert msgpack.packb(payload).hex() == each["said"]
    assert found == FIELDS
    slot = ["slot", RUN_ID, *msgpack.unpackb(bytes.fromhex(vote["vote"]))[1][2:]]
    value = hashlib.sha256(b"rexis-value-1" + b"a value").digest()
    assert msgpack.packb(["vote", slot, 1, 1, value]).hex() == vote["vote"]
    proof = [[1, bytes(64)]]
    packed = msgpack.packb(["proposal", slot, 1, b"a value", 0, proof])
    assert packed.hex() == proposal["proposal"]


def test_an_attempt_is_given_up_in_one_way():
    value = msgpack.packb(["survivors", 0, bytes(32), [], []])
    assert value.hex() == VECTORS["given_up"]["value"]
    name = hashlib.sha256(b"rexis-value-1" + value).hexdigest()
    assert name == VECTORS["given_up"]["name"]


def test_an_announcement_is_numbered_within_its_signature():
    sender, note = opened(VECTORS["note"]["sealed"], "gossip", b"round")
    number = 1_796_000_000_000
    assert note == ["note", number, b"an envelope"]
    pull = ["pull", [["known", sender, 0, [[number, number]]]]]
    assert msgpack.packb(pull).hex() == VECTORS["note"]["pull"]
