"""The development chain: what it refuses, in what words, and that it goes on afterwards."""

import http.client
import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from eth_account import Account
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.devchain.kv import SqliteKV
from node.devchain.ledger import Ledger
from node.devchain.methods import BATCH_LIMIT, Methods
from node.devchain.server import BODY_LIMIT, Server
from node.errors import ConfigError, StorageError

CHAIN_ID = 7
ALICE = Account.from_key(b"\x0a" * 32)
BOB = "0x" + "bb" * 20
# Deploys `REVERT` with the two bytes "no".
REVERTER = "0x" + "600b600c600039600b6000f3" + "616e6f" + "600052" + "6002601efd"
# Deploys code that calls itself with all its gas, for ever.
ABYSS = "0x" + "600f600c600039600f6000f3" + "6000600060006000600030" + "5af100" + "00"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One chain for the module, served over HTTP, its clock in our hands."""
    now = SimpleNamespace(time=1_700_000_000)
    kv = SqliteKV(tmp_path_factory.mktemp("chain") / "chain.sqlite")
    methods = Methods(Ledger(kv, CHAIN_ID, clock=lambda: now.time), kv)
    methods.fund_if_empty(bytes.fromhex(ALICE.address[2:]))
    server = Server(0, methods)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def post(body: bytes, **headers: str) -> tuple[int, object]:
        link = http.client.HTTPConnection("127.0.0.1", server.server_address[1])
        link.request("POST", "/", body, headers)
        answer = link.getresponse()
        read = (answer.status, json.loads(answer.read()))
        link.close()
        return read

    def ask(method: str, *params: object) -> object:
        answer = methods.answer({"id": 1, "method": method, "params": list(params)})
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["result"]

    def refusal(method: str, *params: object) -> tuple[int, str]:
        answer = methods.answer({"id": 1, "method": method, "params": list(params)})
        return answer["error"]["code"], answer["error"]["message"]

    yield SimpleNamespace(
        now=now, methods=methods, post=post, ask=ask, refusal=refusal, server=server
    )
    server.shutdown()
    thread.join()
    server.server_close()
    kv.close()


def transfer(chain, **changes):
    fields = {
        "chainId": CHAIN_ID,
        "nonce": int(chain.ask("eth_getTransactionCount", ALICE.address), 16),
        "to": bytes.fromhex("cc" * 20),
        "value": 5,
        "gas": 21_000,
        "maxFeePerGas": 10**11,
        "maxPriorityFeePerGas": 10**9,
    }
    signed = ALICE.sign_transaction({**fields, **changes})
    return "0x" + signed.raw_transaction.hex()


def test_a_transfer_is_a_block_with_a_receipt(chain):
    before = int(chain.ask("eth_getBalance", BOB), 16)
    digest = chain.ask(
        "eth_sendRawTransaction", transfer(chain, to=bytes.fromhex(BOB[2:]))
    )
    assert int(chain.ask("eth_getBalance", BOB), 16) == before + 5
    receipt = chain.ask("eth_getTransactionReceipt", digest)
    assert (receipt["status"], receipt["gasUsed"]) == ("0x1", hex(21_000))
    block = chain.ask("eth_getBlockByHash", receipt["blockHash"])
    assert block["transactions"] == [digest]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nonce": 10**6}, "nonce too high"),
        ({"nonce": 0}, "nonce too low"),
        ({"value": 10**30}, "insufficient funds"),
        ({"chainId": CHAIN_ID + 1}, "chain"),
        ({"gas": 1_000}, "gas"),
        ({"maxFeePerGas": 1, "maxPriorityFeePerGas": 1}, "fee"),
        ({"gas": 31_000_000}, "gas"),
    ],
)
def test_a_bad_transaction_is_refused_and_the_chain_goes_on(chain, changes, words):
    chain.ask("eth_sendRawTransaction", transfer(chain))
    height = chain.ask("eth_blockNumber")
    code, message = chain.refusal("eth_sendRawTransaction", transfer(chain, **changes))
    assert code == -32000
    assert words in message.lower()
    assert chain.ask("eth_blockNumber") == height
    chain.ask("eth_sendRawTransaction", transfer(chain))


def test_the_same_transaction_twice_is_refused(chain):
    raw = transfer(chain)
    chain.ask("eth_sendRawTransaction", raw)
    assert "nonce too low" in chain.refusal("eth_sendRawTransaction", raw)[1]


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("eth_teleport", [], -32601),
        ("dev_move", ["0x1"], -32601),
        ("eth_getBalance", [], -32602),
        ("eth_getBalance", ["0x1234"], -32602),
        ("eth_getBalance", ["0x" + "zz" * 20], -32602),
        ("eth_getBalance", [BOB, "soon"], -32602),
        ("eth_getBalance", [BOB, "0xffffff"], -32000),
        ("eth_getBalance", [BOB, "0x" + "f" * 65], -32602),
        ("eth_getBalance", [BOB, "latest", "more"], -32602),
        ("eth_getBlockByNumber", ["latest", True], -32602),
        ("eth_getTransactionReceipt", ["0x00"], -32602),
        ("eth_call", ["0x"], -32602),
        ("eth_call", [{"to": 5}], -32602),
        ("eth_call", [{"to": BOB, "value": "0x1", "from": BOB, "gas": "-1"}], -32602),
        ("eth_sendRawTransaction", ["0x"], -32000),
        ("eth_sendRawTransaction", ["0x02c0"], -32000),
        ("eth_sendRawTransaction", ["0x7f00"], -32000),
        ("eth_sendRawTransaction", ["0xc0"], -32000),
        ("eth_getLogs", [{"topics": "0x"}], -32602),
        ("eth_getLogs", [{"blockHash": "0x" + "00" * 32}], -32000),
        ("eth_getLogs", [[]], -32602),
        ("dev_fund", [BOB, "0x" + "f" * 64], -32000),
    ],
)
def test_a_malformed_request_gets_its_code_and_one_line(chain, method, params, code):
    found, message = chain.refusal(method, *params)
    assert found == code, message
    assert message
    assert "\n" not in message


def test_what_is_not_there_is_null_or_empty(chain):
    nothing = "0x" + "00" * 32
    assert chain.ask("eth_getTransactionReceipt", nothing) is None
    assert chain.ask("eth_getBlockByHash", nothing) is None
    assert chain.ask("eth_getBlockByNumber", "0xffffff") is None
    assert chain.ask("eth_getBlockByNumber", "0x" + "f" * 64) is None
    assert chain.ask("eth_getLogs", {"fromBlock": "0x" + "f" * 64}) == []
    assert chain.ask("eth_getCode", BOB) == "0x"


def test_a_revert_is_code_3_with_its_data(chain):
    digest = chain.ask(
        "eth_sendRawTransaction", transfer(chain, to="", data=REVERTER, gas=100_000)
    )
    at = chain.ask("eth_getTransactionReceipt", digest)["contractAddress"]
    for method in ("eth_call", "eth_estimateGas"):
        answer = chain.methods.answer(
            {"id": 1, "method": method, "params": [{"to": at}]}
        )
        assert answer["error"]["code"] == 3
        assert answer["error"]["data"] == "0x" + b"no".hex()


@pytest.mark.slow
def test_a_contract_that_calls_itself_for_ever_does_not_take_the_chain_along(chain):
    digest = chain.ask(
        "eth_sendRawTransaction", transfer(chain, to="", data=ABYSS, gas=100_000)
    )
    at = chain.ask("eth_getTransactionReceipt", digest)["contractAddress"]
    body = {"id": 1, "method": "eth_call", "params": [{"to": at}]}
    status, answer = chain.post(json.dumps(body).encode())
    assert (status, answer["result"]) == (200, "0x")
    assert chain.ask("eth_chainId") == hex(CHAIN_ID)


def test_the_estimate_is_enough_and_not_far_too_much(chain):
    estimate = int(chain.ask("eth_estimateGas", {"to": BOB, "value": "0x0"}), 16)
    assert 21_000 <= estimate < 24_000
    digest = chain.ask("eth_sendRawTransaction", transfer(chain, gas=estimate))
    assert chain.ask("eth_getTransactionReceipt", digest)["status"] == "0x1"


def test_time_passes_on_a_chain_that_nobody_writes_to(chain):
    first = chain.ask("eth_getBlockByNumber", "latest", False)
    chain.now.time = int(first["timestamp"], 16) + 3_600
    second = chain.ask("eth_getBlockByNumber", "latest", False)
    assert int(second["timestamp"], 16) == chain.now.time
    assert second["transactions"] == []
    assert chain.ask("eth_getBlockByNumber", "latest", False) == second


def test_time_is_moved_only_where_that_was_asked_for(tmp_path):
    kv = SqliteKV(tmp_path / "chain.sqlite")
    methods = Methods(Ledger(kv, 1, clock=lambda: 1_000), kv, time_travel=True)

    def ask(method: str, *params: object) -> dict[str, object]:
        return methods.answer({"id": 1, "method": method, "params": list(params)})

    before = ask("eth_getBlockByNumber", "latest")["result"]["timestamp"]
    moved = ask("dev_move", hex(3_600))["result"]
    assert int(moved, 16) == int(before, 16) + 3_600
    assert ask("eth_getBlockByNumber", "latest")["result"]["timestamp"] == moved
    assert ask("dev_move", "0x" + "f" * 16)["error"]["code"] == -32602
    kv.close()


def test_a_batch_is_answered_in_order_and_bounded(chain):
    one = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
    status, answers = chain.post(json.dumps([one, {**one, "id": 2}, 5]).encode())
    assert status == 200
    assert [answer.get("result") for answer in answers] == ["0x7", "0x7", None]
    assert answers[2]["error"]["code"] == -32600
    for size in (0, BATCH_LIMIT + 1):
        _, answer = chain.post(json.dumps([one] * size).encode())
        assert answer["error"]["code"] == -32600


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        (b'{"id": ' + b"9" * 5_000 + b"}", -32700),
        (b"5", -32600),
        (b"{}", -32600),
        (b'{"method": 5}', -32600),
        (b'{"method": "eth_chainId", "params": {}}', -32602),
    ],
)
def test_a_body_that_is_no_request_is_answered(chain, body, code):
    status, answer = chain.post(body)
    assert (status, answer["error"]["code"]) == (200, code)


def test_an_oversized_body_is_refused_before_it_is_read(chain):
    link = http.client.HTTPConnection("127.0.0.1", chain.server.server_address[1])
    for length in (str(BODY_LIMIT + 1), "9" * 5_000):
        link.putrequest("POST", "/")
        link.putheader("Content-Length", length)
        link.endheaders()
        answer = link.getresponse()
        assert answer.status == 413
        assert str(BODY_LIMIT) in json.loads(answer.read())["error"]["message"]
        link.close()


def test_browsers_and_other_verbs_are_refused(chain):
    status, _ = chain.post(b"{}", Origin="http://localhost")
    assert status == 403
    link = http.client.HTTPConnection("127.0.0.1", chain.server.server_address[1])
    link.request("GET", "/")
    assert link.getresponse().status == 405
    link.close()


def test_only_this_machine_is_listened_to(chain):
    assert chain.server.server_address[0] == "127.0.0.1"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["from", "to", "data", "value", "gas", "topics", "address"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)
HEX = st.binary(max_size=40).map(lambda raw: "0x" + raw.hex())


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
@pytest.mark.slow
def test_no_request_makes_the_chain_fail(chain, data):
    """Whatever the parameters, the answer is a result or a refusal that we meant."""
    names = sorted(set(chain.methods._methods) - {"dev_fund"})
    method = data.draw(st.sampled_from(names))
    params = data.draw(st.lists(JSON | HEX, max_size=3))
    answer = chain.methods.answer({"id": 1, "method": method, "params": params})
    assert "result" in answer or answer["error"]["code"] != -32603, answer


@pytest.mark.slow
def test_a_second_chain_on_one_file_is_refused(tmp_path):
    path = tmp_path / "chain.sqlite"
    first = SqliteKV(path)
    with pytest.raises(StorageError, match="locked") as caught:
        SqliteKV(path)
    assert "another development chain" in caught.value.hint()
    first.close()
    SqliteKV(path).close()


def test_a_taken_port_is_said_to_be_taken(chain):
    port = chain.server.server_address[1]
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port}") as caught:
        Server(port, chain.methods)
    assert "--port" in caught.value.hint()


def test_a_database_of_another_chain_is_refused(tmp_path):
    path = tmp_path / "chain.sqlite"
    kv = SqliteKV(path)
    Ledger(kv, 1)
    kv.close()
    kv = SqliteKV(path)
    with pytest.raises(ConfigError, match="holds chain 1, asked for 2"):
        Ledger(kv, 2)
    kv.close()


@pytest.mark.parametrize("damage", ["all", "page"])
def test_a_damaged_database_is_refused(tmp_path, damage):
    path = tmp_path / "chain.sqlite"
    kv = SqliteKV(path)
    Ledger(kv, 1)
    kv.close()
    raw = bytearray(path.read_bytes())
    start = 0 if damage == "all" else 4096
    raw[start : start + 4096] = b"\x5a" * 4096
    path.write_bytes(raw)
    with pytest.raises(StorageError, match=r"damaged|cannot be opened") as caught:
        SqliteKV(path)
    assert "move the file away" in caught.value.hint()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match="nowhere") as caught:
        SqliteKV(tmp_path / "nowhere" / "chain.sqlite")
    assert "folder" in caught.value.hint()
