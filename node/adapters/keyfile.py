"""The node's three keys in one encrypted file, and the only code that sees them.

The file is JSON: in the clear what is needed to ask for the passphrase (format, argon2id
cost, salt) and to know whose file it is (public keys); sealed by XChaCha20-Poly1305, with
all of the clear part as associated data, the three secrets.  It is written with mode 0600, and
whole again where the passphrase changes, and refused when anybody else may read it.
"""

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nacl.bindings
import nacl.exceptions
import nacl.public
import nacl.signing

from node.disk import sync_folder
from node.errors import KeyFileError
from node.stretching import COST, SALT_BYTES, Cost, asked, box_key
from protocol.members import peer_id
from protocol.types import KEY_BYTES, PeerId, PublicKey

FORMAT = "rexis-key-1"
FILE_LIMIT_BYTES = 4096
_NONCE_BYTES = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
# The order of the secp256k1 group (SEC 2, 2.4.1): an account key is 1 .. n - 1.
_SECP256K1_N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_RESTORE = (
    "restore the key file from your backup; without it the node's identity is gone"
)


@dataclass(frozen=True, repr=False)
class KeyFile:
    """An opened key file; implements `node.ports.keys.Signer`."""

    identity_seed: bytes
    """32 bytes: the Ed25519 seed, for the transport."""
    account_key: bytes
    """32 bytes: the secp256k1 key of the chain account, for the chain adapter."""
    _seal_secret: bytes
    _signing: nacl.signing.SigningKey = field(init=False)
    _sealing: nacl.public.PrivateKey = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "_signing", nacl.signing.SigningKey(self.identity_seed)
        )
        object.__setattr__(self, "_sealing", nacl.public.PrivateKey(self._seal_secret))

    def __repr__(self) -> str:
        return f"KeyFile({self.peer_id})"

    @property
    def public_key(self) -> PublicKey:
        return PublicKey(bytes(self._signing.verify_key))

    @property
    def peer_id(self) -> PeerId:
        return peer_id(self.public_key)

    @property
    def seal_key(self) -> bytes:
        """The X25519 key others encrypt to."""
        return bytes(self._sealing.public_key)

    @property
    def seal_secret(self) -> bytes:
        """The secret half, for Crypt4GH headers made by the trusted parts."""
        return self._seal_secret

    def sign(self, message: bytes) -> bytes:
        """64 bytes of Ed25519."""
        return self._signing.sign(message).signature

    def agree(self, seal_key: bytes) -> bytes:
        """32 bytes both ends know: raw X25519, to be hashed with a label by the caller."""
        _require_key(seal_key)
        try:
            return nacl.bindings.crypto_scalarmult(self._seal_secret, seal_key)
        except nacl.exceptions.CryptoError as error:
            raise KeyFileError(
                f"seal key {seal_key.hex()} is a point of small order",
                hint="the other member registered a key that is none",
            ) from error

    def open_sealed(self, sealed: bytes) -> bytes:
        """What somebody sealed to our `seal_key`."""
        try:
            return nacl.public.SealedBox(self._sealing).decrypt(sealed)
        except (nacl.exceptions.CryptoError, ValueError) as error:
            raise KeyFileError(
                f"{len(sealed)} sealed bytes do not open with this node's key",
                hint="they were sealed to another node, or changed on the way",
            ) from error


def seal_to(seal_key: bytes, data: bytes) -> bytes:
    """Encrypt to a member; only it can open, and it does not learn who sealed."""
    _require_key(seal_key)
    return nacl.public.SealedBox(nacl.public.PublicKey(seal_key)).encrypt(data)


def create(path: Path, passphrase: bytes, *, cost: Cost = COST) -> KeyFile:
    """New keys in a new file; an existing file is never replaced."""
    key = KeyFile(
        identity_seed=secrets.token_bytes(KEY_BYTES),
        account_key=(1 + secrets.randbelow(_SECP256K1_N - 1)).to_bytes(
            KEY_BYTES, "big"
        ),
        _seal_secret=secrets.token_bytes(KEY_BYTES),
    )
    _write_new(path, _sealed(key, passphrase, cost))
    return key


