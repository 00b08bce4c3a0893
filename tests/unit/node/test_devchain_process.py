"""The development chain as a program: what it says when it cannot start, and kill -9."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from eth_account import Account

from node.devchain.__main__ import main
from node.devchain.kv import SqliteKV
from node.devchain.ledger import Ledger

CHAIN_ID = 9
WRITERS = [Account.from_key(bytes([n]) * 32) for n in range(1, 5)]

# One process of a federation: sends to itself until it is told to stop.
WRITER = """
import sys, requests
from eth_account import Account
url, key, count = sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3])
account, session = Account.from_key(key), requests.Session()
for nonce in range(count):
    signed = account.sign_transaction({"chainId": 9, "nonce": nonce, "to": account.address,
        "value": 0, "gas": 21000, "maxFeePerGas": 10**11, "maxPriorityFeePerGas": 10**9})
    body = {"id": 1, "method": "eth_sendRawTransaction",
            "params": ["0x" + signed.raw_transaction.hex()]}
    answer = session.post(url, json=body, timeout=10).json()
    print(answer["result"], flush=True)
"""


def refusal(capsys, *arguments: str) -> list[str]:
    """What the program says when it does not start."""
    assert main(list(arguments)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()


def test_a_taken_port_is_two_lines_and_the_database_is_let_go(tmp_path, capsys):
    path = tmp_path / "chain.sqlite"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        error, hint = refusal(capsys, "--db", str(path), "--port", port)
    assert error.startswith(f"error: cannot listen on 127.0.0.1:{port}")
    assert hint.startswith("hint: ")
    SqliteKV(path).close()


@pytest.mark.slow
def test_a_file_in_use_and_another_chain_id_are_two_lines(tmp_path, capsys):
    path = tmp_path / "chain.sqlite"
    kv = SqliteKV(path)
    Ledger(kv, 1)
    error, hint = refusal(capsys, "--db", str(path))
    assert "locked" in error
    assert "another development chain" in hint
    kv.close()
    error, hint = refusal(capsys, "--db", str(path), "--chain-id", "2")
    assert error == "error: the database holds chain 1, asked for 2"
    assert hint.startswith("hint: ")


def test_a_file_that_is_no_database_is_two_lines(tmp_path, capsys):
    path = tmp_path / "chain.sqlite"
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    error, hint = refusal(capsys, "--db", str(path))
    assert "not a database" in error
    assert "move the file away" in hint


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--port", "65536"),
        ("--port", "-1"),
        ("--chain-id", "0"),
        ("--chain-id", "x"),
        ("--fund", "0x12"),
        ("--fund", "0xzz"),
    ],
)
def test_a_bad_option_is_usage(tmp_path, capsys, option, value):
    with pytest.raises(SystemExit, match="2"):
        main(["--db", str(tmp_path / "c.sqlite"), f"{option}={value}"])
    assert option in capsys.readouterr().err


@contextmanager
def running(path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    funds = [part for one in WRITERS for part in ("--fund", one.address)]
    command = [sys.executable, "-m", "node.devchain", "--db", str(path), "--port", "0"]
    with subprocess.Popen(
        [*command, "--chain-id", str(CHAIN_ID), *funds],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1], process
        process.kill()


def ask(url: str, method: str, *params: str) -> object:
    body = {"id": 1, "method": method, "params": params}
    return requests.post(url, json=body, timeout=10).json()["result"]


def write(url: str, account: Account, count: int) -> list[str]:
    """Transactions that a process sent and that the chain acknowledged."""
    command = [sys.executable, "-c", WRITER, url, account.key.hex(), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split()


@pytest.mark.slow
def test_kill_9_under_four_writing_processes_loses_nothing_acknowledged(tmp_path):
    path = tmp_path / "chain.sqlite"
    with running(path) as (url, process), ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(write, url, one, 10_000) for one in WRITERS]
        while int(str(ask(url, "eth_blockNumber")), 16) < 150:
            pass
        process.send_signal(signal.SIGKILL)
        acknowledged = [job.result() for job in waiting]
    assert all(acknowledged)
    with running(path) as (url, process):
        for account, digests in zip(WRITERS, acknowledged, strict=True):
            for digest in digests:
                receipt = ask(url, "eth_getTransactionReceipt", digest)
                assert receipt["status"] == "0x1"
            # What was mined and not yet answered is kept too: one more at most.
            nonce = int(str(ask(url, "eth_getTransactionCount", account.address)), 16)
            assert len(digests) <= nonce <= len(digests) + 1
        digest = ask(url, "dev_fund", WRITERS[0].address)
        assert ask(url, "eth_getTransactionReceipt", digest)["status"] == "0x1"
        process.terminate()
        assert process.wait(10) == 0
