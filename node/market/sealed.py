"""Consent units as Crypt4GH files: one key per unit, header and body kept apart.

The body is written once and never again; giving a unit to somebody is a new header of
124 bytes that holds the unit's key, encrypted to the receiver and authenticated by the
owner's own seal key.  Destroying the headers destroys the unit.

Three habits of the package shape this module.  It logs session keys and secret keys at
debug level, so its loggers are shut here, whatever the daemon's level.  Its outermost
functions swallow every `OSError`, so the inner ones are called.  And a body cut between
two segments decrypts without complaint, so a body is opened only against the digest
and length of its manifest entry.
"""

import hashlib
import io
import logging

from crypt4gh import header as c4gh_header
from crypt4gh import lib as c4gh
from crypt4gh import sodium

from node.errors import AccessError, StorageError
from protocol.manifest import BODY_LIMIT_BYTES, HEADER_LIMIT_BYTES, Entry
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


def seal_unit(plain: bytes, *, secret_seal_key: bytes) -> tuple[bytes, bytes]:
    """Encrypt one unit to its owner: (header, body)."""
    if not plain:
        raise StorageError("a consent unit without a byte cannot be sealed")
    header, body = io.BytesIO(), io.BytesIO()
    keys = [(_CHACHA20_POLY1305, secret_seal_key, public_half(secret_seal_key))]
    c4gh.encrypt(keys, io.BytesIO(plain), body, headerfile=header)
    if body.tell() > BODY_LIMIT_BYTES:
        raise StorageError(
            f"sealed unit has {body.tell()} bytes, limit is {BODY_LIMIT_BYTES}"
        )
    return header.getvalue(), body.getvalue()


def reseal_header(header: bytes, *, secret_seal_key: bytes, grantee: bytes) -> bytes:
    """The owner's `header` for `grantee`'s X25519 key; the body stays as it is."""
    _require_key("grantee's seal key", grantee)
    own = public_half(secret_seal_key)
    key = _session_key(header, secret_seal_key=secret_seal_key, sender=own)
    packet = c4gh_header.make_packet_data_enc(_CHACHA20_POLY1305, key)
    try:
        packets = list(
            c4gh_header.encrypt(
                packet, [(_CHACHA20_POLY1305, secret_seal_key, grantee)]
            )
        )
    except Exception as error:
        # A key of small order ends here.
        raise AccessError(
            "the grantee's seal key is not a usable X25519 key",
            hint="ask the grantee to register another seal key",
        ) from error
    return bytes(c4gh_header.serialize(packets))


def open_unit(
    header: bytes, body: bytes, entry: Entry, *, secret_seal_key: bytes, sender: bytes
) -> bytes:
    """The unit's plaintext; `sender` is the owner's X25519 public key."""
    check_body(body, entry)
    key = _session_key(header, secret_seal_key=secret_seal_key, sender=sender)
    plain = io.BytesIO()
    output = c4gh.limited_output(process=plain.write)
    next(output)
    try:
        c4gh.body_decrypt(io.BytesIO(body), [key], output, 0)
    except Exception as error:
        raise StorageError(
            f"unit {entry.index} does not decrypt under its own header",
            hint="the owner's header and body do not belong together; ask the owner",
        ) from error
    return plain.getvalue()


def check_body(body: bytes, entry: Entry) -> None:
    """Raise `StorageError` unless `body` is what the manifest says."""
    if len(body) != entry.length:
        raise StorageError(
            f"unit {entry.index} has {len(body)} bytes, the manifest says "
            f"{entry.length}",
            hint="the file was cut or extended; fetch it again",
        )
    actual = hashlib.sha256(body).digest()
    if actual != entry.sha256:
        raise StorageError(
            f"unit {entry.index} has digest {actual.hex()[:16]}…, the manifest says "
            f"{entry.sha256.hex()[:16]}…",
            hint="the file was altered; fetch it again",
        )


def _session_key(header: bytes, *, secret_seal_key: bytes, sender: bytes) -> bytes:
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


def _require_key(name: str, key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise AccessError(f"{name} has {len(key)} bytes, needs {KEY_BYTES}")
