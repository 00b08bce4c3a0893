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


LISTING = ls.Listing(
    title="Obstetric trial, clinic MN",
    licence="CC-BY-4.0",
    duo=("DUO:0000021", "DUO:0000042"),
    source="Michalowicz et al., NEJM 2006",
    provenance=bytes(32),
    columns=(ls.Column("Age", "integer"), ls.Column("BMI", "number")),
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
        ({"columns": ()}, "0 columns"),
        ({"columns": (ls.Column("a", "date"),)}, "column kind"),
        ({"columns": (ls.Column("a", "text"),) * 2}, "stands twice"),
        ({"columns": (ls.Column("", "text"),)}, "0 characters"),
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


def test_croissant_names_the_digest_and_the_terms_and_no_value():
    meta = ls.to_croissant(LISTING)
    assert meta["identifier"] == "sha256:" + LISTING.digest().hex()
    assert meta["license"] == "https://spdx.org/licenses/CC-BY-4.0.html"
    assert meta["datePublished"] == "2023-11-14"
    assert meta["usageInfo"][1].endswith("/DUO_0000042")
    fields = meta["recordSet"][0]["field"]
    assert [(f["name"], f["dataType"]) for f in fields] == [
        ("Age", "sc:Integer"),
        ("BMI", "sc:Float"),
    ]
    assert meta["distribution"][0]["rexis:unitRows"] == [12, None]


def test_croissant_has_one_digest_per_listing():
    again = msgspec.structs.replace(LISTING)
    other = msgspec.structs.replace(LISTING, title="another")
    assert ls.croissant_digest(LISTING) == ls.croissant_digest(again)
    assert ls.croissant_digest(LISTING) != ls.croissant_digest(other)


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
