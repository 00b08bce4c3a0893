"""A finished run's model: scored on records, and written for programs that are not ours."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from ee.spec import Column, ModelSpec
from node.compute import finished, planning, state
from node.compute.kinds import model_of
from node.errors import ComputeError, ModelError

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
SPEC = {
    "kind": "stock",
    "text": "peptide",
    "classes": ["inert", "active"],
    "config": {
        "model_type": "esm",
        "vocab_size": 24,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 40,
        "position_embedding_type": "rotary",
        "pad_token_id": 1,
        "mask_token_id": 3,
    },
    "letters": LETTERS,
    "tokens": 16,
    "rank": 2,
}
TASK = {"id": "id", "label": "kind", "held_out_percent": 30}


def peptides(rows=40):
    draw = np.random.default_rng(0)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "peptide", "kind"])
    for number in range(rows):
        letters = "".join(LETTERS[i] for i in draw.integers(20, size=12))
        writer.writerow([number, letters, SPEC["classes"][number % 2]])
    return out.getvalue().encode()


@pytest.fixture
def about(tmp_path):
    """What the daemon says of a run whose state is some vector."""
    given = {"spec": SPEC, "models": str(tmp_path / "models")}
    size = planning.create({**given, "folder": str(tmp_path)}, print)["size"]
    vector = 0.3 * np.random.default_rng(1).standard_normal(size)
    root = state.write(tmp_path, vector.astype("<f4"))
    return {**given, "folder": str(tmp_path), "root": root}


def test_the_score_is_of_every_record_and_the_held_out_ones_are_fewer(about):
    data = peptides()
    found = finished.score({**about, "task": TASK, "records": data}, print)
    assert found["records"] == 40
    assert 0 <= found["auc"] <= 1
    model = model_of(about, TASK)
    start = model.initial()
    assert model.tests(data)(start)["held_out"] < 40
    # A head of zeros says one half of everything.
    assert model.tests(data, every=True)(start)["loss"] == pytest.approx(np.log(2))
    assert found["loss"] != pytest.approx(np.log(2), abs=1e-3)


def test_the_export_loads_as_a_stock_checkpoint_and_answers_as_the_run_does(
    about, tmp_path
):
    out = tmp_path / "out"
    finished.export({**about, "out": str(out)}, print)
    stock, report = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not report["unexpected_keys"]
    head, told = (
        load_file(out / "head.safetensors"),
        json.loads((out / "head.json").read_text()),
    )
    texts = ["ACDEFGHIKLM", "WYWYWY"]
    rows = model_of(about, TASK)._rows(texts)
    ids, mask = torch.from_numpy(rows.ids), torch.from_numpy(rows.mask).long()
    with torch.no_grad():
        y = stock.eval()(input_ids=ids, attention_mask=mask).last_hidden_state
    pooled = (y * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    found = pooled @ head["weight"].T + head["bias"]
    model = model_of(about)
    wanted = model.model.scores(state.read(tmp_path, about["root"], model.size), rows)
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-5)
    assert told["classes"] == SPEC["classes"]
    with pytest.raises(ModelError, match="exists already"):
        finished.export({**about, "out": str(out)}, print)


def test_what_a_kind_of_model_cannot_become_is_said(tmp_path):
    table = ModelSpec((Column("age"),), 8, 1, 1, 1, 8, 1).to_dict()
    made = planning.create({"spec": table, "folder": str(tmp_path)}, print)
    given = {"spec": table, "folder": str(tmp_path), "root": made["root"]}
    with pytest.raises(ComputeError, match="table model"):
        finished.export({**given, "out": str(tmp_path / "none")}, print)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("9,ACD,other", "line 3: kind is not one of"),
        ("9,ACD,", None),
    ],
)
def test_a_class_nobody_named_is_refused_and_an_unknown_one_left_out(about, row, said):
    data = peptides(1) + row.encode() + b"\n"
    params = {**about, "task": TASK, "records": data}
    if said is None:
        assert finished.score(params, print)["records"] == 1
        return
    with pytest.raises(ComputeError, match=said):
        finished.score(params, print)
