"""Which of several reports counts, and which are no reports at all."""

from itertools import permutations
from types import SimpleNamespace

import msgspec
import nacl.signing
import pytest
import trio

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


def report(time, fault=None, receipt=RECEIPT):
    fields = {name: digest(name.encode()) for name in ("batch", "host", "model_root")}
    return Audit(receipt=receipt, **fields, first=0, count=1, fault=fault, time=time)


def sealed(time, fault=None, receipt=RECEIPT, key=KEY):
    about = report(time, fault, receipt)
    return seal_audit(
        lambda message: key.sign(message).signature, bytes(key.verify_key), about
    )


def audits(store, **options):
    return Audits(store, SimpleNamespace(name_of=bytes.hex), **options)


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


async def test_a_verifier_fills_no_disk_and_what_it_says_last_or_in_accusation_stays():
    store, other = MemoryStore(), nacl.signing.SigningKey(bytes([8]) * 32)
    told = audits(store, kept=3)
    await told.keep(sealed(1, key=other))
    await told.keep(sealed(2, Fault("layer", 0), digest(b"wrong")))
    for time in (7, 3, 9, 5, 8, 6):
        await told.keep(sealed(time, receipt=digest(bytes([time]))))
    again = audits(store, kept=3)
    await again.load()
    for life in (told, again):
        assert [row["time"] for row in life.rows()] == [1, 2, 8, 9]
        assert life.by(AUDITOR, digest(bytes([7]))) is None
        assert life.by(AUDITOR, digest(bytes([9])))
    assert len(await store.scan("audits")) == 4
    # One more than stay, of a version that kept all or of a kill before the deletion.
    fewer = audits(store, kept=1)
    await fewer.load()
    assert [row["time"] for row in fewer.rows()] == [1, 2]
    assert len(await store.scan("audits")) == 2
    # What would go at once is no event.
    said = len(await store.events(limit=100))
    await fewer.keep(sealed(10))
    assert len(await store.events(limit=100)) == said
    assert len(await store.scan("audits")) == 2


async def test_a_report_that_two_members_bring_at_once_is_kept_once():
    store = MemoryStore()
    told = audits(store, kept=1)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(told.keep, sealed(4))
    assert len(await store.events(limit=100)) == 1
    await told.keep(sealed(5))
    assert [row["time"] for row in told.rows()] == [5]


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
