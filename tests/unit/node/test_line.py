"""The line before a host's worker: what goes together, what does not, and who pays for what."""

import pytest
import trio
import trio.testing

from node.errors import ComputeError
from node.services import line
from node.services.line import Line
from node.worker.client import WorkerRefusedError

ONE = (1, 2, 4)


class Worker:
    """Two layers that add one and two to every byte; refuses rows with a zero."""

    def __init__(self):
        self.passes = []
        self.open = trio.Event()

    async def infer(self, model, rows, shape, start):
        self.passes.append((model, shape))
        await self.open.wait()
        await trio.lowlevel.checkpoint()
        if 0 in rows:
            raise WorkerRefusedError("a row entry is zero")
        return [bytes(byte + add for byte in rows) for add in (1, 2)[start:]]


def rows(value, cases=1):
    return bytes([value]) * (3 * 8 * cases)


async def asked(row, found, number, *about):
    """`about` is what to ask, the last of it bytes if who asks has asked before."""
    *what, last = about
    if not isinstance(last, bytes):
        what, last = about, b"%d" % number
    try:
        found[number] = await row.ask(*what, who=last)
    except ComputeError as error:
        found[number] = str(error)


async def served(worker, *requests):
    """Everything asked while the worker is busy with the first."""
    row, found = Line(worker.infer), {}
    async with trio.open_nursery() as nursery:
        for number, about in enumerate(requests):
            nursery.start_soon(asked, row, found, number, *about)
            await trio.testing.wait_all_tasks_blocked()
        worker.open.set()
    assert not row._waiting
    return found


async def test_who_waits_for_one_model_goes_together_and_gets_its_own():
    worker = Worker()
    found = await served(
        worker,
        (b"m", rows(1), ONE),
        (b"m", rows(2), ONE),
        (b"m", rows(3, 2), (2, 2, 4)),
        (b"other", rows(4), ONE),
        (b"m", rows(5), (1, 1, 8)),
        (b"m", rows(6), ONE),
        (b"m", rows(7), ONE, 1),
    )
    assert worker.passes == [
        (b"m", ONE),
        (b"m", (4, 2, 4)),
        (b"other", ONE),
        (b"m", (1, 1, 8)),
        (b"m", ONE),
    ]
    assert found[6] == [rows(9)]
    sizes = {2: 2}
    for number in range(6):
        cases = sizes.get(number, 1)
        assert found[number] == [rows(number + 2, cases), rows(number + 3, cases)]


async def test_bad_rows_cost_the_others_no_answer():
    worker = Worker()
    found = await served(
        worker,
        (b"m", rows(1), ONE),
        (b"m", rows(2), ONE),
        (b"m", rows(0), ONE),
        (b"m", rows(3), ONE),
    )
    assert found[2] == "a row entry is zero"
    assert [found[n][0] for n in (0, 1, 3)] == [rows(2), rows(3), rows(4)]
    assert [shape[0] for _, shape in worker.passes] == [1, 3, 1, 1, 1]


async def test_a_pass_has_a_limit(monkeypatch):
    monkeypatch.setattr(line, "TOGETHER_LIMIT_BYTES", 3 * 24)
    worker = Worker()
    await served(worker, *[(b"m", rows(1), ONE)] * 6)
    assert [shape[0] for _, shape in worker.passes] == [1, 3, 2]


async def test_too_long_a_line_sends_the_next_away_and_no_other():
    worker = Worker()
    found = await served(worker, *[(b"m", rows(1), ONE)] * (line.WAITING_LIMIT + 2))
    refused = [n for n, answer in found.items() if isinstance(answer, str)]
    assert refused == [line.WAITING_LIMIT, line.WAITING_LIMIT + 1]
    assert "16 requests are in line, limit is 16" in found[refused[0]]


async def test_one_requester_leaves_room_for_the_others():
    worker = Worker()
    greedy = [(b"m", rows(1), ONE, b"greedy")] * (line.WAITING_OF_ONE_LIMIT + 2)
    found = await served(worker, *greedy, (b"m", rows(1), ONE), (b"m", rows(1), ONE))
    refused = [n for n, answer in found.items() if isinstance(answer, str)]
    assert refused == [line.WAITING_OF_ONE_LIMIT, line.WAITING_OF_ONE_LIMIT + 1]
    assert "6 requests of one requester are in line, limit is 6" in found[refused[0]]


async def test_who_gives_up_leaves_the_line():
    worker = Worker()
    row, found = Line(worker.infer), {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked, row, found, 0, b"m", rows(1), ONE)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            await row.ask(b"m", rows(0), ONE, who=b"")
        nursery.start_soon(asked, row, found, 1, b"m", rows(2), ONE)
        await trio.testing.wait_all_tasks_blocked()
        worker.open.set()
    assert found[1][0] == rows(3)
    assert [shape[0] for _, shape in worker.passes] == [1, 1]


@pytest.mark.parametrize("cases", [1, 3])
async def test_nobody_else_in_line_is_the_plain_case(cases):
    worker = Worker()
    worker.open.set()
    row = Line(worker.infer)
    answer = await row.ask(b"m", rows(7, cases), (cases, 2, 4), who=b"")
    assert answer == [rows(8, cases), rows(9, cases)]
