"""What a restart finds among the records of a rejected round that was being sketched."""

from protocol.certificate import Certificate, Kind, Slot
from protocol.rounds import recall
from protocol.rounds.desk import Desk
from protocol.rounds.messages import Opening, Report, Survivors, Verdict
from protocol.types import PublicKey
from protocol.wire import encode

MEMBERS = tuple(bytes([i]) * 32 for i in range(4))
OPENING = Opening(
    bytes(32), bytes(32), 0, 0, bytes(32), bytes(32), bytes(32), MEMBERS, ()
)
CONTEXT = OPENING.context()


def certificate(kind: Kind, value) -> bytes:
    context = bytes(32) if kind == Kind.OPEN else CONTEXT
    slot = Slot(bytes(32), bytes(32), 0, 0, kind, context)
    return encode(Certificate(slot, 0, encode(value), ()))


def test_survivors_are_read_from_their_own_certificate_beside_that_of_the_verdict():
    verdict = Verdict(0, False, bytes(32), bytes(32), bytes(32), CONTEXT, OPENING.epoch)
    survivors = Survivors(
        0b1011, bytes(32), (Report(0, 0, 11, bytes(32), bytes(32), b""),), (0,)
    )
    opened = recall.OpenRecord(
        Certificate(
            Slot(bytes(32), bytes(32), 0, 0, Kind.OPEN, bytes(32)),
            0,
            encode(OPENING),
            (),
        ),
        (),
        b"",
    )
    records = {
        "0/opened/x": encode(opened),
        # Whichever comes first among the records.
        "0/certificate/a": certificate(Kind.VERDICT, verdict),
        "0/certificate/b": certificate(Kind.SURVIVORS, survivors),
    }
    desk = Desk(PublicKey(MEMBERS[0]), bytes(32), None, lambda *_: True, records)
    named = (MEMBERS[0], MEMBERS[1], MEMBERS[3])
    assert recall.survivors(desk, verdict) == named
