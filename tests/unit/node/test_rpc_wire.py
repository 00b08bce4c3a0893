"""Bytes in, a request or a fault out; never an exception, never more memory than a line."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.rpc import codes, wire
from node.rpc.wire import Fault, Lines, Request


def _line(**members):
    return json.dumps({"jsonrpc": "2.0", "method": "a.b", **members}).encode()


def _fault(line: bytes) -> Fault:
    found = wire.parse(line)
    assert isinstance(found, Fault), found
    return found


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.binary())
def test_no_bytes_make_the_parser_raise(line):
    assert isinstance(wire.parse(line), Request | Fault)


@settings(max_examples=60)
@given(json_values)
@pytest.mark.slow
def test_no_json_makes_the_parser_raise(value):
    assert isinstance(wire.parse(json.dumps(value).encode()), Request | Fault)


@settings(max_examples=60)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "jsonrpc": st.just("2.0") | json_values,
            "method": st.text() | json_values,
            "params": json_values,
            "id": json_values,
        },
    )
)
def test_every_fault_is_one_line_of_json_rpc(members):
    found = wire.parse(json.dumps(members).encode())
    if isinstance(found, Fault):
        line = wire.refuse(found.id, found)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        answer = json.loads(line)
        assert set(answer) == {"jsonrpc", "id", "error"}
        assert answer["error"]["code"] in codes.MEANING
        assert "\n" not in answer["error"]["message"]


@given(st.lists(st.binary(max_size=40).filter(lambda b: b"\n" not in b and b.strip())))
def test_lines_come_out_as_they_went_in_however_they_are_cut(lines):
    stream = b"".join(line + b"\n" for line in lines)
    for step in (1, 7, len(stream) or 1):
        cutter = Lines(limit=40)
        found = [
            line
            for start in range(0, len(stream), step)
            for line in cutter.feed(stream[start : start + step])
        ]
        assert found == lines


def test_blank_lines_and_carriage_returns_are_no_requests():
    assert list(Lines().feed(b"\n \r\n\t\n")) == []
    request = wire.parse(_line(id=1) + b"\r")
    assert isinstance(request, Request)


@pytest.mark.parametrize("ended", [True, False])
def test_a_line_over_the_limit_is_a_fault_whether_it_ends_or_not(ended):
    found = list(Lines(limit=10).feed(b"x" * 11 + (b"\n" if ended else b"")))
    assert len(found) == 1
    assert isinstance(found[0], Fault)
    assert "10 bytes" in found[0].message


def test_a_line_of_the_limit_passes():
    assert list(Lines(limit=10).feed(b"x" * 10 + b"\n")) == [b"x" * 10]


def test_lines_hold_no_more_than_the_limit():
    cutter = Lines(limit=1000)
    for _ in range(100):
        list(cutter.feed(b"x" * 100))
    assert len(cutter._rest) <= 1000


def test_the_id_comes_back_whatever_it_is():
    for number in (0, -7, "abc", None):
        request = wire.parse(_line(id=number))
        assert isinstance(request, Request)
        assert request.id == number
        assert request.wants_answer


def test_a_request_without_an_id_is_a_notification():
    request = wire.parse(_line())
    assert isinstance(request, Request)
    assert not request.wants_answer


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (b"{", codes.PARSE_ERROR, "not JSON"),
        (b"\xff\xfe", codes.PARSE_ERROR, "not JSON"),
        (b"[" * 100_000, codes.PARSE_ERROR, "more than 32 deep"),
        (b'{"a":' * 33, codes.PARSE_ERROR, "more than 32 deep"),
        (b"[" * 32 + b"]" * 32, codes.INVALID_REQUEST, "batch of 1"),
        (b"[]", codes.INVALID_REQUEST, "batch of 0"),
        (b"[1, 2]", codes.INVALID_REQUEST, "batch of 2"),
        (b"17", codes.INVALID_REQUEST, "17, not an object"),
        (b"{}", codes.INVALID_REQUEST, "missing required field jsonrpc"),
        (_line(jsonrpc="1.0"), codes.INVALID_REQUEST, 'jsonrpc is "1.0"'),
        (_line(method=5), codes.INVALID_REQUEST, "method is 5"),
        (_line(id=1.5), codes.INVALID_REQUEST, "id is 1.5"),
        (_line(id=True), codes.INVALID_REQUEST, "id is true"),
        (_line(id={"a": 1}), codes.INVALID_REQUEST, "id is an object"),
        (_line(surplus={}), codes.INVALID_REQUEST, "unknown field surplus"),
        (_line(params=[1]), codes.INVALID_PARAMS, "params is a list of 1"),
        (_line(params="x"), codes.INVALID_PARAMS, 'params is "x"'),
        (_line(params=None), codes.INVALID_PARAMS, "params is null"),
    ],
)
def test_what_is_wrong_is_said(line, code, words):
    fault = _fault(line)
    assert fault.code == code
    assert words in fault.message


def test_brackets_inside_a_string_are_not_depth():
    line = _line(id=1, params={"plan": '{[\\"' * 1000 + '"'})
    assert isinstance(wire.parse(line), Request)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'["\\"",[', b'["', b"]["])
@pytest.mark.slow
def test_no_nesting_ends_the_process(opening):
    """Whatever the recursion limit is; in a process of its own, since it might end."""
    code = (
        "import sys; from node.rpc import wire; sys.setrecursionlimit(10**6); "
        f"line = {opening!r} * (wire.REQUEST_LIMIT_BYTES // {len(opening)}); "
        "assert isinstance(wire.parse(line), wire.Fault)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_bad_request_is_answered_under_its_own_id():
    assert _fault(_line(id=9, surplus={})).id == 9
    assert _fault(_line(id=[9], surplus={})).id is None


def test_a_long_value_is_not_repeated_in_full():
    assert len(_fault(_line(id="x" * 5000)).message) < 250


def test_an_answer_that_is_too_long_becomes_a_fault(monkeypatch):
    from node.rpc.results import evaluation as results

    request = wire.parse(_line(id=3))
    assert isinstance(request, Request)
    line = wire.answer(request, results.ReceiptsExport(path="/x", bytes=1))
    assert json.loads(line)["result"] == {"path": "/x", "bytes": 1}
    monkeypatch.setattr(wire, "ANSWER_LIMIT_BYTES", 50)
    answer = json.loads(
        wire.answer(request, results.ReceiptsExport(path="/x", bytes=1))
    )
    assert answer["id"] == 3
    assert "limit is 50" in answer["error"]["message"]
