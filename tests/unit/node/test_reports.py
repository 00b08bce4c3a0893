"""Which of several reports counts, and which are no reports at all."""

from itertools import permutations
from types import SimpleNamespace

import msgspec
import nacl.signing
import pytest

from node.adapters.memory_store import MemoryStore
from node.services.reports import Audits
from protocol.audit import AUDIT_DOMAIN, Audit, Fault, open_audit, seal_audit
from protocol.envelope import seal
from protocol.errors import MalformedMessageError
from protocol.receipt import TIME_LIMIT
from protocol.types import digest
from protocol.wire import encode

KEY = nacl.signing.SigningKey(bytes([7]) * 32)
AUDITOR, RECEIPT = bytes(KEY.verify_key), digest(b"receipt")


def sign(message):
    return KEY.sign(message).signature


def report(time, fault=None):
    fields = {name: digest(name.encode()) for name in ("batch", "host", "model_root")}
    return Audit(receipt=RECEIPT, **fields, first=0, count=1, fault=fault, time=time)


def sealed(time, fault=None):
    return seal_audit(sign, AUDITOR, report(time, fault))


def audits(store):
    return Audits(store, SimpleNamespace(name_of=bytes.hex))


async def test_of_contradictory_reports_the_same_one_counts_in_every_life():
    passed, failed = (sealed(5, fault) for fault in (None, Fault("layer", 0)))
    later, earlier = sealed(6), sealed(4)
    for said, first in (
        ((passed, failed, later), min(passed, failed, key=digest)),
        ((passed, failed, later, earlier), earlier),
    ):
        for order in permutations(said):
            store = MemoryStore()
            told = audits(store)
            for one in order:
                await told.keep(one)
            again = audits(store)
            await again.load()
            for life in (told, again):
                assert life.by(AUDITOR, RECEIPT) == first
                assert len(life.rows()) == len(said)
    assert again.by(digest(b"another"), RECEIPT) is None


@pytest.mark.parametrize("time", [-1, TIME_LIMIT + 1])
async def test_a_report_of_no_date_is_refused_and_stops_no_start(time):
    bent = msgspec.structs.replace(report(0), time=time)
    data = seal(sign, AUDIT_DOMAIN, AUDITOR, RECEIPT, encode(bent))
    with pytest.raises(MalformedMessageError, match=f"of second {time}"):
        open_audit(data)
    # One that an earlier version kept.
    store = MemoryStore()
    await store.put("audits", digest(data), data)
    await store.put("audits", digest(sealed(TIME_LIMIT)), sealed(TIME_LIMIT))
    told = audits(store)
    await told.load()
    assert [row["time"] for row in told.rows()] == [TIME_LIMIT]
