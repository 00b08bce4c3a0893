"""The command line starts in a blink and stays light; heavy programs replace it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from node.bench.__main__ import NAMES
from node.cli import main as cli
from node.rpc.methods import METHODS

TREE = Path(__file__).parents[2]
HEAVY = ("torch", "trio", "libp2p", "web3", "transformers", "numpy", "pydantic")


def python(*arguments, check=False, env=None, **options):
    return subprocess.run(
        [sys.executable, *arguments],
        check=check,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TREE), **(env or {})},
        **options,
    )


def loaded_by(work):
    code = (
        f"import json, sys\nfrom node.cli.main import main\n{work}\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = python("-c", code, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_imports_nothing_heavy():
    loaded = loaded_by("main(['--help']); main(['run', 'watch', '--help'])")
    assert loaded.isdisjoint(HEAVY)
    assert loaded.isdisjoint({"rich", "msgspec", "nacl", "cryptography"})


def test_a_command_imports_nothing_heavy(tmp_path):
    loaded = loaded_by(f"main(['--home', {str(tmp_path)!r}, 'status'])")
    assert loaded.isdisjoint(HEAVY)


def test_init_and_config_check_import_nothing_heavy(tmp_path):
    (tmp_path / "passphrase").write_text("correct horse")
    work = (
        f"import os; os.environ['REXIS_PASSPHRASE_FILE'] = {str(tmp_path / 'passphrase')!r}\n"
        f"home = {str(tmp_path / 'home')!r}\n"
        "assert main(['--home', home, 'init', '--name', 'MN']) == 0\n"
        "assert main(['--home', home, 'config', 'check']) == 0\n"
        "os.environ['REXIS_NEW_PASSPHRASE_FILE'] = os.environ['REXIS_PASSPHRASE_FILE']\n"
        "assert main(['--home', home, 'config', 'passphrase']) == 0"
    )
    assert loaded_by(work).isdisjoint(HEAVY)


def test_the_check_of_imports_can_fail():
    assert "trio" in loaded_by("import trio")


@pytest.mark.parametrize(
    ("words", "module", "arguments"),
    [
        (["worker", "serve", "--socket", "/s"], "node.worker", ["--socket", "/s"]),
        (["worker", "serve"], "node.worker", ["--socket", "/h/worker.sock"]),
        (
            ["worker", "serve", "--memory", "900", "--device", "cuda"],
            "node.worker",
            ["--socket", "/h/worker.sock", "--memory", "900", "--device", "cuda"],
        ),
        (["smode", "serve", "--socket", "/s"], "node.smode.host", ["--socket", "/s"]),
        (["smode", "measure", "--json"], "node.smode", ["--json"]),
        (["devchain", "serve", "--db", "c"], "node.devchain", ["--db", "c"]),
        (["devchain", "serve", "--help"], "node.devchain", ["--help"]),
        (["demo", "--home", "d"], "node.demo", ["--home", "d"]),
        (["bench", "transport", "--json"], "node.bench", ["transport", "--json"]),
    ],
)
def test_heavy_programs_replace_the_command_line(words, module, arguments, monkeypatch):
    became = []

    def execv(program, command):
        became.append((program, command))
        raise KeyboardInterrupt  # does not return

    monkeypatch.setattr(os, "execv", execv)
    cli.main(["--home", "/h", *words])
    command = [sys.executable, "-P", "-m", module, *arguments]
    assert became == [(sys.executable, command)]


def test_a_folder_called_node_in_the_working_directory_is_not_run(tmp_path):
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "__init__.py").write_text("print('not ours')")
    become = (
        "import os, sys; sys.path.remove(''); from node.cli.programs import become; "
        "os.chdir(sys.argv[1]); become('node.rpc.reference')"
    )
    done = python("-c", become, str(tmp_path), cwd=TREE, check=True)
    assert done.stdout.startswith("# Admin interface")
    # The check can fail: without our care the folder would have been run.
    shadowed = python("-m", "node.rpc.reference", cwd=tmp_path, env={"PYTHONPATH": ""})
    assert "not ours" in shadowed.stdout


def test_a_terminal_without_unicode_is_no_reason_to_fail(daemon, rexis):
    daemon.answers["datasets.list"] = {
        "datasets": [
            {
                **METHODS["datasets.list"].example["result"]["datasets"][0],
                "title": "Zürich",
            }
        ]
    }
    env = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = python("-m", "node.cli.main", "dataset", "list", env=env, check=True)
    assert "Z\\xfcrich" in done.stdout


def test_the_benchmarks_offered_are_those_that_are_there():
    done = python("-m", "node.cli.main", "bench", "--help", check=True)
    folder = TREE / "node" / "bench"
    for name in ("transport", "verify", "ee", "aggregate", "data"):
        assert (f"\n  {name} " in done.stdout) == (folder / f"{name}.py").is_file()


def test_a_benchmark_answers_to_its_name():
    done = python("-m", "node.cli.main", "bench", "start", "--help", check=True)
    assert done.stdout.startswith("usage: rexis bench start ")
    assert "--json" in done.stdout


@pytest.mark.slow
def test_every_benchmark_answers_to_its_name():
    """Six of them once ended at once, without a word and with status 0."""
    code = (
        "from contextlib import suppress\n"
        "from node.bench.__main__ import NAMES, main\n"
        "for name in NAMES:\n"
        "    with suppress(SystemExit):\n"
        "        main([name, '--help'])"
    )
    said = python("-c", code, check=True).stdout.split("usage: ")[1:]
    assert [each.split()[:3] for each in said] == [["rexis", "bench", n] for n in NAMES]
    assert all("--json" in each for each in said)
