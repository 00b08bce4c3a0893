import msgspec
import nacl.signing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import listing as ls
from protocol import provenance as pv
from protocol.envelope import seal
from protocol.errors import (
    LocalProtocolError,
    MalformedMessageError,
    ProtocolError,
    SignatureError,
    VerificationError,
)
from protocol.types import digest
from protocol.wire import encode

KEY = nacl.signing.SigningKey(bytes(range(32)))
PUBLIC = bytes(KEY.verify_key)
OTHER = nacl.signing.SigningKey(bytes(32))


def sign(message: bytes) -> bytes:
    return KEY.sign(message).signature


def other_sign(message: bytes) -> bytes:
    return OTHER.sign(message).signature


TABLE_PART = ls.Part(
    "table",
    "csv",
    (ls.Column("Age", "integer"), ls.Column("BMI", "number")),
    (),
    None,
)


def with_columns(*columns):
    return {"parts": (msgspec.structs.replace(TABLE_PART, columns=columns),)}


def with_part(**change):
    return {"parts": (msgspec.structs.replace(TABLE_PART, **change),)}


LISTING = ls.Listing(
    title="Obstetric trial, clinic MN",
    licence="CC-BY-4.0",
    duo=("DUO:0000021", "DUO:0000042"),
    disease=None,
    source="Michalowicz et al., NEJM 2006",
    version=1,
    previous=b"",
    provenance=bytes(32),
    parts=(TABLE_PART,),
    packed=False,
    units=2,
    rows=(12, None),
    manifest=bytes([1]) * 32,
    owner=PUBLIC,
    created=1_700_000_000,
)


def test_a_sealed_listing_comes_back_as_it_was():
    assert ls.open_listing(ls.seal_listing(sign, PUBLIC, LISTING)) == LISTING


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"title": " "}, "title is empty"),
        ({"title": "x" * 2001}, "limit is 2000"),
        ({"title": "a\nb"}, "control character"),
        ({"licence": "free for all"}, "neither a known SPDX"),
        ({"licence": "LicenseRef-" + "a" * 65}, "neither a known SPDX"),
        ({"duo": ()}, "0 permission terms"),
        ({"duo": ("DUO:0000004", "DUO:0000042")}, "2 permission terms"),
        ({"duo": ("DUO:0000042", "DUO:0000021")}, "not sorted"),
        ({"duo": ("DUO:9999999",)}, "not a data use term"),
        ({"duo": ("DUO:0000042", "DUO:0000042")}, "stand twice"),
        ({"disease": "cancer"}, "not a term such as"),
        ({"disease": "MONDO:0005070"}, "DUO:0000007 is not among"),
        ({"version": 0}, "version is 0"),
        ({"version": 2}, "previous one of 0 bytes, needs 32"),
        ({"previous": bytes(32)}, "version 1 names a previous one"),
        ({"parts": ()}, "0 parts"),
        ({"parts": (TABLE_PART,) * 2, "packed": True}, "two parts have one name"),
        (
            {"parts": (TABLE_PART, msgspec.structs.replace(TABLE_PART, name="b"))},
            "units that are single files",
        ),
        (with_part(name="A b"), "is not a word"),
        (with_part(format="exe"), "is none we know"),
        (with_part(details=("x" * 101,)), "a detail of part table"),
        (with_part(details=("x",) * 33), "33 details, limit is 32"),
        (with_part(records=9), "shows 9 records"),
        (with_part(records=15), "leave 3 for 1 units without a count"),
        (with_columns(), "a table without columns"),
        (with_columns(ls.Column("a", "date")), "column kind"),
        (with_columns(*[ls.Column("a", "text")] * 2), "stands twice"),
        (with_columns(ls.Column("", "text")), "0 characters"),
        ({"units": 65, "rows": (None,) * 65}, "65 consent units"),
        ({"units": 0, "rows": ()}, "0 consent units"),
        ({"units": 3}, "row counts for 2"),
        ({"rows": (12, 9)}, "unit 1 shows 9 rows, the floor is 10"),
        ({"manifest": b"short"}, "manifest root has 5 bytes"),
        ({"created": -1}, "created"),
        ({"created": 1 << 62}, "created"),
    ],
)
def test_a_listing_that_breaks_a_rule_is_neither_made_nor_read(change, reason):
    broken = msgspec.structs.replace(LISTING, **change)
    with pytest.raises(MalformedMessageError, match=reason):
        ls.seal_listing(sign, PUBLIC, broken)
    forced = seal(sign, ls.LISTING_DOMAIN, PUBLIC, broken.manifest, encode(broken))
    with pytest.raises(MalformedMessageError, match=reason):
        ls.open_listing(forced)


