"""What is committed under node/adapters/artifacts is what contracts/src says.

Without npm the digests of the manifest tell; with it the compiler does.
"""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = ROOT / "contracts"
ARTIFACTS = ROOT / "node" / "adapters" / "artifacts"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stale(contracts: Path, artifacts: Path) -> set[str]:
    """The files that are missing, unknown to the manifest, or not what it says."""
    manifest = json.loads((contracts / "manifest.json").read_text())
    expected = {
        **{contracts / "src" / k: v for k, v in manifest["sources"].items()},
        **{contracts / k: v for k, v in manifest["builder"].items()},
        **{artifacts / k: v for k, v in manifest["artifacts"].items()},
    }
    there = {*(contracts / "src").iterdir(), *artifacts.iterdir()}
    changed = {p for p, d in expected.items() if p.exists() and sha256(p) != d}
    missing = {path for path in expected if not path.exists()}
    return {path.name for path in changed | missing | (there - expected.keys())}


def test_every_source_and_artifact_hashes_to_the_manifest():
    assert stale(CONTRACTS, ARTIFACTS) == set()


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("contracts/src/Registry.sol", "edit"),
        ("contracts/src/Another.sol", "edit"),
        ("contracts/src/Membership.sol", "remove"),
        ("contracts/package-lock.json", "edit"),
        ("artifacts/Datasets.json", "edit"),
        ("artifacts/Anchors.json", "remove"),
    ],
)
def test_a_forgotten_build_is_noticed(tmp_path, path, change):
    copy = tmp_path / "contracts"
    shutil.copytree(
        CONTRACTS, copy, ignore=shutil.ignore_patterns("node_modules", "tools", "build")
    )
    shutil.copytree(ARTIFACTS, tmp_path / "artifacts")
    target = tmp_path / path
    if change == "remove":
        target.unlink()
    else:
        with target.open("a") as file:
            file.write("\n")
    assert stale(copy, tmp_path / "artifacts") == {target.name}


def test_the_compiler_and_the_library_are_the_ones_in_the_lock_file():
    manifest = json.loads((CONTRACTS / "manifest.json").read_text())
    lock = json.loads((CONTRACTS / "package-lock.json").read_text())["packages"]
    assert manifest["solc"].startswith(lock["node_modules/solc"]["version"] + "+")
    assert lock["node_modules/@openzeppelin/contracts"]["version"] == "5.7.0"
    for name, package in lock.items():
        assert not name or package["integrity"].startswith("sha512-")


def test_every_contract_fits_on_a_chain():
    for path in ARTIFACTS.glob("*.json"):
        runtime = json.loads(path.read_text())["runtime"]
        assert len(runtime) // 2 - 1 <= 24_576, path.name  # EIP-170


@pytest.mark.slow
def test_compiling_again_gives_the_same_bytes():
    if shutil.which("node") is None:
        pytest.skip("node is not installed; the manifest alone was checked")
    if not (CONTRACTS / "node_modules" / "solc").is_dir():
        pytest.skip("run `npm ci` in contracts/ to compare with the compiler's output")
    done = subprocess.run(
        ["node", "compile.mjs", "--check"],
        cwd=CONTRACTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
