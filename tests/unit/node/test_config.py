"""Configuration: every key explained, every mistake named."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest

from node import config as config_module
from node.config import Config, load, template
from node.errors import ConfigError, KeyFileError, StorageError
from node.locations import Home
from node.log import redacted
from node.passphrase import read_passphrase

PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    home.create()
    home.config.write_text(template())
    return home


def said(home, text, environ=None):
    home.config.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(home, environ or {})
    return str(caught.value), caught.value.hint()


def test_the_template_is_the_default_config(home):
    assert load(home, {}) == Config()


def test_every_key_of_the_template_stands_below_a_comment():
    lines = template().splitlines()
    keys = [i for i, line in enumerate(lines) if re.match(r"\w+ = ", line)]
    assert len(keys) == len(list(config_module._keys(Config)))
    assert all(lines[i - 1].startswith("# ") for i in keys)


def test_template_values_come_back(home):
    peer = {"peer_id": PEER, "addresses": ["/ip4/127.0.0.1/tcp/9"]}
    home.config.write_text(
        template(
            node__name="MN",
            network__peers=[peer],
            chain__contracts__registry="0x" + "ab" * 20,
        )
    )
    config = load(home, {})
    assert config.node.name == "MN"
    assert config.network.peers[0].peer_id == PEER
    assert config.chain.contracts.registry == "0x" + "ab" * 20


def test_template_refuses_a_bad_value():
    with pytest.raises(ConfigError, match=r"node\.role"):
        template(node__role="boss")


def test_an_unknown_key_is_named_with_the_nearest(home):
    message, hint = said(home, "[chain]\nchian_id = 5\n")
    assert "chain.chian_id" in message
    assert "chain.chain_id" in hint


def test_an_unknown_section_is_named(home):
    message, hint = said(home, "[netwrok]\nlisten = []\n")
    assert "netwrok" in message
    assert "network" in hint


@pytest.mark.parametrize(
    ("text", "key", "shown"),
    [
        ("[chain]\nchain_id = 'one'\n", "chain.chain_id", "'one'"),
        ("[chain]\nconfirmations = -1\n", "chain.confirmations", "-1"),
        ("[chain]\nurl = 'ftp://x'\n", "chain.url", "ftp://x"),
        ("[node]\nrole = 'boss'\n", "node.role", "boss"),
        ("[network]\nlisten = ['tcp:4001']\n", "network.listen", "tcp:4001"),
        ("[network]\npeers = [{peer_id = 'x'}]\n", "network.peers", "'x'"),
        ("[chain.contracts]\nregistry = '0x12'\n", "chain.contracts.registry", "0x12"),
        ("[training]\ntrain_s = nan\n", "training.train_s", "nan"),
        ("[dev]\ncorrupt_receipts = true\n", "dev.corrupt_receipts", "True"),
        ("node = 3\n", "node", "3"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(home, text, key, shown):
    message, hint = said(home, text)
    assert key in message
    assert shown in message
    assert hint


def test_a_file_that_is_no_toml_is_refused(home):
    assert "not TOML" in said(home, "[node\n")[0]
    home.config.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not TOML"):
        load(home, {})


def test_a_missing_file_names_init(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(Home(tmp_path), {})
    assert "init" in caught.value.hint()


def test_the_environment_overrides_the_file(home):
    config = load(
        home,
        {
            "REXIS_NODE__NAME": "KY",
            "REXIS_CHAIN__CHAIN_ID": "5",
            "REXIS_CHAIN__CONTRACTS__ANCHORS": "0x" + "00" * 20,
            "REXIS_NETWORK__LISTEN": "/ip4/127.0.0.1/tcp/1,/ip4/127.0.0.1/tcp/2",
            "REXIS_NETWORK__PEERS": json.dumps([{"peer_id": PEER}]),
            "REXIS_PASSPHRASE_FILE": "/nowhere",
        },
    )
    assert config.node.name == "KY"
    assert config.chain.chain_id == 5
    assert config.chain.contracts.anchors.endswith("00")
    assert len(config.network.listen) == 2
    assert config.network.peers[0].peer_id == PEER


def test_a_misspelt_variable_is_refused(home):
    with pytest.raises(ConfigError, match="REXIS_CHAIN__ULR") as caught:
        load(home, {"REXIS_CHAIN__ULR": "http://x"})
    assert "chain.url" in caught.value.hint()


def test_a_bad_variable_is_refused(home):
    with pytest.raises(ConfigError, match=r"chain\.chain_id"):
        load(home, {"REXIS_CHAIN__CHAIN_ID": "many"})


def test_a_second_daemon_is_told_who_holds_the_home(home):
    script = (
        "import sys; from node.locations import Home\n"
        "from node.errors import StorageError\n"
        "try:\n"
        "    with Home(sys.argv[1]).lock(): print('free')\n"
        "except StorageError as error: print(error)\n"
    )

    def other():
        command = [sys.executable, "-c", script, str(home.path)]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout

    with home.lock():
        assert f"another daemon runs on {home.path} (pid {os.getpid()})" in other()
    assert other() == "free\n"


def test_locking_a_home_that_is_not_there_is_one_line(tmp_path):
    with (
        pytest.raises(StorageError, match="no node lives"),
        Home(tmp_path / "none").lock(),
    ):
        pass


def test_logs_count_bytes_and_do_not_print_them():
    event = redacted(None, "info", {"event": "x", "key": b"secret", "n": 3})
    assert event == {"event": "x", "key": "<6 bytes>", "n": 3}


def test_a_passphrase_comes_from_a_file(tmp_path):
    path = tmp_path / "p"
    path.write_text("correct horse\n")
    assert read_passphrase({"REXIS_PASSPHRASE_FILE": str(path)}) == b"correct horse"


def test_a_passphrase_comes_from_a_systemd_credential(tmp_path):
    (tmp_path / "rexis-passphrase").write_text("battery")
    assert read_passphrase({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == b"battery"


def test_an_empty_or_missing_passphrase_file_is_refused(tmp_path):
    (tmp_path / "p").write_text("\n")
    for name in ("p", "none"):
        with pytest.raises(KeyFileError, match="passphrase file"):
            read_passphrase({"REXIS_PASSPHRASE_FILE": str(tmp_path / name)})


def test_the_written_file_is_toml():
    assert tomllib.loads(template())["chain"]["contracts"]["registry"] == ""
