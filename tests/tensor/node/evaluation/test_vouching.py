"""Holders of the key vouch for a release, or refute it."""

from types import SimpleNamespace

import numpy as np
import pytest
import trio
from evaluation_world import RUN, SPEC, eventually, trained

from ee.spec import split
from node.compute import state
from node.services.confirming import Confirmations
from protocol.confirmation import (
    Confirmation,
    open_confirmation,
    seal_confirmation,
)
from protocol.errors import ProtocolError


async def test_holders_of_the_key_vouch_for_a_release_and_the_chain_keeps_it(
    federation,
):
    async with federation(verify=False) as nodes, trio.open_nursery() as nursery:
        for node in (nodes.clinic, nodes.partner, nodes.stranger):
            nursery.start_soon(node.confirmations.run)
        names = ["clinic", "partner"]
        await eventually(lambda: nodes.host.confirmations.of(nodes.model) == names)
        anchored = nodes.host.chain._ledger.events
        accounts = {nodes.clinic.chain.account, nodes.partner.chain.account}
        await eventually(
            lambda: (
                {e.data["account"] for e in anchored if e.kind == "ModelAnchored"}
                == accounts
            )
        )
        again = Confirmations.__new__(Confirmations)
        again.__dict__ |= nodes.host.confirmations.__dict__ | {
            "_by": {},
            "_done": set(),
        }
        await again.load()
        assert again.of(nodes.model) == names
        nursery.cancel_scope.cancel()


async def test_a_release_of_other_weights_is_refuted_and_not_signed(
    federation, tmp_path
):
    async with federation(verify=False) as nodes, trio.open_nursery() as nursery:
        bent = trained()
        for name, array in split(SPEC, bent).items():
            if name == "trunk.layers.1.mlp.up_proj.weight":
                array[3, 4] += np.abs(array).max()
        other, real = state.write(tmp_path / "states", bent), nodes.clinic.compute.call

        async def call(method, params, **options):
            if method == "model.release":
                params = {**params, "root": other}
            return await real(method, params, **options)

        nodes.clinic.compute.call = call
        made = await nodes.clinic.releases.make(nodes.clinic.runs, RUN, ["host"])
        root = bytes.fromhex(made["model"])
        await eventually(lambda: root in nodes.partner.releases.roots())
        nursery.start_soon(nodes.partner.confirmations.run)
        done = nodes.partner.confirmations._done
        await eventually(lambda: {root, nodes.model} <= done)
        refuted = await nodes.partner.events("model.refuted")
        assert [event["model"] for event in refuted] == [root.hex()]
        assert "layer 1 up" in refuted[0]["reason"]
        assert nodes.partner.confirmations.of(root) == []
        assert nodes.partner.confirmations.of(nodes.model) == ["partner"]
        nursery.cancel_scope.cancel()


async def test_nobody_vouches_in_anothers_name_or_twice(federation):
    async with federation(verify=False) as nodes:
        key = nodes.partner.key
        said = Confirmation(nodes.model, bytes(32))
        sealed = seal_confirmation(key.sign, key.public_key, said)
        by_other = SimpleNamespace(origin=nodes.stranger.key.peer_id, payload=sealed)
        with pytest.raises(ProtocolError, match="did not sign"):
            await nodes.host.confirmations.heard(by_other)
        await nodes.host.confirmations.heard(
            SimpleNamespace(origin=key.peer_id, payload=sealed)
        )
        # It vouched for another record than the one known here: that counts for nothing.
        assert nodes.host.confirmations.of(nodes.model) == []
        two = seal_confirmation(
            key.sign, key.public_key, Confirmation(nodes.model, b"1" * 32)
        )
        with pytest.raises(ProtocolError, match="two releases"):
            await nodes.host.confirmations.heard(
                SimpleNamespace(origin=key.peer_id, payload=two)
            )
        assert open_confirmation(sealed)[0] == said
        with pytest.raises(ProtocolError, match="record is not 32 bytes"):
            seal_confirmation(key.sign, key.public_key, Confirmation(nodes.model, b""))
