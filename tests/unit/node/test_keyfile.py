"""The key file: what opens it, and everything that must not."""

import errno
import json
import os
from pathlib import Path

import nacl.signing
import pytest

from node.adapters import keyfile
from node.adapters.keyfile import create, open_, reseal, seal_to
from node.errors import KeyFileError
from node.stretching import COST, COST_FOR_TESTS
from protocol.members import peer_id

WORD = b"correct horse"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "node.key"


@pytest.fixture
def key(path):
    return create(path, WORD, cost=COST_FOR_TESTS)


def refused(path, passphrase=WORD):
    with pytest.raises(KeyFileError) as caught:
        open_(path, passphrase)
    assert caught.value.hint()
    return str(caught.value)


def changed(path, **values):
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **values}))


def test_what_was_created_opens_again(path, key):
    again = open_(path, WORD)
    assert again.peer_id == key.peer_id == peer_id(key.public_key)
    assert again.identity_seed == key.identity_seed
    assert again.account_key == key.account_key
    assert again.seal_key == key.seal_key


def test_the_normal_cost_is_what_a_user_gets(path):
    create(path, WORD)
    assert json.loads(path.read_text())["memory_bytes"] == COST.memory_bytes
    open_(path, WORD)


def test_only_the_owner_may_read_it(path, key):
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    assert "0640" in refused(path)


def test_no_secret_stands_in_the_file_or_the_repr(path, key):
    raw = path.read_bytes()
    for secret in (key.identity_seed, key.account_key, key.seal_secret):
        assert secret not in raw
        assert secret.hex().encode() not in raw
        assert secret.hex() not in repr(key)


def test_a_wrong_passphrase_is_refused(path, key):
    assert "passphrase does not open" in refused(path, b"wrong")


def test_under_another_passphrase_it_is_the_same_key(path, key):
    before = path.read_bytes()
    left = path.with_name("node.key.new")
    left.write_bytes(b"of a change that was cut")
    reseal(path, key, b"battery staple", cost=COST_FOR_TESTS)
    again = open_(path, b"battery staple")
    assert (again.peer_id, again.seal_secret) == (key.peer_id, key.seal_secret)
    assert again.account_key == key.account_key
    assert "passphrase does not open" in refused(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["node.key"]
    # Nothing of the old file opens the new one: salt and nonce are others.
    old, new = json.loads(before), json.loads(path.read_bytes())
    assert not {old["salt"], old["nonce"], old["box"]} & {*map(str, new.values())}


@pytest.mark.parametrize("at", ["write", "rename"])
def test_a_change_that_is_cut_leaves_the_old_file(path, key, monkeypatch, at):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    where = (keyfile, "_write_new") if at == "write" else (Path, "replace")
    with monkeypatch.context() as patch:
        patch.setattr(*where, full)
        with pytest.raises(KeyFileError, match="No space left"):
            reseal(path, key, b"battery staple", cost=COST_FOR_TESTS)
    assert open_(path, WORD).peer_id == key.peer_id
    reseal(path, key, b"battery staple", cost=COST_FOR_TESTS)
    assert open_(path, b"battery staple").peer_id == key.peer_id


def test_a_truncated_file_is_refused_at_every_length(path, key):
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refused(path)


def test_a_changed_public_part_is_refused(path, key):
    changed(path, peer_id="12D3KooWother")
    refused(path)


@pytest.mark.parametrize(
    "values",
    [
        {"memory_bytes": 1 << 40},
        {"passes": 0},
        {"passes": "many"},
        {"salt": "00"},
        {"salt": 7},
        {"nonce": "00"},
        {"box": ""},
        {"box": "zz"},
        {"format": "rexis-key-9"},
    ],
)
def test_a_hostile_file_is_refused_before_it_costs_anything(path, key, values):
    changed(path, **values)
    refused(path)


def test_a_missing_file_names_init(path):
    with pytest.raises(KeyFileError) as caught:
        open_(path, WORD)
    assert "init" in caught.value.hint()


def test_keys_are_never_overwritten(path, key):
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="exists already"):
        create(path, WORD, cost=COST_FOR_TESTS)
    assert path.read_bytes() == before


def test_a_signature_verifies(key):
    verify = nacl.signing.VerifyKey(key.public_key)
    assert verify.verify(b"hello", key.sign(b"hello")) == b"hello"


def test_two_nodes_agree_and_a_third_does_not(tmp_path):
    a, b, c = (create(tmp_path / n, WORD, cost=COST_FOR_TESTS) for n in "abc")
    assert a.agree(b.seal_key) == b.agree(a.seal_key)
    assert a.agree(c.seal_key) != a.agree(b.seal_key)
    with pytest.raises(KeyFileError, match="small order"):
        a.agree(bytes(32))
    with pytest.raises(KeyFileError, match="31 bytes"):
        a.agree(bytes(31))


def test_only_the_addressee_opens_a_sealed_message(tmp_path):
    a, b = (create(tmp_path / n, WORD, cost=COST_FOR_TESTS) for n in "ab")
    sealed = seal_to(a.seal_key, b"hello")
    assert a.open_sealed(sealed) == b"hello"
    with pytest.raises(KeyFileError, match="do not open"):
        b.open_sealed(sealed)
    with pytest.raises(KeyFileError, match="do not open"):
        a.open_sealed(sealed[:20])
