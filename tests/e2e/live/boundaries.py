"""What a member writes in its log, by the step of a round that it belongs to.

The keys of records hold digests; a test wants words.  `label` gives them, and `BOUNDARIES`
lists every one there is, so that a record of a new kind fails the test that walks them.
"""

import hashlib

from protocol.certificate import Certificate, Kind, Slot
from protocol.envelope import Envelope
from protocol.rounds.desk import RECORD_LIMIT_BYTES, Cast
from protocol.rounds.messages import LIMIT_BYTES, Ballot
from protocol.wire import decode

ONLY_PROPOSER = ("open proposal", "survivors proposal", "verdict proposal")
BOUNDARIES = (
    "prekey",
    "trained",
    "open proposal",
    "open prevote",
    "open precommit",
    "opened",
    "quantised",
    "upload",
    "report",
    "survivors proposal",
    "survivors prevote",
    "survivors precommit",
    "survivors certificate",
    "release",
    "tags",
    "claim",
    "verdict proposal",
    "verdict prevote",
    "verdict precommit",
    "head",
    "finished",
    "forgotten",
)
"""In the order of a round.  The last two write outside of the machine's records: the round's row
and its anchor, and the deletion of what the round leaves behind."""
RARE = ("syncing", "silent", "epoch")
"""Records of a member that was away, lost its disk, or sees the membership change."""


def label(key: str, value: bytes) -> str:
    """The word for a record."""
    parts = key.split("/")
    if parts[0] in ("head", "prekey", *RARE):
        return parts[0]
    kind = parts[1]
    if kind == "ballot":
        return f"{_kind(ballot(value).slot)} {parts[-1]}"
    if kind == "certificate":
        return f"{_kind(certificate(value).slot)} certificate"
    return parts[3] if kind == "said" else kind


def ballot(value):
    """The vote or proposal of a record."""
    cast = decode(value, Cast, limit_bytes=RECORD_LIMIT_BYTES)
    outer = decode(cast.envelope, Envelope, limit_bytes=LIMIT_BYTES)
    return decode(outer.payload, Ballot, limit_bytes=LIMIT_BYTES)


def certificate(value: bytes) -> Certificate:
    return decode(value, Certificate, limit_bytes=RECORD_LIMIT_BYTES)


def proposer(slot: Slot, view: int, members) -> bytes:
    """Whose turn it is, by docs/protocol.md §6.2."""
    drawn = hashlib.sha256(b"rexis-proposer-2" + slot.name()).digest()
    return members[(int.from_bytes(drawn[:8], "big") + view) % len(members)]


def _kind(slot: Slot) -> str:
    return Kind(slot.kind).name.lower()
