"""What is shipped beside the code: config files, units, image, compose file."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from node.config import Config, load
from node.locations import Home

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = ROOT / "config" / "systemd"


def run(*command, **options):
    options = {"capture_output": True, "text": True} | options
    return subprocess.run(command, check=False, **options)


# config/*.toml


def config_files():
    spec = importlib.util.spec_from_file_location(
        "config_files", ROOT / "scripts" / "config_files.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_config_files_are_what_the_table_of_keys_says():
    assert config_files().main(["--check"]) == 0


def test_a_stale_config_file_is_named(tmp_path, capsys):
    module = config_files()
    module.FOLDER = tmp_path
    module.main([])
    (tmp_path / "verifier.toml").write_text(
        (tmp_path / "verifier.toml").read_text().replace("blob_bytes", "blobs_bytes")
    )
    assert module.main(["--check"]) == 1
    assert "verifier.toml" in capsys.readouterr().err


@pytest.mark.parametrize("role", ["institution", "verifier", "researcher"])
def test_a_config_file_loads_as_its_role(role, tmp_path):
    home = Home(tmp_path)
    shutil.copy(ROOT / "config" / f"{role}.toml", home.config)
    config = load(home, {})
    assert config.node.role == role
    assert config.dev == Config().dev, "no fault is shipped switched on"


# config/systemd


def unit(name):
    """Section to key to all its values; enough of systemd.syntax(7) for our files."""
    sections, section = {}, None
    for line in (SYSTEMD / name).read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


def test_daemon_and_worker_agree_on_socket_user_and_folder():
    daemon = unit("rexisd.service")["Service"]
    listen = unit("rexis-worker.socket")["Socket"]
    institution = tomllib.loads((ROOT / "config" / "institution.toml").read_text())
    assert listen["ListenStream"] == [institution["worker"]["socket"]]
    assert listen["SocketUser"] == daemon["User"]
    assert listen["SocketMode"] == ["0600"]
    assert f"/var/lib/{daemon['StateDirectory'][0]}" in daemon["ExecStart"][0]
    assert "rexis-passphrase:" in daemon["LoadCredential"][0]
    assert daemon["Type"] == ["notify"]


def test_the_worker_has_no_network_and_not_the_daemons_user():
    worker = unit("rexis-worker.service")["Service"]
    assert worker["PrivateNetwork"] == ["yes"]
    assert worker["DynamicUser"] == ["yes"]
    assert "User" not in worker
    assert worker["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert "-/var/lib/rexis" in worker["InaccessiblePaths"][0]


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd is not installed"
)
class TestSystemdAnalyze:
    UNITS = ("rexisd.service", "rexis-worker.service", "rexis-worker.socket")

    @pytest.fixture
    def units(self, tmp_path):
        for name in self.UNITS:
            # The programs are not installed here, and verify wants them to exist.
            text = (SYSTEMD / name).read_text()
            (tmp_path / name).write_text(
                re.sub(r"/opt/rexis/bin/\w+", "/bin/true", text)
            )
        return tmp_path

    def verify(self, folder):
        done = run(
            "systemd-analyze",
            "--man=no",
            "verify",
            *(f"./{name}" for name in self.UNITS),
            cwd=folder,
        )
        # Units of the machine may have troubles of their own.
        return [line for line in done.stderr.splitlines() if "rexis" in line]

    def test_units_pass_verify(self, units):
        assert self.verify(units) == []

    def test_verify_would_notice_a_misspelt_key(self, units):
        path = units / "rexisd.service"
        path.write_text(path.read_text().replace("PrivateTmp=", "PrivatTmp="))
        assert any("PrivatTmp" in line for line in self.verify(units))

    @pytest.mark.parametrize(("name", "limit"), [("rexisd", 15), ("rexis-worker", 6)])
    def test_exposure_stays_low(self, units, name, limit):
        # systemd's own score: 0 nothing allowed, 100 everything.
        done = run(
            *("systemd-analyze", "security", "--offline=true", "--no-pager"),
            *(f"--threshold={limit}", f"./{name}.service"),
            cwd=units,
        )
        if "unrecognized option" in done.stderr:
            pytest.skip("this systemd-analyze cannot judge a file")
        assert done.returncode == 0, done.stdout[-500:]


# docker/


def compose():
    return yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())


def test_compose_workers_see_a_socket_and_nothing_else():
    services = compose()["services"]
    workers = {name: one for name, one in services.items() if name.endswith("-worker")}
    assert len(workers) == 3
    for name, worker in workers.items():
        node = name.removesuffix("-worker")
        assert worker["network_mode"] == "none"
        assert worker["volumes"] == [f"{node}-run:/run/rexis"]
        assert "environment" not in worker
        assert f"{node}-run:/run/rexis" in services[node]["volumes"]


def test_compose_nodes_share_no_home_no_secret_and_no_port():
    services = compose()["services"]
    joined = [one for one in services.values() if "join" in one["command"]]
    own = [
        v for one in joined for v in one["volumes"] if not v.startswith("federation")
    ]
    assert len(own) == len(set(own))
    ports = [one["command"][-1] for one in joined]
    assert len(set(ports)) == len(joined) == 4
    names = [one["command"][3] for one in joined]
    assert services["founder"]["command"][3:] == names, "who is admitted is who joins"


def test_compose_is_hardened_and_names_only_what_exists():
    document = compose()
    used = set()
    for one in document["services"].values():
        assert one["read_only"]
        assert one["cap_drop"] == ["ALL"]
        used |= {volume.partition(":")[0] for volume in one["volumes"]}
        if "-m" in one["command"]:
            module = one["command"][one["command"].index("-m") + 1]
            assert importlib.util.find_spec(module), module
    assert used == set(document["volumes"])


def test_compose_passes_yamllint():
    rules = "{extends: default, rules: {line-length: {max: 88}}}"
    linter = Path(sys.executable).with_name("yamllint")
    done = run(str(linter), "-d", rules, str(ROOT / "docker" / "compose.yaml"))
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_nobody_special_and_copies_no_secret():
    text = (ROOT / "docker" / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    copied = set(re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE))
    names = {name for group in copied for name in group.split()}
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in allowed
    assert names == {line[1:] for line in allowed if line.startswith("!")}
    assert all((ROOT / name).exists() for name in names)


@pytest.mark.slow
def test_a_federation_comes_up_as_the_compose_file_says(tmp_path):
    """The same commands as processes: each node its keys, one registrar, one chain."""
    names = {"MN": "institution", "KY": "institution", "AUDITOR": "verifier"}
    script = str(ROOT / "docker" / "federate.py")
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    chain = subprocess.Popen(
        [sys.executable, "-m", "node.devchain", "--db", str(tmp_path / "chain.sqlite")],
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    )
    started = [chain]
    try:
        url = chain.stdout.readline().split()[1]
        folder = tmp_path / "federation"
        for port, (name, role) in enumerate(names.items(), 4001):
            command = [
                *(sys.executable, script, "--folder", str(folder), "join", name),
                *("--home", str(tmp_path / name), "--role", role),
                *("--port", str(port), "--no-start"),
            ]
            secret = {"REXIS_PASSPHRASE_FILE": str(tmp_path / f"{name}.passphrase")}
            started.append(subprocess.Popen(command, env=environ | secret))
        found = run(
            *(sys.executable, script, "--folder", str(folder)),
            *("found", "--chain", url, *names),
            env=environ,
            timeout=120,
        )
        assert found.returncode == 0, found.stderr
        assert [one.wait(60) for one in started[1:]] == [0, 0, 0]
    finally:
        for one in started:
            if one.poll() is None:
                one.terminate()
            one.wait(10)
    for name, role in names.items():
        config = load(Home(tmp_path / name), {})
        assert config.node.role == role
        assert len(config.network.peers) == len(names) - 1
        assert config.chain.contracts.datasets.startswith("0x")
        assert (tmp_path / f"{name}.passphrase").stat().st_mode & 0o777 == 0o600
