"""A stock model in three pieces: stem and head for the key holder, trunk for anyone.

Everything here is in memory and meant for models that fit; `ee.convert` does the same to a
stream of tensors.  The modules that come out are stock modules: the stem is the base class
with its first blocks, the trunk the base class with the others, and the head whatever the
model had, behind the gain of the last norm.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ee.arch.plan import Plan
from ee.canonical import Cut, trunk_tensors
from ee.errors import EncryptionError, UnsupportedLayerError

State = dict[str, Tensor]


class Gain(nn.Module):
    """The gain and shift of the last norm, which the trunk's own does not have any more."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.bias = None if bias is None else nn.Parameter(bias.clone())

    def forward(self, y: Tensor) -> Tensor:
        """Rows behind the trunk to the base model's `last_hidden_state`."""
        scaled = y * self.weight
        return scaled if self.bias is None else scaled + self.bias


class Stem(nn.Module):
    """The stock base class with the first blocks, ended before the trunk's first."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, *args: Any, **inputs: Any) -> Tensor:
        """What the base class takes (tokens, pixels, masks) to rows (batch, tokens, width)."""
        return self.base(*args, **inputs).last_hidden_state


@dataclass(frozen=True)
class Split:
    """The canonical trunk of one model, and its ends."""

    cut: Cut
    trunk: State
    """Canonical, in the clear: the key holder's."""
    ends: State
    """All other tensors, by the base model's names."""

    @property
    def plan(self) -> Plan:
        return self.cut.plan

    def build_trunk(self, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The stock trunk in evaluation mode, with `state` or the canonical weights."""
        return build_trunk(self.cut, self.trunk if state is None else state)

    def build_stem(self) -> Stem:
        """The stem, ready to run."""
        return build_stem(self.cut, self.ends)

    def build_gain(self) -> nn.Module:
        """From the trunk's rows to what the base model returns."""
        return build_gain(self.cut, self.ends)


def split(
    config: PreTrainedConfig,
    state: Mapping[str, Tensor],
    *,
    stem_layers: int = 0,
    dtype: torch.dtype | None = None,
) -> Split:
    """Cut a stock state dictionary; tensors of a head lie at the ends as they are.

    The trunk is of `dtype`, or of the widest there is, float32 at least: a rotated bfloat16
    weight has no short form, and rounding it would cost what a key promises to keep.
    """
    cut = Cut(config, stem_layers)
    named = {cut.architecture.base_name(name): t.detach() for name, t in state.items()}
    vectors = {name: tensor for name, tensor in named.items() if tensor.ndim == 1}
    matrices = ((n, t.clone()) for n, t in named.items() if t.ndim != 1)
    wanted = dtype or working_dtype(named)
    trunk = dict(trunk_tensors(cut, vectors, matrices, wanted))
    ends = {name: t for name, t in named.items() if not cut.is_trunk(name)}
    return Split(cut, trunk, ends)


def split_model(model: nn.Module, *, stem_layers: int = 0) -> Split:
    """Cut a stock model in memory.

    Its modules are compared with those the stock class would have, so that a layer somebody
    put in (an adapter, another attention) is refused by name and not dropped in silence.
    """
    cut = Cut(model.config, stem_layers)
    base = getattr(model, cut.architecture.prefix.removesuffix("."), model)
    refuse_foreign(base, cut.architecture.skeleton(_like(model.config)))
    return split(model.config, model.state_dict(), stem_layers=stem_layers)


def refuse_foreign(model: nn.Module, stock: nn.Module) -> None:
    """Raise for the first module whose class is not the stock class at that place."""
    expected = {name: type(module) for name, module in stock.named_modules()}
    for name, module in model.named_modules():
        wanted = expected.get(name)
        if type(module) is wanted or name.partition(".")[0] == "pooler":
            continue
        stands = "nothing" if wanted is None else wanted.__name__
        raise UnsupportedLayerError(
            f"{name or 'the model'} is a {type(module).__name__} where the stock class has"
            f" {stands}; no key is known for it"
        )


def build_trunk(cut: Cut, state: Mapping[str, Tensor]) -> nn.Module:
    """A stock module from a canonical or keyed trunk; every tensor must be there.

    What a key acts on may learn; gains of one and blank tables may not.
    """
    model = cut.architecture.build(_like(cut.trunk_config)).to(_widest(state))
    _load(model, state, strict=True)
    learning = set(cut.plan.keyed())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)
    return model.eval()


