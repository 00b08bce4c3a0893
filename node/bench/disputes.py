"""A federation with a host that anchored an answer, somebody who disputes it, and what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any, ClassVar

import nacl.signing
import numpy as np

from ee import integer
from ee.integer import (
    LLAMA,
    Gain,
    Header,
    IntegerTrunk,
    Layer,
    Matrix,
    RowArray,
    Style,
    TrunkConfig,
)
from ee.integer.spec import ACTIVATION_SIZE
from node.adapters.deployment import Settings, create_address
from node.bench.abi import Abi, compiled
from node.bench.federation import Federation, Sent, first
from node.bench.machines import Machine, account
from node.verifier.dispute import Prosecutor, trunk_of
from node.verifier.replay import Model
from protocol import merkle
from protocol.boundary import boundary_root
from protocol.dispute import (
    Asked,
    Claim,
    Game,
    Leaf,
    Part,
    Proof,
    SaltProof,
    Trace,
    claim_from,
)
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
    """`boundaries` may be bent before `anchor`, the parts of a claim before `answer`."""

    replace: ClassVar[Mapping[str, Abi]] = {}
    """Other code in the place of a contract."""

    def __init__(self, machine: Machine, trunk: IntegerTrunk, rows: RowArray) -> None:
        self.gas = 0
        self.moves: dict[str, int] = {}
        """What the first of each kind of move cost."""
        self.trunk, self.model = trunk, Model.read(integer.encode(trunk))
        self.model_root = self.model.root
        self.boundaries = list(trunk.forward(rows).boundaries)
        self.shape = rows.shape
        coin_at = create_address(OWNER, machine.nonce(OWNER))
        assert machine.create(OWNER, compiled("DevCoin").bytecode)[0] == coin_at
        settings = Settings(token=coin_at, bond=BOND, move_s=HOUR_S)
        self.evm = Federation(machine, OWNER, settings, replace=self.replace)
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
        if name == "disputes" and not function.startswith("prove"):
            self.moves.setdefault(function, sent.gas)
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
            self.model_root, _key(HOST), bytes([job]) * 16, self.shape, roots[0]
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
            "trunk": astuple(trunk_of(self.model)),
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

    def entries(self, claim: Claim) -> list[list[bytes]]:
        """The true parts, from the boundary before the layer as it was anchored."""
        rows = self.boundaries[claim.layer][claim.case_number : claim.case_number + 1]
        layer = self.trunk.layers[claim.layer]
        found = integer.trace_token(self.trunk.header, layer, rows, claim.token)
        return [list(leaves) for leaves in found]

    def prosecutor(self, claim: Claim) -> Prosecutor:
        before, after = (self.packed(claim.layer + i) for i in (0, 1))
        return Prosecutor(self.model, claim, SALT, before, after)

    def answer(self, number: int, trace: Trace) -> None:
        self._send(LIAR, "disputes", "answer", number, trace.roots)

    def ask(
        self, number: int, claim: Claim, asked: Asked, *, by: str = WATCHER
    ) -> Sent:
        about = (number, astuple(claim), *astuple(asked))
        return self._send(by, "disputes", "ask", *about)

    def show(self, number: int, claim: Claim, trace: Trace, asked: Asked) -> Sent:
        """What the host shows when it is asked."""
        about = ("disputes", "show", number, astuple(claim), trace.roots)
        if asked.level == 0:
            leaf = trace.leaf(asked.part, asked.index)
            return self._send(LIAR, *about, astuple(leaf))
        place = astuple(asked)
        about = ("disputes", "split", number, astuple(claim), trace.roots)
        return self._send(LIAR, *about, trace.below(*place), trace.path(*place))

    def play(
        self, number: int, claim: Claim, host: Trace, *, by: str = WATCHER
    ) -> tuple[Proof | SaltProof, int]:
        """The host answers with `host`; asked until something can be proved, and how often."""
        game = Game(number, b"", b"", b"", claim)
        self.answer(number, host)
        game.answered(host.roots)
        asks = 0
        while isinstance(found := self.prosecutor(claim).move(game), Asked):
            self.ask(number, claim, found, by=by)
            sent = self.show(number, claim, host, found)
            if found.level:
                told = first(sent.events, "NodesShown")
                game.nodes_shown(found, told["nodes"])
            else:
                told = first(sent.events, "LeafShown")
                game.leaf_shown(told["part"], told["index"], Leaf(*told["leaf"]))
            asks += 1
        return found, asks

    def prove(
        self,
        number: int,
        claim: Claim,
        roots: Sequence[bytes],
        proof: Proof | SaltProof,
        *,
        by: str = WATCHER,
    ) -> Sent:
        about = (number, astuple(claim), roots)
        if isinstance(proof, SaltProof):
            return self._send(by, "disputes", "proveSalt", *about, *astuple(proof))
        return self._send(by, "disputes", "prove", *about, astuple(proof))

    def held(self) -> dict[str, int]:
        """What the board holds for whom, the host's free stake and everybody's share."""
        council = self.evm.at["council"]
        owed = {
            name: self.evm.call("board", "credits", self.coin, who)
            for name, who in (("host", LIAR), ("watcher", WATCHER), ("all", council))
        }
        return {**owed, "stake": self.evm.call("board", "stakeOf", LIAR)[0]}


CLAIM_FIELDS: list[Mapping[str, Any]] = next(
    one["components"]
    for item in compiled("Disputes").items
    if item.get("name") == "DisputeOpened"
    for one in item["inputs"]
    if one["name"] == "claim"
)


def altered(rows: RowArray, place: tuple[int, int, int], by: int = 1) -> RowArray:
    made = np.array(rows)
    made[place] += by
    return made


def flipped(entries: bytes, at: int) -> bytes:
    """With the last bit of one byte another."""
    return entries[:at] + bytes([entries[at] ^ 1]) + entries[at + 1 :]


LONGEST = 128
"""Tokens of a sequence for which gas is measured."""


STOCK = Style(centred=True, post=False, rotary=True, gated=False)
"""As ESM: everything that op-spec 2 costs more than op-spec 1."""
BERT = Style(centred=True, post=True, rotary=False, gated=False)


def measure(machine: Machine) -> dict[str, int]:
    """Gas of each move, and of a proof of each part, for a trunk like BERT-base.

    Those of op-spec 2 are told of the parts that have one, as `dispute_stock_*` where norms come
    first and as `dispute_bert_*` where they come last.
    """
    world = DisputeWorld(machine, *_like_bert())
    gas = {f"dispute_{name}": one for name, one in _proofs(world).items()}
    gas |= {f"dispute_{name}": one for name, one in world.moves.items()}
    for kind, style in (("stock", STOCK), ("bert", BERT)):
        proofs = _proofs(DisputeWorld(machine, *_like_bert(style)))
        gas |= {f"dispute_{kind}_{name}": one for name, one in proofs.items()}
    gas["dispute_first_stock_middle"] = first_proof(machine, Part.MIDDLE, STOCK)
    gas["dispute_first_bert_base"] = first_proof(machine, Part.BASE, BERT)
    return gas


def first_proof(machine: Machine, part: Part, style: Style | None) -> int:
    """Gas of the first proof that anybody makes before contracts that were just deployed."""
    gas = _proof(DisputeWorld(machine, *_like_bert(style)), part)
    if gas is None:
        raise ValueError(f"a block of {style} has no part {part.name}")
    return gas


def _proofs(world: DisputeWorld) -> dict[str, int]:
    """Gas of a proof of each part that there is."""
    gas: dict[str, int] = {}
    # The first of all pays for a slot that nobody wrote before, so it is measured again.
    for job, part in enumerate((Part.MIXED_ROW, *Part)):
        found = _proof(world, part, job)
        if found is not None:
            gas[part.name.lower()] = found
    return gas


def _proof(world: DisputeWorld, part: Part, job: int = 0) -> int | None:
    """Gas of a proof of one part, against a receipt of its own; None where there is no such part.

    Of `Part.AFTER` the world's rows stay bent, so it comes last.
    """
    token = LONGEST - 1
    if part is Part.AFTER:
        world.boundaries[7] = altered(world.boundaries[7], (0, token, 3))
    world.anchor(place=700, of=1024, job=job)
    number, claim = world.accuse(6, 0, token)
    entries = world.entries(claim)
    if part is not Part.AFTER:
        if not entries[part]:
            return None
        # The last leaf and its last entry: the longest way.
        leaf = entries[part][-1]
        entries[part][-1] = flipped(leaf, len(leaf) - 1)
    trace = Trace(claim, SALT, entries)
    proof, _ = world.play(number, claim, trace)
    world.prove(number, claim, trace.roots, proof)
    return world.gas


def _like_bert(style: Style | None = None) -> tuple[IntegerTrunk, RowArray]:
    config = TrunkConfig(
        layers=12,
        width=768,
        inner=3072,
        heads=12,
        kv_heads=12,
        head_dim=64,
        tokens=LONGEST,
        residual_bits=12,
        norm_bias=403,
        score_multiplier=756_000,
        causal=False,
        op_spec=1 if style is None else 2,
        style=style or LLAMA,
    )
    random = np.random.default_rng(768)
    bias = None if style is None else np.full(config.inner, -3000, np.int32)
    layer = Layer.of(
        {
            name: Matrix(
                random.integers(-63, 64, shape, np.int8),
                np.full(shape[0], 20_000, np.int32),
                # The sums grow with the root of their length; entries of order one come out.
                46 if name == "down" else 31,
                None if bias is None else bias[: shape[0]],
            )
            for name, shape in config.matrix_shapes().items()
        },
        # Entries of order one come out, as they go in.
        (Gain(np.full(768, 1 << 20, np.int32), 24, bias[:768]),) * config.norms
        if bias is not None
        else (),
    )
    turns = random.uniform(0, 6.3, config.table_shape)
    tables = ((np.cos(turns), np.sin(turns)), 1 << 14)
    cos, sin = (np.rint(one * tables[1]).astype(np.int16) for one in tables[0])
    rows = random.integers(-(1 << 14), 1 << 14, (1, LONGEST, 768), np.int32)
    own = None
    if style is not None:
        own = random.integers(0, 1 << 16, ACTIVATION_SIZE).astype(np.uint32)
    header = Header(config, cos, sin, own)
    return IntegerTrunk(header, (layer,) * config.layers), rows
