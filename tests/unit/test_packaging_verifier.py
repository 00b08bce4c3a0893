"""The claim that a verifier node needs no torch, and lives where torch could not."""

import importlib.metadata
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def run(*command, **options):
    options = {"capture_output": True, "text": True} | options
    return subprocess.run(command, check=False, **options)


def closure(extra):
    """Every distribution `rexis[extra]` needs, from what is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]

    def wanted(name, extras):
        if name == "rexis":
            return project["dependencies"] + [
                one for e in extras for one in optional[e]
            ]
        return importlib.metadata.requires(name) or []

    found, queue = set(), [("rexis", frozenset({extra}))]
    while queue:
        name, extras = queue.pop()
        if (name, extras) in found:
            continue
        found.add((name, extras))
        for text in wanted(name, extras):
            need = Requirement(text)
            contexts = [{"extra": one} for one in (extras or {""})]
            if (
                name == "rexis"
                or not need.marker
                or any(map(need.marker.evaluate, contexts))
            ):
                queue.append((need.name.lower(), frozenset(need.extras)))
    return {name for name, _ in found}


HEAVY = {"torch", "transformers", "safetensors", "tokenizers", "triton"}


def test_the_verifier_extra_needs_no_torch():
    needed = closure("verifier")
    assert {"libp2p", "web3", "numpy", "pynacl"} <= needed
    assert not HEAVY & needed


def test_the_institution_extra_does_need_it():
    assert {"torch", "transformers"} <= closure("institution")


WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "safetensors"}:
            raise ModuleNotFoundError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
"""


def imports_without_torch(*modules):
    code = WITHOUT_TORCH + "".join(f"import {one}\n" for one in modules)
    return run(sys.executable, "-W", "ignore", "-c", code, cwd=ROOT)


def test_the_offline_verifier_imports_where_torch_is_not():
    done = imports_without_torch("node.verifier.cli")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_daemon_imports_where_torch_is_not():
    done = imports_without_torch("node.app")
    assert done.returncode == 0, done.stderr


def test_an_import_of_torch_would_be_noticed():
    done = imports_without_torch("ee.trunk")
    assert "torch is not installed here" in done.stderr


MEMORY = """
import ctypes, mmap
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    raise SystemExit(77)
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)
    raise SystemExit("the kernel did not refuse")
except PermissionError:
    pass
"""


@pytest.mark.slow
def test_the_light_daemon_lives_with_memory_deny_write_execute():
    # What rexisd-light.conf promises, by the kernel's own switch for it (Linux 6.3).
    code = MEMORY + "import node.adapters.libp2p, node.adapters.evm_chain\n"
    done = run(sys.executable, "-W", "ignore", "-c", code, cwd=ROOT)
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert done.returncode == 0, done.stderr
