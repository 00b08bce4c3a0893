"""Where a round's time goes: what happened at each member, when, and what it took.

`python -m node.bench aggregate --timeline FILE` writes one line of JSON for every event the
machines took, every effect their hands carried out, and every call of their children, over
all rounds of the benchmark, seconds from the moment the members were told to go.  Clocks of
processes of one machine agree (CLOCK_MONOTONIC), so lines of all members sort into one story.
"""

import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from node.services.hands import Hands, is_heartbeat
from protocol.rounds import events as ev
from protocol.rounds.machine import Rounds
from protocol.rounds.messages import hear

TIMELINE = "REXIS_BENCH_TIMELINE"
"""Set, with any value: members write `timeline` into their folders."""
_HANDS = ("persist", "forget", "publish", "send", "work", "fetch", "finished")


def watch(folder: Path) -> None:
    """From now on this process writes down what its machine and its hands do."""
    if TIMELINE not in os.environ:
        return
    file = (folder / "timeline").open("a", buffering=1)

    def note(began: float, what: str) -> None:
        line = {"at": began, "took": time.perf_counter() - began, "what": what}
        file.write(json.dumps(line) + "\n")

    handle = Rounds.handle

    def watched(self: Rounds, event: ev.Event, now: Any) -> list[ev.Effect]:
        began = time.perf_counter()
        try:
            return handle(self, event, now)
        finally:
            note(began, f"event {_name(event)}")

    Rounds.handle = watched  # type: ignore[method-assign]  # a measurement, for this process
    for name in _HANDS:
        setattr(Hands, name, _timed(name, getattr(Hands, name), note))


def _timed(
    name: str,
    call: Callable[..., Awaitable[Any]],
    note: Callable[[float, str], None],
) -> Callable[..., Awaitable[Any]]:
    async def timed(self: Hands, effect: Any) -> Any:
        began = time.perf_counter()
        try:
            return await call(self, effect)
        finally:
            note(began, f"{name} {_name(effect)}")

    return timed


def _name(what: Any) -> str:
    match what:
        case ev.Received():
            return type(what.heard.body).__name__
        case list():
            return " ".join(each.key.split("/", 1)[-1][:12] for each in what)
        case ev.Publish() | ev.Send() if is_heartbeat(what.envelope):
            return "Heartbeat"
        case ev.Publish():
            return type(hear(what.envelope).body).__name__
        case ev.Fetch() | ev.Fetched():
            return what.blob.hex()[:8]
        case _:
            return type(what).__name__


def gather(folders: list[Path], began: list[float], into: Path) -> None:
    """All members' lines in order; `began` are the moments of `go`, one a round."""
    lines = []
    for member, folder in enumerate(folders):
        for source, name in (("daemon", "timeline"), ("child", "clocks")):
            for text in (folder / name).read_text().splitlines():
                line = json.loads(text)
                past = [at for at in began if at <= line["at"]]
                if past:
                    line["at"] = round(line["at"] - past[-1], 4)
                    line["took"] = round(line.get("took", line.get("seconds")), 4)
                    lines.append(
                        {"round": len(past) - 1, "member": member, "in": source, **line}
                    )
    lines.sort(key=lambda line: (line["round"], line["at"]))
    into.write_text("".join(json.dumps(line) + "\n" for line in lines))
