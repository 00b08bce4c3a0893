"""The sandbox and what it takes away; the budget and that it is charged first."""

import json
import subprocess
import sys

import numpy as np
import pytest
from query_world import BUDGET, question

from node.adapters.memory_store import MemoryStore
from node.errors import AccessError, ComputeError
from node.query import runner
from node.query.code import code_digest
from node.query.ledger import Ledger
from node.rpc.results import queries as results

# --- the sandbox --------------------------------------------------------------

PROBE = """
import json, os, socket
from node.query import sandbox
layers = sandbox.enter()
held = {}
for name, act in {
    "socket": lambda: socket.socket().connect(("127.0.0.1", PORT)),
    "read": lambda: open("/etc/hostname").close(),
    "write": lambda: open(PATH, "w").close(),
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getppid(), 0),
}.items():
    try:
        act()
        held[name] = False
    except OSError:
        held[name] = True
print(json.dumps([layers, held]))
"""


def probed(text, port, path):
    code = text.replace("PORT", str(port)).replace("PATH", repr(str(path)))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_in_the_sandbox_there_is_no_network_and_what_else_its_layers_promise(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        layers, held = probed(PROBE, port, tmp_path / "x")
        assert held["socket"]
        assert layers["limits"]
        if layers["calls"]:
            assert all(held.values())
        # Without it the same probe gets through: the test can fail.
        free = PROBE.replace("sandbox.enter()", "{}").replace("os.fork", "lambda: None")
        _, held = probed(free.replace('"/bin/true"', '"/none"'), port, tmp_path / "x")
        assert not held["socket"]
        assert not held["read"]


async def test_a_query_runs_in_its_child_and_its_noise_is_not_the_same_twice():
    table = b"x\n" + b"1\n" * 1000
    asked = question(1000, kind="histogram", columns=("x",), low=0.0, high=9.0, bins=9)
    one, two = [(await runner.run(asked, table)).view(np.int64) for _ in range(2)]
    assert one.size == 9
    assert abs(int(one[1]) - 1000) < 300  # 13 standard deviations
    assert one.tolist() != two.tolist()


async def test_what_a_child_cannot_answer_is_an_error_without_a_cell():
    with pytest.raises(ComputeError, match="no column 'y'") as caught:
        await runner.run(
            question(kind="histogram", columns=("y",), low=0.0, high=1.0, bins=1),
            b"x\nsecret\n",
        )
    assert "secret" not in str(caught.value)


def test_the_programs_digest_changes_with_any_of_its_bytes(tmp_path, monkeypatch):
    from node.query import code

    before = code_digest()
    assert code.code_digest.__wrapped__() == before
    monkeypatch.setattr(code, "_MODULES", code._MODULES[:1])
    assert code.code_digest.__wrapped__() != before


# --- the budget ---------------------------------------------------------------


@pytest.mark.slow
async def test_a_budget_is_charged_before_the_answer_and_never_exceeded():
    store = MemoryStore()
    ledger = Ledger(store)
    await ledger.allow(7, ["count"], BUDGET, 10)
    limit = (await ledger.account(7)).policy.limit
    third = limit // 3
    for number in range(3):
        await ledger.charge(7, question(third, number), b"a" * 32, 1)
    # Asked again, also after a restart: the charge is there, and is not made twice.
    again = Ledger(store)
    await again.charge(7, question(third, 2), b"a" * 32, 2)
    assert (await again.account(7)).spent == 3 * third
    with pytest.raises(AccessError, match="left"):
        await again.charge(7, question(third, 3), b"a" * 32, 3)
    with pytest.raises(AccessError, match="no histogram"):
        await again.charge(7, question(100, 4, kind="histogram"), b"a" * 32, 3)
    # A stop and a new permission do not bring back what is spent.
    await again.stop(7)
    with pytest.raises(AccessError, match="no count"):
        await again.charge(7, question(100, 5), b"a" * 32, 3)
    await again.allow(7, ["count"], BUDGET, 10)
    with pytest.raises(AccessError, match="left"):
        await again.charge(7, question(third, 6), b"a" * 32, 3)
    (row,) = await again.rows()
    results.QueryPolicy(**row)
    assert row["epsilon_spent"] <= BUDGET[0]
    assert row["questions"] == 3
