"""Integer trunks of stock architectures: near the float model under a key, and one result."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from ee import integer
from ee.integer import IntegerModelError, freivalds, known
from ee.integer import stock as stocks
from ee.integer.agreement import check_stock_agreement
from ee.integer_torch import TorchCache, TorchTrunk
from ee.keys import Key, state_keyed
from ee.split import split_model

NAMES = ("bert", "gpt2", "biogpt", "esm", "vit", "llama", "qwen2")
SEED = bytes(range(32))


class Made:
    """A tiny model, its keyed trunk in integers, and what the float trunk answers."""

    def __init__(self, stock, name):
        model = stock.make(name)
        if name == "qwen2":  # a window is a mask that op-spec 2 does not have
            config = model.config
            config.use_sliding_window, config.sliding_window = False, None
            config.layer_types = ["full_attention"] * config.num_hidden_layers
            other = Qwen2ForCausalLM(config).eval()
            other.load_state_dict(model.state_dict())
            model = other
        self.parts = split_model(model, stem_layers=1)
        self.config = self.parts.cut.trunk_config.to_dict()
        self.key = Key(SEED, self.parts.plan)
        inputs = {k: v for k, v in stock.inputs(name).items() if "mask" not in k}
        with torch.no_grad():
            self.rows = self.parts.build_stem()(**inputs)
            trunk = self.parts.build_trunk()
            architecture = self.parts.cut.architecture
            self.wanted = architecture.run(trunk, self.rows, None).double().numpy()
            self.keyed = state_keyed(self.parts.trunk, self.key)
            self.entered = integer.encode_rows(self.key.enter(self.rows).numpy())
        self.trunk = self.quantised(self.keyed)

    def quantised(self, state):
        return integer.quantise_stock(arrays(state), self.config, tokens=16)

    def answer(self, rows, key):
        plain = key.leave(torch.from_numpy(integer.decode_rows(rows)))
        return integer.head_norm(plain, arrays(self.parts.trunk), self.config)


def arrays(state):
    return {name: value.double().numpy() for name, value in state.items()}


@pytest.fixture(scope="module")
def made(stock):
    found = {}

    def one(name):
        if name not in found:
            found[name] = Made(stock, name)
        return found[name]

    return one


def error(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("name", NAMES)
def test_a_keyed_integer_trunk_answers_as_the_stock_model(made, name):
    one = made(name)
    output = one.trunk.forward(one.entered).output
    assert error(one.answer(output, one.key), one.wanted) < 0.06
    other = Key(bytes(32), one.parts.plan)
    assert error(one.answer(output, other), one.wanted) > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_twin_batches_and_bytes_move_no_bit(made, name):
    one = made(name)
    wanted = one.trunk.forward(one.entered).boundaries
    again = integer.decode(integer.encode(one.trunk))
    assert integer.model_root(again) == integer.model_root(one.trunk)
    for found in (TorchTrunk(one.trunk), again):
        assert all(map(np.array_equal, found.forward(one.entered).boundaries, wanted))
    alone = [one.trunk.forward(row[None]).output[0] for row in one.entered]
    np.testing.assert_array_equal(np.stack(alone), wanted[-1])
    part = integer.decode_slice(integer.encode_slice(integer.cut(again, 1)))
    assert part.model_root == integer.model_root(one.trunk)
    np.testing.assert_array_equal(part.replay(wanted[1]), wanted[2])


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
@pytest.mark.parametrize("split", [(9,), (1,) * 9, (4, 5), (8, 1)])
def test_decoding_with_a_cache_is_the_whole_sequence(made, name, split):
    one = made(name)
    wanted = one.trunk.forward(one.entered).boundaries
    for trunk, cache in (
        (one.trunk, integer.Cache()),
        (TorchTrunk(one.trunk), TorchCache()),
    ):
        steps, at = [], 0
        for count in split:
            steps.append(trunk.extend(one.entered[:, at : at + count], cache))
            at += count
        for place, whole in enumerate(wanted):
            parts = [step.boundaries[place] for step in steps]
            np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
        with pytest.raises(IntegerModelError, match="cache is of 3"):
            trunk.extend(one.entered[:1, :1], cache)


def test_an_encoder_keeps_no_cache(made):
    one = made("bert")
    with pytest.raises(IntegerModelError, match="no cache"):
        TorchTrunk(one.trunk).extend(one.entered, TorchCache())


@pytest.mark.parametrize("name", NAMES)
def test_members_agree_with_a_release_and_with_no_other(made, name):
    one = made(name)
    state = arrays(one.keyed)
    check_stock_agreement(one.trunk, state, one.config, tokens=16)
    noisy = {k: v * (1 + 1e-8) for k, v in state.items()}
    check_stock_agreement(one.trunk, noisy, one.config, tokens=16)
    layer = one.trunk.layers[1]
    bias = layer.gate.bias.copy()
    bias[3] += 2
    changed = [
        dataclasses.replace(layer, gate=dataclasses.replace(layer.gate, bias=bias))
    ]
    weight = layer.down.weight.copy()
    weight[2, 1] += 1 if weight[2, 1] < 63 else -1
    changed.append(
        dataclasses.replace(layer, down=dataclasses.replace(layer.down, weight=weight))
    )
    if layer.gains:
        gain = layer.gains[1]
        multiplier = gain.multiplier.copy()
        multiplier[5] += 1 << 12
        other = dataclasses.replace(gain, multiplier=multiplier)
        changed.append(dataclasses.replace(layer, gains=(layer.gains[0], other)))
    for lie in changed:
        forged = integer.IntegerTrunk(one.trunk.header, (one.trunk.layers[0], lie))
        assert integer.model_root(forged) != integer.model_root(one.trunk)
        with pytest.raises(IntegerModelError, match="layer 1"):
            check_stock_agreement(forged, state, one.config, tokens=16)
    table = one.trunk.header.activation.copy()
    table[4096] -= 9
    header = dataclasses.replace(one.trunk.header, activation=table)
    with pytest.raises(IntegerModelError, match="activation table"):
        check_stock_agreement(
            integer.IntegerTrunk(header, one.trunk.layers),
            state,
            one.config,
            tokens=16,
        )


def test_gains_and_shifts_that_were_not_folded_are_folded_here(stock):
    model = stock.make("gpt2")
    parts = split_model(model)
    config = parts.cut.trunk_config.to_dict()
    plain = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith("lm_head")
    }
    direct = integer.quantise_stock(arrays(plain), config, tokens=8)
    check_stock_agreement(direct, arrays(parts.trunk), config, tokens=8)
    unfolded = {
        name: torch.zeros_like(value) if name.endswith("ln_1.bias") else value
        for name, value in plain.items()
    }
    with pytest.raises(IntegerModelError, match="bias"):
        check_stock_agreement(direct, arrays(unfolded), config, tokens=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "tanh"}, "activation 'tanh'"),
        ({"model_type": "t5"}, "model_type is 't5'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"hidden_size": 33}, "heads"),
        ({"num_hidden_layers": 5}, "lacks encoder.layer"),
        ({"layer_norm_eps": "tiny"}, "not the configuration of a bert"),
    ],
)
def test_what_op_spec_2_cannot_hold_is_refused_by_name(made, change, message):
    one = made("bert")
    config = one.config | change
    if "heads" in message:
        message = "shape"
    with pytest.raises(IntegerModelError, match=message):
        integer.quantise_stock(arrays(one.keyed), config, tokens=16)


def test_windows_strange_tensors_and_infinite_ones_are_refused(made):
    one = made("qwen2")
    state = arrays(one.keyed)
    config = one.config | {"use_sliding_window": True}
    with pytest.raises(IntegerModelError, match="use_sliding_window"):
        integer.quantise_stock(state, config, tokens=16)
    for name, value, message in (
        ("layers.0.adapter.weight", np.zeros(3), "no place for layers.0.adapter"),
        ("layers.1.self_attn.q_proj.bias", np.full(48, np.inf), "not finite"),
        ("layers.1.self_attn.q_proj.bias", np.full(48, 2e3), "bias of q is 2000"),
    ):
        with pytest.raises(IntegerModelError, match=message):
            integer.quantise_stock(state | {name: value}, one.config, tokens=16)


@pytest.mark.parametrize("number", range(len(known.STOCK)))
def test_a_layer_is_checked_without_its_weights(number):
    style, causal = known.STOCK[number]
    trunk = known.drawn_stock(style, causal=causal)
    rows = known.drawn_rows(trunk.config)
    layer = trunk.layers[1]
    key = freivalds.layer_key(layer, 1, SEED)
    after, sums = freivalds.shown(trunk.header, layer, rows)
    np.testing.assert_array_equal(
        freivalds.checked(trunk.header, key, rows, sums), after
    )
    for place, (name, _) in enumerate(layer.named()):
        told = [one.copy() for one in sums]
        told[place][4, 2] += 1
        with pytest.raises(freivalds.WrongSumError, match=f"sums of {name} "):
            freivalds.checked(trunk.header, key, rows, tuple(told))


def test_roots_of_op_spec_2_are_its_own():
    trunk = known.drawn_stock(known.STOCK[2][0], causal=True)
    # Even with the same numbers in its header, the label keeps the roots apart.
    plain = known.drawn_trunk(causal=True)
    roots = [integer.layer_root(layer) for layer in trunk.layers]
    parts = integer.header_digest(trunk.header), *roots
    label = b"rexis-model-root-3"
    assert integer.root_over_layers(trunk.header, roots) != sha256(label, *parts)
    plain_parts = integer.header_digest(plain.header), *roots
    assert integer.root_over_layers(plain.header, roots) == sha256(label, *plain_parts)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def test_the_tables_are_the_functions():
    x = np.arange(-4096, 4097) / 256
    for name, function in {
        "gelu": torch.nn.functional.gelu,
        "gelu_new": lambda t: torch.nn.functional.gelu(t, approximate="tanh"),
        "relu": torch.relu,
        "silu": torch.nn.functional.silu,
        "quick_gelu": lambda t: t * torch.sigmoid(1.702 * t),
    }.items():
        table = stocks.activation_table(name) / 65536
        wanted = function(torch.from_numpy(x)).numpy()
        assert np.abs(table * x - wanted).max() <= 16 / 65536
