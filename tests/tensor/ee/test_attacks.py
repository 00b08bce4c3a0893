"""Each attack works where nothing is keyed, breaks what it is said to break, and stays at
chance where it is said to; on toys, so that it takes seconds."""

import math

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from ee.arch.sites import Options, Strength
from ee.attacks.anchors import known_plaintext
from ee.attacks.audit import INVARIANT, PERMUTED, leak_audit, share_audit
from ee.attacks.base import Base, fold_gains
from ee.attacks.causal import train_causal
from ee.attacks.fingerprint import attention_logits
from ee.attacks.frequency import substitution
from ee.attacks.gradient import gradient_span, query_gradient
from ee.attacks.inverter import trained_inverter
from ee.attacks.keying import KeyedBody, Observed
from ee.attacks.score import recovery
from ee.attacks.search import UNKNOWN
from ee.attacks.share import classifier
from ee.attacks.table import table_matching
from ee.attacks.view import KeyedView, PlainView, ShareView
from ee.attacks.vocabulary import Text, inner_products, nearest_rows, sorted_rows
from ee.attacks.weights import match_blocks, weight_matching
from ee.errors import EncryptionError, UnsupportedModelError
from ee.smode import Gaussian, HostShare, KeyHolder, PadLedger, Ring
from ee.smode.model import share_model
from ee.split import split_model

pytestmark = pytest.mark.slow

WORDS, TOKENS = 40, 6
KEY = bytes(range(32))


def _llama(seed: int = 0) -> Base:
    torch.manual_seed(seed)
    body = LlamaModel(
        LlamaConfig(
            vocab_size=WORDS,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            max_position_embeddings=16,
        )
    )
    torch.nn.init.normal_(body.embed_tokens.weight, std=0.5)
    fold_gains(body)
    return Base(body)


def _bert(seed: int = 0) -> Base:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=16,
    )  # fmt: skip
    body = BertModel(config, add_pooling_layer=False)
    for name, parameter in body.named_parameters():
        if "LayerNorm" in name or name.endswith("bias"):
            parameter.data += 0.1 * torch.randn_like(parameter)
    return Base(body)


def _text() -> Text:
    template = torch.full((TOKENS,), UNKNOWN)
    template[0] = 0
    return Text(template, torch.arange(1, WORDS), 0)


def _texts(count: int, seed: int = 0) -> torch.Tensor:
    """A language: each word has three likely successors, whatever the seed of the texts."""
    rules = torch.Generator().manual_seed(99)
    follow = torch.randint(1, WORDS, (WORDS, 3), generator=rules)
    draw = torch.Generator().manual_seed(seed)
    ids = torch.zeros(count, TOKENS, dtype=torch.long)
    usual = torch.arange(1, WORDS, dtype=torch.float).reciprocal()
    for place in range(1, TOKENS):
        pick = torch.multinomial(
            torch.tensor([6.0, 3.0, 1.0]), count, True, generator=draw
        )
        ids[:, place] = follow[ids[:, place - 1], pick]
        any_word = 1 + torch.multinomial(usual, count, True, generator=draw)
        free = torch.rand(count, generator=draw) < 0.3
        ids[free, place] = any_word[free]
    return ids


IDS = _texts(5)
DEPTHS = [0, pytest.param(1, marks=pytest.mark.slow)]
LOW = 0.3  # chance is about 1/20 on toys of five texts


def _views(make, depth: int = 0):
    """Plain, keyed with the base public, keyed with it private, one host of S-mode."""
    base, other = make(0), make(1)
    return (
        PlainView(base, base, depth),
        KeyedView(base, base, depth, KEY),
        KeyedView(other, base, depth, KEY),
        ShareView(base, Gaussian(10), KEY),
    )


def test_recovery_is_balanced_over_the_words_of_the_text():
    truth = torch.tensor([[1, 1, 1, 2], [1, 1, 1, 3]])
    found = recovery(torch.full_like(truth, 1), truth, 100)
    assert found.value == pytest.approx(1 / 3)
    assert found.chance == pytest.approx(1 / 3)
    assert found.detail["occurrences"] == 0.75
    assert recovery(truth, truth, 100).detail["sequences"] == 1.0


@pytest.mark.parametrize("make", [_llama, _bert])
def test_an_attacked_host_has_the_rows_its_keyed_trunk_runs_on(make):
    # The suite attacks the product's own keyed trunk, not a copy of its algebra.
    base = make()
    body = KeyedBody(base, 1, KEY)
    with torch.no_grad():
        sent = body.key.enter(split_model(base.model, stem_layers=1).build_stem()(IDS))
        out = body.trunk(inputs_embeds=sent, output_hidden_states=True)
    seen = KeyedView(base, base, 1, KEY).observed(IDS).rows
    assert float((out.hidden_states[0] - seen).norm() / seen.norm()) < 1e-5
    plain = base.rows(IDS, 1)
    assert float((seen.double() @ body.residual.T - plain).abs().max()) < 1e-5
    assert float((seen - plain).norm()) > float(plain.norm()) / 2


