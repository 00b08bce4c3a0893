"""Environments of their own for what we are measured against and do not depend on.

Each is made once, in the user's cache folder, from exact versions; a change of them makes another.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PACKAGES = (
    "annotated-types==0.8.0",
    "base58==2.1.1",
    "blake3==1.0.11",
    "cffi==2.1.1",
    "ConfigArgParse==1.9.0",
    "cryptography==50.0.2",
    "filelock==4.2.12",
    "fsspec==2026.9.0",
    "grpcio==1.85.3",
    "grpcio-tools==1.85.1",
    "hivemind==1.1.12",
    "idna==3.20",
    "Jinja2==3.1.6",
    "MarkupSafe==3.0.4",
    "mmh3==5.3.1",
    "morphys==1.0",
    "mpmath==1.3.0",
    "msgpack==1.2.4",
    "netaddr==1.3.0",
    "networkx==3.6.1",
    "numpy==2.4.6",
    "packaging==26.3",
    "prefetch_generator==1.0.3",
    "protobuf==7.36.2",
    "py-cid==0.5.0",
    "py-multibase==2.0.0",
    "py-multicodec==1.0.0",
    "py-multihash==3.0.0",
    "pycparser==3.12",
    "pydantic==2.14.4",
    "pydantic_core==2.50.5",
    "python-baseconv==1.2.2",
    "PyYAML==6.0.4",
    "scipy==1.17.1",
    "six==1.17.0",
    "setuptools==84.2.1",
    "sortedcontainers==2.4.0",
    "sympy==1.14.0",
    "torch==2.13.0",
    "typing-inspection==0.4.5",
    "typing_extensions==4.16.0",
    "uvloop==0.23.0",
    "varint==1.0.2",
)
"""What `pip install hivemind==1.1.12 torch==2.13.0` chose on 24 November 2026."""
EZKL_PACKAGES = (
    "ezkl==23.0.5",
    "filelock==4.3.1",
    "fsspec==2026.9.0",
    "Jinja2==3.1.6",
    "MarkupSafe==3.0.4",
    "ml_dtypes==0.6.0",
    "mpmath==1.3.0",
    "networkx==3.6.1",
    "numpy==2.4.6",
    "onnx==1.23.2",
    "onnx-ir==1.1.0",
    "onnxscript==0.7.2",
    "packaging==26.4",
    "protobuf==7.36.2",
    "setuptools==84.2.1",
    "sympy==1.14.0",
    "torch==2.13.0",
    "typing_extensions==4.16.0",
)
"""What `pip install ezkl onnx onnxscript torch==2.13.0` chose on 30 November 2026."""


class UnavailableError(Exception):
    """There is no yardstick here; the text says why."""


def interpreter() -> Path:
    """Python of hivemind's environment; made at the first call, which takes minutes."""
    return environment("hivemind", PACKAGES, "import hivemind, torch")


def environment(name: str, packages: Sequence[str], check: str) -> Path:
    """Python of an environment with `packages`, in which `check` ran."""
    place = _folder(name, packages)
    python = place / "bin" / "python"
    if python.exists():
        return python
    sys.stderr.write(f"installing {name} into {place}, once ...\n")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Made aside, so that what was interrupted is never taken for an environment.
        with tempfile.TemporaryDirectory(dir=place.parent) as aside:
            made = Path(aside, "made")
            _run(name, sys.executable, "-m", "venv", str(made))
            # An environment's programs know where it lies, its interpreter does not.
            inside = str(made / "bin" / "python")
            _run(name, inside, "-m", "pip", "install", "--quiet", *packages)
            _run(name, inside, "-c", check)
            made.rename(place)
    except OSError as error:
        raise UnavailableError(f"{name} cannot be installed: {error}") from error
    return python


def _folder(name: str, packages: Sequence[str]) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    drawn = hashlib.sha256(" ".join((version, *packages)).encode())
    return Path(cache, "rexis", f"{name}-{drawn.hexdigest()[:12]}")


def _run(name: str, *command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        lines = (ended.stderr or ended.stdout).strip().splitlines() or ["no reason"]
        raise UnavailableError(f"{name} cannot be installed: {lines[-1]}")
