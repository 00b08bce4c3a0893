"""What a restart, or the end of a round, finds among the records (docs/protocol.md §7.1).

Keys start with the number of their round, so that everything of a round can be found, taken up
again, or deleted, without knowing what it was.
"""

from protocol.certificate import NOTHING, Certificate, Kind, Step, Vote
from protocol.rounds.desk import RECORD_LIMIT_BYTES, Desk
from protocol.rounds.messages import Sketch, Upload
from protocol.rounds.openings import Openings
from protocol.types import Digest
from protocol.wire import Message, decode


class OpenRecord(Message, frozen=True, tag="opened"):
    """A certified opening, the pre-keys it uses, and this node's update if it takes part."""

    certificate: Certificate
    prekeys: tuple[bytes, ...]
    update: bytes


def stale(desk: Desk, last: int) -> list[str]:
    """Keys of rounds up to `last`."""
    out = []
    for key in desk.records:
        number = key.split("/")[0]
        if number.isdecimal() and int(number) <= last:
            out.append(key)
    return out


def blobs_named(desk: Desk, keys: list[str]) -> list[Digest]:
    """Updates, plain, rounded and masked, that these records name."""
    blobs: list[Digest] = []
    for key in keys:
        record = desk.records[key]
        if key.endswith(("/trained", "/quantised")):
            blobs.append(Digest(record))
        elif key.endswith("/upload"):
            body = desk.own(record).body
            if isinstance(body, Upload):
                blobs += [Digest(shard) for shard in body.shards]
        elif key.endswith("/sketch"):
            body = desk.own(record).body
            if isinstance(body, Sketch):
                blobs.append(Digest(body.blob))
    return blobs


def opened(desk: Desk, number: int) -> list[OpenRecord]:
    """Attempts of a round that this member knew to be open, the last one last."""
    prefix = f"{number}/opened/"
    found = [
        decode(record, OpenRecord, limit_bytes=RECORD_LIMIT_BYTES)
        for key, record in desk.records.items()
        if key.startswith(prefix)
    ]
    return sorted(found, key=lambda each: each.certificate.slot.attempt)


def recall_uses(desk: Desk, openings: Openings, number: int) -> None:
    """Openings that were precommitted or certified in a round have used their pre-keys up."""
    for ballot in desk.ballots(f"{number}/ballot/"):
        body = ballot.body
        if (
            isinstance(body, Vote)
            and body.slot.kind == Kind.OPEN
            and body.step == Step.PRECOMMIT
            and body.value != NOTHING
        ):
            openings.use_up(body.slot, ballot.about.value)
    for each in opened(desk, number):
        openings.use_up(each.certificate.slot, each.certificate.value)
