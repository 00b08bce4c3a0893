"""Headers: who opens a unit; and that header and body are the field's own format."""

import io
import logging

import crypt4gh.header
import crypt4gh.lib
import nacl.public
import pytest

from node.adapters.memory_store import MemoryBlobs
from node.errors import AccessError, StorageError
from node.market import body as bodies
from node.market import sealed
from node.market.shelf import chunk_list
from node.market.source import Stream

OWNER, GRANTEE, STRANGER = (
    bytes(nacl.public.PrivateKey(bytes([i]) * 32)) for i in (1, 2, 3)
)
OWNER_PUBLIC, GRANTEE_PUBLIC = (sealed.public_half(k) for k in (OWNER, GRANTEE))
PLAIN = b"age,bmi\n" + b"31,22.5\n" * 20_000


def seal_unit(plain, secret=OWNER):
    """(header, body) of one unit, made as publishing makes them."""
    header = sealed.new_header(secret_seal_key=secret)
    key = sealed.session_key(
        header, secret_seal_key=secret, sender=sealed.public_half(secret)
    )
    blobs = MemoryBlobs()
    entry = bodies.encrypt(Stream([plain]), 0, key, blobs)
    (chunk,) = chunk_list(blobs, entry).chunks
    return header, blobs.read(chunk.sha256, 0, entry.length)


def opened(header, body, key=OWNER, sender=OWNER_PUBLIC):
    """The plaintext under the header's key, by the reference package's own reader."""
    session = sealed.session_key(header, secret_seal_key=key, sender=sender)
    out = io.BytesIO()
    output = crypt4gh.lib.limited_output(process=out.write)
    next(output)
    crypt4gh.lib.body_decrypt(io.BytesIO(body), [session], output, 0)
    return out.getvalue()


@pytest.fixture(scope="module")
def unit():
    return seal_unit(PLAIN)


def test_the_owner_opens_its_own_unit(unit):
    assert opened(*unit) == PLAIN
    assert b"22.5" not in unit[1]


def test_a_grantee_opens_the_same_body_with_a_header_of_its_own(unit):
    header, body = unit
    released = sealed.reseal_header(
        header, secret_seal_key=OWNER, grantee=GRANTEE_PUBLIC
    )
    assert released != header
    assert len(released) == 124
    assert opened(released, body, key=GRANTEE) == PLAIN


def test_header_and_body_are_a_file_of_the_reference_package(unit):
    out = io.BytesIO()
    crypt4gh.lib.decrypt([(0, OWNER, None)], io.BytesIO(unit[0] + unit[1]), out)
    assert out.getvalue() == PLAIN


def test_another_key_opens_neither_the_owners_header_nor_the_grantees(unit):
    header, body = unit
    released = sealed.reseal_header(
        header, secret_seal_key=OWNER, grantee=GRANTEE_PUBLIC
    )
    for one in (header, released):
        with pytest.raises(AccessError, match="not made for this key"):
            opened(one, body, key=STRANGER)
    with pytest.raises(AccessError, match="not made for this key"):
        opened(header, body, key=GRANTEE)


def test_a_header_from_somebody_else_than_the_owner_is_refused(unit):
    forged, _ = seal_unit(b"x", STRANGER)
    forged = sealed.reseal_header(
        forged, secret_seal_key=STRANGER, grantee=GRANTEE_PUBLIC
    )
    with pytest.raises(AccessError, match="not by this owner"):
        opened(forged, unit[1], key=GRANTEE)


@pytest.mark.parametrize("cut", [0, 10, 16, 60, 123])
def test_a_cut_header_is_refused(unit, cut):
    with pytest.raises(AccessError):
        opened(unit[0][:cut], unit[1])


def test_a_bent_or_padded_header_is_refused(unit):
    for place in range(len(unit[0])):
        bent = bytearray(unit[0])
        bent[place] ^= 1
        with pytest.raises(AccessError):
            opened(bytes(bent), unit[1])
    with pytest.raises(AccessError, match="too many"):
        opened(unit[0] + b"x", unit[1])
    with pytest.raises(AccessError, match="limit is 4096"):
        opened(bytes(5000), unit[1])


def test_a_header_with_an_edit_list_or_two_keys_is_refused(unit):
    keys = [(0, OWNER, OWNER_PUBLIC)]
    make = crypt4gh.header.make_packet_data_enc
    edits = crypt4gh.header.make_packet_data_edit_list([0, 10])
    for packets in ([make(0, bytes(32)), edits], [make(0, bytes(32))] * 2):
        header = crypt4gh.header.serialize(
            [one for p in packets for one in crypt4gh.header.encrypt(p, keys)]
        )
        with pytest.raises(AccessError, match="header holds"):
            opened(header, unit[1])


def test_keys_of_the_wrong_kind_are_refused(unit):
    with pytest.raises(AccessError, match="has 31 bytes"):
        sealed.new_header(secret_seal_key=bytes(31))
    for bad, reason in ((bytes(32), "not a usable"), (bytes(3), "has 3 bytes")):
        with pytest.raises(AccessError, match=reason):
            sealed.reseal_header(unit[0], secret_seal_key=OWNER, grantee=bad)
    with pytest.raises(StorageError, match="not a byte"):
        seal_unit(b"")


def test_no_key_reaches_a_log_at_any_level(caplog):
    with caplog.at_level(logging.DEBUG):
        header, body = seal_unit(PLAIN)
        opened(header, body)
        with pytest.raises(AccessError):
            opened(header, body, key=STRANGER)
    assert caplog.text == ""
    # The package does log the key where its loggers are left open.
    log = logging.getLogger("crypt4gh")
    level = log.level
    try:
        for name in ("crypt4gh", "crypt4gh.header", "crypt4gh.lib"):
            logging.getLogger(name).setLevel(logging.DEBUG)
        seal_unit(PLAIN)
    finally:
        for name in ("crypt4gh", "crypt4gh.header", "crypt4gh.lib"):
            logging.getLogger(name).setLevel(level)
    assert OWNER.hex() in caplog.text