@pytest.mark.parametrize("depth", DEPTHS)
def test_inner_products_read_a_rotated_causal_body_and_sorted_rows_do_not(depth):
    plain, public, private, share = _views(_llama, depth)
    for attack, breaks in ((inner_products, True), (sorted_rows, False)):
        value = {
            view: attack(view.attacker, view.observed(IDS), IDS, _text()).value
            for view in (plain, public, private, share)
        }
        assert value[plain] == 1.0
        assert (value[public] == 1.0) if breaks else (value[public] < LOW)
        assert value[private] < LOW
        assert value[share] < LOW


@pytest.mark.parametrize("depth", DEPTHS)
def test_sorted_rows_read_a_permuted_two_way_body(depth):
    plain, public, private, share = _views(_bert, depth)
    value = {
        view: sorted_rows(view.attacker, view.observed(IDS), IDS, _text()).value
        for view in (plain, public, private, share)
    }
    assert value[plain] == value[public] == 1.0
    assert value[private] < LOW
    assert value[share] < LOW


@pytest.mark.parametrize("make", [_llama, _bert])
def test_attention_logits_name_a_token_under_any_key(make):
    plain, public, private, share = _views(make)
    value = {
        view: attention_logits(view.attacker, view.observed(IDS), IDS, _text()).value
        for view in (plain, public, private, share)
    }
    assert value[plain] > 0.9
    assert value[public] > 0.9
    assert value[private] < LOW
    assert value[share] < LOW


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("make", [_llama, _bert])
def test_public_weights_give_the_key_and_with_it_the_text(make, depth):
    plain, public, private, share = _views(make, depth)
    found = {
        view: weight_matching(
            view.attacker, view.observed(IDS), IDS, _text(), view.body
        )
        for view in (plain, public, private)
    }
    assert found[plain].value == found[public].value == 1.0
    assert found[public].detail["key_error"] < 1e-4
    assert found[private].value < LOW
    assert found[private].detail["key_error"] > 1.0
    assert nearest_rows(share.attacker, share.observed(IDS), IDS, _text()).value < LOW


@pytest.mark.parametrize("strength", list(Strength))
@pytest.mark.parametrize("make", [_llama, _bert])
def test_no_strength_of_key_resists_the_matching_of_weights(make, strength):
    base = make()
    body = KeyedBody(base, 1, KEY, Options(strength))
    matched = match_blocks(base.block(1), body.block)
    assert float((matched.residual - body.residual).norm()) < 1e-3


def test_a_table_given_away_is_matched_without_anchors():
    draw = torch.Generator().manual_seed(0)
    scales = torch.linspace(1, 4, 24)
    table, other = (
        torch.empty(300, 24).exponential_(generator=draw) * scales for _ in range(2)
    )
    order = torch.randperm(300, generator=draw)
    key = torch.linalg.qr(torch.randn(24, 24, generator=draw))[0]
    assert table_matching(table, table[order], order).value == 1.0
    assert table_matching(table, table[order] @ key, order).value > 0.9
    assert table_matching(table, other[order] @ key, order).value < 0.05


def test_two_anchors_open_a_rotated_vocabulary_and_none_open_a_share():
    base, other = _llama(0), _llama(1)
    ids = torch.randint(
        0, 40, (400, TOKENS), generator=torch.Generator().manual_seed(3)
    )
    rows, theirs = (b.rows(ids, 1)[:, -1] for b in (base, other))
    view, share = KeyedView(base, base, 1, KEY), ShareView(base, Ring(), KEY)

    def found(plain, seen):
        return known_plaintext(plain, seen, torch.Generator().manual_seed(0))

    assert found(rows, rows).detail["half"] == 2
    assert found(rows, view.hide(rows)).detail["half"] == 2
    assert math.isinf(found(theirs, view.hide(rows)).detail["half"])
    hidden = found(rows, share.hide(rows))
    assert math.isinf(hidden.detail["half"])
    assert hidden.value < 0.05


def test_equal_rows_are_a_cipher_until_the_stem_has_a_block():
    ids, prior = _texts(600, seed=1)[:, 1:], _texts(2000, seed=2)[:, 1:]
    plain, public, private, share = _views(_llama)
    deep = KeyedView(_llama(0), _llama(0), 1, KEY)

    def found(view):
        full = torch.cat([torch.zeros(len(ids), 1, dtype=torch.long), ids], dim=1)
        return substitution(
            view.observed(full).rows[:, 1:], ids, prior, positional=False
        )

    assert found(plain).value > 0.5
    assert found(public).value > 0.5
    assert found(private).value > 0.5  # no weights are needed, so none protect
    assert found(public).detail["symbols"] <= 39
    assert found(deep).value < LOW
    assert found(share).value < 0.1


