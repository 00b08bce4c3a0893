"""What a machine lacks, said at once and with one command."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command, **options):
    options = {"capture_output": True, "text": True} | options
    return subprocess.run(command, check=False, **options)


@pytest.fixture
def machine(tmp_path):
    """A PATH with everything; remove a program, or break it, and run the script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "ls"):
        (folder / name).symlink_to(shutil.which(name))
    include = tmp_path / "include"
    include.mkdir()
    (include / "Python.h").touch()
    program(
        folder,
        "python3.11",
        f'case "$*" in *sysconfig*) echo {include}/Python.h;; esac',
    )
    program(folder, "cc", "exit 0")
    program(folder, "make", "exit 0")
    program(folder, "apt-get", "exit 0")
    return folder


def program(folder, name, body):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def preflight(folder):
    script = str(ROOT / "scripts" / "preflight.sh")
    return run(str(folder / "sh"), script, env={"PATH": str(folder)})


def test_preflight_is_silent_on_a_complete_machine(machine):
    done = preflight(machine)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def no_python(machine):
    (machine / "python3.11").unlink()


def old_python(machine):
    no_python(machine)
    program(machine, "python3", 'case "$1" in -V) echo Python 3.9.2;; *) exit 1;; esac')


def no_venv(machine):
    program(
        machine,
        "python3.11",
        'case "$*" in *ensurepip*) exit 1;; *sysconfig*) echo /bin/sh;; esac',
    )


def no_python_header(machine):
    program(machine, "python3.11", "echo /nowhere/Python.h")


def no_compiler(machine):
    (machine / "cc").unlink()


def no_make(machine):
    (machine / "make").unlink()


def no_gmp(machine):
    # A compiler that finds no <gmp.h>.
    program(machine, "cc", "exit 1")


@pytest.mark.parametrize(
    ("broken", "named", "package"),
    [
        (no_python, "Python 3.11", "python3.11 python3.11-venv python3.11-dev"),
        (old_python, "Python 3.9.2", "python3.11 python3.11-venv python3.11-dev"),
        (no_venv, "venv", "python3.11-venv"),
        (no_python_header, "Python.h", "python3.11-dev"),
        (no_compiler, "C compiler", "build-essential"),
        (no_make, "make", "make"),
        (no_gmp, "GMP", "libgmp-dev"),
    ],
)
def test_preflight_names_what_is_missing_and_the_command(
    machine, broken, named, package
):
    broken(machine)
    done = preflight(machine)
    error, hint = done.stderr.splitlines()
    assert done.returncode == 1
    assert named in error
    assert hint.startswith("rexis: hint: sudo apt-get install -y ")
    assert package in hint


def test_preflight_names_everything_in_one_command(machine):
    for broken in (no_python, no_make, no_gmp):
        broken(machine)
    hint = preflight(machine).stderr.splitlines()[-1]
    assert hint == (
        "rexis: hint: sudo apt-get install -y python3.11 python3.11-venv "
        "python3.11-dev make libgmp-dev"
    )


@pytest.mark.parametrize("manager", ["dnf", None])
def test_preflight_speaks_the_machines_package_manager(machine, manager):
    no_gmp(machine)
    (machine / "apt-get").unlink()
    if manager:
        program(machine, manager, "exit 0")
    hint = preflight(machine).stderr
    assert ("dnf install -y gmp-devel" in hint) == (manager == "dnf")
    assert manager or "libgmp-dev" in hint


def test_preflight_is_posix_shell():
    assert run("sh", "-n", str(ROOT / "scripts" / "preflight.sh")).returncode == 0
