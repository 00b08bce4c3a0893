"""Write the vectors, or with --check compare them with what the code makes now.

Everything is derived from counted bytes, so the file is the same on every machine.  Values are
hexadecimal; an `expected` of "valid" or "invalid" says what a verifier must answer, and `reason`
why.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import nacl.signing
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)

from ee.outer import look_ahead, outer_step
from ee.spec import Vector
from protocol import merkle
from protocol.aggregate import checks, coordinates, masks, shamir, sketch
from protocol.aggregate.ring import Exponents, Ring, mean_factor
from protocol.aggregate.shards import slices
from protocol.certificate import Certificate, Kind, Slot, Step, Vote, speak, value_name
from protocol.decide import Decide
from protocol.envelope import verified
from protocol.errors import ProtocolError
from protocol.rounds import prekeys
from protocol.rounds.history import Genesis
from protocol.rounds.messages import (
    Opening,
    Report,
    Said,
    Survivors,
    Upload,
    Verdict,
    hear,
    inputs_digest,
    say,
    uploads_digest,
)
from protocol.rounds.pairs import digests, key_digest
from protocol.rounds.policy import Cohort, Epoch, Policy, Seat
from protocol.rounds.settle import Settling
from protocol.types import Digest, PublicKey
from protocol.wire import encode

FILE = Path(__file__).with_name("rounds.json")
NAMES = ("ada", "ben", "cyd", "dov")


def seed(text: str) -> bytes:
    return hashlib.sha256(b"rexis-vector " + text.encode()).digest()


def stretch(text: str, size: int) -> bytes:
    return hashlib.shake_256(b"rexis-vector " + text.encode()).digest(size)


SIGNERS = {name: nacl.signing.SigningKey(seed(f"sign {name}")) for name in NAMES}
SEALS = {
    name: X25519PrivateKey.from_private_bytes(seed(f"seal {name}")) for name in NAMES
}


def node_key(name: str) -> bytes:
    return bytes(SIGNERS[name].verify_key)


def sign(name: str) -> Any:
    return lambda message: SIGNERS[name].sign(message).signature


def agree(name: str) -> Any:
    return lambda other: SEALS[name].exchange(X25519PublicKey.from_public_bytes(other))


def epoch() -> Epoch:
    seats = [
        Seat(node_key(n), SEALS[n].public_key().public_bytes_raw(), 10 * (i + 1))
        for i, n in enumerate(NAMES)
    ]
    seats.sort(key=lambda seat: seat.node_key)
    return Epoch(seed("run"), 0, tuple(seats), Policy(40, 16, 12))


def build() -> dict[str, Any]:
    """Every section of the file."""
    cohort = Cohort(epoch())
    order = sorted(NAMES, key=node_key)
    dealt = {
        name: prekeys.deal(
            cohort,
            node_key(name),
            0,
            0,
            agree(name),
            stretch(f"coins {name}", prekeys.coins_bytes(cohort)),
        )
        for name in order
    }
    genesis = Genesis(cohort.name, seed("state"), seed("scales"))
    opening = Opening(
        cohort.epoch.run,
        cohort.name,
        0,
        0,
        seed("state"),
        seed("scales"),
        genesis.name(),
        cohort.members,
        tuple((0, dealt[name].prekey.name()) for name in order),
    )
    context = opening.context()
    return {
        "epoch": {
            "encoded": encode(cohort.epoch).hex(),
            "digest": cohort.name.hex(),
            "genesis": genesis.name().hex(),
            "thresholds": [
                [n, c.liars, c.shares, c.quorum, c.survivors]
                for n in (3, 4, 5, 7, 10, 32)
                if (c := type(cohort.thresholds)(n))
            ],
        },
        "shamir": _shamir(),
        "prekeys": [
            {
                "member": node_key(name).hex(),
                "seal_secret": seed(f"seal {name}").hex(),
                "coins": stretch(f"coins {name}", prekeys.coins_bytes(cohort)).hex(),
                "encoded": encode(dealt[name].prekey).hex(),
                "digest": dealt[name].prekey.name().hex(),
                "shares_of_first_member": _shares(cohort, name, dealt[name].prekey),
            }
            for name in order
        ],
        "opening": {"encoded": encode(opening).hex(), "context": context.hex()},
        "slices": [
            [each.start, each.stop, [member.hex() for member in each.order]]
            for each in slices(40, 2, cohort.members, context)
        ],
        "masks": (masked := _masks(order, dealt, context)),
        "sum": _sum(cohort, opening, masked),
        "step": _step(),
        "coordinates": _coordinates(cohort.epoch.run),
        "proposers": _proposers(cohort, opening),
        "check": _check(),
        "sketch": _sketch(),
        "envelopes": _envelopes(cohort, opening),
        "certificates": _certificates(cohort, order),
    }


def _shamir() -> dict[str, Any]:
    secret, coins = seed("secret"), stretch("shamir", 2 * 32)
    shares = shamir.split(secret, 5, 3, coins)
    return {
        "secret": secret.hex(),
        "coins": coins.hex(),
        "threshold": 3,
        "shares": [share.hex() for share in shares],
        "weights_at_2_4_5": [w for _, w in shamir.weights((2, 4, 5))],
    }


def _shares(cohort: Cohort, name: str, prekey: Any) -> list[str]:
    first = next(n for n in NAMES if node_key(n) == cohort.members[0])
    shares = prekeys.take(cohort, node_key(name), prekey, node_key(first), agree(first))
    assert shares is not None
    return [shares.seed.hex(), shares.key.hex()]


def _masks(order: list[str], dealt: Any, context: bytes) -> list[dict[str, Any]]:
    """Each member's update, masked; the four add up, once the self masks are off."""
    out = []
    members = [node_key(name) for name in order]
    for index, name in enumerate(order):
        me = node_key(name)
        plus = [masks.self_key(dealt[name].seed, Digest(context), me)]
        minus: list[bytes] = []
        keys: dict[bytes, bytes] = {}
        for other in order:
            if other != name:
                (shared,) = prekeys.exchanges(
                    dealt[name].secret, [dealt[other].prekey.public]
                )
                key = masks.pair_key(shared, Digest(context), me, node_key(other))
                (plus if me < node_key(other) else minus).append(key)
                keys[node_key(other)] = key
        words = (np.arange(40) * (index + 1) - 20).astype("<i2").view("<u2").copy()
        plain = words.tobytes().hex()
        masks.apply(words, 0, plus, minus)
        out.append(
            {
                "member": me.hex(),
                "seed": dealt[name].seed.hex(),
                "added": [key.hex() for key in plus],
                "taken_off": [key.hex() for key in minus],
                "pairs": [each.hex() for each in digests(members, me, keys)],
                "rounded": plain,
                "masked": words.tobytes().hex(),
            }
        )
    return out


