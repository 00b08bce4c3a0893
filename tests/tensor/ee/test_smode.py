"""Two hosts, one-time pads: the products are right, the shares are worthless, traffic is
what was derived."""

import numpy as np
import pytest
import torch
from torch.func import functional_call
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from ee.errors import EncryptionError, UnsupportedModelError
from ee.smode import (
    Gaussian,
    HostShare,
    KeyHolder,
    PadLedger,
    PadReuseError,
    PadStream,
    Probes,
    Request,
    Ring,
    WrongProductError,
    arithmetic_named,
)
from ee.smode.cost import BlockShape, backward_values, forward_values
from ee.smode.holder import LayerSize
from ee.smode.model import share_model

pytestmark = pytest.mark.slow

SEED = bytes(range(32))
PADS = [Ring(), Gaussian(10), Gaussian(20, "float64"), Gaussian(30, "float64")]
NAMES = [a.name for a in PADS]


def _bert(layers: int = 2) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=16,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertModel(config).eval()


def _llama(**more) -> LlamaModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=64, max_position_embeddings=16,
        **more,
    )  # fmt: skip
    return LlamaModel(config).eval()


def _session(model, arithmetic, seed: bytes = SEED):
    """The two hosts joined to a key holder without a wire; returns what host 1 saw too."""
    shared = share_model(model, arithmetic)
    first = HostShare(arithmetic, shared.weights)
    second = HostShare(arithmetic, shared.weights, seed)
    seen: list[Request] = []

    def carry(a: Request, b: Request):
        seen.append(a)
        return first.answer(a), second.answer(b)

    holder = KeyHolder(arithmetic, PadLedger(seed, set()), carry, shared.sizes)
    shared.attach(holder)
    return shared, holder, seen


def _rows(rows: int = 24, width: int = 96, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, width))
    x[:, :3] *= 30  # outlier channels, as trained transformers have
    return x


@pytest.mark.parametrize("arithmetic", PADS, ids=NAMES)
def test_a_padded_product_is_the_product_within_its_stated_error(arithmetic):
    x = _rows()
    weight = np.random.default_rng(1).normal(size=(160, 96)) / 10
    ledger = PadLedger(SEED, set())
    split = arithmetic.split(x, ledger.stream, ledger.issue())
    matrix = arithmetic.public_weight(weight).T
    pad = arithmetic.pad(PadStream(SEED), 0, x.shape)
    joined = arithmetic.join(
        arithmetic.multiply(split.share, matrix), arithmetic.multiply(pad, matrix)
    )
    y = joined * split.scale * arithmetic.weight_scale(weight)
    plain = x @ weight.T
    error = np.sqrt(np.mean((y - plain) ** 2) / np.mean(plain**2))
    # fp32 rounds the weights once, which the pad has no part in.
    assert error <= 3 * arithmetic.expected_error(x) + 3e-8 * ("32" in arithmetic.name)
    wrong = arithmetic.pad(PadStream(bytes(32)), 0, x.shape)
    other = arithmetic.join(
        arithmetic.multiply(split.share, matrix), arithmetic.multiply(wrong, matrix)
    )
    y = other * split.scale * arithmetic.weight_scale(weight)
    assert np.linalg.norm(y - plain) > 10 * np.linalg.norm(plain)


def test_an_arithmetic_is_known_by_its_name():
    for arithmetic in PADS:
        again = arithmetic_named(arithmetic.name)
        assert (again.name, again.leak_bits) == (arithmetic.name, arithmetic.leak_bits)
    for odd in ("ring", "gauss16/2^4", "gauss32/2^", "gauss32/2^-3", "gauss32/2^100"):
        with pytest.raises(EncryptionError):
            arithmetic_named(odd)


def test_the_leak_bound_is_the_capacity_of_the_channel():
    assert Ring().leak_bits == 0.0
    assert Gaussian(10).leak_bits == pytest.approx(6.9e-7, rel=0.01)
    assert Gaussian(20, "float64").leak_bits == pytest.approx(6.6e-13, rel=0.01)
    assert 0 < Gaussian(30, "float64").leak_bits < 1e-18


@pytest.mark.parametrize("ratio", [0, 17])
def test_a_pad_too_small_or_too_large_for_its_type_is_refused(ratio):
    with pytest.raises(EncryptionError, match=f"ratio 2\\^{ratio}"):
        Gaussian(ratio)


def test_any_rows_explain_a_ring_share_equally_well():
    # Perfect secrecy, directly: for the share of x and any other rows there is one pad that
    # makes it the share of those, and all pads are equally likely.
    ring, stream = Ring(), PadStream(SEED)
    x, other = _rows(seed=1), _rows(seed=2)
    x[:, 0] = other[:, 0] = 1000.0  # one scale for both
    split = ring.split(x, stream, 5)
    fixed = np.rint(other / split.scale).astype(np.int64).view(np.uint64)
    explains = fixed - split.share
    told = ring.join(split.share, explains) * split.scale
    np.testing.assert_allclose(told, other, atol=1e-4)
    # The pad in use is as uniform as that one: half its bits are ones, in every place.
    bits = np.unpackbits(split.share.view(np.uint8), axis=1).reshape(-1, 64)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(bits))


