import hashlib
import tracemalloc

import msgpack
import nacl.signing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import envelope, members, merkle, wire
from protocol.errors import (
    InclusionError,
    LocalProtocolError,
    MalformedMessageError,
    SignatureError,
)

KEY = nacl.signing.SigningKey(bytes(range(32)))
PUBLIC = bytes(KEY.verify_key)


class Ping(wire.Message, tag="ping"):
    number: int
    text: str


def sign(message: bytes) -> bytes:
    return KEY.sign(message).signature


def test_a_message_has_one_byte_string():
    data = wire.encode(Ping(1, "a"))
    assert wire.decode(data, Ping) == Ping(1, "a")
    # The same number spelt as a 64-bit integer is another byte string.
    long = msgpack.packb(["ping"])[:0] + b"\x93\xa4ping\xcf" + bytes(7) + b"\x01\xa1a"
    assert msgpack.unpackb(long) == msgpack.unpackb(data)
    with pytest.raises(MalformedMessageError, match="canonical"):
        wire.decode(long, Ping)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x92\xa4ping", b"\x93\xa4pong\x01\xa1a", b"\x91" * 2000, b"\x01"],
)
def test_garbage_is_malformed_and_nothing_else(data):
    with pytest.raises(MalformedMessageError):
        wire.decode(data, Ping)


@given(st.binary(max_size=200))
def test_no_bytes_escape_the_malformed_error(data):
    try:
        value = wire.decode(data, Ping)
    except MalformedMessageError:
        return
    assert wire.encode(value) == data


def test_an_oversized_message_names_its_size_and_the_limit():
    with pytest.raises(MalformedMessageError, match="has 20 bytes, limit is 10"):
        wire.decode(bytes(20), Ping, limit_bytes=10)


def test_trailing_bytes_and_extra_fields_are_refused():
    with pytest.raises(MalformedMessageError):
        wire.decode(wire.encode(Ping(1, "a")) + b"\x00", Ping)
    with pytest.raises(MalformedMessageError):
        wire.decode(msgpack.packb(["ping", 1, "a", 2]), Ping)


class List(wire.Message, tag="list"):
    items: tuple[int, ...]


def test_a_list_is_bounded_whatever_the_size_of_its_message():
    held = wire.encode(List((1,) * 65_536))
    assert len(wire.decode(held, List).items) == 65_536
    with pytest.raises(MalformedMessageError, match=r"65537 exceeds max_array_len"):
        wire.decode(wire.encode(List((1,) * 65_537)), List)


@pytest.mark.parametrize("head", [b"", b"\x92\xa4list", b"\x93\xa4list\x91\x01"])
def test_what_is_not_of_the_type_costs_no_memory(head):
    """A million empty lists are a mebibyte to send and sixty to build."""
    inner = b"\xdc\xff\xff" + b"\x90" * 65_535
    data = head + b"\xdc\x00\x10" + 16 * inner
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessageError, match="not a List"):
            wire.decode(data, List, limit_bytes=1 << 21)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(data)


def test_an_envelope_opens_only_in_its_domain_and_unchanged():
    data = envelope.seal(sign, "test", PUBLIC, b"ctx", b"hello")
    opened = envelope.open_envelope(data, "test")
    assert (opened.sender, opened.context, opened.payload) == (PUBLIC, b"ctx", b"hello")
    with pytest.raises(SignatureError, match="domain"):
        envelope.open_envelope(data, "other")
    for field, value in [
        ("payload", b"hullo"),
        ("context", b"cty"),
        ("sender", bytes(nacl.signing.SigningKey(bytes(32)).verify_key)),
    ]:
        fields = {name: getattr(opened, name) for name in opened.__struct_fields__}
        forged = wire.encode(envelope.Envelope(**{**fields, field: value}))
        with pytest.raises(SignatureError):
            envelope.open_envelope(forged, "test")


def test_signing_bytes_do_not_collide_when_a_border_moves():
    one = envelope.signing_bytes("ab", PUBLIC, b"c", b"d")
    two = envelope.signing_bytes("a", PUBLIC, b"bc", b"d")
    assert one != two


def test_merkle_roots_match_rfc_9162_by_definition():
    def definition(leaves):
        if not leaves:
            return hashlib.sha256(b"").digest()
        if len(leaves) == 1:
            return hashlib.sha256(b"\x00" + leaves[0]).digest()
        split = 1
        while split * 2 < len(leaves):
            split *= 2
        left, right = definition(leaves[:split]), definition(leaves[split:])
        return hashlib.sha256(b"\x01" + left + right).digest()

    for size in range(40):
        leaves = [bytes([i]) * (i % 5) for i in range(size)]
        assert merkle.root(leaves) == definition(leaves)


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=40), st.data())
def test_a_leaf_proves_its_own_place_and_no_other(leaves, data):
    index = data.draw(st.integers(0, len(leaves) - 1))
    root = merkle.root(leaves)
    proof = merkle.inclusion_proof(leaves, index)
    merkle.verify_inclusion(root, leaves[index], index, len(leaves), proof)
    with pytest.raises(InclusionError):
        merkle.verify_inclusion(root, leaves[index] + b"x", index, len(leaves), proof)
    other = data.draw(st.integers(0, len(leaves) - 1))
    if leaves[other] != leaves[index]:
        with pytest.raises(InclusionError):
            merkle.verify_inclusion(root, leaves[index], other, len(leaves), proof)
    with pytest.raises(InclusionError):
        merkle.verify_inclusion(
            root, leaves[index], index, len(leaves), [*proof, bytes(32)]
        )


def test_a_peer_id_holds_its_key():
    peer = members.peer_id(PUBLIC)
    assert peer.startswith("12D3Koo")
    assert members.public_key(peer) == PUBLIC
    with pytest.raises(LocalProtocolError):
        members.public_key("not base58 0OIl")


def test_peer_ids_agree_with_libp2p():
    ed25519 = pytest.importorskip("libp2p.crypto.ed25519")
    from libp2p.peer.id import ID

    pair = ed25519.create_new_key_pair(bytes(range(32)))
    assert str(ID.from_pubkey(pair.public_key)) == members.peer_id(PUBLIC)


def test_a_member_set_is_sorted_and_refuses_a_key_twice():
    a = members.Member(b"a" * 32, b"x" * 32, b"1" * 20, 1, "a")
    b = members.Member(b"b" * 32, b"y" * 32, b"2" * 20, 8, "b")
    assert members.MemberSet.of([b, a]) == members.MemberSet.of([a, b])
    assert members.MemberSet.of([a, b]).by_account(b"2" * 20) == b
    with pytest.raises(LocalProtocolError, match="twice"):
        members.MemberSet.of([a, a])
