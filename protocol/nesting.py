"""How deep JSON from somebody else is nested, counted before anything decodes it.

Decoders recurse in C as deep as `sys.getrecursionlimit()` lets them.  Some libraries raise that
limit for the whole process (py-evm does, to 100 000), and then a few hundred kilobytes of
brackets do not raise `RecursionError`: they end the process.  So whoever decodes JSON it did not
write asks here first, and needs no trust in who else was imported.
"""

import re

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def is_deeper(data: bytes, limit: int) -> bool:
    """Whether objects and lists in `data` nest more than `limit` deep; any bytes will do.

    Brackets inside strings do not count.  Of bytes that are not JSON it may say yes where a
    decoder would have found another fault first.
    """
    depth = 0
    for bracket in _STRING.sub(b"", data).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > limit:
            return True
    return False
