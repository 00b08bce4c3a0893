"""The keys of pair masks, and what is said of them before anything is masked (§5.4, §5.10).

An upload says a digest of every pair key its member used.  Both holders of a key say the same,
or no certified set has both in it: so what is said later of the mask they share can be held
against a key that both are bound to.  A key is 32 pseudo-random bytes, so its digest tells
nothing to anyone who cannot try 2^256 values.

Where two digests differ, one of the two is left out of the sum, and with it goes the secrecy of
its pre-key: the right keys are then everybody's to compute, and name whichever of the two lied.
"""

from collections.abc import Iterable, Mapping, Sequence

from protocol.aggregate.masks import pair_key
from protocol.rounds import prekeys
from protocol.rounds.messages import Upload
from protocol.rounds.stock import Known
from protocol.types import Digest, digest

_LABEL = b"rexis-pair-digest-1"


def pair_keys(
    secret: bytes,
    me: bytes,
    others: Sequence[bytes],
    used: Mapping[bytes, Known],
    context: Digest,
) -> dict[bytes, bytes]:
    """The mask key that the holder of a pre-key's secret shares with each of the others."""
    publics = [used[other].prekey.public for other in others]
    shared = prekeys.exchanges(secret, publics)
    return {
        other: pair_key(each, context, me, other)
        for other, each in zip(others, shared, strict=True)
    }


def key_digest(key: bytes) -> Digest:
    """What an upload says of a pair key."""
    return digest(_LABEL + key)


def digests(
    members: Iterable[bytes], me: bytes, keys: Mapping[bytes, bytes]
) -> tuple[bytes, ...]:
    """Digests for an upload, in the order of the opening; empty at one's own place."""
    return tuple(b"" if m == me else key_digest(keys[m]) for m in members)


def is_shaped(upload: Upload, place: int, members: int) -> bool:
    """Has it a digest for everyone but its own member?"""
    return len(upload.pairs) == members and all(
        bool(each) == (other != place) for other, each in enumerate(upload.pairs)
    )


def agree(one: Upload, at: int, other: Upload, there: int) -> bool:
    """Do the members at these places say the same of the key they share?"""
    return one.pairs[there] == other.pairs[at]


def false_digests(
    gone: int, keys: Mapping[int, bytes], uploads: Mapping[int, Upload]
) -> list[int]:
    """Places of those whose upload says another digest of a key than the right one.

    `keys`: by place, the keys that the member at `gone` shares, now that its secret is open.
    """
    found = []
    own = uploads.get(gone)
    for other, key in keys.items():
        right = key_digest(key)
        upload = uploads.get(other)
        if upload is not None and upload.pairs[gone] != right:
            found.append(other)
        if own is not None and own.pairs[other] != right and gone not in found:
            found.append(gone)
    return sorted(found)
