"""Keys at rest: what a file says, what opens it, and that none is used twice."""

import dataclasses
import json
import os

import pytest

from ee.ledger import Context, Opens, session_seed
from node.adapters import keyfile
from node.adapters.memory_store import MemoryStore
from node.adapters.sqlite_store import SqliteStore
from node.errors import ModelError
from node.model import key_document
from node.model.key_document import KeyDocument, new_secret
from node.model.keyring import KEYS, Keyring
from node.model.wrapping import Passphrase, Sealed
from node.stretching import COST_FOR_TESTS

HERE = Context("north", "gpu-1", "run-1")
LATER = Context("north", "gpu-1", "run-2")
OPENS = Opens("llama", bytes(range(32)), "orthogonal", "dense")
PASSPHRASE = Passphrase(b"correct horse", COST_FOR_TESTS)


def _sealed(tmp_path, name="node") -> Sealed:
    own = keyfile.create(tmp_path / name, b"x", cost=COST_FOR_TESTS)
    return Sealed(lambda data: keyfile.seal_to(own.seal_key, data), own.open_sealed)


@pytest.fixture(params=["passphrase", "sealed"])
def wrapping(request, tmp_path):
    return PASSPHRASE if request.param == "passphrase" else _sealed(tmp_path)


def test_a_key_file_says_what_it_opens_and_hides_the_rest(wrapping, tmp_path):
    secret = new_secret()
    document = KeyDocument.wrap(secret, HERE, OPENS, wrapping)
    key_document.write_new(tmp_path / "key", document)
    text = (tmp_path / "key").read_text()
    assert secret.hex() not in text
    assert session_seed(secret, HERE).hex() not in text
    shown = key_document.read(tmp_path / "key").described()
    assert shown["opens"]["architecture"] == "llama"
    assert shown["context"]["session"] == "run-1"
    assert shown["fingerprint"] == document.fingerprint.hex()
    assert "wrapped" not in shown
    assert key_document.read(tmp_path / "key").unwrap(wrapping) == secret


@pytest.mark.parametrize("field", ["context", "opens", "fingerprint", "print"])
def test_a_key_file_that_was_changed_does_not_open(field, wrapping):
    document = KeyDocument.wrap(new_secret(), HERE, OPENS, wrapping)
    changed = {
        "context": LATER,
        "opens": dataclasses.replace(OPENS, architecture="qwen2"),
        "fingerprint": bytes(32),
        "print": bytes(32),
    }[field]
    lying = dataclasses.replace(document, **{field: changed})
    with pytest.raises(ModelError, match="changed"):
        lying.unwrap(wrapping)


def test_the_wrong_passphrase_or_node_does_not_open(tmp_path):
    document = KeyDocument.wrap(new_secret(), HERE, OPENS, PASSPHRASE)
    with pytest.raises(ModelError, match="does not open"):
        document.unwrap(Passphrase(b"wrong", COST_FOR_TESTS))
    sealed = KeyDocument.wrap(new_secret(), HERE, OPENS, _sealed(tmp_path, "one"))
    with pytest.raises(ModelError, match="another node"):
        sealed.unwrap(_sealed(tmp_path, "two"))
    with pytest.raises(ModelError, match="no readable 'salt'"):
        sealed.unwrap(PASSPHRASE)


def test_a_file_may_not_ask_for_unbounded_work():
    document = KeyDocument.wrap(new_secret(), HERE, OPENS, PASSPHRASE)
    greedy = {**document.wrapped, "memory_bytes": 1 << 40}
    with pytest.raises(ModelError, match="limit is"):
        dataclasses.replace(document, wrapped=greedy).unwrap(PASSPHRASE)


def test_a_key_file_is_written_once_and_read_by_its_owner_only(tmp_path):
    path = tmp_path / "key"
    document = KeyDocument.wrap(new_secret(), HERE, OPENS, PASSPHRASE)
    key_document.write_new(path, document)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ModelError, match="not used again"):
        key_document.write_new(path, document)
    path.chmod(0o640)
    with pytest.raises(ModelError, match="others may read it"):
        key_document.read(path)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"format": "other"}', b"[1]", b"\xff\xfe"]
)
def test_what_is_no_key_file_is_refused(data, tmp_path):
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_bytes(data)
    with pytest.raises(ModelError, match="no model key"):
        key_document.read(path)