def build_stem(cut: Cut, ends: Mapping[str, Tensor]) -> Stem:
    """The key holder's stem from the ends."""
    # Stock classes are not written for no block at all, so one is made and taken out.
    depth = max(1, cut.stem_layers)
    config = copy.deepcopy(cut.config)
    setattr(config, cut.architecture.depth, depth)
    for name, values in cut.architecture.behind(cut.config, 0).items():
        setattr(config, name, values[:depth])
    model = cut.architecture.build(config).to(working_dtype(ends))
    blocks = model.get_submodule(cut.architecture.layers)
    del blocks[cut.stem_layers :]
    own = model.state_dict()
    last = cut.architecture.final_norm or "\0"
    needed = [name for name, _ in model.named_parameters()]
    unused = ("pooler.", "contact_head.", last)
    missing = [n for n in needed if n not in ends and not n.startswith(unused)]
    if missing:
        raise EncryptionError(
            f"the ends lack {len(missing)} tensors, first {missing[0]}"
        )
    fitting = {n: t for n, t in ends.items() if n in own and own[n].shape == t.shape}
    _load(model, fitting, strict=False)
    cut.architecture.truncate(model)
    return Stem(model).eval()


def build_gain(cut: Cut, ends: Mapping[str, Tensor]) -> nn.Module:
    """The head's first part: identity where the norm stayed in the trunk."""
    last = cut.architecture.final_norm
    if last is None:
        return nn.Identity()
    gain = Gain(ends[f"{last}.weight"], ends.get(f"{last}.bias"))
    return gain.to(working_dtype(ends))


def joined(cut: Cut, trunk: Mapping[str, Tensor], ends: Mapping[str, Tensor]) -> State:
    """A canonical trunk and its ends as one state of the whole base model.

    The blocks' norms are ones and zeros and the model computes what it did; it loads into
    the stock class of `canonical_config`.
    """
    return dict(ends) | {source: trunk[name] for name, source in sources(cut).items()}


def sources(cut: Cut) -> dict[str, str]:
    """Tensor of the trunk to its place in the whole base model, for all that have one.

    A post-norm trunk begins with the norm its stem ends before; that one has a key, and
    learns, without standing in a block of the trunk.
    """
    named = {n: cut.architecture.source(n, cut.stem_layers) for n in cut.plan.shapes()}
    return {
        name: source
        for name, source in named.items()
        if cut.is_trunk(source) or name in cut.sources
    }


def canonical_config(cut: Cut) -> PreTrainedConfig:
    """The whole model's configuration once its norms are folded."""
    config = copy.deepcopy(cut.config)
    for name, value in cut.architecture.folded_settings().items():
        setattr(config, name, value)
    return config


def _like(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy: building a stock class writes into its configuration."""
    return copy.deepcopy(config)


def _load(model: nn.Module, state: Mapping[str, Tensor], *, strict: bool) -> None:
    try:
        model.load_state_dict(dict(state), strict=strict)
    except RuntimeError as error:
        raise EncryptionError(f"the tensors do not fit: {error}") from error


def working_dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    """What stem, trunk and gain compute in: the widest floating dtype, float32 at least."""
    return torch.promote_types(_widest(state), torch.float32)


def _widest(state: Mapping[str, Tensor]) -> torch.dtype:
    kinds = {t.dtype for t in state.values() if t.is_floating_point()}
    if not kinds:
        raise EncryptionError("there is no floating-point tensor in the model")
    return max(kinds, key=lambda kind: kind.itemsize)
