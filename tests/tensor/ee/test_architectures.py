"""Every architecture: the stock model against stem, keyed stock trunk and head."""

import pytest
import torch
from transformers import AutoConfig, DynamicCache

from ee.arch.known import architecture_of, registered
from ee.arch.sites import Options, Strength, Turn
from ee.errors import EncryptionError, UnsupportedLayerError, UnsupportedModelError
from ee.keys import Key, state_keyed, state_unkeyed
from ee.split import canonical_config, joined, split_model
from ee.testing import (
    TOLERANCE,
    assert_equivariant,
    float64_throughout,
    relative_error,
)

SEED = bytes(range(32))
DTYPES = [torch.float32, torch.float64]
OPTIONS = [
    Options(),
    Options(Strength.PERMUTATION),
    Options(Strength.GENERAL),
    Options(turn=Turn.HADAMARD),
]
EACH_OPTION = [
    pytest.param(o, id=f"{o.strength}-{o.turn}", marks=pytest.mark.slow if i else ())
    for i, o in enumerate(OPTIONS)
]
EACH_SEED = [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 6))]


def _base(model):
    """The stock model without its head."""
    return getattr(model, type(model).base_model_prefix)


def _pipeline(parts, key, inputs, wrong=None):
    """What the three parties compute together: the base model's last hidden state."""
    stem, gain = parts.build_stem(), parts.build_gain()
    trunk = parts.build_trunk(state_keyed(parts.trunk, key))
    with torch.no_grad(), float64_throughout():
        rows = key.enter(stem(**inputs))
        hidden = parts.cut.architecture.run(trunk, rows, inputs.get("attention_mask"))
        return gain((wrong or key).leave(hidden))


def _logits(model, hidden):
    """Any stock head on top of a hidden state."""
    for name in ("lm_head", "output_projection", "cls"):
        if hasattr(model, name):
            return getattr(model, name)(hidden)
    return model.classifier(hidden)