def _sum(cohort: Cohort, opening: Opening, masked: list[Any]) -> dict[str, Any]:
    """The attempt goes on without its last member, to what is certified and to the verdict."""
    context, ring = opening.context(), cohort.ring
    cut = slices(40, 2, cohort.members, context)
    vectors = [np.frombuffer(bytes.fromhex(m["masked"]), "<u2") for m in masked]
    parts = [[v[s.start : s.stop].tobytes() for s in cut] for v in vectors]
    uploads = [
        Upload(
            tuple(hashlib.sha256(part).digest() for part in mine),
            tuple(bytes.fromhex(each) for each in member["pairs"]),
        )
        for mine, member in zip(parts, masked, strict=True)
    ][:3]
    reports, sums = [], []
    for each in cut:
        words = [v[each.start : each.stop] for v in vectors[:3]]
        total, carry = checks.add(words, ring, carry=True)
        assert carry is not None
        sums.append(total.tobytes())
        reports.append(
            Report(
                each.index,
                0,
                0b0111,
                inputs_digest([upload.shards[each.index] for upload in uploads]),
                hashlib.sha256(sums[-1]).digest(),
                hashlib.sha256(checks.pack(carry, 3)).digest(),
            )
        )
    reporters = tuple(
        next(m for m in each.order if m in cohort.members[:3]) for each in cut
    )
    value = encode(
        Survivors(
            0b0111,
            uploads_digest(uploads),
            tuple(reports),
            tuple(opening.members.index(m) for m in reporters),
        )
    )
    settled = SimpleNamespace(
        _setting=SimpleNamespace(context=context),
        value=value_name(value),
        members=cohort.members[:3],
        _seeds={
            member: bytes.fromhex(each["seed"])
            for member, each in zip(cohort.members, masked, strict=True)
        },
    )
    plain = sum(
        np.frombuffer(bytes.fromhex(m["rounded"]), "<u2").astype("<u2")
        for m in masked[:3]
    )
    return {
        "sums": [each.hex() for each in sums],
        "survivors": value.hex(),
        "value": value_name(value).hex(),
        "beacon": Settling.beacon(cast(Settling, settled)).hex(),
        "unmasked": plain.astype("<u2").tobytes().hex(),
        "verdict": encode(verdict := _verdict(opening)).hex(),
        "head": verdict.name().hex(),
        "rejected": encode(_rejected(opening)).hex(),
    }


