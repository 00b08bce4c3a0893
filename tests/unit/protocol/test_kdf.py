"""HKDF-SHA256 as two HMACs: the RFC's vectors, and another implementation's answer."""

import os

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.kdf import derive


@pytest.mark.parametrize(
    ("secret", "salt", "info", "begins"),
    [
        (  # RFC 5869, A.1
            b"\x0b" * 22,
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf",
        ),
        (  # A.3: no salt, no info
            b"\x0b" * 22,
            b"",
            b"",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d",
        ),
    ],
)
def test_the_first_block_is_the_one_of_rfc_5869(secret, salt, info, begins):
    assert derive(secret, salt, info).hex() == begins


@pytest.mark.parametrize("salt_bytes", [0, 1, 32, 64, 65, 200])
def test_another_implementation_derives_the_same(salt_bytes):
    secret, salt, info = os.urandom(32), os.urandom(salt_bytes), os.urandom(80)
    other = HKDF(SHA256(), length=32, salt=salt, info=info).derive(secret)
    assert derive(secret, salt, info) == other
