"""What an operator may get wrong: one clear line, what to do, and nothing lost."""

import json
import signal
import socket
import sqlite3

import pytest

from node.demo import opt

pytestmark = pytest.mark.slow

NOT_AN_ERROR = ("Traceback", "BaseExceptionGroup")


def one_clear_line(said):
    """`error: …` and `hint: …`, and no stack of calls anywhere."""
    assert not any(word in said for word in NOT_AN_ERROR), said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    (hint,) = [line for line in said.splitlines() if line.startswith("hint: ")]
    return error, hint


def test_a_node_starts_publishes_is_killed_and_comes_back_as_it_was(node, tmp_path):
    first = node.daemon()
    table = tmp_path / "table.csv"
    table.write_bytes(opt.csv_bytes(["MN"]))
    said = {
        "paths": [str(table)],
        "title": "Obstetric trial, clinic MN",
        "licence": opt.LICENCE,
        "duo": list(opt.TERMS),
        "source": opt.SOURCE,
        "unit_by": "PID",
    }
    shown = node.call("datasets.preview", **said)
    assert node.call("datasets.list")["datasets"] == []
    made = node.call("datasets.publish", **said)
    assert shown["columns"] == made["listing"]["columns"]
    assert len(shown["holds"]) == made["units"]
    before = node.call("status.get"), node.call("datasets.list")
    first.kill()
    first.wait()
    second = node.daemon()
    after = node.call("status.get"), node.call("datasets.list")
    assert after[0]["peer_id"] == before[0]["peer_id"]
    assert after[1] == before[1]
    assert after[1]["datasets"][0]["mine"]
    second.send_signal(signal.SIGTERM)
    assert second.wait(15) == 0
    assert not node.home.rpc_socket.exists()


def test_a_second_daemon_on_one_folder_and_a_taken_port(node):
    node.daemon()
    status, said = node.ends(log="second.log")
    error, hint = one_clear_line(said)
    assert status == 1
    assert "another daemon runs on" in error
    assert "rexis stop" in hint
    assert node.call("status.get")["name"] == "MN"


def test_a_port_in_use(node):
    address = node.settings["network__listen"][0]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(address.rsplit("/", 1)[1])))
        taken.listen()
        status, said = node.ends(log="port.log")
    error, _ = one_clear_line(said)
    assert status == 1
    assert address in error


def test_a_wrong_passphrase_and_none(node, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("not it\n")
    status, said = node.ends(log="wrong.log", REXIS_PASSPHRASE_FILE=str(wrong))
    error, _ = one_clear_line(said)
    assert (status, "the passphrase does not open" in error) == (1, True)
    status, said = node.ends(log="none.log", REXIS_PASSPHRASE_FILE="")
    error, hint = one_clear_line(said)
    assert (status, "no passphrase" in error) == (1, True)
    assert "REXIS_PASSPHRASE_FILE" in hint


def test_a_corrupt_database_page_is_left_as_it_is(node):
    node.daemon().send_signal(signal.SIGTERM)
    node.bench.running[-1].wait(15)
    with sqlite3.connect(node.home.database) as database:
        for number in range(200):
            database.execute(
                "INSERT INTO record VALUES ('fill', ?, ?)",
                (bytes([number]), bytes(999)),
            )
    database.close()
    data = bytearray(node.home.database.read_bytes())
    # A leaf that holds rows: of an empty page only the header counts.
    page = next(
        start
        for start in range(4096, len(data), 4096)
        if data[start] in (10, 13) and b"fill" in data[start : start + 4096]
    )
    data[page + 8 : page + 4096] = b"\xff" * (4096 - 8)
    node.home.database.write_bytes(data)
    status, said = node.ends(log="corrupt.log")
    error, hint = one_clear_line(said)
    assert (status, "state.sqlite" in error) == (1, True)
    assert "nothing was changed" in hint
    assert node.home.database.read_bytes() == bytes(data)


def test_a_chain_that_is_down_does_not_stop_the_node_and_another_chain_does(node):
    node.chain.kill()
    node.chain.wait()
    node.daemon(log="down.log")
    assert "chain is down" in node.said("down.log")
    assert node.call("status.get")["chain"]["head"] is None
    shown = node.bench.rexis("--home", node.home.path, "dataset", "list")
    assert shown.returncode == 1
    assert shown.stderr.startswith("error: ")
    assert "Traceback" not in shown.stderr


def test_the_wrong_chain_id_is_refused(node):
    node.configure(chain__chain_id=1)
    status, said = node.ends(log="id.log")
    error, hint = one_clear_line(said)
    assert (status, "chain id is 31337, expected 1" in error) == (1, True)
    assert "chain.chain_id" in hint


def test_an_unknown_key_and_a_bad_value_name_themselves(node):
    good = node.home.config.read_text()
    node.home.config.write_text(good.replace("listen =", "lisen ="))
    error, hint = one_clear_line(node.ends(log="key.log")[1])
    assert "network.lisen" in error
    assert "network.listen" in hint
    node.home.config.write_text(good)
    status, said = node.ends(log="value.log", REXIS_TRAINING__TRAIN_S="soon")
    error, _ = one_clear_line(said)
    assert (status, "training.train_s" in error) == (1, True)


def test_a_malformed_call_costs_one_line_and_nobody_else(node):
    node.daemon()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(node.home.rpc_socket))
        sock.sendall(b"{not json\n")
        answer = json.loads(sock.makefile("rb").readline())
    assert answer["error"]["code"] == -32700
    done = node.bench.rexis("--home", node.home.path, "grant", "revoke", "99")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert node.call("status.get")["name"] == "MN"
