"""Roots over the rows between layers (docs/verify.md §4.2).

Rows are committed to with a salt that requester, host and auditors share.  Without it a root
tells nothing; with it, and with the release key, a guessed record could be tried.  The salt
of one case is derived from it, so one case can be shown without giving the others away.
"""

import hashlib
import struct
from dataclasses import dataclass

from protocol import merkle
from protocol.errors import LocalProtocolError, MalformedMessageError
from protocol.types import Digest

Shape = tuple[int, int, int]
"""Cases, tokens of each, width of a row."""

ENTRY_BYTES = 3
SALT_BYTES = 32

_ROW_LABEL = b"rexis-row-1"
_ROW_SALT_LABEL = b"rexis-row-salt-1"
_CASE_SALT_LABEL = b"rexis-case-salt-1"
_PLACE = struct.Struct(">IIII")


def boundary_root(rows: bytes, shape: Shape, boundary: int, salt: bytes) -> Digest:
    """Root of the packed rows at `boundary` (0 is the input, l stands after l layers).

    A Merkle tree over cases, each a Merkle tree over its rows: one case or one row can be
    opened alone.
    """
    return merkle.root(case_roots(rows, shape, boundary, salt))


def case_roots(rows: bytes, shape: Shape, boundary: int, salt: bytes) -> list[Digest]:
    """The leaves under a boundary root, one a case."""
    cases, tokens, width = shape
    size = ENTRY_BYTES * tokens * width
    if len(rows) != cases * size or len(salt) != SALT_BYTES:
        raise MalformedMessageError(
            f"rows have {len(rows)} bytes, shape {shape} needs {cases * size};"
            f" salt has {len(salt)}, needs {SALT_BYTES}"
        )
    view = memoryview(rows)
    return [
        case_root(
            view[case * size : (case + 1) * size],
            (tokens, width),
            boundary,
            case,
            case_salt(salt, case),
        )
        for case in range(cases)
    ]


def case_salt(salt: bytes, case: int) -> bytes:
    """Opens the rows of one case; tells nothing of another's."""
    return hashlib.sha256(_CASE_SALT_LABEL + salt + case.to_bytes(4, "big")).digest()


def case_root(
    rows: bytes | memoryview,
    shape: tuple[int, int],
    boundary: int,
    case: int,
    salt: bytes,
) -> Digest:
    """Root of the packed rows (tokens, width) of one case under the case's own salt."""
    return merkle.root_of_digests(_row_leaves(rows, shape, boundary, case, salt))


@dataclass(frozen=True)
class RowOpening:
    """One row, and what leads from it to a boundary root."""

    salt: bytes
    """The row's own; it opens no other."""
    row: bytes
    token_path: tuple[Digest, ...]
    case_path: tuple[Digest, ...]


def open_row(
    rows: bytes, shape: Shape, boundary: int, salt: bytes, case: int, token: int
) -> RowOpening:
    """The row of one token of one case, out of all packed rows at `boundary`."""
    cases, tokens, width = shape
    if not (0 <= case < cases and 0 <= token < tokens):
        raise LocalProtocolError(f"no case {case}, token {token} in rows of {shape}")
    roots = case_roots(rows, shape, boundary, salt)
    own, size = case_salt(salt, case), ENTRY_BYTES * width
    part = memoryview(rows)[case * size * tokens :][: size * tokens]
    leaves = _row_leaves(part, (tokens, width), boundary, case, own)
    return RowOpening(
        salt=_row_salt(own, _PLACE.pack(boundary, case, token, width)),
        row=bytes(part[token * size :][:size]),
        token_path=tuple(merkle.proof_of_digests(leaves, token)),
        case_path=tuple(merkle.inclusion_proof(roots, case)),
    )


def _row_salt(salt: bytes, place: bytes) -> bytes:
    return hashlib.sha256(_ROW_SALT_LABEL + salt + place).digest()


def _row_leaves(
    rows: bytes | memoryview,
    shape: tuple[int, int],
    boundary: int,
    case: int,
    salt: bytes,
) -> list[bytes]:
    tokens, width = shape
    size = ENTRY_BYTES * width
    leaves = []
    for token in range(tokens):
        place = _PLACE.pack(boundary, case, token, width)
        row_salt = _row_salt(salt, place)
        # A leaf of RFC 9162, hashed piece by piece to spare a copy of the row.
        leaf = hashlib.sha256(b"\x00" + _ROW_LABEL + place + row_salt)
        leaf.update(rows[token * size : (token + 1) * size])
        leaves.append(leaf.digest())
    return leaves
