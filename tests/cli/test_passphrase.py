"""`rexis config passphrase`: the same keys, another word, and nothing half."""

import json

import pytest


@pytest.fixture
def words(tmp_path, monkeypatch, rexis):
    """Files that name the old and the new passphrase, and a node made with the old one."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("correct horse\n")
    new.write_text("battery staple\n")
    monkeypatch.setenv("REXIS_PASSPHRASE_FILE", str(old))
    monkeypatch.setenv("REXIS_NEW_PASSPHRASE_FILE", str(new))
    assert rexis("init", "--name", "MN")[0] == 0
    return old, new


def test_the_key_file_opens_with_the_new_passphrase_alone(words, tmp_path, rexis):
    card = json.loads((tmp_path / "home" / "card.json").read_text())
    code, out, _ = rexis("config", "passphrase")
    assert code == 0
    assert "put it where the daemon reads it" in out
    code, _, err = rexis("config", "passphrase")
    assert (code, "passphrase does not open" in err) == (1, True)
    words[0].write_text("battery staple")
    code, out, _ = rexis("config", "passphrase", "--json")
    assert code == 0
    assert json.loads(out)["peer_id"] == card["peer_id"]


@pytest.mark.parametrize(
    ("new", "why", "hint"),
    [
        ("", "is empty or longer than 4096 bytes", "put one line"),
        (None, "cannot read the passphrase file", "REXIS_NEW_PASSPHRASE_FILE must"),
    ],
)
def test_a_new_passphrase_that_is_none_changes_nothing(
    words, tmp_path, rexis, new, why, hint
):
    before = (tmp_path / "home" / "node.key").read_bytes()
    if new is None:
        words[1].unlink()
    else:
        words[1].write_text(new)
    code, _, err = rexis("config", "passphrase")
    assert (code, why in err, hint in err) == (1, True, True)
    assert (tmp_path / "home" / "node.key").read_bytes() == before


def test_where_nobody_can_be_asked_it_says_what_to_set(words, monkeypatch, rexis):
    monkeypatch.delenv("REXIS_NEW_PASSPHRASE_FILE")
    code, _, err = rexis("config", "passphrase")
    assert code == 1
    assert "no new passphrase: there is no terminal" in err
    assert "REXIS_NEW_PASSPHRASE_FILE" in err
