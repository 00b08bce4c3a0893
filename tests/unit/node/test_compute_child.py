"""The Compute port against a real child process."""

import sys
import textwrap

import pytest
import trio

from node.adapters.compute_child import open_compute_child
from node.errors import ComputeError

CHILD = textwrap.dedent(
    """
    import os, socket, struct, sys, msgpack
    sock = socket.socket(fileno=int(sys.argv[-1]))
    stream = sock.makefile("rwb")
    def say(value):
        frame = msgpack.packb(value)
        stream.write(struct.pack(">I", len(frame)) + frame); stream.flush()
    while head := stream.read(4):
        call = msgpack.unpackb(stream.read(struct.unpack(">I", head)[0]))
        if call["method"] == "die":
            os._exit(9)
        if call["method"] == "fail":
            say({"id": call["id"], "error": {"code": 400, "message": "no", "hint": "yes"}})
            continue
        say({"id": call["id"], "progress": {"done": 1}})
        say({"id": call["id"], "result": {"pid": os.getpid(), **call["params"]}})
    """
)
COMMAND = (sys.executable, "-c", CHILD)


async def test_calls_carry_their_own_answers_and_progress():
    seen = []
    async with open_compute_child(COMMAND) as child:
        results = {}

        async def call(number):
            results[number] = await child.call("echo", {"n": number})

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(call, number)
        assert {n: r["n"] for n, r in results.items()} == {n: n for n in range(5)}
        await child.call("echo", {}, progress=seen.append)
    assert seen == [{"done": 1}]


async def test_a_refusal_keeps_the_childs_words_and_hint():
    async with open_compute_child(COMMAND) as child:
        with pytest.raises(ComputeError, match="no") as caught:
            await child.call("fail", {})
        assert caught.value.hint() == "yes"


async def test_a_dead_child_fails_its_call_and_the_next_call_starts_another():
    async with open_compute_child(COMMAND) as child:
        first = (await child.call("echo", {}))["pid"]
        with pytest.raises(ComputeError, match="ended during die"):
            await child.call("die", {})
        assert (await child.call("echo", {}))["pid"] != first


async def test_a_child_that_cannot_start_is_one_clear_error():
    async with open_compute_child(("/nonexistent-program",)) as child:
        with pytest.raises(ComputeError, match="cannot start"):
            await child.call("echo", {})
