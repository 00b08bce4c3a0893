"""Crypt4GH headers: who may open a unit, and nothing of what is in it.

A unit's body is written once and never again (`node.market.body`); giving a unit to
somebody is a new header of 124 bytes that holds the unit's key, encrypted to the
receiver and authenticated by the owner's own seal key.  Destroying the headers destroys
the unit.

Two habits of the package shape this module.  It logs session keys and secret keys at
debug level, so its loggers are shut here, whatever the daemon's level.  Its outermost
functions swallow every `OSError`, so the inner ones are called.
"""

import io
import logging
import secrets
from collections.abc import Sequence

from crypt4gh import header as c4gh_header
from crypt4gh import sodium

from node.errors import AccessError
from protocol.manifest import HEADER_LIMIT_BYTES, UnitHeader
from protocol.types import KEY_BYTES

logging.getLogger("crypt4gh").setLevel(logging.CRITICAL + 1)
for _name in list(logging.root.manager.loggerDict):
    if _name.startswith("crypt4gh."):
        # A child with a level of its own would not ask its parent's.
        logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

_CHACHA20_POLY1305 = 0
_WRONG_KEY = "the header was not made for this key, or not by this owner"


def public_half(secret_seal_key: bytes) -> bytes:
    """The X25519 public key of `secret_seal_key`."""
    _require_key("secret seal key", secret_seal_key)
    return bytes(sodium.derive_pk(secret_seal_key))


def new_header(*, secret_seal_key: bytes) -> bytes:
    """A header for the owner itself, with a fresh key that is nowhere else."""
    key = secrets.token_bytes(KEY_BYTES)
    own = public_half(secret_seal_key)
    return _header(key, secret_seal_key=secret_seal_key, reader=own)


def reseal_header(
    header: bytes,
    *,
    secret_seal_key: bytes,
    grantee: bytes,
    sender: bytes | None = None,
) -> bytes:
    """A `header` we can open for `grantee`'s X25519 key; the body stays as it is.

    `sender` is who made it; None is ourselves, the owner.
    """
    _require_key("grantee's seal key", grantee)
    made_by = sender or public_half(secret_seal_key)
    key = session_key(header, secret_seal_key=secret_seal_key, sender=made_by)
    return _header(key, secret_seal_key=secret_seal_key, reader=grantee)


def reseal_units(
    headers: Sequence[bytes],
    units: Sequence[int],
    *,
    secret_seal_key: bytes,
    grantee: bytes,
) -> tuple[UnitHeader, ...]:
    """Our own `headers` of these units for `grantee`, in the order of `units`."""
    return tuple(
        UnitHeader(
            unit,
            reseal_header(
                headers[unit], secret_seal_key=secret_seal_key, grantee=grantee
            ),
        )
        for unit in units
    )


def session_key(header: bytes, *, secret_seal_key: bytes, sender: bytes) -> bytes:
    """The one key in `header`; anything else a header may hold is refused."""
    _require_key("sender's seal key", sender)
    _require_key("secret seal key", secret_seal_key)
    if len(header) > HEADER_LIMIT_BYTES:
        raise AccessError(
            f"header has {len(header)} bytes, limit is {HEADER_LIMIT_BYTES}"
        )
    stream = io.BytesIO(header)
    keys = [(_CHACHA20_POLY1305, secret_seal_key, None)]
    try:
        found, edits = c4gh_header.deconstruct(stream, keys, sender_pubkey=sender)
    except Exception as error:
        # The package raises ValueError, AssertionError and what libsodium gives it.
        raise AccessError(_WRONG_KEY, hint="ask the owner for a new header") from error
    if len(found) != 1 or len(found[0]) != KEY_BYTES:
        raise AccessError(f"header holds {len(found)} keys, needs one of 32 bytes")
    if edits is not None:
        raise AccessError("header holds an edit list, which a consent unit never has")
    if stream.tell() != len(header):
        raise AccessError(f"header has {len(header) - stream.tell()} bytes too many")
    return bytes(found[0])


def _header(key: bytes, *, secret_seal_key: bytes, reader: bytes) -> bytes:
    packet = c4gh_header.make_packet_data_enc(_CHACHA20_POLY1305, key)
    keys = [(_CHACHA20_POLY1305, secret_seal_key, reader)]
    try:
        packets = list(c4gh_header.encrypt(packet, keys))
    except Exception as error:
        # A key of small order ends here.
        raise AccessError(
            "the grantee's seal key is not a usable X25519 key",
            hint="ask the grantee to register another seal key",
        ) from error
    return bytes(c4gh_header.serialize(packets))


def _require_key(name: str, key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise AccessError(f"{name} has {len(key)} bytes, needs {KEY_BYTES}")
