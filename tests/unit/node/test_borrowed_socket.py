"""A node puts a socket of its own before its compute child where a member's worker is named."""

from unittest.mock import MagicMock

import pytest

from node.config import Config, Worker
from node.locations import Home
from node.services.node import Node, Parts


class Served:
    """A transport that only remembers what is served."""

    def __init__(self):
        self.protocols = []

    def serve(self, protocol, _answer, *, limit_bytes):
        assert limit_bytes > 0
        self.protocols.append(protocol)


@pytest.mark.parametrize(
    ("worker", "name"),
    [(Worker(), "worker.sock"), (Worker(host="north", lend=True), "borrowed.sock")],
)
def test_training_goes_to_the_worker_the_configuration_names(tmp_path, worker, name):
    home, ports = Home(tmp_path), MagicMock()
    key = MagicMock(public_key=bytes(32))
    config = Config(worker=worker)
    node = Node(Parts(home, config, key, ports, ports, ports, ports))
    transport = Served()
    node.attach(transport)
    assert node.runs._tools.worker_socket == str(tmp_path / name)
    assert node._host._socket == str(tmp_path / "worker.sock")  # answers stay our own
    assert "/rexis/hosting/1" in transport.protocols
