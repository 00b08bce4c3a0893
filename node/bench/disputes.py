"""A federation with a host that anchored an answer, somebody who disputes it, and what it costs."""

from collections.abc import Mapping
from dataclasses import astuple, replace
from typing import Any

import nacl.signing
import numpy as np

from ee import integer
from ee.integer import (
    Header,
    IntegerTrunk,
    Layer,
    Matrix,
    RowArray,
    TrunkConfig,
)
from node.adapters.deployment import Settings, create_address
from node.bench.abi import compiled
from node.bench.federation import Federation, Sent, first
from node.bench.machines import Machine, account
from node.verifier import dispute
from node.verifier.replay import Model
from protocol import merkle
from protocol.boundary import RowOpening, boundary_root, open_row
from protocol.dispute import STEPS, Claim, NormProof, Proof, Row, claim_from, salted
from protocol.receipt import Order, batch_proof, batch_root, seal_order, seal_receipt
from protocol.types import PublicKey

HOUR_S, BOND, RICH = 3600, 100, 10_000
SALT = bytes(range(32))
CLINIC, HOST = (nacl.signing.SigningKey(bytes([i]) * 32) for i in (1, 2))
OWNER = account("owner")
ACCOUNTS = ("host", "watcher", "other")
LIAR, WATCHER, OTHER = map(account, ACCOUNTS)


def _key(signing: nacl.signing.SigningKey) -> PublicKey:
    return PublicKey(bytes(signing.verify_key))


def _sealer(signing: nacl.signing.SigningKey) -> Any:
    return lambda message: signing.sign(message).signature


class DisputeWorld:
    """`after` may be bent before `anchor`, the rows of `trace` before `answer`."""

    def __init__(self, machine: Machine, trunk: IntegerTrunk, rows: RowArray) -> None:
        self.gas = 0
        self.trunk, self.model = trunk, Model.read(integer.encode(trunk))
        self.boundaries = list(trunk.forward(rows).boundaries)
        self.shape = rows.shape
        coin_at = create_address(OWNER, machine.nonce(OWNER))
        assert machine.create(OWNER, compiled("DevCoin").bytecode)[0] == coin_at
        settings = Settings(token=coin_at, bond=BOND, move_s=HOUR_S)
        self.evm = Federation(machine, OWNER, settings)
        self.evm.know("coin", compiled("DevCoin"), coin_at)
        self.coin = coin_at
        for number, who in enumerate((LIAR, WATCHER, OTHER)):
            keys = (bytes([number + 1]) * 32, bytes([number + 9]) * 32)
            self._send(OWNER, "registry", "admit", *keys, who, 12, f"m{number}")
            self._send(who, "coin", "mint", who, RICH)
            self._send(who, "coin", "approve", self.evm.at["board"], RICH)
        self._send(LIAR, "board", "stake", 3 * BOND)

    def _send(self, who: str, name: str, function: str, *rest: Any) -> Sent:
        sent = self.evm.send(who, name, function, *rest)
        self.gas = sent.gas
        return sent

    def packed(self, boundary: int) -> bytes:
        return integer.pack_rows(self.boundaries[boundary])

    def anchor(self, place: int = 1, of: int = 3, job: int = 0) -> None:
        """Seal what `boundaries` say, among other receipts."""
        roots = [
            boundary_root(self.packed(one), self.shape, one, SALT)
            for one in range(len(self.boundaries))
        ]
        order = Order(
            self.model.root, _key(HOST), bytes([job]) * 16, self.shape, roots[0]
        )
        sealed_order = seal_order(_sealer(CLINIC), _key(CLINIC), order)
        self.sealed = seal_receipt(
            _sealer(HOST), _key(HOST), sealed_order, roots[1:], 1_800_000_000
        )
        receipts = [b"another %d" % n for n in range(of)]
        receipts[place] = self.sealed
        self.root, self.place = batch_root(receipts), batch_proof(receipts, place)
        self._send(LIAR, "anchors", "anchorReceipts", self.root, of)

    def accuse(
        self, layer: int, case: int, token: int, *, by: str = WATCHER, **bent: Any
    ) -> tuple[int, Claim]:
        fields = {
            "host": LIAR,
            "root": self.root,
            "index": self.place.index,
            "path": self.place.path,
            "receipt": self.sealed,
            **bent,
        }
        sent = self._send(
            by, "disputes", "accuse", *fields.values(), layer, case, token
        )
        opened = first(sent.events, "DisputeOpened")
        names = [item["name"] for item in CLAIM_FIELDS]
        told = dict(zip(names, opened["claim"], strict=True))
        assert opened["leaf"] == merkle.leaf_digest(self.sealed)
        return int(opened["number"]), claim_from(told)

    def trace(self, claim: Claim) -> list[Row]:
        """The true rows, from the boundary before the layer as it was anchored."""
        found = dispute.traced(self.model, claim, self.packed(claim.layer))
        return list(salted(found, SALT, claim))

    def answer(self, number: int, claim: Claim, rows: list[Row]) -> tuple[bytes, ...]:
        hashes = tuple(row.digest(step, claim) for step, row in enumerate(rows))
        assert len(hashes) == STEPS
        self._send(LIAR, "disputes", "answer", number, hashes)
        return hashes

    def ask_and_show(
        self,
        number: int,
        claim: Claim,
        hashes: tuple[bytes, ...],
        step: int,
        row: Row,
    ) -> Row:
        self._send(WATCHER, "disputes", "ask", number, step)
        sent = self._send(
            LIAR, "disputes", "show", number, astuple(claim), hashes, astuple(row)
        )
        shown = first(sent.events, "RowShown")
        assert shown["step"] == step
        return Row(*shown["row"])

    def around(self, claim: Claim) -> tuple[RowOpening, RowOpening]:
        place = claim.case, claim.token
        before, after = (
            open_row(self.packed(boundary), self.shape, boundary, SALT, *place)
            for boundary in (claim.layer, claim.layer + 1)
        )
        return before, after

    def find(self, claim: Claim, rows: list[Row]) -> tuple[int, int] | None:
        before, after = self.around(claim)
        layer = self.trunk.layers[claim.layer]
        return dispute.wrong_channel(layer, rows, before.row, after.row)

    def proof_at(self, claim: Claim, rows: list[Row], place: tuple[int, int]) -> Proof:
        return dispute.proof(self.model, claim, rows, place, *self.around(claim))

    def prove(
        self,
        number: int,
        claim: Claim,
        hashes: tuple[bytes, ...],
        proof: Proof,
        *,
        by: str = WATCHER,
    ) -> Sent:
        return self._send(
            *(by, "disputes", "prove", number, astuple(claim), hashes, astuple(proof))
        )

    def find_norm(self, claim: Claim, rows: list[Row]) -> tuple[int, int] | None:
        before, _ = self.around(claim)
        return dispute.wrong_norm(self.trunk.header, rows, before.row)

    def norm_at(
        self, claim: Claim, rows: list[Row], place: tuple[int, int]
    ) -> NormProof:
        before, _ = self.around(claim)
        return dispute.norm_proof(self.model, rows, place, before)

    def prove_norm(
        self,
        number: int,
        claim: Claim,
        hashes: tuple[bytes, ...],
        step: int,
        proof: NormProof,
    ) -> Sent:
        about = (number, astuple(claim), hashes, step)
        return self._send(WATCHER, "disputes", "proveNorm", *about, astuple(proof))

    def held(self) -> dict[str, int]:
        """What the board holds for whom, the host's free stake among it."""
        owed = {
            name: self.evm.call("board", "credits", self.coin, who)
            for name, who in (("host", LIAR), ("watcher", WATCHER))
        }
        return {**owed, "stake": self.evm.call("board", "stakeOf", LIAR)[0]}