@pytest.mark.slow
def test_a_trained_inverter_reads_plain_rows_and_no_shares():
    base = _llama()
    train, ids = _texts(500, seed=1), _texts(60, seed=2)
    plain, share = PlainView(base, base, 1), ShareView(base, Gaussian(10), KEY)

    def found(view):
        return trained_inverter(
            view.plain_rows(base, train), train, view.imitate,
            view.observed(ids).rows, ids, seed=0, steps=100,
        )  # fmt: skip

    assert found(plain).value > 0.6
    assert found(share).value < 0.1


@pytest.mark.parametrize("make", [_llama, _bert])
def test_a_gradient_names_its_tokens_to_whoever_has_its_basis(make):
    base, other = make(0), make(1)
    ids = _texts(2, seed=4)
    rows = base.rows(ids, 0)
    pull = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    eye = torch.eye(32, dtype=torch.float64)
    body = KeyedBody(base, 0, KEY)
    turned = query_gradient(body.trunk, body.enter(rows), body.enter(pull))
    clear = query_gradient(base.model, rows, pull)
    assert gradient_span(base, clear, ids, _text(), eye).value == 1.0
    assert gradient_span(base, turned, ids, _text(), eye).value < 0.6
    block = body.block
    residual = match_blocks(base.block(0), block).residual
    assert gradient_span(base, turned, ids, _text(), residual).value == 1.0
    guess = match_blocks(other.block(0), block).residual
    assert gradient_span(other, turned, ids, _text(), guess).value < 0.6
    # More tokens than dimensions span everything, and a span of everything names nothing.
    many = base.rows(_texts(40, seed=5), 0)
    pulls = torch.randn(many.shape, generator=torch.Generator().manual_seed(1))
    summed = query_gradient(base.model, many, pulls)
    assert gradient_span(base, summed, ids, _text(), eye).value < 0.6


def test_a_classifier_learns_from_rows_and_not_from_a_share():
    base = _llama()
    ids = _texts(900, seed=6)
    labels = (ids == 7).any(1)
    pick = torch.cat([labels.nonzero()[:150, 0], (~labels).nonzero()[:150, 0]])
    pick = pick[torch.randperm(len(pick), generator=torch.Generator().manual_seed(0))]
    ids, labels = ids[pick], labels[pick].long()
    for arithmetic in (Gaussian(10), Ring()):
        share = ShareView(base, arithmetic, KEY)
        plain = share.plain_rows(base, ids)
        seen = share.observed(ids).rows
        leak = arithmetic.leak_bits
        assert classifier(plain, labels, leak_bits=leak, seed=0).value > 0.9
        found = classifier(seen, labels, leak_bits=leak, seed=0)
        # 100 held out: four standard deviations of a fair coin.
        assert abs(found.value - 0.5) < 0.2
        assert found.detail["told_bits"] < 2e-4


@pytest.mark.parametrize("make", [_llama, _bert])
def test_only_the_listed_invariants_survive_a_key_and_none_a_pad(make):
    plain, public, _, share = _views(make)
    listed = INVARIANT if make is _llama else INVARIANT | PERMUTED
    clear = plain.observed(IDS)
    assert leak_audit(clear, clear, listed).value == 1.0  # the audit can fail
    found = leak_audit(clear, public.observed(IDS), listed)
    assert found.value == 0.0
    assert found.detail["listed_reproduced"] == 1.0
    rows = share.plain_rows(share.victim, IDS)
    before = Observed(rows, share.block, 0, normed=True)
    assert share_audit(before, before).value == 1.0
    assert share_audit(before, share.observed(IDS)).value == 0.0


def test_the_share_an_attack_sees_is_the_message_the_key_holder_sends():
    base, arithmetic = _bert(), Gaussian(10)
    seen = ShareView(base, arithmetic, KEY).observed(IDS).rows
    model = _bert().model
    shared = share_model(model, arithmetic)
    sent = []

    def carry(a, b):
        sent.append(a)
        first, second = (HostShare(arithmetic, shared.weights, s) for s in (None, KEY))
        return first.answer(a), second.answer(b)

    shared.attach(KeyHolder(arithmetic, PadLedger(KEY, set()), carry, shared.sizes))
    with torch.no_grad():
        model(input_ids=IDS)
    message = torch.from_numpy(sent[0].share).reshape(seen.shape)
    assert torch.equal(message, seen)


@pytest.mark.slow
def test_a_causal_model_trains_and_is_canonical():
    base, loss = train_causal(
        _texts(300), 40, seed=0, steps=60, width=32, layers=2, progress=lambda *_: None
    )
    again, _ = train_causal(_texts(300), 40, seed=0, steps=60, width=32, layers=2)
    assert loss < 3.0  # 3.7 nats is the uniform guess
    assert torch.equal(base.table, again.table)
    assert all(
        bool((layer.input_layernorm.weight == 1).all()) for layer in base.model.layers
    )


def test_an_unknown_body_and_a_stem_too_deep_are_refused():
    odd = _llama().model
    odd.config.model_type = "odd"
    with pytest.raises(UnsupportedModelError, match="'odd'"):
        Base(odd)
    for make in (_llama, _bert):
        with pytest.raises(EncryptionError, match="3 blocks of 2"):
            make().rows(IDS, 3)