def test_a_used_seed_is_refused():
    spent: set[bytes] = set()
    PadLedger(SEED, spent)
    with pytest.raises(PadReuseError, match="used before"):
        PadLedger(SEED, spent)


def test_a_host_refuses_a_pad_number_it_has_seen():
    ring = Ring()
    host = HostShare(ring, {"a": np.eye(4)}, SEED)
    host.answer(Request("a", False, 0, 2, None))
    host.answer(Request("a", False, 1, 2, None))
    with pytest.raises(PadReuseError, match="pad 1 after 1"):
        host.answer(Request("a", True, 1, 2, None))


@pytest.mark.parametrize("arithmetic", [Ring(), Gaussian(10)], ids=["ring", "gauss"])
def test_what_a_reused_pad_would_leak_is_the_difference_of_the_plaintexts(arithmetic):
    # The reason for the two refusals above: the ledger is passed by here.
    stream, x, other = PadStream(SEED), _rows(seed=1), _rows(seed=2)
    x[:, 0] = other[:, 0] = 100.0
    a, b = arithmetic.split(x, stream, 7), arithmetic.split(other, stream, 7)
    if arithmetic.name == "ring64":
        seen = (a.share - b.share).view(np.int64) * a.scale
    else:
        seen = (a.share - b.share) * a.scale
    np.testing.assert_allclose(seen, x - other, atol=0.05)
    fresh = arithmetic.split(other, stream, 8)
    assert np.abs(a.share.astype(float) - fresh.share.astype(float)).mean() > 0.5


def _spoiled(reply, spoil: float):
    product = reply.product.copy()
    product[1:2, 2:3] += product.dtype.type(spoil)
    return type(reply)(product)


@pytest.mark.parametrize("liar", [0, 1])
@pytest.mark.parametrize(
    ("arithmetic", "spoil"),
    [
        (Ring(), 1 << 40),
        (Ring(), 1 << 63),
        (Gaussian(10), 0.01),
        (Gaussian(10), np.nan),
    ],
)
def test_a_host_that_answers_wrongly_is_caught_by_a_secret_projection(
    arithmetic, spoil, liar
):
    weight = np.random.default_rng(0).normal(size=(40, 64))
    x = np.random.default_rng(1).normal(size=(5, 64))
    sizes = {"a": LayerSize(64, 40, arithmetic.weight_scale(weight))}

    def product(*, honest: bool, probed: bool):
        hosts = [HostShare(arithmetic, {"a": weight}, s) for s in (None, SEED)]

        def carry(*requests: Request):
            replies = [h.answer(r) for h, r in zip(hosts, requests, strict=True)]
            if not honest:
                replies[liar] = _spoiled(replies[liar], spoil)
            return tuple(replies)

        probes = Probes(arithmetic, {"a": weight}, bytes(32)) if probed else None
        ledger = PadLedger(SEED, set())
        holder = KeyHolder(arithmetic, ledger, carry, sizes, probes)
        y = holder.product("a", x)
        if honest:
            holder.product("a", y, backward=True)
        return y

    product(honest=True, probed=True)
    with pytest.raises(WrongProductError, match="a: 1 of 5 rows"):
        product(honest=False, probed=True)
    # Without the projection the lie goes through: that is what it is for.
    wrong = product(honest=False, probed=False)
    assert not np.array_equal(wrong, product(honest=True, probed=False))


def test_hosts_refuse_what_is_not_theirs():
    ring = Ring()
    share = np.zeros((2, 4), np.uint64)
    plain, seeded = (
        HostShare(ring, {"a": np.eye(4)}),
        HostShare(ring, {"a": np.eye(4)}, SEED),
    )
    with pytest.raises(EncryptionError, match="no layer 'b'"):
        plain.answer(Request("b", False, 0, 2, share))
    with pytest.raises(EncryptionError, match="no seed"):
        plain.answer(Request("a", False, 0, 2, None))
    with pytest.raises(EncryptionError, match="seeded host"):
        seeded.answer(Request("a", False, 0, 2, share))
    with pytest.raises(EncryptionError, match=r"share is \(2, 4\)"):
        plain.answer(Request("a", False, 0, 3, share))


def test_a_host_that_answers_another_shape_is_noticed():
    def carry(a: Request, b: Request):
        host = HostShare(Ring(), {"a": np.eye(3)})
        reply = host.answer(Request("a", False, 0, 2, np.zeros((2, 3), np.uint64)))
        return reply, reply

    holder = KeyHolder(
        Ring(), PadLedger(SEED, set()), carry, {"a": LayerSize(4, 4, 1.0)}
    )
    with pytest.raises(EncryptionError, match=r"answered \(2, 3\)"):
        holder.product("a", np.ones((2, 4)))


