"""What every `Signer` must do: keys from a file, and keys made for a test."""

import nacl.exceptions
import nacl.signing
import pytest

from node.adapters.keyfile import create, open_, seal_to
from node.adapters.memory_signer import memory_signer
from node.errors import KeyFileError
from node.stretching import COST_FOR_TESTS
from protocol.members import peer_id


@pytest.fixture(params=["file", "memory"])
def pair(request, tmp_path):
    if request.param == "memory":
        return memory_signer(1), memory_signer(2)
    for name in ("a", "b"):
        create(tmp_path / name, b"pass", cost=COST_FOR_TESTS)
    return open_(tmp_path / "a", b"pass"), open_(tmp_path / "b", b"pass")


def test_a_signature_is_under_the_public_key_and_over_the_message(pair):
    one, other = pair
    signature = one.sign(b"message")
    nacl.signing.VerifyKey(one.public_key).verify(b"message", signature)
    for key, message in ((one, b"another"), (other, b"message")):
        with pytest.raises(nacl.exceptions.BadSignatureError):
            nacl.signing.VerifyKey(key.public_key).verify(message, signature)


def test_both_ends_agree_and_the_peer_id_is_the_keys(pair):
    one, other = pair
    assert one.agree(other.seal_key) == other.agree(one.seal_key)
    assert one.agree(one.seal_key) != one.agree(other.seal_key)
    assert one.peer_id == peer_id(one.public_key)


def test_what_is_sealed_to_one_opens_for_that_one_only(pair):
    one, other = pair
    sealed = seal_to(one.seal_key, b"secret")
    assert one.open_sealed(sealed) == b"secret"
    with pytest.raises(KeyFileError, match="do not open"):
        other.open_sealed(sealed)


def test_no_secret_is_shown(pair):
    one, _ = pair
    shown = repr(one) + str(one)
    assert one.identity_seed.hex() not in shown
    assert repr(one.identity_seed) not in shown
