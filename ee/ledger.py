"""What a key is for, and the rule that it is for one thing once.

A secret of 32 random bytes belongs to one context: an institution, a host and a session.
The seed that draws the key is derived from both, so even a secret that was copied gives
another key elsewhere.  The ledger remembers every secret by its print, for ever, and
refuses it a second context or a life after its destruction.  Who keeps the ledger on disk is
not this module's business; it needs neither torch nor a clock.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from ee.errors import EncryptionError, KeyReuseError

SECRET_BYTES = 32
NAME_LIMIT = 128
"""Characters of a name in a context: names of institutions, hosts and sessions are short."""
_SEED_LABEL = b"rexis-ee-session-seed-1"
_PRINT_LABEL = b"rexis-ee-secret-print-1"
_KEY_LABEL = b"rexis-ee-key-print-1"


@dataclass(frozen=True, order=True)
class Context:
    """Where a key may be used."""

    institution: str
    host: str
    session: str

    def __post_init__(self) -> None:
        for name in ("institution", "host", "session"):
            value = getattr(self, name)
            if not 1 <= len(value) <= NAME_LIMIT or not value.isprintable():
                raise EncryptionError(
                    f"{name} is {value!r}, needs 1 to {NAME_LIMIT} printable characters"
                )

    def encoded(self) -> bytes:
        """One byte string per context: every name behind its length."""
        names = (self.institution, self.host, self.session)
        parts = [name.encode() for name in names]
        return b"".join(len(part).to_bytes(2, "big") + part for part in parts)

    def __str__(self) -> str:
        return f"{self.institution} at {self.host}, session {self.session}"


@dataclass(frozen=True)
class Opens:
    """The trunk a key opens, as far as a key file tells it."""

    architecture: str
    plan: bytes
    """Digest of the layer plan, or of the model file of a run."""
    strength: str
    turn: str


class Life(StrEnum):
    """What became of a secret."""

    LIVE = "live"
    DESTROYED = "destroyed"


@dataclass(frozen=True)
class Entry:
    """One secret the ledger knows."""

    print: bytes
    context: Context
    life: Life = Life.LIVE


def check_secret(secret: bytes) -> None:
    """`EncryptionError` unless there are exactly 32 bytes."""
    if len(secret) != SECRET_BYTES:
        raise EncryptionError(
            f"key secret has {len(secret)} bytes, needs {SECRET_BYTES}"
        )


def session_seed(secret: bytes, context: Context) -> bytes:
    """The 32 bytes a key is drawn from: HMAC-SHA-256 of the context under the secret."""
    check_secret(secret)
    return hmac.digest(secret, _SEED_LABEL + context.encoded(), "sha256")


def secret_print(secret: bytes) -> bytes:
    """Names a secret; 256 random bits cannot be found from it."""
    check_secret(secret)
    return hashlib.sha256(_PRINT_LABEL + secret).digest()


def fingerprint(seed: bytes, opens: Opens) -> bytes:
    """Names a key with the plan and the options it was drawn for."""
    inner = hashlib.sha256(_KEY_LABEL + seed).digest()
    options = f"{opens.architecture} {opens.strength} {opens.turn}".encode()
    return hashlib.sha256(inner + opens.plan + options).digest()


class Ledger:
    """Every secret that was ever used, and for what."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: dict[bytes, Entry] = {}
        for entry in entries:
            self._entries[entry.print] = entry

    def entries(self) -> tuple[Entry, ...]:
        """For whoever keeps them."""
        return tuple(self._entries.values())

    def live(self, context: Context) -> Entry | None:
        """The secret that is in use in `context`."""
        for entry in self._entries.values():
            if entry.context == context and entry.life is Life.LIVE:
                return entry
        return None

    def admit(self, secret: bytes, context: Context) -> Entry:
        """Take a new secret into use; to be kept before the secret is used.

        Raises `KeyReuseError` for a secret that was seen before, and for a second secret
        where one is in use.
        """
        known = self._entries.get(secret_print(secret))
        if known is not None:
            raise KeyReuseError(
                f"this key was made for {known.context} and is {known.life};"
                f" it cannot serve {context}"
            )
        if self.live(context) is not None:
            raise KeyReuseError(
                f"{context} has a key in use; rotate it, or end the session first"
            )
        entry = Entry(secret_print(secret), context)
        self._entries[entry.print] = entry
        return entry

    def check(self, secret: bytes, context: Context) -> Entry:
        """The entry of a secret in use; `KeyReuseError` in any other case."""
        known = self._entries.get(secret_print(secret))
        if known is None:
            raise KeyReuseError("this key was never taken into use here")
        if known.context != context:
            raise KeyReuseError(
                f"this key was made for {known.context}; it cannot serve {context}"
            )
        if known.life is not Life.LIVE:
            raise KeyReuseError(f"the key of {context} is {known.life}")
        return known

    def retire(self, entry: Entry) -> Entry:
        """Mark a secret destroyed; its print stays."""
        gone = replace(entry, life=Life.DESTROYED)
        self._entries[entry.print] = gone
        return gone
