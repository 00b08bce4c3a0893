"""The admin socket as a program meets it: framing, limits, errors, start and stop."""

import json
import os
import socket
from contextlib import asynccontextmanager, suppress

import pytest
import structlog
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.errors import AccessError, RpcError
from node.rpc import codes, wire
from node.rpc import server as server_module
from node.rpc.client import RefusedError, UnreachableError, call
from node.rpc.methods import METHODS
from node.rpc.server import RpcServer
from protocol.errors import MalformedMessageError


def answers(name):
    async def handler(params):
        assert isinstance(params, METHODS[name].params)
        return METHODS[name].example["result"]

    return handler


HANDLERS = {name: answers(name) for name in METHODS}


@asynccontextmanager
async def serving(path, handlers=HANDLERS, **options):
    async with trio.open_nursery() as nursery:
        await nursery.start(RpcServer(handlers, **options).serve, path)
        yield path
        nursery.cancel_scope.cancel()


async def ask(path, method, /, timeout_s=5.0, **params):
    return await trio.to_thread.run_sync(
        lambda: call(path, method, params, timeout_s=timeout_s)
    )


async def exchange(path, data):
    """Send bytes as they are; every line that comes back."""
    received = b""
    with trio.fail_after(5):
        async with await trio.open_unix_socket(path) as stream:
            # It may hang up on us; what it said before is still there.
            with suppress(trio.BrokenResourceError):
                await stream.send_all(data)
                await stream.send_eof()
            with suppress(trio.BrokenResourceError):
                while chunk := await stream.receive_some():
                    received += chunk
    return [json.loads(line) for line in received.splitlines()]


def request(method="status.get", id_=1, **params):
    tree = {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}
    return json.dumps(tree).encode() + b"\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rpc.sock"


async def test_every_method_answers_its_example(path):
    async with serving(path):
        for name, method in METHODS.items():
            found = await ask(path, name, **method.example["params"])
            assert found == method.example["result"]


async def test_a_result_that_is_no_json_is_a_fault_and_not_the_end(path):
    async def handler(_params):
        return {**METHODS["queries.ask"].example["result"], "result": {"auc": object()}}

    asked = METHODS["queries.ask"].example["params"]
    async with serving(path, {**HANDLERS, "queries.ask": handler}):
        with pytest.raises(RefusedError, match=r"queries\.ask failed inside") as caught:
            await ask(path, "queries.ask", **asked)
        assert caught.value.number == codes.INTERNAL_ERROR
        assert await ask(path, "status.get")


async def test_requests_on_one_connection_are_answered_in_order(path):
    async with serving(path):
        lines = await exchange(path, b"".join(request(id_=n) for n in range(20)))
    assert [line["id"] for line in lines] == list(range(20))


async def test_a_request_may_come_in_pieces(path):
    async with serving(path), await trio.open_unix_socket(path) as stream:
        for byte in request():
            await stream.send_all(bytes([byte]))
        with trio.fail_after(5):
            assert b'"result"' in await stream.receive_some()


async def test_the_last_line_needs_no_newline(path):
    async with serving(path):
        (line,) = await exchange(path, request().rstrip())
    assert "result" in line


async def test_a_notification_is_carried_out_and_not_answered(path):
    seen = []

    async def stop(params):
        seen.append(params)
        return {"stopping": True}

    notification = b'{"jsonrpc":"2.0","method":"node.stop"}\n'
    async with serving(path, {"node.stop": stop}):
        assert await exchange(path, notification) == []
    assert len(seen) == 1


async def test_standard_errors(path):
    async with serving(path, {"status.get": HANDLERS["status.get"]}):
        for data, code in [
            (b"{\n", codes.PARSE_ERROR),
            (b"[]\n", codes.INVALID_REQUEST),
            (b"{}\n", codes.INVALID_REQUEST),
            (request("status.gte"), codes.METHOD_NOT_FOUND),
            (request("runs.list"), codes.METHOD_NOT_FOUND),
            (request(surplus=1), codes.INVALID_PARAMS),
        ]:
            (line,) = await exchange(path, data)
            assert line["jsonrpc"] == "2.0"
            assert line["error"]["code"] == code, line
            assert line["error"]["data"]["hint"]


async def test_a_bad_line_does_not_spoil_the_next(path):
    async with serving(path):
        lines = await exchange(path, b"garbage\n" + request(id_=2))
    assert [("error" in line) for line in lines] == [True, False]


