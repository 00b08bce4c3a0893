"""Merkle trees in the shape of RFC 9162 §2.1, with SHA-256.

Leaves and nodes are hashed under different first bytes, so a node can never be shown as
a leaf, and an odd node is carried up rather than doubled, so two different lists never
share a root.  The empty list has a root too: the hash of nothing.
"""

import hashlib
from collections.abc import Sequence

from protocol.errors import InclusionError, LocalProtocolError
from protocol.types import Digest

_LEAF = b"\x00"
_NODE = b"\x01"


def leaf() -> "hashlib._Hash":
    """Hasher of one leaf whose data comes piece by piece."""
    return hashlib.sha256(_LEAF)


def leaf_digest(data: bytes | memoryview) -> Digest:
    """Hash of one leaf."""
    hasher = leaf()
    hasher.update(data)
    return Digest(hasher.digest())


def node_digest(left: bytes, right: bytes) -> Digest:
    """Hash of an inner node."""
    return Digest(hashlib.sha256(_NODE + left + right).digest())


def root(leaves: Sequence[bytes | memoryview]) -> Digest:
    """Root over the leaf *data*, in order."""
    return root_of_digests([leaf_digest(leaf) for leaf in leaves])


def root_of_digests(digests: Sequence[bytes]) -> Digest:
    """Root over leaves already hashed by `leaf_digest`."""
    if not digests:
        return Digest(hashlib.sha256(b"").digest())
    return Digest(levels(digests)[-1][0])


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[Digest]:
    """Siblings from leaf `index` to the root, lowest first."""
    return proof_of_digests([leaf_digest(leaf) for leaf in leaves], index)


def proof_of_digests(digests: Sequence[bytes], index: int) -> list[Digest]:
    """Like `inclusion_proof`, over leaves already hashed."""
    if not 0 <= index < len(digests):
        raise LocalProtocolError(f"leaf {index} of a tree with {len(digests)} leaves")
    proof: list[Digest] = []
    for level in levels(digests)[:-1]:
        sibling = index ^ 1
        # The last node of an odd level has no sibling: it is carried up unchanged.
        if sibling < len(level):
            proof.append(Digest(level[sibling]))
        index >>= 1
    return proof


def verify_inclusion(
    expected_root: bytes, leaf: bytes, index: int, size: int, proof: Sequence[bytes]
) -> None:
    """Raise `InclusionError` unless `leaf` stands at `index` of `size` leaves."""
    found = root_from(leaf, index, size, proof)
    if found != expected_root:
        raise InclusionError("merkle root", expected_root.hex(), found.hex())


def root_from(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> Digest:
    """Root of the tree of `size` leaves in which `leaf` stands at `index`.

    The position is proved too: the walk follows `index` and `size`, never the proof.
    Raises `InclusionError` for a proof that fits no such tree.
    """
    if not 0 <= index < size:
        raise InclusionError("leaf index", f"below {size}", index)
    current: bytes = leaf_digest(leaf)
    siblings = iter(proof)
    last = size - 1
    while last > 0:
        if index & 1 or index < last:
            sibling = next(siblings, None)
            if sibling is None:
                raise InclusionError("inclusion proof is too short")
            current = (
                node_digest(sibling, current)
                if index & 1
                else node_digest(current, sibling)
            )
        index >>= 1
        last >>= 1
    if next(siblings, None) is not None:
        raise InclusionError("inclusion proof is too long")
    return Digest(current)


def levels(digests: Sequence[bytes]) -> list[list[bytes]]:
    """All levels, leaves first.

    Pairing neighbours and carrying the odd one up gives the same tree as RFC 9162's
    split at the largest power of two.
    """
    levels = [list(digests)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above: list[bytes] = [
            node_digest(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)
        ]
        if len(below) % 2:
            above.append(below[-1])
        levels.append(above)
    return levels
