"""Which record of a model counts."""

from protocol.first_record import First, FirstRecords, claim_of
from protocol.types import digest

CLINIC, LIAR = bytes([1]) * 20, bytes([2]) * 20
ROOT, TRUE, FALSE = digest(b"root"), digest(b"true"), digest(b"false")
CLAIM = claim_of(CLINIC, ROOT, TRUE)


def fed(*anchors):
    """Anchors of (account, root, record), a block each."""
    records = FirstRecords()
    news = [records.anchored(*one, (block, 0)) for block, one in enumerate(anchors)]
    return records, news


def test_without_claims_the_first_anchor_counts():
    records, news = fed((LIAR, ROOT, FALSE), (CLINIC, ROOT, TRUE))
    assert news == [True, False]
    assert records.first(ROOT) == First(FALSE, LIAR, (0, 0), claimed=False)


def test_a_record_counts_from_its_claim_on():
    records, news = fed(
        (CLINIC, CLAIM, CLAIM), (LIAR, ROOT, FALSE), (CLINIC, ROOT, TRUE)
    )
    assert news == [False, True, True]
    assert records.first(ROOT) == First(TRUE, CLINIC, (0, 0), claimed=True)
    assert records.roots() == [ROOT], "a claim is no model"


def test_a_claim_is_worth_nothing_to_another_account_or_record():
    copied = ((CLINIC, CLAIM, CLAIM), (LIAR, CLAIM, CLAIM))
    records, _ = fed(*copied, (LIAR, ROOT, TRUE), (LIAR, ROOT, FALSE))
    assert records.first(ROOT) == First(TRUE, LIAR, (2, 0), claimed=False)
    assert records.claimed(CLINIC, CLAIM) == (0, 0)


def test_a_claim_after_another_record_is_too_late():
    late = claim_of(LIAR, ROOT, FALSE)
    records, news = fed((CLINIC, ROOT, TRUE), (LIAR, late, late), (LIAR, ROOT, FALSE))
    assert news == [True, False, False]
    assert records.first(ROOT).record == TRUE


def test_the_same_record_by_another_member_is_no_news():
    records, news = fed(
        (CLINIC, CLAIM, CLAIM), (CLINIC, ROOT, TRUE), (LIAR, ROOT, TRUE)
    )
    assert news == [False, True, False]
    assert records.first(ROOT).account == CLINIC


def test_an_event_that_is_told_again_changes_nothing():
    anchors = ((CLINIC, CLAIM, CLAIM), (LIAR, ROOT, FALSE), (CLINIC, ROOT, TRUE))
    records, _ = fed(*anchors)
    for block, one in enumerate(anchors):
        assert not records.anchored(*one, (block, 0))
    assert records.first(ROOT).record == TRUE