async def test_what_is_wrong_with_a_parameter_is_said_with_its_value(path):
    async with serving(path):
        with pytest.raises(RefusedError) as caught:
            await ask(path, "grants.give", dataset=0, grantee="LAB", days=0)
        assert "days is 0" in str(caught.value)
        assert "1 to 3650" in caught.value.hint()
        with pytest.raises(RefusedError, match="missing required field days"):
            await ask(path, "grants.give", dataset=0, grantee="LAB")
        with pytest.raises(RefusedError, match="unknown field day") as caught:
            await ask(path, "grants.give", dataset=0, grantee="LAB", days=1, day=2)
        assert "dataset, grantee, days, units" in caught.value.hint()
        with pytest.raises(RefusedError, match=r"units\[1\] is 64"):
            await ask(
                path, "grants.give", dataset=0, grantee="L", days=1, units=[0, 64]
            )


async def test_a_misspelt_method_is_helped(path):
    async with serving(path):
        with pytest.raises(RefusedError) as caught:
            await ask(path, "run.list")
    assert caught.value.hint() == "did you mean runs.list?"
    assert caught.value.number == codes.METHOD_NOT_FOUND


async def test_what_a_node_refuses_travels_with_number_and_hint(path):
    async def refuse(_params):
        raise AccessError("no grant\ncovers this", hint="ask the owner")

    async def grouped(_params):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse, None)

    async def malformed(_params):
        raise MalformedMessageError("model file: nonsense")

    handlers = {
        "status.get": refuse,
        "peers.list": grouped,
        "runs.list": malformed,
    }
    async with serving(path, handlers):
        for method in ("status.get", "peers.list"):
            with pytest.raises(RefusedError, match=r"^no grant covers this$") as caught:
                await ask(path, method)
            assert caught.value.hint() == "ask the owner"
            assert caught.value.number == AccessError.code
        with pytest.raises(RefusedError, match="nonsense") as caught:
            await ask(path, "runs.list")
        assert caught.value.number == codes.PROTOCOL_RULE


async def test_a_failing_handler_is_logged_and_harms_nobody(path):
    async def broken(_params):
        raise ZeroDivisionError("secret of a patient")

    async def drifted(_params):
        return {"peers": [{"name": 5}]}

    handlers = {**HANDLERS, "status.get": broken, "peers.list": drifted}
    with structlog.testing.capture_logs() as logs:
        async with serving(path, handlers):
            for method in ("status.get", "peers.list"):
                with pytest.raises(RefusedError) as caught:
                    await ask(path, method)
                assert caught.value.number == codes.INTERNAL_ERROR
                assert "patient" not in str(caught.value) + caught.value.hint()
            assert await ask(path, "runs.list")
    assert [entry["method"] for entry in logs] == ["status.get", "peers.list"]
    assert all(entry["exc_info"] for entry in logs)


async def test_a_field_the_schema_does_not_know_is_our_mistake(path):
    async def surplus(_params):
        return {**METHODS["runs.list"].example["result"], "extra": 1}

    async with serving(path, {"runs.list": surplus}):
        with pytest.raises(RefusedError) as caught:
            await ask(path, "runs.list")
    assert caught.value.number == codes.INTERNAL_ERROR


async def test_one_slow_call_holds_up_nobody_else(path):
    release = trio.Event()

    async def slow(_params):
        await release.wait()
        return METHODS["runs.list"].example["result"]

    async with serving(path, {**HANDLERS, "runs.list": slow}), trio.open_nursery() as n:
        n.start_soon(ask, path, "runs.list")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await ask(path, "status.get")
        release.set()


async def test_a_request_over_the_limit_is_refused_and_the_next_program_served(path):
    async with serving(path):
        (line,) = await exchange(path, b"x" * (wire.REQUEST_LIMIT_BYTES + 2))
        assert line["error"]["code"] == codes.INVALID_REQUEST
        assert str(wire.REQUEST_LIMIT_BYTES) in line["error"]["message"]
        with pytest.raises(RefusedError, match="more than"):
            await ask(path, "runs.show", run="x" * (wire.REQUEST_LIMIT_BYTES + 2))
        assert await ask(path, "status.get")


async def test_the_model_file_of_the_largest_size_fits_into_a_request(path):
    from protocol.runs import PROPOSAL_LIMIT_BYTES

    params = {**METHODS["runs.propose"].example["params"]}
    params["plan"] = '"' * PROPOSAL_LIMIT_BYTES  # every character is escaped in JSON
    async with serving(path):
        assert await ask(path, "runs.propose", **params)
        params["plan"] += '"'
        with pytest.raises(RefusedError, match=f"length <= {PROPOSAL_LIMIT_BYTES}"):
            await ask(path, "runs.propose", **params)


async def test_too_many_programs_are_told_so_and_a_freed_place_is_taken(path):
    async with serving(path, connections=2):
        async with (
            await trio.open_unix_socket(path),
            await trio.open_unix_socket(path),
        ):
            await trio.testing.wait_all_tasks_blocked(0.01)
            with pytest.raises(RefusedError, match="limit is 2") as caught:
                await ask(path, "status.get")
            assert caught.value.number == codes.BUSY
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await ask(path, "status.get")


