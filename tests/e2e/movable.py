"""A small federation in processes, on a chain whose clock a test may move."""

import json
import subprocess
import urllib.request
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
from chain_worlds import anvil_program

from node.demo import sites
from node.demo.programs import Programs, until
from node.rpc.client import RefusedError

CHAIN_DOWN, DEPTH = 501, 2


class Movable(Programs):
    """A chain whose clock a test may move."""

    def start(self, name, module, *arguments, env=None):
        more = ("--allow-time-travel",) if name == "chain" else ()
        return super().start(name, module, *arguments, *more, env=env)


class Anvil:
    """Another implementation of the chain; blocks come every second, and by every transaction."""

    def __init__(self, stack):
        self.stack = stack

    def start(self, folder, port, _programs, funded=()):
        program = anvil_program()
        if program is None:
            pytest.skip("anvil is not installed: run `npm ci` in contracts/tools")
        process = subprocess.Popen(
            [
                *(program, "--port", str(port), "--chain-id", str(sites.CHAIN_ID)),
                *("--no-cors", "--silent", "--prune-history", "64", "--accounts", "1"),
                *("--block-time", "1", "--mixed-mining"),
            ]
        )
        self.stack.callback(process.wait)
        self.stack.callback(process.terminate)
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(url), "anvil to answer", 30)
        for account in funded:
            ask(url, "anvil_setBalance", "0x" + account.hex(), hex(10**21))


def answers(url):
    try:
        return ask(url, "eth_chainId")
    except OSError:
        return False


@contextmanager
def federation(folder, chain="devchain"):
    """Two clinics, a researcher and an auditor, each a daemon of its own.

    On anvil two blocks must lie on one before it counts, so that `reorganise` takes back none
    that counted.
    """
    patch = pytest.MonkeyPatch()
    stack = ExitStack()
    if chain == "anvil":
        patch.setattr(sites, "start_chain", Anvil(stack).start)
        patch.setattr(
            sites, "template", partial(sites.template, chain__confirmations=DEPTH)
        )
    patch.setattr(sites, "CLINICS", ("MN", "KY"))
    patch.setattr(sites, "LIAR", "KY")
    with stack, Movable(folder / "logs") as programs:
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


def move(made, seconds):
    """The chain's clock goes ahead."""
    if "anvil" in rpc(made, "web3_clientVersion"):
        rpc(made, "evm_increaseTime", seconds)
        rpc(made, "anvil_mine", hex(DEPTH + 1))  # a fork takes the jump back otherwise
    else:
        rpc(made, "dev_move", hex(seconds))


def reorganise(made):
    """On anvil the newest blocks are replaced by others; the development chain has no forks.

    Whether it could be seen: a block or two may have come in between.
    """
    if "anvil" not in rpc(made, "web3_clientVersion"):
        return False
    before = rpc(made, "eth_getBlockByNumber", "latest", False)
    rpc(made, "anvil_reorg", DEPTH, [])
    after = rpc(made, "eth_getBlockByNumber", before["number"], False)
    return after is None or after["hash"] != before["hash"]


def rpc(made, method, *params):
    return ask(made.chain_url, method, *params)


def ask(url, method, *params):
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    asked = urllib.request.Request(
        url,
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=30) as answer:
        found = json.load(answer)
    assert "error" not in found, found
    return found["result"]
