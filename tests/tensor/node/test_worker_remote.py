"""A trunk is trained by a worker on another node; the losses are those of our own worker."""

import hashlib

import nacl.signing
import numpy as np
import pytest
import trio

from node.adapters.libp2p import Libp2pTransport
from node.services.borrowing import Borrower
from node.services.federation import Federation
from node.services.lending import Lender
from node.worker.client import TrunkLostError, WorkerClient
from protocol.members import Member, MemberSet, public_key

pytestmark = pytest.mark.slow


def _node(number):
    seed = hashlib.sha256(b"remote worker %d" % number).digest()
    key = nacl.signing.SigningKey(seed)
    return Libp2pTransport(
        identity_seed=seed,
        sign=lambda message: key.sign(message).signature,
        listen=("/ip4/127.0.0.1/tcp/0",),
        allowed=lambda peer: True,
        blobs=None,
        may_fetch=lambda peer, digest: False,
    )


def _federation(**nodes):
    federation = Federation(None, None)
    federation.members = MemberSet.of(
        [
            Member(bytes(public_key(node.peer_id)), bytes(32), bytes([i]) * 20, 4, name)
            for i, (name, node) in enumerate(nodes.items())
        ]
    )
    return federation


async def test_a_session_across_nodes_is_a_session_and_hears_of_a_dead_worker(
    across, tmp_path
):
    home, north, gpu = across.KeyHolder(), _node(1), _node(2)
    federation = _federation(north=north, gpu=gpu)
    with across.worker(tmp_path) as (process, own):
        with WorkerClient(own) as worker:
            home.beginning().open(worker)
            wanted = [home.step(worker) for _ in range(4)]
        async with trio.open_nursery() as nursery:
            for node in (north, gpu):
                await nursery.start(node.run)
            north.keep_connected(gpu.peer_id, gpu.addresses())
            lender = Lender(
                transport=gpu, federation=federation, worker_socket=own, lends=True
            )
            nursery.start_soon(lender.run)
            borrowed = tmp_path / "borrowed.sock"
            borrower = Borrower(
                transport=north, federation=federation, host="gpu", path=borrowed
            )
            await nursery.start(borrower.run)

            def train():
                with WorkerClient(str(borrowed)) as worker:
                    home.beginning().open(worker)
                    found = [home.step(worker) for _ in range(4)]
                    process.kill()
                    with pytest.raises(TrunkLostError, match="went away"):
                        home.step(worker)
                    return found

            found = await trio.to_thread.run_sync(train)
            nursery.cancel_scope.cancel()
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
