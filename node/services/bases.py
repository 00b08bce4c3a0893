"""Which hosts may see which base: the one rule a node keeps when it consents and when it trains."""

from collections.abc import Mapping
from typing import Any

from node.errors import RoundError


def require_own_host(spec: Mapping[str, Any], host: str) -> None:
    """Refuse a public checkpoint as the base of what a borrowed worker (`host`) would train.

    Whoever has the base finds the key from the keyed weights alone (docs/attacks.md), and
    with it every row.  On an own worker that tells nobody anything.
    """
    base = spec.get("checkpoint")
    if host and isinstance(base, Mapping) and not base.get("private"):
        raise RoundError(
            f"this run starts from the public checkpoint {base.get('name')!r}, and this node"
            f" trains at {host}, who could take the key off it",
            hint="train on a worker of your own: set worker.host to nothing; or say"
            " `private` in the model file, if no host can have these weights",
        )
