"""Brackets are counted before a decoder meets them, and no number of them ends a process."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import MalformedMessageError
from protocol.nesting import is_deeper
from protocol.runs import PLAN_DEPTH_LIMIT, PROPOSAL_LIMIT_BYTES, parse_plan


def depth(value):
    if not isinstance(value, dict | list):
        return 0
    inside = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, inside), default=0)


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_the_count_is_the_depth_of_what_json_decodes_to(value):
    data = json.dumps(value).encode()
    limit = depth(value)
    assert not is_deeper(data, limit)
    assert limit == 0 or is_deeper(data, limit - 1)


@given(st.binary())
def test_any_bytes_may_be_asked_about(data):
    assert is_deeper(data, 3) in {True, False}


@pytest.mark.parametrize(
    "inside", [b'"[[[["', rb'"\"[[[["', rb'"\\", "[["', b'"{" : "}"']
)
def test_brackets_in_strings_do_not_count(inside):
    assert not is_deeper(b"[" + inside + b"]", 1)


def test_a_plan_nested_too_deep_is_malformed():
    start = b'{"title": "x", "spec": {"a": '
    with pytest.raises(MalformedMessageError, match="nested more than 32 deep"):
        parse_plan(start + b"[" * PLAN_DEPTH_LIMIT)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[0,{"a":'])
def test_a_peer_cannot_end_our_process_with_brackets(opening):
    """With the limit py-evm sets; in a process of its own, which must live."""
    size = PROPOSAL_LIMIT_BYTES // len(opening) - 64
    code = (
        "import sys; sys.setrecursionlimit(100_000)\n"
        "from protocol.errors import MalformedMessageError\n"
        "from protocol.runs import parse_plan\n"
        f"deep = {opening!r} * {size}\n"
        """data = ('{"title": "x", "spec": {"a": ' + deep).encode()\n"""
        "try: parse_plan(data)\n"
        "except MalformedMessageError: sys.exit(7)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == 7


def test_the_danger_is_real():
    """Without the count the decoder takes the process with it."""
    code = (
        "import sys, msgspec; sys.setrecursionlimit(100_000)\n"
        "msgspec.json.decode(b'[' * 200_000)"
    )
    # The usual stack, whatever this shell has; and no core file of it.
    shell = 'ulimit -s 8192; ulimit -c 0; exec "$0" -c "$1"'
    done = subprocess.run(
        ["/bin/sh", "-c", shell, sys.executable, code], check=False, capture_output=True
    )
    assert done.returncode < 0  # ended by a signal
