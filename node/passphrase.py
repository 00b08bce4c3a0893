"""Where the passphrase of the key file comes from; never from an argument or a value.

A command line is visible to every user of the machine and an environment is inherited
by every child, so only the name of a file may stand there.
"""

import getpass
import sys
from collections.abc import Mapping
from pathlib import Path

from node.errors import KeyFileError

FILE_VARIABLE = "REXIS_PASSPHRASE_FILE"
NEW_FILE_VARIABLE = "REXIS_NEW_PASSPHRASE_FILE"
CREDENTIAL = "rexis-passphrase"
LIMIT_BYTES = 4096


def read_passphrase(environ: Mapping[str, str], *, confirm: bool = False) -> bytes:
    """A file named by the environment, else a systemd credential, else a question."""
    if named := environ.get(FILE_VARIABLE):
        return _from_file(Path(named))
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        return _from_file(Path(folder) / CREDENTIAL)
    if not sys.stdin.isatty():
        raise KeyFileError(
            "no passphrase: there is no terminal to ask on",
            hint=f"set {FILE_VARIABLE} to a file that holds it, or use systemd's "
            f"LoadCredential={CREDENTIAL}:PATH",
        )
    return _asked("Passphrase of the key file: ", confirm=confirm)


def read_new_passphrase(environ: Mapping[str, str]) -> bytes:
    """The one to come: a file named by the environment, else asked twice."""
    if named := environ.get(NEW_FILE_VARIABLE):
        return _from_file(Path(named), NEW_FILE_VARIABLE)
    if not sys.stdin.isatty():
        raise KeyFileError(
            "no new passphrase: there is no terminal to ask on",
            hint=f"set {NEW_FILE_VARIABLE} to a file that holds it",
        )
    return _asked("New passphrase: ", confirm=True)


def _from_file(path: Path, variable: str = FILE_VARIABLE) -> bytes:
    try:
        with path.open("rb") as file:
            passphrase = file.read(LIMIT_BYTES + 1).strip()
    except OSError as error:
        raise KeyFileError(
            f"cannot read the passphrase file {path}: {error.strerror}",
            hint=f"{variable} must name a file this user may read",
        ) from error
    if not 0 < len(passphrase) <= LIMIT_BYTES:
        raise KeyFileError(
            f"the passphrase file {path} is empty or longer than {LIMIT_BYTES} bytes",
            hint="put one line into it",
        )
    return passphrase


def _asked(prompt: str, *, confirm: bool) -> bytes:
    passphrase = getpass.getpass(prompt).strip()
    if confirm and getpass.getpass("Once more: ").strip() != passphrase:
        raise KeyFileError("the two passphrases differ", hint="type the same one twice")
    if not passphrase:
        raise KeyFileError("the passphrase is empty", hint="choose one and keep it")
    return passphrase.encode()
