"""docs/attacks.md shows S-mode in a program, with real hosts; the example runs."""

import re
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from node.smode.local import host_process

pytestmark = pytest.mark.slow
DOCUMENT = Path(__file__).parents[3] / "docs" / "attacks.md"


def _model():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    return BertModel(config, add_pooling_layer=False).eval()


def test_the_program_of_the_guide_infers_and_trains(tmp_path, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    ids, labels = torch.randint(20, (12, 7)), torch.arange(12) % 2
    with (
        host_process(tmp_path / "a") as first,
        host_process(tmp_path / "b") as second,
    ):
        names = {
            "model": _model(),
            "ids": ids,
            "labels": labels,
            "head": torch.nn.Linear(32, 2),
            "first": first,
            "second": second,
        }
        exec(example, names)
    with torch.no_grad():
        wanted = _model()(input_ids=ids).last_hidden_state
    torch.testing.assert_close(names["hidden"], wanted, atol=1e-4, rtol=1e-4)
    assert all(bool(half.any()) for half in names["halves"])  # they learnt
    told = capsys.readouterr().out.split()
    assert float(told[0]) == float(told[1]) == 0.0
    assert float(told[2]) > 0
    assert int(told[3]) > 0