def _verdict(opening: Opening) -> Verdict:
    """The step's: the first three of four seats are in the sum, and the state is new."""
    state, scales = seed("next state"), seed("next scales")
    context, epoch = opening.context(), opening.epoch
    return Verdict(0, True, state, scales, opening.head, context, epoch, 0b0111, ())


def _rejected(opening: Opening) -> Verdict:
    """The same sum rejected, on a base where one of all four was opened before."""
    return msgspec.structs.replace(
        _verdict(opening),
        accept=False,
        state=opening.base,
        scales=opening.scales,
        opened=(0b1111, 0b0111),
    )


def _step() -> dict[str, Any]:
    """Two blocks, the second one of a single entry; one survivor of three is missing."""
    ring, size = Ring(16, 12), 4097
    base = (np.arange(size, dtype="<f4") - 2000) / np.float32(7)
    total = ((np.arange(size) * 37 % 4001) - 2000).astype("<i2").view("<u2")
    total[-1] = 0
    scales = np.array([-12, 3], np.int8)
    mean = ring.decode(total, scales, mean_factor(30, 60, 3))
    state = outer_step(base, mean, rate=0.7)
    after = ring.next_exponents(total, scales, 2)
    return {
        "base": "entry j is the binary32 quotient (j - 2000) / 7",
        "sum": "entry j is 37 j mod 4001 - 2000, the last one 0",
        "scales": scales.tolist(),
        "weights": {"survivors": 30, "all": 60, "members": 3},
        "survivors": 2,
        "input_bits": 12,
        "rate": 0.7,
        "first_entries": state[:4].tobytes().hex(),
        "state_root": merkle.root([state.tobytes()]).hex(),
        "next_scales": after.tolist(),
        "scales_root": merkle.root([after.tobytes()]).hex(),
        "momentum": _momentum(base, mean, after),
    }


def _momentum(base: Vector, mean: Vector, after: Exponents) -> dict[str, Any]:
    """The same mean twice, from velocities of zero and then from what those became."""
    state, velocity, rounds = base, np.zeros_like(base), []
    for _ in range(2):
        velocity, ahead = look_ahead(velocity, mean, momentum=0.9)
        state = outer_step(state, ahead, rate=0.7)
        rounds.append(
            {
                "first_entries": state[:4].tobytes().hex(),
                "first_velocities": velocity[:4].tobytes().hex(),
                "state_root": merkle.root([state.tobytes()]).hex(),
                "scales_root": merkle.root(
                    [velocity.tobytes() + after.tobytes()]
                ).hex(),
            }
        )
    return {"momentum": 0.9, "rounds": rounds}


def _coordinates(run: bytes) -> dict[str, Any]:
    chosen = coordinates.Chosen(coordinates.seed(run, 3), 50, 8)
    return {
        "run": run.hex(),
        "round": 3,
        "entries": 50,
        "one_in": 8,
        "places": chosen.places().tolist(),
    }


def _proposers(cohort: Cohort, opening: Opening) -> list[dict[str, Any]]:
    """Whose turn it is in the first six views of each of the three decisions."""
    out = []
    for kind in Kind:
        context = bytes(32) if kind == Kind.OPEN else opening.context()
        slot = Slot(opening.run, opening.epoch, 0, 0, kind, context)
        decision = Decide(slot, cohort.members, b"", Nobody(), quorum=3, view_ms=1)
        turns = [cohort.place(decision.proposer(view)) for view in range(6)]
        encoded, name = encode(slot).hex(), slot.name().hex()
        out.append({"slot": encoded, "name": name, "seats": turns})
    return out


class Nobody:
    """A chair that is never asked: only whose turn it is follows from the slot alone."""

    def offer(self, _slot: Slot) -> None:
        raise NotImplementedError

    judge = cast = proven = offer


