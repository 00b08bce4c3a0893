"""A daemon that answers each method's example, in a thread; and `rexis` in this process."""

import threading
from contextlib import suppress

import pytest
import trio

from node.cli import main as cli
from node.rpc.methods import METHODS
from node.rpc.server import RpcServer


class FakeDaemon:
    """The real admin socket over handlers a test may replace; records what it was asked."""

    def __init__(self, path):
        self.path = path
        self.asked = []
        self.answers = {name: one.example["result"] for name, one in METHODS.items()}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,), daemon=True)

    def start(self):
        self._thread.start()
        assert self._ready.wait(5)

    def stop(self):
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(5)
        assert not self._thread.is_alive()

    async def _run(self):
        self._token = trio.lowlevel.current_trio_token()
        server = RpcServer({name: self._handler(name) for name in METHODS})
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            await nursery.start(server.serve, self.path)
            self._ready.set()

    def _handler(self, name):
        async def handler(params):
            given = {
                field: value
                for field in params.__struct_fields__
                if (value := getattr(params, field)) is not None
            }
            self.asked.append((name, given))
            if name == "node.stop":
                self._scope.cancel()
            answer = self.answers[name]
            if callable(answer):
                answer = answer(given)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return handler


@pytest.fixture
def daemon(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    fake = FakeDaemon(home / "rpc.sock")
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def rexis(tmp_path, monkeypatch, capfd):
    """Run one command in `tmp_path` against `tmp_path/home`: status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REXIS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        capfd.readouterr()
        status = cli.main(arguments)
        out, err = capfd.readouterr()
        return status, out, err

    return run