CLAIM_FIELDS: list[Mapping[str, Any]] = next(
    one["components"]
    for item in compiled("Disputes").items
    if item.get("name") == "DisputeOpened"
    for one in item["inputs"]
    if one["name"] == "claim"
)


def bent(row: Row, entry: int, by: int = 1, size: int = 4) -> Row:
    """With one number moved."""
    at = entry * size
    value = int.from_bytes(row.entries[at : at + size], "big", signed=True) + by
    moved = value.to_bytes(size, "big", signed=True)
    return replace(row, entries=row.entries[:at] + moved + row.entries[at + size :])


def altered(rows: RowArray, place: tuple[int, int, int], by: int = 1) -> RowArray:
    made = np.array(rows)
    made[place] += by
    return made


def measure(machine: Machine) -> dict[str, int]:
    """Gas of each move, and of a proof at both inner sizes, for a trunk like BERT-base."""
    config = TrunkConfig(
        layers=12,
        width=768,
        inner=3072,
        heads=12,
        kv_heads=12,
        head_dim=64,
        tokens=8,
        residual_bits=12,
        norm_bias=403,
        score_multiplier=756_000,
        causal=False,
    )
    random = np.random.default_rng(768)
    layer = Layer.of(
        {
            name: Matrix(
                random.integers(-63, 64, shape, np.int8),
                np.full(shape[0], 20_000, np.int32),
                # The sums grow with the root of their length; entries of order one come out.
                46 if name == "down" else 31,
            )
            for name, shape in config.matrix_shapes().items()
        }
    )
    table = np.zeros((config.tokens, config.head_dim // 2), np.int16)
    header = Header(config, table + (1 << 14), table)
    rows = random.integers(-(1 << 14), 1 << 14, (2, 8, 768), np.int32)
    world = DisputeWorld(machine, IntegerTrunk(header, (layer,) * config.layers), rows)
    world.boundaries[7] = altered(world.boundaries[7], (1, 5, 3))
    world.anchor(place=700, of=1024)
    gas: dict[str, int] = {}
    for by, matrix, name in ((WATCHER, 0, "768"), (OTHER, 6, "3072")):
        number, claim = world.accuse(6, 1, 5, by=by)
        gas["dispute_accuse"] = world.gas
        true = world.trace(claim)
        told = list(true)
        if matrix == 0:
            told[1] = bent(true[1], 700)
        hashes = world.answer(number, claim, told)
        gas["dispute_answer"] = world.gas
        if matrix == 0:
            world.ask_and_show(number, claim, hashes, 1, told[1])
            gas["dispute_show_768"] = world.gas
        place = world.find(claim, told)
        assert place is not None
        assert place[0] == matrix
        proof = world.proof_at(claim, told, place)
        world.prove(number, claim, hashes, proof, by=by)
        gas[f"dispute_{name}"] = world.gas
    gas["dispute_norm_768"] = _norm_gas(world)
    return gas


def _norm_gas(world: DisputeWorld) -> int:
    """A wrong norm of 768 numbers, with matrices that follow from it."""
    world.anchor(place=1, of=2, job=1)
    number, claim = world.accuse(6, 1, 5)
    rows = world.trace(claim)
    rows[0] = bent(rows[0], 700, -1, size=1)
    hashes = world.answer(number, claim, rows)
    place = world.find_norm(claim, rows)
    assert place == (0, 700)
    proof = world.norm_at(claim, rows, place)
    world.prove_norm(number, claim, hashes, 0, proof)
    return world.gas
