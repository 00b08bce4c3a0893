"""What an owner or a holder sends is believed only as far as the chain goes."""

from dataclasses import replace

import msgspec
import pytest
from table_world import chunk

from node.errors import (
    AccessError,
    StorageError,
    TransportError,
)
from node.market import sealed
from protocol import provenance as pv
from protocol.listing import seal_listing
from protocol.manifest import DataQuery, ListingAnswer, UnitsAnswer, seal_manifest
from protocol.wire import decode, encode


def bent_answer(change):
    return lambda data: encode(change(decode(data, UnitsAnswer)))


def of(world):
    """The true listing and manifest, and the owner's hand to sign others."""
    _, listing, manifest = world.mn.market._shelf.own(1)
    return listing, manifest, world.mn.signer


def other_listing(world):
    listing, _, owner = of(world)
    other = msgspec.structs.replace(listing, title="another title")
    return seal_listing(owner.sign, owner.public_key, other)


def other_manifest(world):
    _, manifest, owner = of(world)
    entries = list(manifest.entries)
    entries[0] = msgspec.structs.replace(entries[0], root=bytes(32))
    other = msgspec.structs.replace(manifest, entries=tuple(entries))
    return seal_manifest(owner.sign, owner.public_key, other)


def stranger_listing(world):
    listing, _, _ = of(world)
    hand = world.stranger.signer
    other = msgspec.structs.replace(listing, owner=hand.public_key)
    return seal_listing(hand.sign, hand.public_key, other)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w, a: {"listing": other_listing(w)}, "digest on chain"),
        (lambda w, a: {"listing": stranger_listing(w)}, "digest on chain"),
        (
            lambda w, a: {"listing": a.listing[:-1] + bytes([a.listing[-1] ^ 1])},
            "does not match",
        ),
        (lambda w, a: {"manifest": other_manifest(w)}, "manifest root"),
        (lambda w, a: {"manifest": a.listing}, "envelope domain"),
        (lambda w, a: {"headers": a.headers[::-1]}, "order of the headers"),
        (lambda w, a: {"headers": ()}, "order of the headers"),
        (lambda w, a: {"headers": a.headers[:1]}, "units answered"),
        (
            lambda w, a: {
                "headers": (
                    a.headers[0],
                    msgspec.structs.replace(a.headers[1], index=9),
                )
            },
            "units of the headers",
        ),
    ],
)
async def test_an_answer_that_is_not_what_the_chain_says_is_refused(
    world, change, reason
):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0, 1], 1)
    world.wire.bend = bent_answer(
        lambda a: msgspec.structs.replace(a, **change(world, a))
    )
    with pytest.raises(AccessError, match=reason):
        await world.researcher.market.fetch(dataset, None, world.out(), units=[0, 1])
    assert not world.out().exists()
    # The same answer unbent is read.
    world.wire.bend = None
    await world.researcher.market.fetch(dataset, None, world.out(), units=[0, 1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w, t: replace(t, owner=w.accounts["stranger"]), "listing's owner"),
        (lambda w, t: replace(t, units=3), "units on chain"),
        (lambda w, t: replace(t, record=bytes(32)), "digest on chain"),
    ],
)
async def test_a_token_that_does_not_fit_its_listing_is_not_believed(
    world, change, reason
):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0], 1)
    world.ledger.tokens[0] = change(world, world.ledger.tokens[0])
    # Whoever is asked, it is the true owner that answers.
    stranger = world.stranger.signer.peer_id
    world.wire.nodes[stranger] = world.mn.transport
    with pytest.raises(AccessError, match=reason):
        await world.researcher.market.fetch(dataset, None, world.out())
    shown = await world.researcher.market.show(dataset)
    assert shown["listing"] is None
    assert reason in shown["why"]


async def test_a_listing_whose_provenance_does_not_hold_is_not_shown(world):
    dataset = await world.listed()
    step = pv.Step("encrypt", (bytes(32),), bytes(32), "rexis", "9", b"", 0)
    hand = world.mn.signer
    step = msgspec.structs.replace(step, agent=hand.public_key)
    forged = pv.seal_step(hand.sign, hand.public_key, step)
    world.wire.bend = lambda data: encode(
        msgspec.structs.replace(decode(data, ListingAnswer), provenance=(forged,))
    )
    shown = await world.ky.market.show(dataset)
    assert shown["listing"] is None
    assert "provenance digest" in shown["why"]


@pytest.mark.parametrize("data", [b"", b"garbage", encode(DataQuery(1, 1))])
async def test_an_answer_of_garbage_is_one_clear_line(world, data):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0], 1)
    world.wire.bend = lambda _: data
    with pytest.raises(AccessError, match="does not match the chain"):
        await world.researcher.market.fetch(dataset, None, world.out())
    assert (await world.researcher.market.show(dataset))["listing"] is None


async def test_keys_of_units_no_grant_covers_are_not_used(world):
    dataset = await world.listed()
    record = world.mn.market._shelf.own(dataset)[0]
    await world.mn.market.give(dataset, "researcher", [0], 1)
    extra = sealed.reseal_units(
        record.headers,
        [0, 1],
        secret_seal_key=world.mn.signer.secret,
        grantee=world.researcher.signer.seal_key,
    )
    world.wire.bend = bent_answer(lambda a: msgspec.structs.replace(a, headers=extra))
    with pytest.raises(AccessError, match="no grant covers"):
        await world.researcher.market.fetch(dataset, None, world.out())


async def test_headers_of_two_units_swapped_open_nothing(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0, 1], 1)

    def swap(answer):
        one, two = answer.headers
        return msgspec.structs.replace(
            answer,
            headers=(
                msgspec.structs.replace(one, header=two.header),
                msgspec.structs.replace(two, header=one.header),
            ),
        )

    world.wire.bend = bent_answer(swap)
    with pytest.raises(StorageError, match="does not decrypt"):
        await world.researcher.market.fetch(dataset, None, world.out())
    assert not world.out().exists()


@pytest.mark.parametrize("where", ["owner", "grantee"])
async def test_a_tampered_body_is_refused(world, where):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0], 1)
    key = chunk(world, dataset)
    bent = bytearray(world.mn.blobs.data[key])
    bent[100] ^= 1
    node = world.mn if where == "owner" else world.researcher
    node.blobs.data[key] = bytes(bent)
    error = TransportError if where == "owner" else StorageError
    with pytest.raises(error):
        await world.researcher.market.fetch(dataset, None, world.out())
    assert not world.out().exists()


async def test_a_lost_or_cut_body_of_ones_own_is_one_clear_line(world):
    dataset = await world.listed()
    key = chunk(world, dataset, 3)
    whole = world.mn.blobs.data[key]
    world.mn.blobs.data[key] = whole[:-1]
    with pytest.raises(StorageError, match="chunk 0 of unit 3 has"):
        await world.mn.market.own_rows(dataset)
    del world.mn.blobs.data[key]
    with pytest.raises(StorageError, match=r"unit 3 .* not in the blob store"):
        await world.mn.market.own_rows(dataset)


async def test_a_key_other_than_the_registered_one_opens_nothing(world):
    dataset = await world.listed()
    await world.mn.market.give(dataset, "researcher", [0], 1)
    world.researcher.signer.secret = world.stranger.signer.secret
    with pytest.raises(AccessError, match="not made for this key"):
        await world.researcher.market.fetch(dataset, None, world.out())
