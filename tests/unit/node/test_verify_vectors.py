"""The published vectors, read by a second decoder and computed by a second arithmetic."""

import base64
import hashlib
import importlib.util
import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgpack
import msgspec
import nacl.signing
import pytest

from ee import integer
from ee.integer import spec
from node.verifier import bundle, cli
from node.verifier import case as one_case
from protocol import evaluation
from protocol.audit import open_audit
from protocol.errors import ProtocolError

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "tests" / "vectors" / "verify"
VECTORS = json.loads((FOLDER / "vectors.json").read_text())


def raw(text):
    return base64.b64decode(text)


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def second_reader():
    """The verifier that imports nothing of ours."""
    found = importlib.util.spec_from_file_location("second", FOLDER / "second.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


second = second_reader()


def tree(leaves):
    """RFC 9162 by its own recursion: split at the largest power of two."""
    if len(leaves) == 1:
        return sha(b"\x00", leaves[0])
    cut = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha(b"\x01", tree(leaves[:cut]), tree(leaves[cut:]))


@pytest.mark.slow
def test_the_file_is_what_the_generator_makes():
    run = subprocess.run(
        [sys.executable, FOLDER / "generate.py", "--check"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        check=False,
    )
    assert run.returncode == 0


def test_the_op_spec_is_the_text_in_the_document():
    text = (ROOT / "docs" / "verify.md").read_text()
    assert f"```text\n{spec.TEXT}```" in text
    assert VECTORS["op_spec"]["digest"] in text
    tables = [spec.exp_table(), spec.sigmoid_table()]
    parts = [spec.TEXT.encode(), *(t.astype("<u4").tobytes() for t in tables)]
    found = [sha(part).hex() for part in parts]
    assert found == [
        VECTORS["op_spec"][name]
        for name in ("text_sha256", "exp_sha256", "sigmoid_sha256")
    ]
    assert sha(*parts).hex() == VECTORS["op_spec"]["digest"]
    assert f"```text\n{spec.STOCK_TEXT}```" in text
    second = VECTORS["op_spec"]["second_digest"]
    assert second in text
    assert sha(parts[0], spec.STOCK_TEXT.encode(), *parts[1:]).hex() == second


@pytest.mark.parametrize("number", range(5))
def test_trunks_are_parsed_named_and_computed_a_second_time(number):
    vector = VECTORS["trunks"][number]
    trunk = second.trunk_of(raw(vector["trunk"]))
    assert trunk["op_spec"] == vector["op_spec"]
    assert trunk["causal"] == vector["causal"]
    assert [root.hex() for root in trunk["roots"]] == vector["layer_roots"]
    assert trunk["root"].hex() == vector["model_root"]
    rows = [raw(one) for one in vector["boundaries"]]
    for layer, before, after in zip(trunk["rows"], rows, rows[1:], strict=False):
        cases = second.entries_of(before, vector["shape"])
        assert second.packed(second.replayed(trunk, layer, cases)) == after


def test_the_second_verifier_has_the_same_tables():
    assert spec.exp_table().tolist() == second.EXP
    assert spec.sigmoid_table().tolist() == second.SIGMOID


def test_the_second_verifier_knows_nothing_of_ours():
    """Not one module of this project, nor an array library, is loaded by it."""
    code = (
        f"import runpy, sys; runpy.run_path({str(FOLDER / 'second.py')!r});"
        " print(sorted({n.split('.')[0] for n in sys.modules}))"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    for name in ("ee", "node", "protocol", "numpy", "torch", "msgspec", "msgpack"):
        assert f"'{name}'" not in run.stdout


def test_boundary_roots_come_out_of_hashes_alone():
    vector, trunk = VECTORS["boundary"], VECTORS["trunks"][0]
    cases, tokens, width = trunk["shape"]
    salt = bytes.fromhex(vector["salt"])
    for at, (text, root) in enumerate(
        zip(trunk["boundaries"], vector["roots"], strict=True)
    ):
        rows, cases_roots = raw(text), []
        for case in range(cases):
            inner = sha(b"rexis-case-salt-1", salt, case.to_bytes(4, "big"))
            assert inner.hex() == vector["case_salts"][case]
            leaves = []
            for token in range(tokens):
                numbers = (at, case, token, width)
                place = b"".join(n.to_bytes(4, "big") for n in numbers)
                start = 3 * width * (case * tokens + token)
                row_salt = sha(b"rexis-row-salt-1", inner, place)
                row = rows[start : start + 3 * width]
                leaves.append(b"rexis-row-1" + place + row_salt + row)
            cases_roots.append(tree(leaves))
        assert tree(cases_roots).hex() == root


def opened(data, domain, signer):
    """An envelope by msgpack: its signature over length-prefixed parts."""
    tag, label, sender, context, payload, signature = msgpack.unpackb(data)
    assert (tag, label, sender.hex()) == ("env", domain, signer)
    parts = (b"rexis-envelope-v1", label.encode(), sender, context, payload)
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    nacl.signing.VerifyKey(sender).verify(message, signature)
    return context, msgpack.unpackb(payload)


def test_the_receipt_is_opened_by_another_decoder():
    vector, trunk = VECTORS["receipt"], VECTORS["trunks"][0]
    order_bytes, receipt = raw(vector["order"]), raw(vector["receipt"])
    context, order = opened(order_bytes, "rexis/order/1", vector["requester"])
    root = bytes.fromhex(trunk["model_root"])
    assert context == root
    roots = [bytes.fromhex(one) for one in VECTORS["boundary"]["roots"]]
    host = bytes.fromhex(vector["host"])
    assert order == ["order", root, host, bytes(range(16)), trunk["shape"], roots[0]]
    context, answered = opened(receipt, "rexis/receipt/1", vector["host"])
    assert context == sha(order_bytes)
    assert answered == ["receipt", order_bytes, roots[1:], 1_700_000_000]
    assert sha(receipt).hex() == vector["digest"]
    top = tree([receipt, b"another"])
    batch = sha(b"rexis-receipt-batch-1", (2).to_bytes(4, "big"), top)
    assert batch.hex() == vector["batch"]


@pytest.mark.parametrize(
    "vector", VECTORS["reports"], ids=lambda v: str(v["says"]["fault"])
)
def test_a_report_is_opened_by_another_decoder(vector):
    auditor = bytes(nacl.signing.SigningKey(bytes([3]) * 32).verify_key).hex()
    context, told = opened(raw(vector["report"]), "rexis/audit/2", auditor)
    says = vector["says"]
    assert open_audit(raw(vector["report"]))[0].describe() == says
    tag, receipt, batch, host, model, first, count, fault, time, tier, bits = told
    assert (tag, context) == ("audit", receipt)
    found = [one.hex() for one in (receipt, batch, host, model)]
    assert found == [says[name] for name in ("receipt", "batch", "host", "model")]
    assert found[1:3] == [VECTORS["receipt"][name] for name in ("batch", "host")]
    assert (first, count, time) == tuple(
        says[name] for name in ("first_layer", "layers_replayed", "time")
    )
    assert (tier, bits) == (says["tier"], says["error_bits"])
    if says["fault"] is None:
        assert fault is None
        return
    tag, kind, layer, entry = fault
    assert (tag, kind) == ("fault", says["fault"])
    assert layer == (says["layer"] or 0)
    if entry is None:
        assert says["entry"] is None
        return
    assert entry == ["entry", *says["entry"].values()]


def test_what_members_ask_is_written_as_it_is_sent():
    text = (ROOT / "docs" / "verify.md").read_text()
    section = text[text.index("### 4.5") : text.index("## 5. Replay")]
    asked = re.findall(
        r"^\| `(/rexis\S+)`.*?\| (`.*`) \| (`.*`) \|", section, re.MULTILINE
    )
    known = {
        f"{kind.__struct_config__.tag} {[*kind.__struct_fields__]}".replace("'", "")
        for kind in vars(evaluation).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    }
    for _, request, answer in asked:
        assert {request.strip("`"), answer.strip("`")} <= known
    protocols = {v for k, v in vars(evaluation).items() if k.endswith("_PROTOCOL")}
    assert {name for name, _, _ in asked} == protocols
    assert len(protocols) == 6


def test_an_answer_in_a_dispute_is_computed_a_second_time():
    vector, named = VECTORS["dispute"], VECTORS["trunks"][0]
    claim, trunk = vector["claim"], second.trunk_of(raw(named["trunk"]))
    assert claim["model"] == named["model_root"]
    assert claim["layer_root"] == named["layer_roots"][claim["layer"]]
    assert claim["tables"] == trunk["tables"].hex()
    place = (claim["layer"], claim["case_number"], claim["token"])
    rows = second.entries_of(raw(named["boundaries"][place[0]]), named["shape"])
    salt = bytes.fromhex(VECTORS["boundary"]["salt"])
    layer = trunk["rows"][place[0]]
    found = second.answer_roots(trunk, layer, rows[place[1]], place, salt)
    assert [root.hex() for root in found] == vector["roots"]


def test_an_answer_of_a_post_norm_layer_is_computed_a_second_time():
    named, roots = VECTORS["trunks"][2], VECTORS["dispute_post"]["roots"]
    trunk = second.trunk_of(raw(named["trunk"]))
    assert trunk["post"]
    case = second.entries_of(raw(named["boundaries"][1]), named["shape"])[0]
    salt = bytes.fromhex(VECTORS["boundary"]["salt"])
    found = second.answer_roots(trunk, trunk["rows"][1], case, (1, 0, 5), salt)
    assert [root.hex() for root in found] == roots
    # Not gated, so no part 14; post-norm, so both bases.
    assert [part for part, root in enumerate(found) if root == bytes(32)] == [14]


FILES = VECTORS["bundles"] + VECTORS["cases"]


def beside(vector):
    """The trunk that is handed over beside a file, or nothing."""
    if "trunk" not in vector:
        return b""
    return raw(VECTORS["trunks"][vector["trunk"]]["trunk"])


@pytest.mark.parametrize("vector", FILES, ids=lambda v: v["name"])
def test_the_second_verifier_ends_as_the_vector_says(vector):
    data, trunk = raw(vector["bundle"]), beside(vector)
    assert second.status(data, trunk) == vector["expected"]
    assert ("fault" in vector) == (vector["expected"] == 1)
    if "fault" in vector:
        fault = vector["fault"]
        entry = fault["entry"] and tuple(fault["entry"].values())
        expected = fault["kind"], fault["layer"], entry
        assert second.verdict(data, trunk) == expected


@pytest.mark.slow
def test_both_verifiers_refuse_the_same_bytes():
    """Passing and convicting files with one byte changed, wherever it is."""
    chance, seen = random.Random(4), Counter()
    names = ("passes, one layer", "layer 0 is wrong", "GPT-2's block, trunk beside it")
    names += ("BERT's block, layer 0 is wrong", "case passes", "case is wrong")
    good = [next(v for v in FILES if v["name"] == name) for name in names]
    for turn in range(240):
        vector = good[turn % len(good)]
        data, trunk = bytearray(raw(vector["bundle"])), beside(vector)
        # Every second time in what comes before the model, which is nine tenths of it.
        before = turn // len(good) % 2
        place = chance.randrange(2200 if before and not trunk else len(data))
        data[place] ^= 1 << chance.randrange(8)
        ours, theirs = _ours(bytes(data), trunk), second.status(bytes(data), trunk)
        assert ours == theirs, (vector["name"], place)
        seen[ours] += 1
    assert seen[second.NOTHING] == 240


def _ours(data, trunk):
    files = one_case if b"rexis-case-1" in data[:16] else bundle
    try:
        return int(files.check(files.read(data), trunk).fault is not None)
    except (ProtocolError, integer.IntegerModelError):
        return 2


@pytest.mark.parametrize("vector", FILES, ids=lambda v: v["name"])
@pytest.mark.slow
def test_the_program_ends_as_the_vector_says(vector, tmp_path, monkeypatch, capsys):
    path, trunk = tmp_path / "x.bundle", tmp_path / "x.trunk"
    path.write_bytes(raw(vector["bundle"]))
    command = "case" if vector in VECTORS["cases"] else "bundle"
    arguments = ["rexis-verify", command, str(path), "--json"]
    if "trunk" in vector:
        trunk.write_bytes(beside(vector))
        arguments += ["--trunk", str(trunk)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert ended.value.code == vector["expected"], err
    if vector["expected"] < 2:
        told, fault = json.loads(out), vector.get("fault")
        assert (told["verdict"] == "passed") == (vector["expected"] == 0)
        assert told["fault"] == (fault and fault["kind"])
        assert told["entry"] == (fault and fault["entry"])
        assert (told["layer"] or 0) == (fault or {}).get("layer", 0)
    else:
        assert out == ""
        assert err.startswith("rexis-verify: error: ")
