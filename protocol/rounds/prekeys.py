"""One-time keys dealt ahead of time, and the opening of those that are needed (§5.3).

A pre-key is a fresh X25519 pair for the pair masks and a fresh seed for the self mask.  Both
secrets are shared t-of-n over the epoch, the shares sealed to their holders.  Every share's
digest is public, so a wrong share names its holder; the public key and the seed's digest are
too, so right shares of a wrong secret name the dealer.  Shares are 32 uniform bytes, so a
digest tells nothing about them to anyone who cannot try 2^256 values.

What is secret stays in `Dealt` until the driver has it on disk; the caller supplies every
random byte.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from protocol import kdf
from protocol.aggregate import shamir
from protocol.errors import DealerError, LocalProtocolError, VerificationError
from protocol.rounds.messages import SHARE_BYTES, PreKey
from protocol.rounds.policy import Cohort
from protocol.types import DIGEST_BYTES, KEY_BYTES, Digest, digest

SEED, KEY = 0, 1
"""The two kinds of share of one member; only one of them is ever released."""

_SEED_LABEL, _SHARE_LABEL, _SEAL_LABEL = (
    b"rexis-seed-2",
    b"rexis-share-1",
    b"rexis-seal-share-1",
)
_SCOPES_KEPT = 1024
"""Of an attempt, each is needed once per share: as many as there are members, squared."""
# The key under it is derived for one dealer, one holder and one number, and seals one text.
_NONCE = bytes(12)

Agree = Callable[[bytes], bytes]
"""X25519 of this node's long-term seal key with another's."""


@dataclass(frozen=True)
class Dealt:
    """A pre-key of this node and the two secrets behind it."""

    prekey: PreKey
    secret: bytes = field(repr=False)
    seed: bytes = field(repr=False)


@dataclass(frozen=True)
class Shares:
    """What one holder has of one pre-key."""

    seed: bytes = field(repr=False)
    key: bytes = field(repr=False)

    def of(self, kind: int) -> bytes:
        return self.key if kind == KEY else self.seed


def coins_bytes(cohort: Cohort) -> int:
    """Random bytes that `deal` takes."""
    return 2 * KEY_BYTES * cohort.thresholds.shares


def deal(
    cohort: Cohort, me: bytes, number: int, floor: int, agree: Agree, coins: bytes
) -> Dealt:
    """A new pre-key; `floor` is the lowest unused one, `coins` are fresh random bytes, `coins_bytes` of them."""
    if len(coins) != coins_bytes(cohort):
        raise LocalProtocolError(f"{len(coins)} coins, need {coins_bytes(cohort)}")
    both, rest = coins[: 2 * KEY_BYTES], coins[2 * KEY_BYTES :]
    seed, secret = both[:KEY_BYTES], both[KEY_BYTES:]
    threshold = cohort.thresholds.shares
    pairs = shamir.split(both, len(cohort.members), threshold, rest)
    scope = _scope(cohort, me, number)
    digests, sealed = [], []
    for place, (seat, pair) in enumerate(zip(cohort.epoch.seats, pairs, strict=True)):
        digests.append(_pair_digests(scope, place, pair))
        cipher = _cipher(agree(seat.seal_key), scope, place)
        sealed.append(cipher.encrypt(_NONCE, pair, scope))
    prekey = PreKey(
        cohort.name,
        number,
        floor,
        public_of(secret),
        seed_digest(scope, seed),
        tuple(digests),
        tuple(sealed),
    )
    return Dealt(prekey, secret, seed)


def take(
    cohort: Cohort, dealer: bytes, prekey: PreKey, me: bytes, agree: Agree
) -> Shares | None:
    """My shares of another's pre-key, or None where they are not what was promised."""
    place = cohort.place(me)
    scope = _scope(cohort, dealer, prekey.number)
    seal_key = cohort.seat(dealer).seal_key
    try:
        pair = _cipher(agree(seal_key), scope, place).decrypt(
            _NONCE, prekey.sealed[place], scope
        )
    except InvalidTag:
        return None
    if _pair_digests(scope, place, pair) != prekey.shares[place]:
        return None
    return Shares(pair[:SHARE_BYTES], pair[SHARE_BYTES:])


