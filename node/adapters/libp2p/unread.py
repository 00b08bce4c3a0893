"""What has arrived on a stream and nobody has read: pieces, copied once at most."""

from collections import deque

SMALL_BYTES = 4096
TAIL_BYTES = 1 << 16
"""Small pieces are put together up to this size: each piece costs some ninety bytes of its
own, and a peer that sends single bytes must not cost ninety times its window."""


class Unread:
    """A queue of bytes; pieces that come in large leave as they came."""

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] = deque()
        self._taken = 0  # of the first piece
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, piece: bytes) -> None:
        self._size += len(piece)
        last = self._pieces[-1] if self._pieces else None
        if len(piece) > SMALL_BYTES:
            self._pieces.append(piece)
        elif isinstance(last, bytearray) and len(last) < TAIL_BYTES:
            last += piece
        elif piece:
            self._pieces.append(bytearray(piece))

    def take(self, most: int) -> list[bytes]:
        """At most so many bytes, in the order in which they came."""
        parts: list[bytes] = []
        left = min(most, self._size)
        self._size -= left
        while left:
            piece = self._pieces[0]
            end = min(len(piece), self._taken + left)
            left -= end - self._taken
            # `bytes` and a whole slice cost nothing where it is bytes already.
            parts.append(bytes(piece[self._taken : end]))
            self._taken = end
            if end == len(piece):
                self._pieces.popleft()
                self._taken = 0
        return parts

    def clear(self) -> None:
        self._pieces.clear()
        self._size = self._taken = 0
