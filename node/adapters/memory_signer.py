"""The Signer port without a file: keys that follow from a number, for tests."""

import hashlib

from node.adapters.keyfile import KeyFile


def memory_signer(number: int) -> KeyFile:
    """The same keys for the same number, everywhere; worth nothing as secrets."""

    def drawn(label: str) -> bytes:
        return hashlib.sha256(f"rexis-memory-signer {label} {number}".encode()).digest()

    # A digest is below the order of secp256k1 but for one case in 2^128.
    return KeyFile(
        identity_seed=drawn("identity"),
        account_key=drawn("account"),
        _seal_secret=drawn("seal"),
    )
