"""A stock architecture of a run: released, asked, audited, and refuted."""

from pathlib import Path

import numpy as np
import pytest
from evaluation_world import eventually

from ee.recipe import StockSpec
from node.compute import state
from node.compute.stock import Stock
from node.services.inference_asking import score_file
from node.verifier import case
from protocol.dispute import CENTRED, ROTARY, Trunk
from protocol.wire import decode

PROTEIN = {
    "kind": "stock",
    "text": "peptide",
    "classes": ["inert", "active", "unclear"],
    "config": {
        "model_type": "esm",
        "vocab_size": 24,
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 40,
        "position_embedding_type": "rotary",
        "pad_token_id": 1,
        "mask_token_id": 3,
    },
    "letters": "ACDEFGHIKLMNPQRSTVWY",
    "tokens": 16,
    "rank": 2,
}


def peptides(count):
    draw = np.random.default_rng(0)
    letters = list(PROTEIN["letters"])
    return ["".join(draw.choice(letters, 4 + number % 5)) for number in range(count)]


def protein_vector():
    """Adapters and a head that are not zero."""
    size = Stock(StockSpec.from_dict(PROTEIN), None, Path()).size
    return 0.5 * np.random.default_rng(1).standard_normal(size).astype(np.float32)


ROUNDING = 0.15
"""Relative, of log-odds: rounding costs 0.05 to 0.10 over two dozen release keys."""


def in_the_clear(vector, texts):
    """Logits, and the log-odds of the likeliest class, of the float model."""
    model = Stock(StockSpec.from_dict(PROTEIN), None, Path())
    logits = model.model.scores(vector, model._rows(texts))
    best = logits.max(1)
    return logits, best - np.log(np.exp(logits).sum(1) - np.exp(best))


def test_a_release_that_lost_one_adapter_would_be_further_off_than_rounding():
    texts, vector = peptides(20), protein_vector()
    _, wanted = in_the_clear(vector, texts)
    slots = Stock(StockSpec.from_dict(PROTEIN), None, Path()).model.slots
    adapters = [slot for slot in slots if slot.name.endswith("lora_B")]
    assert len(adapters) == 9  # q, k and v of three blocks
    for slot in adapters:
        without = vector.copy()
        without[slot.offset : slot.offset + slot.size] = 0
        _, found = in_the_clear(without, texts)
        lost = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert lost > 0.2 > ROUNDING, slot.name


@pytest.mark.parametrize("corrupt", [0, 1])
async def test_a_stock_model_of_a_run_is_released_asked_and_audited(
    federation, tmp_path, corrupt
):
    texts = peptides(20)
    table = b"peptide\n" + b"".join(b"%s\n" % text.encode() for text in texts)
    about = {"spec": PROTEIN, "vector": protein_vector, "corrupt": corrupt}
    async with federation(**about) as nodes:
        await nodes.clinic.confirmations._judge(nodes.model)
        assert nodes.clinic.confirmations.of(nodes.model) == ["clinic"]
        assert not await nodes.clinic.events("model.refuted")
        found = await nodes.clinic.requester.run(nodes.model, "host", table)
        assert len(found["receipts"]) == 5  # texts of five lengths, none padded
        await nodes.host.receipts.anchor()
        await eventually(lambda: len(nodes.auditor.audits.rows()) == 5)
        verdicts = sorted(row["verdict"] for row in nodes.auditor.audits.rows())
        assert verdicts == ["failed"] * corrupt + ["passed"] * (5 - corrupt)
        if corrupt:
            (evidence,) = tmp_path.glob("auditor/evidence/*.bundle")
            about = {"evidence": str(evidence)}
            found = await nodes.auditor.compute.call("dispute.place", about)
            (told,) = (
                row for row in nodes.auditor.audits.rows() if row["verdict"] == "failed"
            )
            entry = told["entry"]
            assert found["place"] == [told["layer"], entry["case"], entry["token"]]
            # What the contract reads of it: blocks with the norm first.
            flags = int.from_bytes(decode(found["trunk"], Trunk).numbers[-4:], "little")
            assert flags == CENTRED + ROTARY
            return
        logits, wanted = in_the_clear(protein_vector(), texts)
        best = logits.max(1)
        gap = np.array(found["scores"]) - wanted
        assert np.linalg.norm(gap) < ROUNDING * np.linalg.norm(wanted)
        # Which of two is larger is only asked where they are further apart than rounding.
        runner_up = np.sort(logits, axis=1)[:, -2]
        clear = np.flatnonzero(best - runner_up > 0.3)
        assert len(clear) > 10
        for place in clear:
            expected = PROTEIN["classes"][logits[place].argmax()]
            assert found["answers"][place] == expected
        assert score_file(found).splitlines()[0] == b"score,class"
        receipt = bytes.fromhex(found["receipts"][0])
        await nodes.clinic.certificates.disclose(receipt, 1, tmp_path / "one")
        shown = case.check(case.read((tmp_path / "one").read_bytes()))
        assert (shown.fault, shown.count) == (None, 3)


async def test_a_stock_release_of_another_state_is_refuted(federation):
    async with federation(verify=False, spec=PROTEIN, vector=protein_vector) as nodes:
        releases = nodes.clinic.releases
        about = {
            "spec": PROTEIN,
            "folder": str(nodes.folder / "states"),
            "models": "",
            "seed": releases.key_seed(nodes.model),
            "trunk": str(await releases.trunk_file(nodes.model)),
            "model_root": nodes.model,
        }
        for vector, differs in (
            (protein_vector(), ""),
            (1.01 * protein_vector(), "layer 0 q"),
        ):
            root = state.write(nodes.folder / "states", vector)
            found = await nodes.clinic.compute.call(
                "model.confirm", {**about, "root": root}
            )
            assert found["differs"].startswith(differs)
            assert bool(found["differs"]) == bool(differs)
