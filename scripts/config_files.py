"""Write `config/*.toml` from the node's own table of keys, or check that they are current.

    python scripts/config_files.py           write them
    python scripts/config_files.py --check   exit 1 and name each file that differs

The keys, their defaults and their explanations live in `node/config.py` alone; a key
added there reaches these files by the first command, and a test fails until it does.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from node.config import template

FOLDER = Path(__file__).resolve().parent.parent / "config"

# Twelve blocks, as many as Ethereum wallets wait: a grant is then not taken back by
# another branch.  On a chain with its own finality, set what that chain promises.
_CONFIRMATIONS = 12
# A block comes every twelve seconds there, and servers that charge do so per request.
_POLL_MS = 2_000
_EVERYWHERE = ["/ip4/0.0.0.0/tcp/4001"]

ROLES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "institution": (
        (
            "An institution: its records, its keys, its trusted computing. The worker runs\n"
            "as another user, behind the socket of config/systemd/rexis-worker.socket."
        ),
        {
            "node__name": "CLINIC",
            "node__role": "institution",
            "network__listen": _EVERYWHERE,
            "chain__confirmations": _CONFIRMATIONS,
            "chain__poll_ms": _POLL_MS,
            "worker__socket": "/run/rexis/worker.sock",
        },
    ),
    "verifier": (
        (
            "A verifier: follows the anchors and replays receipts. Needs no torch and no\n"
            "worker; [worker] and [training] are not used."
        ),
        {
            "node__name": "AUDITOR",
            "node__role": "verifier",
            "network__listen": _EVERYWHERE,
            "chain__confirmations": _CONFIRMATIONS,
            "chain__poll_ms": _POLL_MS,
        },
    ),
    "researcher": (
        (
            "A researcher: reads what it was granted, asks released models. Holds no records\n"
            "of its own, so [worker] and [training] are not used."
        ),
        {
            "node__name": "LAB",
            "node__role": "researcher",
            "network__listen": _EVERYWHERE,
            "chain__confirmations": _CONFIRMATIONS,
            "chain__poll_ms": _POLL_MS,
        },
    ),
}

_BEFORE_THE_START = (
    "Set before the first start: node.name, network.peers, chain.url; chain.chain_id and\n"
    "chain.contracts too, which are the same for every member."
)


def text(role: str) -> str:
    """The whole file of one role."""
    about, values = ROLES[role]
    head = f"{about}\n\n{_BEFORE_THE_START}\n".splitlines()
    lines = [f"# {line}".rstrip() for line in head]
    return "\n".join([*lines, "#", template(**values)])


def main(argv: list[str] | None = None) -> int:
    """Exit status 1 if `--check` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args(argv).check
    differing = []
    for role in ROLES:
        path, wanted = FOLDER / f"{role}.toml", text(role)
        if check:
            if not path.exists() or path.read_text() != wanted:
                differing.append(path.name)
        else:
            path.write_text(wanted)
    if differing:
        sys.stderr.write(
            f"rexis: error: {', '.join(differing)}: not what node/config.py says\n"
            "rexis: hint: run `python scripts/config_files.py` and commit\n"
        )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
