"""Deploy and register against a real development chain, as a registrar would."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@contextmanager
def devchain(folder, account):
    env = {**os.environ, "PYTHONPATH": str(TREE)}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "node.cli.main", "devchain", "serve"),
            *("--db", str(folder / "chain.sqlite"), "--fund", account),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )
    try:
        assert process.stdout is not None
        word, url = process.stdout.readline().split()
        assert word == "ready"
        yield url
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_a_federation_is_founded(rexis, tmp_path, monkeypatch):
    (tmp_path / "passphrase").write_text("correct horse")
    monkeypatch.setenv("REXIS_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    _, out, _ = rexis("chain", "new-owner", "owner.key", "--json")
    owner = json.loads(out)["account"]
    with devchain(tmp_path, owner) as url:
        place = ("--chain-url", url, "--chain-id", "31337", "--owner-key", "owner.key")
        status, out, err = rexis("chain", "deploy", *place, "--json")
        assert status == 0, err
        federation = json.loads(out)
        assert federation["owner"] == owner
        (tmp_path / "federation.json").write_text(out)
        cards = []
        for name, role in (("MN", "institution"), ("AUD", "verifier")):
            common = ("init", "--name", name, "--role", role)
            status, out, err = rexis(
                *("--home", name, *common, "--federation", "federation.json", "--json")
            )
            assert status == 0, err
            cards.append(f"{name}/card.json")
        register = ("chain", "register", "--federation", "federation.json")
        key = ("--owner-key", "owner.key")
        status, out, err = rexis(*register, *key, *cards)
        assert status == 0, err
        assert "data provider, researcher, compute host" in out
        assert roles_on_chain(federation) == {"MN": 7, "AUD": 8}

        status, out, err = rexis(*register, *key, "--remove", cards[1])
        assert status == 0, err
        assert roles_on_chain(federation) == {"MN": 7}

        # Somebody else's key does not open the registry.
        status, _, err = rexis(*register, "--owner-key", "MN/node.key", cards[1])
        assert status == 1
        assert err.startswith("error: ")

        wrong = {**federation, "chain_id": 5}
        (tmp_path / "wrong.json").write_text(json.dumps(wrong))
        status, _, err = rexis(
            *("chain", "register", "--federation", "wrong.json", *key, cards[0])
        )
        assert status == 1
        assert "chain id is 31337, expected 5" in err
    status, _, err = rexis(*register, *key, cards[0])
    assert status == 1
    assert "does not answer" in err


def roles_on_chain(federation):
    import trio

    from node.adapters.evm_chain import EvmChain

    chain = EvmChain(
        url=federation["chain_url"],
        chain_id=federation["chain_id"],
        contracts=federation["contracts"],
        account_key=bytes(31) + b"\x01",
    )
    return {m.name: m.roles for m in trio.run(chain.members).members}
