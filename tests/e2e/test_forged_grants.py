"""Orders that nobody signed so: none of them makes a holder give a key or a byte away.

The grantee brings each to the contract, which names what is wrong, and once more with the gas
fixed, so that it is in a block and failed there.  Then a program of its own, with its node's
identity and none of its manners, asks the owner for keys and another holder for ciphertext, over
libp2p as any node would.
"""

from contextlib import asynccontextmanager, suppress

import pytest
import trio
from movable import asked, rpc
from orders import DAY, Orders, selector
from web3.exceptions import ContractCustomError

from node.adapters.libp2p import Libp2pTransport
from node.adapters.memory_store import MemoryBlobs
from node.demo.sites import start_daemon, wait_ready
from node.errors import AccessError
from protocol.manifest import DATA_PROTOCOL, DataQuery, UnitsAnswer
from protocol.types import Digest
from protocol.wire import decode, encode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TEXTS = {"licence": "CC0-1.0", "duo": ["DUO:0000042"], "source": "random bytes"}
BAD = "BadSignature"
ANSWER_BYTES = 1 << 20
LOOKS_AGAIN_S = 120
"""A holder reads the grants every ten seconds, on a busy machine later."""


@asynccontextmanager
async def rude(made, key):
    """LAB's identity in a program that asks for what it likes, and the peers it knows."""
    got = MemoryBlobs()
    transport = Libp2pTransport(
        identity_seed=key.identity_seed,
        sign=key.sign,
        listen=("/ip4/127.0.0.1/tcp/0",),
        allowed=lambda _: True,
        blobs=got,
        may_fetch=lambda *_: False,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        for name in ("MN", "KY"):
            site = made.sites[name]
            at = f"/ip4/127.0.0.1/tcp/{site.port}"
            transport.keep_connected(site.peer_id, (at,))
        with trio.fail_after(90):
            while len(transport.connected()) < 2:
                await trio.sleep(0.05)
        yield transport, got
        nursery.cancel_scope.cancel()


async def keys(transport, owner, dataset, units):
    answer = await transport.request(
        owner,
        DATA_PROTOCOL,
        encode(DataQuery(dataset, units)),
        timeout_s=60,
        limit_bytes=ANSWER_BYTES,
    )
    return [one.index for one in decode(answer, UnitsAnswer).headers]


async def pulled(transport, holder, digest):
    await transport.fetch(holder, digest, limit_bytes=1 << 24, timeout_s=60)


@pytest.fixture(scope="module")
def offered(place, tmp_path_factory):
    """Two datasets of two files each, one of them held by KY as well; the orders of both."""
    made, programs = place
    folder = tmp_path_factory.mktemp("forged")
    datasets = []
    for title in ("wanted", "other"):
        for part in ("a", "b"):
            path = folder / title / f"{part}.bin"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(f"{title} {part} ".encode() * 20_000)
        listed = asked(
            *(made, "MN", "datasets.publish"),
            **{"paths": [str(folder / title)], "title": title, **TEXTS},
        )
        assert listed["units"] == 2
        datasets.append(listed["dataset"])
    asked(made, "MN", "grants.give", dataset=datasets[0], grantee="KY", days=30)
    out = str(folder / "held")
    asked(made, "KY", "datasets.fetch", dataset=datasets[0], path=out)
    programs.kill("LAB")  # its identity is the rude one's now
    yield made, Orders(made), datasets
    start_daemon(made, programs, "LAB")
    wait_ready(made, programs, "LAB", timeout_s=180)


def held_by(made, name):
    """The ciphertext that a node has; larger than a list of chunks."""
    blobs = made.sites[name].home.blobs
    return [
        Digest(bytes.fromhex(path.name))
        for path in blobs.rglob("*")
        if path.is_file() and path.stat().st_size > 100_000
    ]


def forgeries(orders, wanted, other):
    """What is brought, by name: an order, a signature, the error that names its fault."""
    now = orders.now()
    true, signature = orders.signed(wanted)
    both = {**true["scope"], "units": 0b11}
    everything = {**true["scope"], "purposes": 0b11111}
    flipped = bytearray(signature)
    flipped[10] ^= 1
    wrong = "InvalidExpiry"
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    mirrored = (order - int.from_bytes(signature[32:64], "big")).to_bytes(32, "big")
    return {
        "signed by the grantee": (*orders.signed(wanted, by="LAB"), BAD),
        "signed by another data provider": (*orders.signed(wanted, by="KY"), BAD),
        "more units": ({**true, "scope": both}, signature, BAD),
        "other purposes": ({**true, "scope": everything}, signature, BAD),
        "a later day": ({**true, "until": true["until"] + DAY}, signature, BAD),
        "made younger": ({**true, "issued": now - 1}, signature, BAD),
        "brought longer": ({**true, "deadline": now + 9 * DAY}, signature, BAD),
        "for another grantee": (
            {**orders.signed(wanted, grantee=orders.account("AUD"))[0]}
            | {"grantee": orders.lab},
            orders.signed(wanted, grantee=orders.account("AUD"))[1],
            BAD,
        ),
        "of another dataset": (true, orders.signed(other)[1], BAD),
        "for another chain": (
            *orders.signed(wanted, domain={"chainId": 1}),
            BAD,
        ),
        "for another contract": (
            *orders.signed(wanted, domain={"verifyingContract": orders.lab}),
            BAD,
        ),
        "no signature": (true, b"", BAD),
        "a bit of it changed": (true, bytes(flipped), BAD),
        "its mirror image": (
            true,
            signature[:32] + mirrored + bytes([signature[64] ^ 7]),
            BAD,
        ),
        "of a version to come": (
            *orders.signed(wanted, version=2),
            "StaleVersion",
        ),
        "not yet": (
            *orders.signed(wanted, issued=now + DAY, deadline=now + 2 * DAY),
            "OrderFromTheFuture",
        ),
        "too late": (*orders.signed(wanted, deadline=now - 1), "OrderExpired"),
        "of a time gone by": (*orders.signed(wanted, until=now - 1), wrong),
        "for units it lacks": (
            *orders.signed(wanted, scope={**both, "units": 0b100}),
            "InvalidUnits",
        ),
        "for any purpose": (
            *orders.signed(wanted, scope=everything),
            "PurposeNotAllowed",
        ),
    }


def test_no_forged_order_releases_anything(offered):
    made, orders, (wanted, other) = offered
    owner, holder = (made.sites[name].peer_id for name in ("MN", "KY"))
    chunks = held_by(made, "KY")
    assert len(chunks) == 2
    rpc(made, "dev_move", hex(60))  # an order is younger than the last decision

    async def refused(transport, why):
        with pytest.raises(AccessError, match="no grant of dataset") as caught:
            await keys(transport, owner, wanted, 0b1)
        assert "LAB" in str(caught.value), why
        for chunk in chunks:
            with pytest.raises(AccessError, match="not allowed"):
                await pulled(transport, holder, chunk)

    async def given(transport, got):
        """Whether the holder gives the one unit's chunk, and not the other's."""
        for chunk in chunks:
            with suppress(AccessError):
                await pulled(transport, holder, chunk)
        return sum(map(got.has, chunks)) == 1

    async def main():
        async with rude(made, orders.keys["LAB"]) as (transport, got):
            for why, (order, signature, error) in forgeries(
                orders, wanted, other
            ).items():
                with pytest.raises(ContractCustomError, match=selector(error)):
                    orders.bring(order, signature)
                orders.bring(order, signature, gas=500_000)
                await refused(transport, why)
            assert not any(map(got.has, chunks))
            # The true one counts: for its unit, and for no other.
            orders.bring(*orders.signed(wanted))
            assert await keys(transport, owner, wanted, 0) == [0]
            with pytest.raises(AccessError, match=r"units 1 .* not granted to LAB"):
                await keys(transport, owner, wanted, 0b11)
            with trio.fail_after(LOOKS_AGAIN_S):
                while not await given(transport, got):
                    await trio.sleep(0.2)

    trio.run(main)