def _check() -> dict[str, Any]:
    ring = Ring(16, 12)
    parts = [np.frombuffer(stretch(f"part {i}", 48), "<u2") for i in range(3)]
    total, carry = checks.add(parts, ring, carry=True)
    assert carry is not None
    tags = [checks.combination(part, 4088, seed("beacon")) for part in parts]
    return {
        "seed": seed("beacon").hex(),
        "start": 4088,
        "parts": [part.tobytes().hex() for part in parts],
        "tags": tags,
        "sum": total.tobytes().hex(),
        "carry": checks.pack(carry, 3).hex(),
        "tag_of_sum": checks.combination_of_sum(
            total, carry, ring, 4088, seed("beacon")
        ),
    }


def _sketch() -> dict[str, Any]:
    """Two blocks, the second one longer; an update, a mask, and what comes through it."""
    ring, length = Ring(16, 10), 10_000
    update = np.tile(np.arange(100, dtype="<i2") - 50, 100).view("<u2")
    key = seed("mask of a sketch")
    masked = update.copy()
    masks.apply(masked, 0, [key], [])
    of_masked, of_mask = sketch.sketches(
        [[masked]], [key], length, ring, seed("beacon of a sketch")
    )
    found = sketch.of_update(of_masked, [of_mask], [], ring)
    return {
        "ring": [ring.bits, ring.input_bits],
        "length": length,
        "seed": seed("beacon of a sketch").hex(),
        "update": "entry j is j mod 100 - 50",
        "mask_key": key.hex(),
        "packed": hashlib.sha256(sketch.pack([of_masked, of_mask], ring)).hexdigest(),
        "of_mask": [[int(x) for x in row] for row in of_mask],
        "of_update": [[int(x) for x in row] for row in found],
    }


def _envelopes(cohort: Cohort, opening: Opening) -> list[dict[str, Any]]:
    uploads = [
        Upload(
            (seed(f"shard {i}"),) * 4,
            tuple(
                b"" if j == i else key_digest(seed(f"pair {min(i, j)} {max(i, j)}"))
                for j in range(4)
            ),
        )
        for i in range(2)
    ]
    good = say(
        sign("ada"),
        PublicKey(node_key("ada")),
        opening.context(),
        Said(cohort.epoch.run, 0, 0, uploads[0]),
    )
    cases = [
        ("valid", "", good),
        ("invalid", "one bit of the signature", good[:-1] + bytes([good[-1] ^ 1])),
        ("invalid", "a byte after the end", good + b"\x00"),
        ("invalid", "cut short", good[:-1]),
        ("invalid", "another domain", good.replace(b"\xa5round", b"\xa5sound")),
    ]
    for expected, _, data in cases:
        try:
            hear(data)
            found = "valid"
        except ProtocolError:
            found = "invalid"
        assert found == expected
    return [{"expected": e, "reason": r, "envelope": d.hex()} for e, r, d in cases] + [
        {
            "uploads": [encode(each).hex() for each in uploads],
            "uploads_digest": uploads_digest(uploads).hex(),
            "inputs_digest": inputs_digest([seed("a"), seed("b")]).hex(),
        }
    ]


def _certificates(cohort: Cohort, order: list[str]) -> list[dict[str, Any]]:
    slot = Slot(cohort.epoch.run, cohort.name, 0, 0, Kind.OPEN, bytes(32))
    value = b"any value"
    vote = Vote(slot, Step.PRECOMMIT, 2, value_name(value))
    signed = [
        (i, speak(sign(name), PublicKey(node_key(name)), vote)[-64:])
        for i, name in enumerate(order)
    ]
    cases = [
        ("valid", "", signed[:3], value),
        ("invalid", "two votes of four", signed[:2], value),
        ("invalid", "one voter twice", [signed[0], signed[0], signed[1]], value),
        ("invalid", "votes for another value", signed[:3], b"another value"),
    ]
    out = []
    for expected, reason, votes, decided in cases:
        certificate = Certificate(slot, 2, decided, tuple(votes))
        try:
            certificate.check(cohort.members, cohort.thresholds.quorum, verified)
            found = "valid"
        except ProtocolError:
            found = "invalid"
        assert found == expected
        out.append(
            {
                "expected": expected,
                "reason": reason,
                "slot": slot.name().hex(),
                "certificate": encode(certificate).hex(),
            }
        )
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = json.dumps(build(), indent=1) + "\n"
    if parser.parse_args().check:
        return 0 if FILE.read_text() == text else 1
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