def reseal(path: Path, key: KeyFile, passphrase: bytes, *, cost: Cost = COST) -> None:
    """The keys of this file under another passphrase; it stays until the new one is whole.

    Copies of the file as it was still open with the old passphrase.
    """
    beside = path.with_name(path.name + ".new")
    try:
        beside.unlink(missing_ok=True)  # of a change that was cut
        _write_new(beside, _sealed(key, passphrase, cost))
        open_(beside, passphrase)
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise KeyFileError(f"cannot replace {path}: {error.strerror}") from error


def _sealed(key: KeyFile, passphrase: bytes, cost: Cost) -> bytes:
    clear = {
        "format": FORMAT,
        "passes": cost.passes,
        "memory_bytes": cost.memory_bytes,
        "salt": secrets.token_bytes(SALT_BYTES).hex(),
        "node_key": key.public_key.hex(),
        "seal_key": key.seal_key.hex(),
        "peer_id": key.peer_id,
    }
    nonce = secrets.token_bytes(_NONCE_BYTES)
    box = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
        key.identity_seed + key._seal_secret + key.account_key,  # noqa: SLF001
        _associated(clear),
        nonce,
        _box_key(clear, passphrase),
    )
    document = {**clear, "nonce": nonce.hex(), "box": box.hex()}
    return json.dumps(document, indent=1).encode() + b"\n"


def open_(path: Path, passphrase: bytes) -> KeyFile:
    """The keys in the file, or one line that says why not."""
    document = _parsed(path, _read_private(path))
    nonce, box = (_bytes(path, document, name) for name in ("nonce", "box"))
    clear = {k: v for k, v in document.items() if k not in {"nonce", "box"}}
    try:
        secret = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            box, _associated(clear), nonce, _box_key(clear, passphrase)
        )
    except (nacl.exceptions.CryptoError, ValueError) as error:
        raise KeyFileError(
            f"the passphrase does not open {path}",
            hint="try again; if it is certainly right the file was changed, and only a "
            "backup of it helps",
        ) from error
    if len(secret) != 3 * KEY_BYTES:
        raise KeyFileError(f"{path} holds {len(secret)} secret bytes", hint=_RESTORE)
    seed, seal, account = (secret[i : i + KEY_BYTES] for i in range(0, 96, KEY_BYTES))
    return KeyFile(identity_seed=seed, account_key=account, _seal_secret=seal)


def _require_key(seal_key: bytes) -> None:
    if len(seal_key) != KEY_BYTES:
        raise KeyFileError(f"seal key has {len(seal_key)} bytes, not {KEY_BYTES}")


def _associated(clear: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(clear, sort_keys=True).encode()).digest()


def _box_key(clear: Mapping[str, Any], passphrase: bytes) -> bytes:
    return box_key(passphrase, bytes.fromhex(clear["salt"]), asked(clear))


def _write_new(path: Path, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise KeyFileError(
            f"{path} exists already",
            hint="this node has keys; move the file away only if you want a new identity",
        ) from error
    except OSError as error:
        raise KeyFileError(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise KeyFileError(
                    f"{path} has mode {mode:04o}: others may read it",
                    hint=f"run `chmod 600 {path}`",
                )
            return file.read(FILE_LIMIT_BYTES + 1)
    except FileNotFoundError as error:
        raise KeyFileError(
            f"there is no key file {path}", hint="make one with `rexis init`"
        ) from error
    except OSError as error:
        raise KeyFileError(
            f"cannot read {path}: {error.strerror}",
            hint="run as the user who owns the file",
        ) from error


def _parsed(path: Path, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise KeyFileError(
            f"{path} is truncated or not a key file", hint=_RESTORE
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise KeyFileError(f"{path} is not a {FORMAT} file", hint=_RESTORE)
    try:
        asked(document)
    except ValueError as error:
        raise KeyFileError(f"{path} {error}", hint=_RESTORE) from error
    if len(_bytes(path, document, "salt")) != SALT_BYTES:
        raise KeyFileError(f"the salt of {path} has a wrong length", hint=_RESTORE)
    return document


def _bytes(path: Path, document: Mapping[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(document[name])
    except (KeyError, TypeError, ValueError) as error:
        raise KeyFileError(
            f"{path} has no readable {name!r}; it is truncated or changed",
            hint=_RESTORE,
        ) from error
