"""The chain account of a key, without the chain library.

`rexis init` prints it, and has to start fast on a machine that may not have web3.
"""

from Crypto.Hash import keccak
from cryptography.hazmat.primitives.asymmetric import ec


def address(key: bytes) -> bytes:
    """The 20-byte Ethereum address of a 32-byte secp256k1 secret.

    The last 20 bytes of Keccak-256 over the public point, x then y (Yellow Paper, appendix F).
    """
    secret = ec.derive_private_key(int.from_bytes(key, "big"), ec.SECP256K1())
    point = secret.public_key().public_numbers()
    encoded = point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big")
    return keccak.new(data=encoded, digest_bits=256).digest()[-20:]