def test_terms_of_ones_own_are_a_licence_ref():
    ls.check_licence("LicenseRef-clinic-terms-1")


def test_nobody_signs_anothers_listing():
    other = bytes(OTHER.verify_key)
    with pytest.raises(LocalProtocolError, match="owner"):
        ls.seal_listing(other_sign, other, LISTING)
    forged = seal(
        other_sign, ls.LISTING_DOMAIN, other, LISTING.manifest, encode(LISTING)
    )
    with pytest.raises(SignatureError, match="listing's signer"):
        ls.open_listing(forged)


def test_a_listing_signed_in_another_context_is_refused():
    forged = seal(sign, ls.LISTING_DOMAIN, PUBLIC, b"", encode(LISTING))
    with pytest.raises(SignatureError, match="context"):
        ls.open_listing(forged)


def test_one_flipped_bit_anywhere_is_noticed():
    sealed = ls.seal_listing(sign, PUBLIC, LISTING)
    for place in range(0, len(sealed), 7):
        bent = bytearray(sealed)
        bent[place] ^= 1
        with pytest.raises(ProtocolError):
            ls.open_listing(bytes(bent))


@given(st.binary(max_size=100))
def test_no_bytes_escape_the_protocol_errors(data):
    with pytest.raises(ProtocolError):
        ls.open_listing(data)


@pytest.mark.parametrize(
    ("rows", "records", "fine"),
    [
        ((12, None), None, True),
        ((12, 20), 32, True),
        ((12, 20), 33, False),
        # One hidden unit is what is left of the total: the total would name its count.
        ((12, None), 20, False),
        ((12, None, None), 21, False),
        ((12, None, None), 24, True),
    ],
)
def test_a_total_never_gives_a_hidden_count_away(rows, records, fine):
    change = {"rows": rows, "units": len(rows), **with_part(records=records)}
    listing = msgspec.structs.replace(LISTING, **change)
    if fine:
        ls.check_listing(listing)
    else:
        with pytest.raises(MalformedMessageError, match=r"without a count|leave"):
            ls.check_listing(listing)


def step(activity, used, made):
    return pv.Step(
        activity, tuple(sorted(used)), made, "rexis", "0.1.0", PUBLIC, 1_700_000_000
    )


SOURCE = pv.citation_digest("NEJM 2006")
TABLE, ROOT = digest(b"table"), digest(b"root")
STEPS = (step("extract", [SOURCE], TABLE), step("encrypt", [TABLE], ROOT))


def chain(steps, by=sign):
    return [pv.seal_step(by, step.agent, step) for step in steps]


def test_a_chain_leads_from_the_source_to_the_product():
    expected = pv.chain_digest(STEPS)
    steps = pv.verify_chain(chain(STEPS), expected=expected, product=ROOT)
    assert steps == STEPS


@pytest.mark.parametrize(
    ("steps", "product", "reason"),
    [
        (STEPS[::-1], TABLE, "made later"),
        ((STEPS[0], STEPS[0]), TABLE, "made twice"),
        (STEPS, TABLE, "provenance's product"),
        ((step("loop", [TABLE], TABLE),), TABLE, "made later"),
    ],
)
def test_a_chain_that_does_not_lead_there_is_refused(steps, product, reason):
    with pytest.raises(VerificationError, match=reason):
        pv.verify_chain(chain(steps), expected=pv.chain_digest(steps), product=product)


def test_a_chain_with_a_step_left_out_or_forged_is_refused():
    expected = pv.chain_digest(STEPS)
    with pytest.raises(VerificationError, match="provenance digest"):
        pv.verify_chain(chain(STEPS[1:]), expected=expected, product=ROOT)
    with pytest.raises(SignatureError):
        pv.verify_chain(chain(STEPS, other_sign), expected=expected, product=ROOT)
    with pytest.raises(MalformedMessageError, match="0 steps"):
        pv.verify_chain([], expected=expected, product=ROOT)


@pytest.mark.parametrize(
    "change",
    [
        {"activity": "Train it"},
        {"used": ()},
        {"used": (b"short",)},
        {"used": (ROOT, ROOT)},
        {"tool": ""},
        {"version": "1\n"},
        {"at": -1},
    ],
)
def test_a_step_that_breaks_a_rule_is_not_signed(change):
    with pytest.raises(MalformedMessageError):
        pv.seal_step(sign, PUBLIC, msgspec.structs.replace(STEPS[0], **change))
