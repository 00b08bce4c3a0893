"""The auditor's code: honest receipts pass, everything else is named or refused."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import nacl.signing
import numpy as np
import pytest

from ee import integer
from ee.integer import IntegerModelError
from ee.integer import known as drawn
from ee.integer.errors import SelfTestError
from node.services.faults import altered
from node.verifier import bundle, cli
from node.verifier import case as cases
from node.verifier.bundle import Bundle
from node.verifier.replay import Model, Opened, audit
from protocol import merkle
from protocol.boundary import boundary_root, case_roots, case_salt
from protocol.errors import MalformedMessageError, ProtocolError, VerificationError
from protocol.members import peer_id
from protocol.receipt import (
    Order,
    batch_proof,
    batch_root,
    seal_order,
    seal_receipt,
)
from protocol.wire import encode

CLINIC, HOST = (nacl.signing.SigningKey(bytes([i]) * 32) for i in (1, 2))
SALT = bytes(range(32))


def key(signing):
    return bytes(signing.verify_key)


def sign(signing):
    return lambda message: signing.sign(message).signature


class Case:
    """An honest answer, and every part of it ready to be bent."""

    def __init__(self):
        self.trunk = drawn.drawn_trunk(causal=True)
        self.model = Model.read(integer.encode(self.trunk))
        rows = drawn.drawn_rows(self.trunk.config)
        self.shape = rows.shape
        self.packed = [
            integer.pack_rows(one) for one in self.trunk.forward(rows).boundaries
        ]

    def order(self, **fields):
        fields = {
            "model_root": self.model.root,
            "host": key(HOST),
            "job": bytes(16),
            "shape": self.shape,
            "input_root": boundary_root(self.packed[0], self.shape, 0, SALT),
            **fields,
        }
        return seal_order(sign(CLINIC), key(CLINIC), Order(**fields))

    def receipt(self, packed=None, order=None):
        after = (self.packed if packed is None else packed)[1:]
        roots = [
            boundary_root(rows, self.shape, i, SALT) for i, rows in enumerate(after, 1)
        ]
        return seal_receipt(
            sign(HOST),
            key(HOST),
            self.order() if order is None else order,
            roots,
            1_700_000_000,
        )

    def bundle(self, sealed=None, **fields):
        batch = [self.receipt() if sealed is None else sealed, b"another"]
        return Bundle(
            **{
                "receipt": batch[0],
                "batch": batch_root(batch),
                "proof": batch_proof(batch, 0),
                "boundary": 0,
                "salt": SALT,
                "rows": self.packed[0],
                "committed": b"",
                "model": integer.encode(self.trunk),
                **fields,
            }
        )

    def rerun(self, packed, layer):
        """What a host has that altered the rows after `layer` and went on honestly."""
        if layer + 1 == len(self.trunk.layers):
            return packed
        rows = integer.unpack_rows(packed[layer + 1], self.shape)
        rest = self.trunk.forward(rows, start=layer + 1).boundaries[1:]
        return [*packed[: layer + 2], *map(integer.pack_rows, rest)]


@pytest.fixture(scope="module")
def case():
    return Case()


def found(case, sealed, boundary=0, rows=None, model=None, committed=None):
    batch = [sealed]
    opened = Opened(boundary, SALT, case.packed[boundary] if rows is None else rows)
    shown = None if committed is None else Opened(committed[0], SALT, committed[1])
    return audit(
        case.model if model is None else model,
        sealed,
        batch_root(batch),
        batch_proof(batch, 0),
        opened,
        shown,
    )


def test_an_honest_receipt_passes_whole_and_layer_by_layer(case):
    sealed = case.receipt()
    whole = found(case, sealed)
    assert (whole.fault, whole.first, whole.count) == (None, 0, 2)
    for layer in range(2):
        piece = Model.read(integer.encode_slice(integer.cut(case.trunk, layer)))
        part = found(case, sealed, layer, model=piece)
        assert (part.fault, part.first, part.count) == (None, layer, 1)


@pytest.mark.slow
def test_any_single_altered_number_is_found_in_its_layer(case):
    generator = np.random.default_rng(11)
    for number in range(90):
        layer = number % 2
        packed = list(case.packed)
        packed[layer + 1] = altered_at(packed[layer + 1], generator)
        if number % 3:
            packed = case.rerun(packed, layer)
        sealed = case.receipt(packed)
        fault = found(case, sealed, committed=(layer + 1, packed[layer + 1])).fault
        assert fault is not None
        assert (fault.kind, fault.layer) == ("layer", layer)
        assert fault.entry is not None
        assert fault.entry.differing == 1
        piece = Model.read(integer.encode_slice(integer.cut(case.trunk, layer)))
        assert found(case, sealed, layer, model=piece).fault is not None


def altered_at(rows, generator):
    """One entry of `rows` set to any other value the op-spec has."""
    at = 3 * int(generator.integers(len(rows) // 3))
    value = int.from_bytes(rows[at : at + 3], "little", signed=True)
    other = value
    while other == value:
        small = generator.random() < 0.5
        other = value + int(generator.integers(-2, 3)) if small else 0
        other = other if small else int(generator.integers(-(2**23) + 1, 2**23))
        other = max(-(2**23) + 1, min(2**23 - 1, other))
    return rows[:at] + other.to_bytes(3, "little", signed=True) + rows[at + 3 :]


def test_the_number_that_differs_is_named(case):
    rows = integer.unpack_rows(case.packed[1], case.shape)
    rows[1, 2, 3] -= 5
    rows[2, 0, 0] += 1
    packed = [case.packed[0], integer.pack_rows(rows), case.packed[2]]
    verdict = found(case, case.receipt(packed), committed=(1, packed[1]))
    assert verdict.fault is not None
    entry = verdict.fault.entry
    assert entry is not None
    assert (entry.case, entry.token, entry.column, entry.differing) == (1, 2, 3, 2)
    assert entry.computed - entry.committed == 5
    assert verdict.before == case.packed[0]
    assert found(case, case.receipt(packed)).fault.entry is None


def test_bytes_that_stand_for_no_number_do_not_hide_which_one_is_wrong(case):
    """A dispute is about a number; three bytes outside of the op-spec must not prevent one."""
    packed = list(case.packed)
    lied = bytes([packed[1][0] ^ 1])
    packed[1] = lied + packed[1][1:-3] + b"\x00\x00\x80"
    fault = found(case, case.receipt(packed), committed=(1, packed[1])).fault
    assert (fault.entry.case, fault.entry.token, fault.entry.column) == (0, 0, 0)
    assert fault.entry.differing == 2
    alone = [case.packed[0], case.packed[1][:-3] + b"\x00\x00\x80", case.packed[2]]
    entry = found(case, case.receipt(alone), committed=(1, alone[1])).fault.entry
    assert (entry.committed, entry.differing) == (-(2**23), 1)


@pytest.mark.parametrize(
    "what", ["model", "weights", "order of layers", "host's own rows"]
)
def test_controls_are_caught(case, what):
    """Each is an honest computation of something else."""
    trunk, packed = case.trunk, case.packed
    if what == "model":
        other = drawn.drawn_trunk(causal=False)
    elif what == "weights":
        weight = trunk.layers[1].gate.weight.copy()
        weight[3, 4] += 1 if weight[3, 4] < 63 else -1
        gate = integer.Matrix(weight, trunk.layers[1].gate.multiplier, 31)
        layer = integer.Layer(
            *trunk.layers[1].matrices()[:4], gate, *trunk.layers[1].matrices()[5:]
        )
        other = integer.IntegerTrunk(trunk.header, (trunk.layers[0], layer))
    elif what == "order of layers":
        other = integer.IntegerTrunk(trunk.header, trunk.layers[::-1])
    else:
        other = trunk
    rows = integer.unpack_rows(packed[0], case.shape)
    if what == "host's own rows":
        rows[0, 0, 0] += 1
    after = [integer.pack_rows(one) for one in other.forward(rows).boundaries[1:]]
    fault = found(case, case.receipt([packed[0], *after])).fault
    assert fault is not None
    assert fault.layer == (1 if what == "weights" else 0)


def test_a_receipt_for_other_sizes_is_a_fault_of_its_host(case):
    short = [case.packed[0], case.packed[1]]
    assert found(case, case.receipt(short)).fault.kind == "shape"
    batch, tokens, width = case.shape
    rows = case.packed[0]
    ordered = case.order(
        shape=(1, batch * tokens, width),
        input_root=boundary_root(rows, (1, batch * tokens, width), 0, SALT),
    )
    sealed = seal_receipt(sign(HOST), key(HOST), ordered, [bytes(32)] * 2, 0)
    assert found(case, sealed).fault.kind == "shape"


@pytest.mark.parametrize("boundary", [0, 1])
def test_rows_outside_the_op_spec_are_a_fault_of_whoever_signed_them(case, boundary):
    packed = list(case.packed)
    packed[boundary] = b"\x00\x00\x80" + packed[boundary][3:]
    order = case.order(input_root=boundary_root(packed[0], case.shape, 0, SALT))
    fault = found(case, case.receipt(packed, order), boundary, packed[boundary]).fault
    assert (fault.kind, fault.layer) == (("layer", 0) if boundary else ("shape", 0))


def test_what_does_not_belong_together_accuses_nobody(case):
    sealed, rows = case.receipt(), case.packed[0]
    with pytest.raises(VerificationError, match="model root"):
        found(
            case,
            sealed,
            model=Model.read(integer.encode(drawn.drawn_trunk(causal=False))),
        )
    with pytest.raises(VerificationError, match="rows at boundary 0"):
        found(case, sealed, rows=altered(rows))
    with pytest.raises(VerificationError, match="rows at boundary 1"):
        found(case, sealed, 1, rows)
    with pytest.raises(VerificationError, match="0 to 2"):
        found(case, sealed, -1, rows)
    with pytest.raises(VerificationError, match="layer of the model"):
        found(case, sealed, 2, case.packed[2])
    with pytest.raises(VerificationError, match="batch root"):
        audit(
            case.model,
            sealed,
            bytes(32),
            batch_proof([sealed], 0),
            Opened(0, SALT, rows),
        )
    lie = [case.packed[0], altered(case.packed[1]), case.packed[2]]
    with pytest.raises(VerificationError, match="rows at boundary 1"):
        found(case, case.receipt(lie), committed=(1, case.packed[1]))


def test_a_bundle_is_checked_from_its_bytes(case):
    data = bundle.write(case.bundle())
    verdict = bundle.check(bundle.read(data))
    assert (verdict.fault, verdict.count) == (None, 2)
    trunk = integer.encode(case.trunk)
    alone = bundle.read(bundle.write(case.bundle(model=b"")))
    assert bundle.check(alone, trunk).fault is None
    with pytest.raises(MalformedMessageError, match="give the trunk"):
        bundle.check(alone)
    with pytest.raises(MalformedMessageError, match="leave --trunk out"):
        bundle.check(case.bundle(), trunk)
    with pytest.raises(MalformedMessageError, match="no layer is wrong"):
        bundle.check(case.bundle(committed=case.packed[1]))


def test_a_bundle_over_the_limit_is_refused(case, monkeypatch):
    data = bundle.write(case.bundle())
    monkeypatch.setattr(bundle, "BUNDLE_LIMIT_BYTES", len(data) - 1)
    with pytest.raises(MalformedMessageError, match="limit is"):
        bundle.read(data)
    with pytest.raises(MalformedMessageError, match="leave the trunk out"):
        bundle.write(case.bundle())


@pytest.mark.slow
def test_no_flipped_byte_anywhere_leaves_a_bundle_that_passes(case):
    data = bundle.write(case.bundle())
    generator = np.random.default_rng(13)
    made = case.bundle()
    regions = [
        made.receipt, made.batch, made.proof.tree, made.proof.path[0], made.salt, made.rows
    ]  # fmt: skip
    places = [
        data.index(region) + int(generator.integers(len(region)))
        for region in regions
        for _ in range(20)
    ]
    places += generator.integers(len(data), size=150).tolist()
    places += range(40)
    for place in places:
        bent = bytearray(data)
        bent[place] ^= 1 << int(generator.integers(8))
        with pytest.raises((ProtocolError, IntegerModelError)):
            bundle.check(bundle.read(bytes(bent)))


@pytest.mark.parametrize("keep", [0, 1, 100, 2000, -1])
def test_a_cut_bundle_is_refused(case, keep):
    data = bundle.write(case.bundle())
    with pytest.raises(MalformedMessageError):
        bundle.read(data[:keep])
    with pytest.raises(MalformedMessageError):
        bundle.read(data + b"\x00")


def run(*arguments):
    found = subprocess.run(
        [sys.executable, "-m", "node.verifier.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.returncode, found.stdout, found.stderr


def test_the_program_checks_a_file_and_its_exit_status_says_how(case, tmp_path):
    good, bad = tmp_path / "good.bundle", tmp_path / "bad.bundle"
    good.write_bytes(bundle.write(case.bundle()))
    status, out, err = run("bundle", good)
    assert (status, err) == (0, "")
    assert "PASSED: the output is this model's, to the last bit" in out
    assert peer_id(key(HOST)) in out
    lie = case.rerun([case.packed[0], altered(case.packed[1]), case.packed[2]], 0)
    bad.write_bytes(bundle.write(case.bundle(case.receipt(lie), committed=lie[1])))
    status, out, err = run("bundle", bad, "--json")
    assert (status, err) == (1, "")
    said = json.loads(out)
    assert (said["verdict"], said["fault"], said["layer"]) == ("failed", "layer", 0)
    assert said["host"] == peer_id(key(HOST))
    assert abs(said["entry"]["committed"] - said["entry"]["computed"]) == 1


def program(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["rexis-verify", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, *capsys.readouterr()


def test_the_program_tells_apart_what_went_wrong(case, tmp_path, monkeypatch, capsys):
    trunk, path = tmp_path / "m.trunk", tmp_path / "x.bundle"
    trunk.write_bytes(integer.encode(case.trunk))

    def check(*arguments):
        return program(monkeypatch, capsys, "bundle", *arguments)

    path.write_bytes(bundle.write(case.bundle(model=b"")))
    assert check(path, "--trunk", trunk)[0] == 0
    root = case.bundle().batch.hex()
    assert check(path, "--trunk", trunk, "--anchored", "0x" + root.upper())[0] == 0
    status, out, err = check(path, "--trunk", trunk, "--anchored", root[::-1])
    assert (status, out) == (2, "")
    assert root in err
    for part, why in ((root[:16], "16 digits"), (root[:63] + "g", "not hexadecimal")):
        status, out, err = check(path, "--trunk", trunk, "--anchored", part)
        assert (status, out) == (3, "")
        assert why in err
    status, out, err = check(path)
    assert (status, out) == (2, "")
    assert err.count("\n") == 2
    assert "error: bundle holds no model" in err
    status, _, err = check(tmp_path / "none")
    assert status == 2
    assert f"cannot read {tmp_path / 'none'}: No such file" in err
    status, _, err = program(monkeypatch, capsys, "case", path)
    assert status == 2
    assert f"{path} is a bundle\n" in err
    assert f"hint: check it with rexis-verify bundle {path}" in err
    status, _, err = check(path, "--trunk", path)
    assert status == 2
    assert f"{path} is a bundle\n" in err
    status, _, err = check(trunk)
    assert status == 2
    assert f"{trunk} is a model\n" in err
    cut = case.bundle(model=b"")
    path.write_bytes(bundle.write(msgspec.structs.replace(cut, salt=bytes(32))))
    status, _, err = check(path, "--trunk", trunk)
    assert status == 2
    assert "error: does not verify: root of the rows at boundary 0: expected" in err
    path.write_bytes(b"something else")
    status, _, err = check(path)
    assert status == 2
    assert f"{path} is damaged, or not a bundle: not a Bundle" in err
    assert "hint: get it again from who wrote it" in err
    assert check()[0] == 3
    assert program(monkeypatch, capsys, "bnudle")[0] == 3
    status, out, err = program(monkeypatch, capsys)
    assert (status, out) == (3, "")
    assert err.startswith("Usage: rexis-verify")
    assert program(monkeypatch, capsys, "self-test")[0] == 0
    _, out, _ = program(monkeypatch, capsys, "self-test", "--json")
    assert json.loads(out) == {
        "op_specs": [integer.op_spec_digest(number).hex() for number in (1, 2)]
    }
    status, out, _ = program(monkeypatch, capsys, "--version")
    assert (status, out.split()[0]) == (0, "rexis-verify")

    def broken():
        raise SelfTestError("this machine computes otherwise")

    monkeypatch.setattr(cli, "self_test", broken)
    status, _, err = check(path)
    assert status == 4
    assert "audit on another machine" in err


def test_a_file_says_for_which_command_it_is(tmp_path, monkeypatch, capsys):
    path = tmp_path / "x"
    for tag, command in (
        (b"rexis-case-1", "case"),
        (b"lineage-1", "lineage"),
        (b"query-bundle", "query"),
        (b"query-rounds", "query"),
    ):
        path.write_bytes(b"\x98" + encode(tag.decode()) + b"\0" * 40)
        for other in {"bundle", "case", "lineage", "query"} - {command}:
            status, _, err = program(monkeypatch, capsys, other, path)
            assert status == 2
            assert f"hint: check it with rexis-verify {command} {path}" in err


def test_a_verdict_says_whether_it_was_compared_with_the_chain(
    case, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "x.bundle"
    path.write_bytes(bundle.write(case.bundle()))
    root = case.bundle().batch.hex()
    for options, said in (((), None), (("--anchored", root), root)):
        arguments = ("bundle", path, *options)
        _, out, _ = program(monkeypatch, capsys, *arguments, "--json")
        assert json.loads(out)["anchored"] == said
        _, out, _ = program(monkeypatch, capsys, *arguments)
        (line,) = [row for row in out.splitlines() if row.startswith("anchored ")]
        assert ("not compared" in line) == (said is None)


def test_a_person_sees_where_a_replay_stands_and_a_pipe_does_not(
    case, tmp_path, monkeypatch, capsys
):
    for command, data in (
        ("bundle", bundle.write(case.bundle())),
        ("case", encode(shown_case(case, case.packed))),
    ):
        path = tmp_path / command
        path.write_bytes(data)
        _, plain, err = program(monkeypatch, capsys, command, path)
        assert err == ""
        with monkeypatch.context() as terminal:
            terminal.setattr(sys.stderr, "isatty", lambda: True)
            _, out, err = program(monkeypatch, capsys, command, path)
        assert out == plain
        shown = [line for line in err.split("\r\x1b[K") if line]
        assert shown == ["replaying layer 1 of 2", "replaying layer 2 of 2"]
        assert err.endswith("\x1b[K")


@pytest.mark.parametrize("honest", [True, False])
def test_a_result_that_nobody_can_read_is_no_verdict_on_a_file(case, tmp_path, honest):
    path = tmp_path / "x.bundle"
    lie = case.rerun([case.packed[0], altered(case.packed[1]), case.packed[2]], 0)
    path.write_bytes(
        bundle.write(case.bundle() if honest else case.bundle(case.receipt(lie)))
    )

    def ended(out):
        return subprocess.run(
            [sys.executable, "-m", "node.verifier.cli", "bundle", str(path)],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    with Path("/dev/full").open("w") as full:
        done = ended(full)
    assert done.returncode == 2
    assert "error: cannot write the result: No space left on device" in done.stderr
    # A reader that has gone, such as `head`, changes nothing of what was found.
    ours, theirs = os.pipe()
    os.close(ours)
    done = ended(theirs)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0 if honest else 1, "")


def test_a_fault_of_the_program_accuses_nobody(case, tmp_path, monkeypatch, capsys):
    """Python ends with 1 where nothing catches an exception, and 1 is for a host that lied."""

    def failing(_bundle, _trunk):
        return {}["no such thing"]

    path = tmp_path / "x.bundle"
    path.write_bytes(bundle.write(case.bundle()))
    monkeypatch.setattr(bundle, "check", failing)
    status, out, err = program(monkeypatch, capsys, "bundle", path)
    assert (status, out) == (2, "")
    assert "Traceback" in err
    assert err.endswith("hint: this is a fault of rexis-verify\n")


def test_the_program_describes_a_receipt_of_sizes_no_model_has(
    case, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "x.bundle"
    sealed = case.receipt([case.packed[0], case.packed[1]])
    path.write_bytes(bundle.write(case.bundle(sealed)))
    status, out, _ = program(monkeypatch, capsys, "bundle", path)
    assert status == 1
    assert "rows or layers this model does not have" in out


def test_the_verifier_imports_nothing_that_would_have_to_be_trusted():
    allowed = {"protocol", "ee.integer", "node.verifier", "numpy", "click"}
    for source in Path(cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                joined = [f"{node.module}.{alias.name}" for alias in node.names]
                names = joined if node.module in {"ee", "node"} else [node.module]
            for name in names:
                stdlib = name.split(".")[0] in sys.stdlib_module_names
                own = any(name == one or name.startswith(one + ".") for one in allowed)
                assert stdlib or own, f"{source.name} imports {name}"


def test_the_verifier_loads_neither_torch_nor_the_daemon():
    code = (
        "import sys, node.verifier.cli\n"
        "print([m for m in sys.modules if m.split('.')[0] in"
        " ('torch', 'transformers', 'trio', 'libp2p', 'web3')"
        " or m.startswith('node.') and not m.startswith('node.verifier')])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_a_proof_for_another_receipt_of_the_batch_does_not_serve(case):
    sealed = [case.receipt(order=case.order(job=bytes([i]) * 16)) for i in range(3)]
    root = batch_root(sealed)
    opened = Opened(0, SALT, case.packed[0])
    for index, one in enumerate(sealed):
        assert (
            audit(case.model, one, root, batch_proof(sealed, index), opened).fault
            is None
        )
        with pytest.raises(VerificationError):
            audit(case.model, one, root, batch_proof(sealed, (index + 1) % 3), opened)


def shown_case(made_by, packed, number=1, **fields):
    """One case of an answer, as its requester shows it."""
    sealed, size = made_by.receipt(packed), len(packed[0]) // made_by.shape[0]
    batch = [sealed, b"another"]
    ends = {}
    for boundary, (rows, path) in {
        0: ("rows", "path"),
        2: ("output", "output_path"),
    }.items():
        roots = case_roots(packed[boundary], made_by.shape, boundary, SALT)
        ends[rows] = packed[boundary][number * size : (number + 1) * size]
        ends[path] = tuple(merkle.inclusion_proof(roots, number))
    made = {
        "receipt": sealed,
        "batch": batch_root(batch),
        "proof": batch_proof(batch, 0),
        "case": number,
        "salt": case_salt(SALT, number),
        "model": integer.encode(made_by.trunk),
        **ends,
    }
    return cases.Case(**{**made, **fields})


def test_one_case_is_checked_alone(case):
    for number in range(case.shape[0]):
        shown = shown_case(case, case.packed, number)
        assert cases.check(cases.read(encode(shown))).fault is None
    lie = case.packed
    while lie[-1] == case.packed[-1]:  # a small lie is sometimes rounded away
        lie = case.rerun([case.packed[0], altered(case.packed[1]), case.packed[2]], 0)
    faults = [
        cases.check(shown_case(case, lie, number)).fault
        for number in range(case.shape[0])
    ]
    wrong = [number for number, fault in enumerate(faults) if fault is not None]
    # The lie is in one case, and sequences do not see each other.
    assert len(wrong) == 1
    fault = faults[wrong[0]]
    assert (fault.kind, fault.entry.case) == ("output", wrong[0])


def test_no_flipped_bit_of_a_shown_case_passes(case):
    data = encode(shown_case(case, case.packed))
    generator = np.random.default_rng(29)
    end = len(data) - len(integer.encode(case.trunk))
    for place in [
        *generator.integers(end, size=120),
        *generator.integers(len(data), size=30),
    ]:
        bent = bytearray(data)
        bent[place] ^= 1 << int(generator.integers(8))
        with pytest.raises((ProtocolError, IntegerModelError)):
            cases.check(cases.read(bytes(bent)))


def test_a_case_of_another_place_or_salt_is_refused(case):
    with pytest.raises(ProtocolError, match="merkle root"):
        cases.check(shown_case(case, case.packed, case=0))
    with pytest.raises(ProtocolError, match="merkle root"):
        cases.check(shown_case(case, case.packed, salt=case_salt(SALT, 0)))
    with pytest.raises(ProtocolError, match="case 3 of 3 cases"):
        cases.check(shown_case(case, case.packed, case=3))
    with pytest.raises(ProtocolError, match="need 504"):
        cases.check(shown_case(case, case.packed, rows=b""))
    with pytest.raises(ProtocolError, match="give the trunk"):
        cases.check(shown_case(case, case.packed, model=b""))


def test_the_program_checks_a_case(case, tmp_path, monkeypatch, capsys):
    path = tmp_path / "one.case"
    path.write_bytes(encode(shown_case(case, case.packed)))
    status, out, _ = program(monkeypatch, capsys, "case", path, "--json")
    assert (status, json.loads(out)["case"]) == (0, 1)
    lie = [*case.packed[:2], altered(case.packed[2])]
    for number in range(3):
        path.write_bytes(encode(shown_case(case, lie, number)))
        status, out, _ = program(monkeypatch, capsys, "case", path)
        assert status == (1 if "the output is not the model's" in out else 0)
    path.write_bytes(bundle.write(case.bundle()))
    assert program(monkeypatch, capsys, "case", path)[0] == 2