async def test_a_program_that_leaves_early_harms_nobody(path):
    async with serving(path):
        for _ in range(40):  # more than there are places
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(request())
        assert await ask(path, "status.get")


async def test_work_goes_on_when_its_caller_leaves(path):
    started, release, done = trio.Event(), trio.Event(), trio.Event()

    async def slow(_params):
        started.set()
        await release.wait()
        done.set()
        return METHODS["runs.list"].example["result"]

    async with serving(path, {"runs.list": slow}):
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(request("runs.list"))
            await started.wait()
        release.set()
        with trio.fail_after(5):
            await done.wait()


async def test_a_silent_program_is_let_go(path, monkeypatch):
    monkeypatch.setattr(server_module, "IDLE_S", 0.05)
    async with serving(path), await trio.open_unix_socket(path) as stream:
        with trio.fail_after(5):
            assert await stream.receive_some() == b""


async def test_a_program_that_does_not_read_is_let_go(path, monkeypatch):
    monkeypatch.setattr(server_module, "SEND_S", 0.05)

    async def big(_params):
        return {"path": "/" + "x" * (8 << 20), "bytes": 1}

    async with (
        serving(path, {"receipts.export": big}),
        await trio.open_unix_socket(path) as stream,
    ):
        params = METHODS["receipts.export"].example["params"]
        await stream.send_all(request("receipts.export", **params))
        await trio.sleep(0.3)
        received = b""
        with suppress(trio.BrokenResourceError), trio.fail_after(5):
            while chunk := await stream.receive_some():
                received += chunk
        assert received
        assert not received.endswith(b"\n")


async def test_the_answer_to_stop_leaves_before_everything_ends(path):
    async with trio.open_nursery() as nursery:

        async def stop(_params):
            nursery.cancel_scope.cancel()
            return {"stopping": True}

        await nursery.start(RpcServer({"node.stop": stop}).serve, path)
        outcome = []

        async def program():
            with trio.CancelScope(shield=True):
                outcome.append(await ask(path, "node.stop"))

        nursery.start_soon(program)
    assert outcome == [{"stopping": True}]
    assert not path.exists()


async def test_a_program_waiting_when_the_daemon_ends_is_told(path):
    async def for_ever(_params):
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:

        async def program():
            with (
                trio.CancelScope(shield=True),
                pytest.raises(UnreachableError, match="hung up"),
            ):
                await ask(path, "runs.list")

        async with serving(path, {"runs.list": for_ever}):
            nursery.start_soon(program)
            await trio.testing.wait_all_tasks_blocked(0.05)


async def test_the_socket_of_a_dead_daemon_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    async with serving(path):
        assert await ask(path, "status.get")


async def test_the_socket_of_a_living_daemon_is_not(path):
    async with serving(path):
        with pytest.raises(RpcError, match="another daemon answers"):
            await RpcServer(HANDLERS).serve(path)
        assert await ask(path, "status.get")


async def test_a_file_in_the_way_is_left_alone(path):
    path.write_text("mine")
    with pytest.raises(RpcError, match="no socket"):
        await RpcServer(HANDLERS).serve(path)
    assert path.read_text() == "mine"


async def test_a_folder_others_may_enter_is_refused(path):
    path.parent.chmod(0o750)
    with pytest.raises(RpcError, match="mode 0750") as caught:
        await RpcServer(HANDLERS).serve(path)
    assert caught.value.hint() == f"run `chmod 700 {path.parent}`"
    assert not path.exists()


async def test_a_path_too_long_for_a_socket_is_refused_with_its_length(tmp_path):
    path = tmp_path / ("x" * 120)
    with pytest.raises(RpcError, match="limit for a socket is 107"):
        await RpcServer(HANDLERS).serve(path)


def test_a_handler_without_a_schema_is_refused_at_once():
    with pytest.raises(ValueError, match=r"no schema for runs\.explode"):
        RpcServer({"runs.explode": HANDLERS["runs.list"]})


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.binary(max_size=200)
        | st.sampled_from([b"\n", b"{}\n", b"[]\n", b'{"jsonrpc":"2.0",', request()]),
        max_size=8,
    )
)
def test_no_bytes_stop_the_server(tmp_path, pieces):
    path = tmp_path / "rpc.sock"

    async def attack():
        async with serving(path):
            for line in await exchange(path, b"".join(pieces)):
                assert line["jsonrpc"] == "2.0"
                assert ("error" in line) != ("result" in line)
            assert await ask(path, "status.get")

    trio.run(attack)
