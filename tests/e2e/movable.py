"""A small federation in processes, on a chain whose clock a test may move."""

import json
import urllib.request
from contextlib import contextmanager

import pytest

from node.demo import sites
from node.demo.programs import Programs
from node.rpc.client import RefusedError

CHAIN_DOWN = 501


class Movable(Programs):
    """A chain whose clock a test may move."""

    def start(self, name, module, *arguments, env=None):
        more = ("--allow-time-travel",) if name == "chain" else ()
        return super().start(name, module, *arguments, *more, env=env)


@contextmanager
def federation(folder):
    """Two clinics, a researcher and an auditor, each a daemon of its own."""
    patch = pytest.MonkeyPatch()
    patch.setattr(sites, "CLINICS", ("MN", "KY"))
    patch.setattr(sites, "LIAR", "KY")
    with Movable(folder / "logs") as programs:
        made = sites.prepare(folder, programs)
        for name in made.sites:
            sites.start_daemon(made, programs, name)
        for name in made.sites:
            sites.wait_ready(made, programs, name, timeout_s=180)
        yield made, programs
    patch.undo()


def asked(made, name, method, **params):
    """Again where the chain does not answer in time: docs/rpc.md says that is safe."""
    for _ in range(10):
        try:
            return made.sites[name].call(method, timeout_s=600, **params)
        except RefusedError as error:
            if error.number != CHAIN_DOWN:
                raise
    pytest.fail("the chain does not answer")


def rpc(made, method, *params):
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    asked = urllib.request.Request(
        made.chain_url,
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        found = json.load(answer)
    assert "error" not in found, found
    return found["result"]
