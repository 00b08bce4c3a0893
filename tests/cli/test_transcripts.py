"""Shell transcripts: what a person types and sees, as text files beside this one.

In a transcript `$ ` begins a command, `! ` a line of stderr, `= ` an exit status other than 0,
`# ` a remark; all other lines are stdout.  `$WORK` is the folder the commands run in, `[..]`
stands for what differs from run to run, over lines if need be.  A file that begins with `# daemon` has one to talk to,
which answers every method with the example of docs/rpc.md.

`UPDATE_TRANSCRIPTS=1 pytest tests/cli` rewrites what does not match; read the difference.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


def _commands(text):
    """Each command with the lines that follow it; remarks between them without one."""
    found = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(([], line[2:], []))
        elif line.startswith("# ") or not found:
            found.append(([line], None, []))
        elif found[-1][1] is None:
            found[-1][0].append(line)
        else:
            found[-1][2].append(line)
    return found


def _seen(status, out, err, work):
    lines = [*out.splitlines(), *(f"! {line}" for line in err.splitlines())]
    if status:
        lines.append(f"= {status}")
    return [line.replace(str(work), "$WORK").rstrip() for line in lines]


def _matches(expected, seen):
    pattern = "\n".join(expected).rstrip()
    parts = (re.escape(part) for part in pattern.split("[..]"))
    whole = re.compile(".*".join(parts), re.DOTALL)
    return whole.fullmatch("\n".join(seen).rstrip()) is not None


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path, rexis, tmp_path, request):
    text = path.read_text()
    if text.startswith("# daemon"):
        request.getfixturevalue("daemon")
    request.getfixturevalue("monkeypatch").setenv("WORK", str(tmp_path))
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse")
    request.getfixturevalue("monkeypatch").setenv(
        "REXIS_PASSPHRASE_FILE", str(passphrase)
    )
    update = os.environ.get("UPDATE_TRANSCRIPTS")
    kept = []
    for remark, command, expected in _commands(text):
        if command is not None:
            seen = _run(command, rexis, tmp_path)
            fits = _matches(expected, seen)
            assert fits or update, "\n".join([f"{path.name}: $ {command}", *seen])
            kept += [f"$ {command}", *(expected if fits else [*seen, ""])]
        kept += remark
    if update:
        path.write_text("\n".join(kept).rstrip() + "\n")


def _run(command, rexis, work):
    if command.startswith("rexis ") and not set("|>;&") & set(command):
        words = shlex.split(os.path.expandvars(command))
        return _seen(*rexis(*words[1:]), work)
    shell = [
        "/bin/sh",
        "-c",
        f'rexis() {{ "$PYTHON" -m node.cli.main "$@"; }}\n{command}',
    ]
    done = subprocess.run(
        shell,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(TREE)},
    )
    return _seen(done.returncode, done.stdout, done.stderr, work)


def test_a_transcript_that_does_not_match_is_noticed():
    assert _matches(["a [..] c"], ["a b c"])
    assert not _matches(["a [..] c"], ["a b d"])
    assert not _matches(["a"], ["a", "b"])
    assert not _matches(["a", "= 3"], ["a", "= 2"])
