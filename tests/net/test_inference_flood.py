"""One requester that asks without end, a member without a licence and a stranger, over real streams.

Host, line, orders and receipts are the node's own; only the pass through the worker waits until the
test lets it go, and is then the trunk's.
"""

import secrets
from types import SimpleNamespace

import trio

from ee import integer
from ee.integer import known
from node.adapters.memory_store import MemoryBlobs, MemoryStore
from node.errors import AccessError, NodeError
from node.services.inference import Host
from node.services.line import WAITING_OF_ONE_LIMIT, Line
from node.services.receipts import Receipts
from protocol.boundary import boundary_root
from protocol.evaluation import (
    INFER_PROTOCOL,
    REQUEST_LIMIT_BYTES,
    InferAnswer,
    InferRequest,
)
from protocol.receipt import Order, open_receipt, seal_order
from protocol.wire import decode, encode

FLOOD = 40
TRUNK = known.drawn_trunk(causal=True)
ROOT = integer.model_root(TRUNK)
ROWS = integer.pack_rows(known.drawn_rows(TRUNK.config))
SHAPE = known.drawn_rows(TRUNK.config).shape
SALT = bytes(32)


class Federation:
    """Names of members by peer id."""

    def __init__(self, nodes):
        self._members = {
            node.peer_id: SimpleNamespace(name=name, node_key=node.key)
            for name, node in nodes.items()
        }

    def peer(self, peer):
        if peer not in self._members:
            raise AccessError(f"peer {peer} is not a member")
        return self._members[peer]


class Worker:
    """The trunk, once `open` is set."""

    def __init__(self):
        self.open, self.passes = trio.Event(), []

    async def infer(self, _model, rows, shape, start):
        await self.open.wait()
        self.passes.append(shape[0])
        found = TRUNK.forward(integer.unpack_rows(rows, shape), start=start)
        return [integer.pack_rows(one) for one in found.boundaries[1:]]


def serving(node, licensed, federation):
    """A host on this transport, and its worker."""
    signer = SimpleNamespace(public_key=node.key, sign=node.sign)
    keys = [SimpleNamespace(node_key=one.key) for one in licensed]
    release = SimpleNamespace(hosts=(node.key,), keys=keys)
    releases = SimpleNamespace(require_licence=lambda _root: release)
    blobs, worker = MemoryBlobs(), Worker()
    receipts = Receipts(
        store=MemoryStore(),
        blobs=blobs,
        outbox=None,
        transport=node,
        federation=federation,
    )
    host = Host(
        blobs=blobs,
        signer=signer,
        transport=node,
        federation=federation,
        releases=releases,
        receipts=receipts,
        worker_socket="",
    )
    host._line = Line(worker.infer)
    return worker


async def asked(node, host, said):
    """One request of its own; what came of it is added to `said`."""
    order = Order(
        *(ROOT, host.key, secrets.token_bytes(16), SHAPE),
        boundary_root(ROWS, SHAPE, 0, SALT),
    )
    sealed = seal_order(node.sign, node.key, order)
    request = encode(InferRequest(sealed, SALT, ROWS))
    try:
        data = await node.request(
            host.peer_id,
            INFER_PROTOCOL,
            request,
            timeout_s=90,
            limit_bytes=REQUEST_LIMIT_BYTES,
        )
    except NodeError as error:
        said.append(str(error))
    else:
        answer = decode(data, InferAnswer, limit_bytes=REQUEST_LIMIT_BYTES)
        open_receipt(answer.receipt).check_answer(sealed, answer.output, SALT)
        said.append(answer)


async def test_who_asks_without_end_is_told_the_limit_and_others_are_served(net):
    members = set()
    names = ("greedy", "modest", "unlicensed", "host")
    nodes = {
        name: net.make(number, allowed=lambda peer: peer in members)
        for number, name in enumerate(names, 1)
    }
    members |= {node.peer_id for node in nodes.values()}
    greedy, modest, unlicensed, host = nodes.values()
    stranger = net.make(9)
    worker = serving(host, (greedy, modest), Federation(nodes))
    said = {name: [] for name in (*names, "stranger")}
    async with net.mesh(*nodes.values()), net.running(stranger) as nursery:
        for _ in range(FLOOD):
            nursery.start_soon(asked, greedy, host, said["greedy"])
            nursery.start_soon(asked, unlicensed, host, said["unlicensed"])
        stranger.keep_connected(host.peer_id, host.addresses())
        nursery.start_soon(asked, stranger, host, said["stranger"])
        away = FLOOD - WAITING_OF_ONE_LIMIT
        await net.until(lambda: len(said["greedy"]) == away)
        await net.until(lambda: len(said["unlicensed"]) == FLOOD)
        for one in said["greedy"]:
            assert "6 requests of one requester are in line, limit is 6" in one
        for one in said["unlicensed"]:
            assert "unlicensed has no licence for" in one
        # The flood is not over, and who asks once stands in line.
        nursery.start_soon(asked, modest, host, said["modest"])
        await trio.sleep(0.2)
        assert not said["modest"]
        worker.open.set()
        await net.until(lambda: said["modest"] and len(said["greedy"]) == FLOOD)
        await net.until(lambda: said["stranger"])
        assert isinstance(said["modest"][0], InferAnswer)
        served = [one for one in said["greedy"] if isinstance(one, InferAnswer)]
        assert len(served) == WAITING_OF_ONE_LIMIT
        assert isinstance(said["stranger"][0], str)
        # What was refused cost the worker nothing.
        assert sum(worker.passes) == (WAITING_OF_ONE_LIMIT + 1) * SHAPE[0]
        assert stranger.peer_id not in host.connected()
        nursery.cancel_scope.cancel()
