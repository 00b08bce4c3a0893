"""The digest of the program that answers queries: what an attestation binds.

Everything between the decrypted rows and the vector that leaves is in these files; a member
with other bytes in any of them has another digest, and refuses the other's questions.
"""

import hashlib
from functools import cache
from importlib import resources

from protocol.types import Digest

_PACKAGES = ("protocol.queries", "node.query", "ee.arch")
_MODULES = (
    ("node.market", "table.py"),
    *(("node.compute", name) for name in ("stock.py", "table.py", "texts.py")),
    *(("node.model", name) for name in ("base.py", "checkpoint.py")),
    *(("ee", name) for name in ("plain.py", "spec.py", "table.py")),
    *(("ee", name) for name in ("canonical.py", "lora.py", "recipe.py", "split.py")),
    *(("ee", name) for name in ("stock.py", "stock_config.py")),
    ("protocol.aggregate", "masks.py"),
    ("protocol.aggregate", "shamir.py"),
    ("protocol.rounds", "prekeys.py"),
)


@cache
def code_digest() -> Digest:
    """SHA-256 over names and contents of the sources, each with its length."""
    files = [
        (f"{package}/{item.name}", item.read_bytes())
        for package in _PACKAGES
        for item in resources.files(package).iterdir()
        if item.name.endswith(".py")
    ]
    files += [
        (f"{package}/{name}", (resources.files(package) / name).read_bytes())
        for package, name in _MODULES
    ]
    state = hashlib.sha256(b"rexis-query-code-1")
    for name, data in sorted(files):
        for part in (name.encode(), data):
            state.update(len(part).to_bytes(8, "big") + part)
    return Digest(state.digest())