def _seen(inputs, values):
    """Padded places are nobody's answer."""
    mask = inputs.get("attention_mask")
    return values if mask is None else values[mask.bool()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", EACH_OPTION)
def test_the_keyed_model_gives_the_stock_answer(architecture, dtype, options, stock):
    model = stock.make(architecture, dtype=dtype)
    inputs = stock.inputs(architecture, dtype=dtype)
    parts = split_model(model, stem_layers=1)
    found = _pipeline(parts, Key(SEED, parts.plan, options), inputs)
    with float64_throughout(), torch.no_grad():
        wanted = _base(model)(**inputs).last_hidden_state
        answers = [_seen(inputs, _logits(model, h)).argmax(-1) for h in (found, wanted)]
    assert (
        relative_error(_seen(inputs, found), _seen(inputs, wanted)) <= TOLERANCE[dtype]
    )
    assert torch.equal(*answers)


@pytest.mark.parametrize("stem_layers", [0, 2])
def test_any_number_of_blocks_may_stay_in_the_stem(architecture, stem_layers, stock):
    model, inputs = stock.make(architecture), stock.inputs(architecture)
    parts = split_model(model, stem_layers=stem_layers)
    with torch.no_grad():
        wanted = _base(model)(**inputs).last_hidden_state
    found = _pipeline(parts, Key(SEED, parts.plan), inputs)
    assert relative_error(_seen(inputs, found), _seen(inputs, wanted)) <= 1e-5


def test_a_wrong_key_gives_something_else_altogether(architecture, stock):
    model, inputs = stock.make(architecture), stock.inputs(architecture)
    parts = split_model(model)
    right, wrong = Key(SEED, parts.plan), Key(bytes(32), parts.plan)
    with torch.no_grad():
        wanted = _base(model)(**inputs).last_hidden_state
    found = _pipeline(parts, right, inputs, wrong=wrong)
    assert relative_error(found, wanted) > 0.5


@pytest.mark.parametrize("seed", EACH_SEED)
def test_random_keys_commute_with_the_trunk_and_its_gradient(architecture, seed, stock):
    parts = split_model(stock.make(architecture, seed=seed))
    key = Key(bytes([seed]) * 32, parts.plan)
    plain = parts.build_trunk()
    keyed = parts.build_trunk(state_keyed(parts.trunk, key))
    run = parts.cut.architecture.run
    rows = [torch.randn(2, 7, parts.plan.width) for _ in range(2)]
    assert_equivariant(
        lambda x: run(plain, x, None), lambda x: run(keyed, x, None), key, rows
    )


def test_folding_leaves_the_stock_model_what_it_was(architecture, stock):
    model, inputs = stock.make(architecture), stock.inputs(architecture)
    parts = split_model(model, stem_layers=1)
    whole = joined(parts.cut, parts.trunk, parts.ends)
    folded = parts.cut.architecture.build(canonical_config(parts.cut)).eval()
    own = folded.state_dict()
    folded.load_state_dict({**own, **{n: t for n, t in whole.items() if n in own}})
    with torch.no_grad():
        wanted = _base(model)(**inputs).last_hidden_state
        found = folded(**inputs).last_hidden_state
    assert relative_error(found, wanted) <= 1e-5


def test_unkeying_returns_the_canonical_weights(architecture, stock):
    parts = split_model(stock.make(architecture))
    for options in (Options(Strength.GENERAL), Options(turn=Turn.HADAMARD)):
        key = Key(SEED, parts.plan, options)
        home = state_unkeyed(state_keyed(parts.trunk, key), key)
        for name, tensor in parts.trunk.items():
            torch.testing.assert_close(home[name], tensor, atol=1e-5, rtol=0)


def test_no_keyed_tensor_is_the_plain_one(architecture, stock):
    parts = split_model(stock.make(architecture))
    keyed = state_keyed(parts.trunk, Key(SEED, parts.plan))
    for name in parts.plan.keyed():
        assert relative_error(keyed[name], parts.trunk[name]) > 0.1, name


def test_a_plan_names_every_tensor_of_the_stock_class(architecture, stock):
    parts = split_model(stock.make(architecture), stem_layers=1)
    stock_trunk = parts.cut.architecture.build(parts.cut.trunk_config)
    shapes = {n: tuple(t.shape) for n, t in stock_trunk.state_dict().items()}
    assert parts.plan.shapes() == shapes
    assert {n: tuple(t.shape) for n, t in parts.trunk.items()} == shapes


def test_nothing_of_the_ends_travels_with_the_trunk(architecture, stock):
    model = stock.make(architecture)
    model.config.id2label = {0: "malignant", 1: "benign"}
    parts = split_model(model, stem_layers=1)
    text = parts.cut.trunk_config.to_json_string()
    assert "malignant" not in text
    assert parts.cut.trunk_config.num_hidden_layers == 2
    keyed = state_keyed(parts.trunk, Key(SEED, parts.plan))
    for name in parts.plan.keyed():
        for end in parts.ends.values():
            assert keyed[name].shape != end.shape or not torch.equal(keyed[name], end)


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    from transformers import T5Config

    with pytest.raises(UnsupportedModelError, match=r"t5 .* known: bert, biogpt"):
        architecture_of(T5Config())
    assert set(registered()) >= {"bert", "esm", "gpt2", "llama", "qwen2", "vit"}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", {"hidden_act": "softmax"}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"add_cross_attention": True}),
        ("bert", {"is_decoder": True}),
        ("bert", {"position_embedding_type": "relative_key"}),
        ("esm", {"is_decoder": True}),
        ("vit", {"layer_scale": 0.1}),
    ],
)
def test_a_setting_without_a_key_is_refused_by_name(name, change, stock):
    config = stock.make(name).config
    for field, value in change.items():
        setattr(config, field, value)
    with pytest.raises(UnsupportedLayerError, match=next(iter(change))):
        architecture_of(config).trunk_config(config, 0)


def test_a_rotation_of_part_of_a_head_is_refused(stock):
    config = stock.make("llama").config
    config.rope_parameters["partial_rotary_factor"] = 0.5
    with pytest.raises(UnsupportedLayerError, match=r"partial_rotary_factor = 0\.5"):
        architecture_of(config).trunk_config(config, 0)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "biogpt"])
def test_tokens_one_by_one_with_caches_are_tokens_at_once(name, stock):
    """Stem and trunk each keep a cache of their own blocks; a window is a window in both."""
    model = stock.make(name)
    parts = split_model(model, stem_layers=1)
    key = Key(SEED, parts.plan)
    trunk, stem = (
        parts.build_trunk(state_keyed(parts.trunk, key)),
        parts.build_stem(),
    )
    tokens = stock.inputs(name)["input_ids"]
    caches = [DynamicCache(config=one.config) for one in (stem.base, trunk)]
    with torch.no_grad():
        wanted = _base(model)(tokens).last_hidden_state
        found = []
        for token in tokens.split([4] + [1] * (tokens.shape[1] - 4), dim=1):
            rows = key.enter(stem(token, past_key_values=caches[0], use_cache=True))
            y = trunk(inputs_embeds=rows, past_key_values=caches[1], use_cache=True)
            found.append(parts.build_gain()(key.leave(y.last_hidden_state)))
    assert relative_error(torch.cat(found, 1), wanted) <= 1e-5


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_narrow_model_is_keyed_as_exactly_as_a_wide_one(narrow, stock):
    """A rotated bfloat16 weight has no short form; rounded, it errs by a hundredth."""
    model = stock.make("gpt2").to(narrow)
    parts = split_model(model, stem_layers=1)
    key = Key(SEED, parts.plan)
    trunk = parts.build_trunk(state_keyed(parts.trunk, key))
    inputs = stock.inputs("gpt2")
    with torch.no_grad():
        wanted = _base(model.float())(**inputs).last_hidden_state
        rows = key.enter(parts.build_stem()(**inputs))
        mask = inputs.get("attention_mask")
        found = parts.cut.architecture.run(trunk, rows, mask)
        found = parts.build_gain()(key.leave(found))
    seen = slice(None) if mask is None else mask.bool()
    assert relative_error(found[seen], wanted[seen]) <= 1e-5


