"""A host that lies on purpose (`dev.corrupt_receipts`), so that auditing can be seen to work.

The lie is the smallest and the best there is: one number of one layer moves by one, every
later layer is computed honestly from it, and the host signs for what it then has.  No check
of signatures or roots can find it; a replay must.
"""

import secrets

from protocol.boundary import ENTRY_BYTES

_LIMIT = (1 << 23) - 1


def altered(rows: bytes) -> bytes:
    """`rows` with one entry moved by one, chosen by the operating system's coins."""
    at = ENTRY_BYTES * secrets.randbelow(len(rows) // ENTRY_BYTES)
    value = int.from_bytes(rows[at : at + ENTRY_BYTES], "little", signed=True)
    value += -1 if value == _LIMIT else 1
    entry = value.to_bytes(ENTRY_BYTES, "little", signed=True)
    return rows[:at] + entry + rows[at + ENTRY_BYTES :]