def test_a_destroyed_file_is_gone_and_was_overwritten(tmp_path):
    path = tmp_path / "key"
    key_document.write_new(path, KeyDocument.wrap(bytes(32), HERE, OPENS, PASSPHRASE))
    os.link(path, tmp_path / "other-name")
    key_document.destroy(path)
    assert not path.exists()
    assert not (tmp_path / "other-name").read_bytes().strip(b"\0")


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    made = (
        MemoryStore()
        if request.param == "memory"
        else SqliteStore.open(tmp_path / "db")
    )
    yield made
    made.close()


async def test_a_session_gets_one_key_and_can_go_on_with_it(store):
    ring = Keyring(store, PASSPHRASE)
    first = await ring.new(HERE, OPENS)
    assert (await ring.open(HERE)).secret == first.secret
    assert first.secret.hex() not in repr(first)
    with pytest.raises(ModelError, match="has a key in use"):
        await ring.new(HERE, OPENS)
    other = await ring.new(LATER, OPENS)
    assert other.secret != first.secret


async def test_no_key_is_stored_in_the_clear(store):
    ring = Keyring(store, PASSPHRASE)
    opened = await ring.new(HERE, OPENS)
    for name, data in await store.scan(KEYS):
        assert opened.secret not in name + data
        assert opened.secret.hex().encode() not in data


async def test_a_destroyed_key_is_remembered_and_not_kept(store):
    ring = Keyring(store, PASSPHRASE)
    old = await ring.new(HERE, OPENS)
    await ring.destroy(HERE)
    assert await store.scan(KEYS) == []
    with pytest.raises(ModelError, match="there is no key for north"):
        await ring.open(HERE)
    with pytest.raises(ModelError, match="there is no key"):
        await ring.destroy(HERE)
    fresh = await Keyring(store, PASSPHRASE).new(HERE, OPENS)
    assert fresh.secret != old.secret


async def test_the_same_random_bytes_a_second_time_are_refused(store, monkeypatch):
    """A machine whose generator repeats itself after a snapshot is the way this happens."""
    monkeypatch.setattr("node.model.keyring.new_secret", lambda: bytes(range(32)))
    ring = Keyring(store, PASSPHRASE)
    await ring.new(HERE, OPENS)
    with pytest.raises(ModelError, match=r"made for north at gpu-1, session run-1"):
        await ring.new(LATER, OPENS)
    await ring.destroy(HERE)
    with pytest.raises(ModelError, match="is destroyed"):
        await ring.new(LATER, OPENS)


async def test_rotation_hands_over_from_the_old_key_to_a_new_one(store):
    ring = Keyring(store, PASSPHRASE)
    first = await ring.new(HERE, OPENS)
    old, new = await ring.rotate(HERE)
    assert old.secret == first.secret != new.secret
    assert old.document.opens == new.document.opens
    assert (await ring.open(HERE)).secret == new.secret
    assert len(await store.scan(KEYS)) == 1


async def test_keys_can_be_kept_another_way(store, tmp_path):
    ring = Keyring(store, PASSPHRASE)
    opened = await ring.new(HERE, OPENS)
    sealed = _sealed(tmp_path)
    assert await ring.rewrap(sealed) == 1
    assert (await ring.open(HERE)).secret == opened.secret
    assert (await Keyring(store, sealed).open(HERE)).secret == opened.secret
    with pytest.raises(ModelError):
        await Keyring(store, PASSPHRASE).open(HERE)


async def test_what_a_crash_left_of_a_destroyed_key_is_swept(store):
    ring = Keyring(store, PASSPHRASE)
    opened = await ring.new(HERE, OPENS)
    await ring.destroy(HERE)
    await store.put(KEYS, opened.document.print, opened.document.encoded())
    with pytest.raises(ModelError):
        await ring.open(HERE)
    assert await ring.sweep() == 1
    assert await store.scan(KEYS) == []


def test_the_daemons_part_needs_no_torch():
    import subprocess
    import sys

    program = (
        "import sys; import node.model.keyring; "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_document_is_json_a_person_can_read():
    document = KeyDocument.wrap(bytes(32), HERE, OPENS, PASSPHRASE)
    assert json.loads(document.encoded())["format"] == "rexis-model-key-1"
    assert KeyDocument.decoded(document.encoded()) == document
