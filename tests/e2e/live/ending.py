"""`rexisd` that ends itself, with -9, at the first record it writes under one namespace.

The daemon's code is the shipped one; only its store is wrapped, and by a test.  Told by its
environment: REXIS_LIVE_ENDS_AT.
"""

import os
import signal
import sys

from node import app
from node.adapters.sqlite_store import SqliteStore

ENDS_AT = os.environ["REXIS_LIVE_ENDS_AT"]
put_many = SqliteStore.put_many


async def ending(store, writes, **more):
    number = await put_many(store, writes, **more)
    if any(namespace == ENDS_AT for namespace, _, _ in writes):
        os.kill(os.getpid(), signal.SIGKILL)
    return number


if __name__ == "__main__":
    SqliteStore.put_many = ending
    sys.exit(app.main())