# As published with well-known checkpoints, without labels.
PUBLISHED = {
    "gpt2": {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "attn_pdrop": 0.1,
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "task_specific_params": {"text-generation": {"do_sample": True}},
        "summary_type": "cls_index",
    },
    "llama 3": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "pretraining_tp": 1,
        "torch_dtype": "bfloat16",
        "mlp_bias": False,
    },
    "qwen 2.5": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "num_hidden_layers": 24,
        "intermediate_size": 4864,
        "max_window_layers": 21,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
    },
    "biogpt": {"model_type": "biogpt", "layerdrop": 0.0, "scale_embedding": True},
    "esm 2": {
        "model_type": "esm",
        "emb_layer_norm_before": False,
        "esmfold_config": None,
        "hidden_act": "gelu",
        "hidden_size": 320,
        "intermediate_size": 1280,
        "is_folding_model": False,
        "mask_token_id": 32,
        "num_attention_heads": 20,
        "num_hidden_layers": 6,
        "pad_token_id": 1,
        "position_embedding_type": "rotary",
        "token_dropout": True,
        "vocab_list": None,
        "vocab_size": 33,
    },
    "vit": {"model_type": "vit", "image_size": 224, "encoder_stride": 16},
    "biobert": {
        "model_type": "bert",
        "gradient_checkpointing": False,
        "position_embedding_type": "absolute",
        "pooler_type": "first_token_transform",
        "directionality": "bidi",
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_are_understood(name):
    config = AutoConfig.for_model(**PUBLISHED[name])
    architecture = architecture_of(config)
    plan = architecture.plan(architecture.trunk_config(config, 1))
    assert plan.width == config.hidden_size
    assert len(plan.digest()) == 32


def test_frequencies_that_are_not_the_public_ones_do_not_leave(stock):
    parts = split_model(stock.make("esm"))
    parts.trunk["rotary_embeddings.inv_freq"][1] *= 1.5
    with pytest.raises(UnsupportedLayerError, match=r"rotary_embeddings\.inv_freq"):
        state_keyed(parts.trunk, Key(SEED, parts.plan))


def test_a_module_somebody_put_in_is_refused_by_name(stock):
    model = stock.make("llama")
    model.model.layers[1].mlp.up_proj = torch.nn.Sequential(
        model.model.layers[1].mlp.up_proj
    )
    with pytest.raises(
        UnsupportedLayerError, match=r"layers\.1\.mlp\.up_proj is a Seq"
    ):
        split_model(model)


def test_a_tensor_without_a_place_in_the_plan_is_refused_by_name(stock):
    from ee.split import split

    model = stock.make("gpt2")
    for odd in (torch.zeros(32), torch.zeros(32, 32)):
        state = {**model.state_dict(), "transformer.h.1.attn.rotary.weight": odd}
        with pytest.raises(UnsupportedLayerError, match=r"h\.1\.attn\.rotary\.weight"):
            split(model.config, state)


def test_a_table_that_should_be_blank_does_not_leave_in_the_clear(stock):
    parts = split_model(stock.make("gpt2"))
    parts.trunk["wpe.weight"][3, 1] = 0.5
    with pytest.raises(UnsupportedLayerError, match=r"wpe\.weight of gpt2 is not 0"):
        state_keyed(parts.trunk, Key(SEED, parts.plan))


def test_a_gain_that_was_not_folded_does_not_leave_in_the_clear(stock):
    parts = split_model(stock.make("llama"))
    parts.trunk["layers.0.input_layernorm.weight"][3] = 1.5
    with pytest.raises(UnsupportedLayerError, match="is not 1 all over"):
        state_keyed(parts.trunk, Key(SEED, parts.plan))


def test_a_stem_must_leave_a_trunk(stock):
    with pytest.raises(EncryptionError, match="3 blocks for the stem, need 0 to 2"):
        split_model(stock.make("bert"), stem_layers=3).plan  # noqa: B018


def test_a_checkpoint_that_lacks_a_matrix_says_which(stock):
    from ee.split import split

    model = stock.make("bert")
    state = model.state_dict()
    del state["bert.encoder.layer.1.output.dense.weight"]
    with pytest.raises(EncryptionError, match=r"lacks 1 .*layer\.1\.output\.dense"):
        split(model.config, state)
