"""The bits on the chain mean the same for ever."""

import pytest

from node.adapters.chain_duo import (
    MODIFIER_BITS,
    PERMISSION_BITS,
    described,
    modifiers,
    purpose,
    terms_of,
)
from node.errors import ChainError
from protocol.duo import MODIFIERS, PERMISSIONS


def test_every_term_has_one_bit():
    assert set(PERMISSION_BITS) == set(PERMISSIONS)
    assert set(MODIFIER_BITS) == set(MODIFIERS)
    assert len(set(PERMISSION_BITS)) == 5
    assert len(set(MODIFIER_BITS)) == 18


def test_the_bits_are_the_ones_in_the_document():
    """They are on chains already: a change here is another ontology there."""
    assert purpose("DUO:0000004") == 1
    assert purpose("DUO:0000042") == 2
    assert purpose("DUO:0000011") == 16
    assert modifiers(["DUO:0000012"]) == 1
    assert modifiers(["DUO:0000021", "DUO:0000046"]) == 1 << 6 | 1 << 17


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("DUO:0000004", 0b11111),
        ("DUO:0000042", 0b11110),
        ("DUO:0000006", 0b01100),
        ("DUO:0000007", 0b01000),
        ("DUO:0000011", 0b10000),
    ],
)
def test_a_permission_includes_the_narrower_ones(code, allowed):
    terms = terms_of([code, "DUO:0000019"], max_days=30)
    assert (terms.allowed, terms.required, terms.max_days) == (allowed, 1 << 4, 30)


def test_prohibited_ancestry_research_is_not_allowed_by_what_is_broader():
    terms = terms_of(["DUO:0000042", "DUO:0000044"], max_days=30)
    assert terms.allowed == 0b01110
    assert terms_of(["DUO:0000042"], max_days=30).allowed & purpose("DUO:0000011")


@pytest.mark.parametrize(
    "codes", [[], ["DUO:0000019"], ["DUO:0000042", "DUO:9"], ["GRU"]]
)
def test_what_is_no_term_or_no_permission_is_refused(codes):
    with pytest.raises(ChainError):
        terms_of(codes, max_days=30)


def test_unknown_purposes_and_modifiers_are_refused():
    with pytest.raises(ChainError, match="no purpose"):
        purpose("DUO:0000019")
    with pytest.raises(ChainError, match="no modifier"):
        modifiers(["DUO:0000042"])


def test_a_grant_reads_back_as_codes():
    assert described(0b11, 0b1) == (["DUO:0000004", "DUO:0000042"], ["DUO:0000012"])
    assert described(1 << 31, 1 << 31) == ([], [])