@pytest.mark.parametrize("arithmetic", PADS, ids=NAMES)
@pytest.mark.parametrize("make", [_bert, _llama])
def test_a_stock_model_on_two_hosts_answers_as_it_does_alone(make, arithmetic):
    ids = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    plain = make()(input_ids=ids).last_hidden_state.detach()
    shared, holder, seen = _session(make(), arithmetic)
    with torch.no_grad():
        out = shared.model(input_ids=ids).last_hidden_state
    assert float((out - plain).abs().max()) <= 0.02 * float(plain.abs().max())
    if arithmetic.name != "gauss32/2^10":
        assert float((out - plain).abs().max()) <= 3e-5 * float(plain.abs().max())
    assert holder.account.rounds == len(seen) == 4 * 2


def _plain_lora(model, sizes: list[str], ups, downs, ids, target):
    """Loss of the plain model with W + B A written out; no split, no pad."""
    named = dict(model.named_parameters())
    for name, up, down in zip(sizes, ups, downs, strict=True):
        named[f"{name}.weight"] = named[f"{name}.weight"].detach() + 0.5 * up @ down
    out = functional_call(model, named, kwargs={"input_ids": ids})
    return ((out.last_hidden_state - target) ** 2).mean()


@pytest.mark.parametrize("make", [_bert, _llama])
def test_lora_on_two_hosts_trains_as_it_does_alone(make):
    ids = torch.randint(0, 50, (4, 7), generator=torch.Generator().manual_seed(1))
    target = torch.randn(4, 7, 32, generator=torch.Generator().manual_seed(2))
    model = make()
    shared, holder, _ = _session(model, Ring())
    ups = shared.adapt(rank=3, scale=0.5, seed=1)
    names = [n for n, m in model.named_modules() if hasattr(m, "adapt")]
    downs = [model.get_submodule(n).down for n in names]
    reference = make()
    mirror = [torch.zeros_like(u, requires_grad=True) for u in ups]
    ours = torch.optim.AdamW(ups, lr=0.02)
    plain = torch.optim.AdamW(mirror, lr=0.02)
    losses = []
    for _ in range(8):
        loss = ((shared.model(input_ids=ids).last_hidden_state - target) ** 2).mean()
        loss.backward()
        other = _plain_lora(reference, names, mirror, downs, ids, target)
        other.backward()
        assert float(loss.detach()) == pytest.approx(float(other.detach()), rel=1e-4)
        for optimiser in (ours, plain):
            optimiser.step()
            optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.97 * losses[0]
    assert holder.account.leak_bits == 0.0
    for up, copy in zip(ups, mirror, strict=True):
        assert float((up - copy).detach().abs().max()) < 0.01


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (_bert, BlockShape(32, 128, 32, gated=False)),
        (_llama, BlockShape(32, 64, 16, gated=True)),
        (
            lambda: _llama(head_dim=12),
            BlockShape(32, 64, 24, gated=True, q_width=48),
        ),
    ],
    ids=["bert", "llama", "wide heads"],
)
def test_traffic_is_what_was_derived(model, shape):
    model = model()
    arithmetic = Gaussian(10)
    shared, holder, _ = _session(model, arithmetic)
    shared.adapt(rank=2, scale=1.0, seed=0)
    ids = torch.zeros(2, 8, dtype=torch.long)
    out = shared.model(input_ids=ids).last_hidden_state
    sent = holder.account.values_up + holder.account.values_down
    assert sent == 16 * forward_values(shape, 2)
    assert holder.account.bytes_up == 4 * holder.account.values_up
    out.sum().backward()
    total = holder.account.values_up + holder.account.values_down
    assert total - sent == 16 * backward_values(shape, 2)


def test_the_derived_counts_are_those_of_the_standard_shapes():
    d = 768
    assert forward_values(BlockShape(d, 4 * d, d, gated=False), 1) == 25 * d
    assert forward_values(BlockShape(d, 4 * d, d, gated=True), 1) == 33 * d


def test_an_architecture_without_a_plan_and_a_layer_in_no_group_are_refused():
    odd = _bert()
    odd.config.model_type = "odd"
    with pytest.raises(UnsupportedModelError, match="'odd'"):
        share_model(odd, Ring())
    model = _bert()
    model.encoder.layer[1].extra = torch.nn.Linear(4, 4)
    with pytest.raises(UnsupportedModelError, match=r"encoder\.layer\.1\.extra"):
        share_model(model, Ring())
    with pytest.raises(EncryptionError, match=r"in torch\.bfloat16, needs float32"):
        share_model(_bert().bfloat16(), Ring())
    loose = share_model(_bert(), Ring())
    with pytest.raises(EncryptionError, match="no session"):
        loose.model(input_ids=torch.zeros(1, 2, dtype=torch.long))
