"""What several tests of the rounds' parts stand on."""

import hashlib

import pytest


class Keys:
    """Signs nothing that is looked at; agreeing and drawing would be a mistake."""

    def sign(self, message: bytes) -> bytes:
        return hashlib.sha512(message).digest()

    def agree(self, seal_key: bytes) -> bytes:
        raise AssertionError(seal_key)

    def fresh(self, count: int) -> bytes:
        raise AssertionError(count)


@pytest.fixture
def keys() -> Keys:
    """A keyring for what never gets as far as a secret."""
    return Keys()