def is_share(
    cohort: Cohort, dealer: bytes, prekey: PreKey, place: int, kind: int, share: bytes
) -> bool:
    """Is this what the dealer dealt to the member at `place`?"""
    scope = _scope(cohort, dealer, prekey.number)
    promised = prekey.shares[place][kind * DIGEST_BYTES : (kind + 1) * DIGEST_BYTES]
    return _share_digest(scope, place, kind, share) == promised


def open_secret(
    cohort: Cohort,
    dealer: bytes,
    prekey: PreKey,
    kind: int,
    shares: Mapping[int, bytes],
) -> bytes:
    """The seed or the key behind good shares, by place in the epoch.

    Raises `DealerError` if the dealer dealt shares of something else than it announced.
    """
    threshold = cohort.thresholds.shares
    if len(shares) < threshold:
        raise LocalProtocolError(f"{len(shares)} shares, need {threshold}")
    chosen = dict(sorted(shares.items())[:threshold])
    secret = shamir.join({place + 1: share for place, share in chosen.items()})
    scope = _scope(cohort, dealer, prekey.number)
    if kind == SEED and seed_digest(scope, secret) != prekey.seed:
        raise DealerError(dealer, "seed")
    if kind == KEY and public_of(secret) != prekey.public:
        raise DealerError(dealer, "key")
    return secret


def seed_of(cohort: Cohort, dealer: bytes, prekey: PreKey, seed: bytes) -> bool:
    """Is this the seed that the dealer announced?"""
    return seed_digest(_scope(cohort, dealer, prekey.number), seed) == prekey.seed


def public_of(secret: bytes) -> bytes:
    """The X25519 public key of 32 secret bytes."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def exchanges(secret: bytes, publics: Iterable[bytes]) -> list[bytes]:
    """The secrets that one key shares with others.

    Raises `VerificationError` where another's key is one of the few points that make every
    shared secret zero.
    """
    # Reading a key in costs as much as an exchange: once, for all.
    private = X25519PrivateKey.from_private_bytes(secret)
    try:
        return [
            private.exchange(X25519PublicKey.from_public_bytes(public))
            for public in publics
        ]
    except ValueError as error:
        raise VerificationError("public key of a pre-key") from error


def is_usable(public: bytes) -> bool:
    """Does exchanging with this key give a secret at all?"""
    try:
        _PROBE.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


_PROBE = X25519PrivateKey.from_private_bytes(bytes(range(KEY_BYTES)))


def seed_digest(scope: bytes, seed: bytes) -> Digest:
    """What a pre-key publishes of its seed."""
    return digest(_SEED_LABEL + scope + seed)


def _scope(cohort: Cohort, dealer: bytes, number: int) -> bytes:
    return _scope_in(cohort.name, dealer, number)


@lru_cache(_SCOPES_KEPT)
def _scope_in(epoch: bytes, dealer: bytes, number: int) -> bytes:
    return hashlib.sha256(epoch + dealer + number.to_bytes(8, "big")).digest()


def _share_digest(scope: bytes, place: int, kind: int, share: bytes) -> Digest:
    return digest(_SHARE_LABEL + scope + bytes([place, kind]) + share)


def _pair_digests(scope: bytes, place: int, pair: bytes) -> bytes:
    """What a pre-key publishes of both shares of one holder."""
    seed, key = pair[:SHARE_BYTES], pair[SHARE_BYTES:]
    return _share_digest(scope, place, SEED, seed) + _share_digest(
        scope, place, KEY, key
    )


def _cipher(shared: bytes, scope: bytes, place: int) -> ChaCha20Poly1305:
    # The scope names the dealer, the place the holder: the two directions of one pair of
    # members have different keys although they agree on one secret.
    return ChaCha20Poly1305(kdf.derive(shared, scope, _SEAL_LABEL + bytes([place])))
