"""The bench of keyed models has every figure that is promised of it, and can see a cost."""

import json
import time

import pytest

from node.bench import ee

pytestmark = pytest.mark.slow

PROMISED = (
    "rel_error",
    "argmax_agreement",
    "forward_ratio",
    "step_ratio",
    "drift_ratio",
    "adamw_control",
)


def test_one_call_prints_every_promised_figure(monkeypatch, capsys):
    monkeypatch.setattr(ee, "WIDTH", 64)
    monkeypatch.setattr(ee.ee_split, "measure", lambda pairs: {"step_ratio": pairs})
    monkeypatch.setattr(ee, "NAMES", ("gpt2", ee.SPLIT))
    assert ee.main(["--quick", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    found = answer["architectures"]["gpt2"]
    assert set(PROMISED) <= set(found)
    assert found["rel_error"] <= 1e-5
    assert found["argmax_agreement"] == 1
    assert found["adamw_control"] > 30 > found["drift_ratio"]
    assert answer["split"]["step_ratio"] == 3
    assert answer["seconds"] > 0


def test_what_takes_longer_shows_in_the_ratio_and_not_in_the_noise():
    kind = ""

    def become(now):
        nonlocal kind
        kind = now

    def work():
        until = time.process_time() + (0.03 if kind == "keyed" else 0.02)
        while time.process_time() < until:
            pass

    ratio, noise = ee._paired(become, work, 6)
    assert ratio == pytest.approx(1.5, abs=0.1)
    assert noise == pytest.approx(1, abs=0.05)
