"""A key at rest: in the clear what it opens, wrapped the secret it is drawn from.

    {"format": "rexis-model-key-1", "fingerprint": ..., "print": ...,
     "context": {institution, host, session}, "opens": {architecture, plan, strength, turn},
     "wrapped": {...}}

Neither this module nor `ee.ledger` needs torch, so the daemon may hold keys.
"""

import json
import os
import secrets
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ee.errors import EncryptionError
from ee.ledger import (
    SECRET_BYTES,
    Context,
    Opens,
    fingerprint,
    secret_print,
    session_seed,
)
from node.disk import sync_folder
from node.errors import ModelError
from node.model.wrapping import Wrapping

FORMAT = "rexis-model-key-1"
FILE_LIMIT_BYTES = 16384
_RESTORE = "restore the key file from a backup; without it the trunk stays closed"


def new_secret() -> bytes:
    """32 bytes nobody has seen."""
    return secrets.token_bytes(SECRET_BYTES)


@dataclass(frozen=True)
class KeyDocument:
    """A key file's content."""

    context: Context
    opens: Opens
    fingerprint: bytes
    print: bytes
    wrapped: dict[str, Any]

    @classmethod
    def wrap(
        cls, secret: bytes, context: Context, opens: Opens, wrapping: Wrapping
    ) -> "KeyDocument":
        mark = fingerprint(session_seed(secret, context), opens)
        name = secret_print(secret)
        clear = _clear(context, opens, mark, name)
        return cls(context, opens, mark, name, wrapping.wrap(secret, _bytes(clear)))

    def unwrap(self, wrapping: Wrapping) -> bytes:
        """The secret; `ModelError` if anything in the clear part was changed."""
        clear = _clear(self.context, self.opens, self.fingerprint, self.print)
        secret = wrapping.unwrap(self.wrapped, _bytes(clear))
        if (
            fingerprint(session_seed(secret, self.context), self.opens)
            != self.fingerprint
        ):
            raise ModelError("the key file's secret is not that of its fingerprint")
        return secret

    def rewrap(self, old: Wrapping, new: Wrapping) -> "KeyDocument":
        """The same key kept another way."""
        return KeyDocument.wrap(self.unwrap(old), self.context, self.opens, new)

    def to_dict(self) -> dict[str, Any]:
        clear = _clear(self.context, self.opens, self.fingerprint, self.print)
        return {**clear, "wrapped": dict(self.wrapped)}

    def described(self) -> dict[str, Any]:
        """What may be shown: everything but the box."""
        clear = _clear(self.context, self.opens, self.fingerprint, self.print)
        return {**clear, "kept": self.wrapped.get("kind")}

    def encoded(self) -> bytes:
        return json.dumps(self.to_dict(), indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def decoded(cls, data: bytes) -> "KeyDocument":
        """`ModelError` for anything that is no key document."""
        try:
            document = json.loads(data)
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']!r}")
            opens = dict(document["opens"])
            return cls(
                context=Context(**document["context"]),
                opens=Opens(**opens | {"plan": bytes.fromhex(opens["plan"])}),
                fingerprint=bytes.fromhex(document["fingerprint"]),
                print=bytes.fromhex(document["print"]),
                wrapped=dict(document["wrapped"]),
            )
        except (ValueError, TypeError, KeyError, EncryptionError) as error:
            raise ModelError(f"no model key: {error}", hint=_RESTORE) from error


def _clear(context: Context, opens: Opens, mark: bytes, name: bytes) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "context": asdict(context),
        "opens": {**asdict(opens), "plan": opens.plan.hex()},
        "fingerprint": mark.hex(),
        "print": name.hex(),
    }


def _bytes(clear: dict[str, Any]) -> bytes:
    return json.dumps(clear, sort_keys=True, separators=(",", ":")).encode()


def require_place(path: Path) -> None:
    """Raise unless `write_new` can be expected to work; it makes the folder.

    Asked before a model is keyed, which takes minutes and is worth nothing without its key.
    """
    if path.exists():
        raise _taken(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"cannot make the folder of {path}: {error.strerror}",
            hint="name a key file in a folder that you may write to",
        ) from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ModelError(
            f"cannot write to {path.parent}, where the key file goes",
            hint="name a key file in a folder that you may write to",
        )


def _taken(path: Path) -> ModelError:
    return ModelError(
        f"{path} exists already; a key serves one session and is not used again",
        hint="give every session a name and a key file of its own",
    )


def write_new(path: Path, document: KeyDocument) -> None:
    """A new file of mode 0600, on disk when this returns; none is ever replaced.

    A key file that is there belongs to a session that was: it is not used for another.
    What could not be written whole is removed.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:
        raise _unwritten(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(document.encoded())
            file.flush()
            os.fsync(descriptor)
        sync_folder(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError) -> ModelError:
    return ModelError(
        f"cannot write {path}: {error.strerror}",
        hint="name a key file on a disk that has room and that you may write to",
    )


def read(path: Path) -> KeyDocument:
    """A key file that only its owner can read."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise ModelError(
            f"cannot read {path}: {error.strerror}",
            hint="name the key file that `rexis model key` wrote",
        ) from error
    if mode & 0o077:
        raise ModelError(
            f"{path} has mode {mode:04o}: others may read it",
            hint=f"run `chmod 600 {path}`",
        )
    if len(data) > FILE_LIMIT_BYTES:
        raise ModelError(
            f"{path} is longer than {FILE_LIMIT_BYTES} bytes", hint=_RESTORE
        )
    return KeyDocument.decoded(data)


def destroy(path: Path) -> None:
    """Overwrite and remove a key file.

    Disks that write elsewhere, snapshots and backups may keep the old bytes; what stays
    there is wrapped, and is worth what its passphrase or the node's key is worth.
    """
    try:
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
    except OSError as error:
        raise ModelError(f"cannot destroy {path}: {error.strerror}") from error
