"""Metadata in the field's words, and what the words allow."""

import json
import logging

import msgspec
import pytest

from protocol import duo
from protocol.croissant import croissant_digest, to_croissant
from protocol.listing import Column, Listing, Part

LISTING = Listing(
    title="Obstetric trial, clinic MN",
    licence="CC-BY-4.0",
    duo=("DUO:0000021", "DUO:0000042"),
    disease=None,
    source="Michalowicz et al., NEJM 2006",
    version=1,
    previous=b"",
    provenance=bytes(32),
    parts=(
        Part(
            "table",
            "csv",
            (Column("Age", "integer"), Column("BMI", "number")),
            (),
            None,
        ),
    ),
    packed=False,
    units=2,
    rows=(12, None),
    manifest=bytes([1]) * 32,
    owner=bytes([7]) * 32,
    created=1_700_000_000,
)
SCANS = msgspec.structs.replace(
    LISTING,
    duo=("DUO:0000007", "DUO:0000018", "DUO:0000025"),
    disease="MONDO:0005070",
    version=2,
    previous=bytes([9]) * 32,
    parts=(
        Part("csv", "csv", (Column("Age", "integer"),), (), 30),
        Part("dicom", "dicom", (Column("Rows", "text"),), ("modality CT",), 40),
        Part("fasta", "fasta", (), ("protein sequences",), 12),
    ),
    packed=True,
    rows=(41, 41),
)


def test_it_names_the_digest_and_the_terms_and_no_value():
    meta = to_croissant(LISTING)
    assert meta["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    assert meta["identifier"] == "sha256:" + LISTING.digest().hex()
    assert meta["license"] == "https://spdx.org/licenses/CC-BY-4.0.html"
    assert meta["datePublished"] == "2023-11-14"
    fields = meta["recordSet"][0]["field"]
    assert [(f["name"], f["dataType"]) for f in fields] == [
        ("Age", "sc:Integer"),
        ("BMI", "sc:Float"),
    ]
    units = meta["distribution"][0]
    assert units["rexis:unitRows"] == [12, None]
    assert units["includes"] == "unit-*.csv.c4gh"


def test_terms_are_duo_terms_and_an_odrl_offer():
    *terms, offer = to_croissant(LISTING)["usageInfo"]
    assert [one["termCode"] for one in terms] == ["DUO_0000021", "DUO_0000042"]
    assert all(one["@type"] == "DefinedTerm" for one in terms)
    permission = offer["odrl:permission"]
    assert permission["odrl:action"]["@id"] == "duo:0000042"
    (constraint,) = permission["odrl:constraint"]
    assert constraint["odrl:rightOperand"] == {"@id": "duo:0000021"}


def test_a_disease_is_a_constraint_and_a_version_has_a_past():
    meta = to_croissant(SCANS)
    constraints = meta["usageInfo"][-1]["odrl:permission"]["odrl:constraint"]
    assert constraints[-1]["odrl:rightOperand"] == {"@id": "mondo:0005070"}
    assert meta["version"] == "2.0.0"
    assert meta["prov:wasRevisionOf"]["@id"].endswith("09" * 32)
    names = [one["@id"] for one in meta["distribution"]]
    assert names == ["units", "csv", "dicom", "fasta"]


def test_without_modifiers_there_is_no_constraint():
    free = msgspec.structs.replace(LISTING, duo=("DUO:0000004",))
    permission = to_croissant(free)["usageInfo"][-1]["odrl:permission"]
    assert "odrl:constraint" not in permission


def test_one_digest_per_listing():
    again = msgspec.structs.replace(LISTING)
    other = msgspec.structs.replace(LISTING, title="another")
    assert croissant_digest(LISTING) == croissant_digest(again)
    assert croissant_digest(LISTING) != croissant_digest(other)


def test_names_with_white_space_are_ids_without_and_stay_apart():
    names = ("ECG I", "ECG_I", "ECG  I", "age")
    columns = tuple(Column(name, "number") for name in names)
    part = msgspec.structs.replace(LISTING.parts[0], columns=columns)
    document = to_croissant(msgspec.structs.replace(LISTING, parts=(part,)))
    fields = document["recordSet"][0]["field"]
    assert [field["name"] for field in fields] == list(names)
    ids = [field["@id"] for field in fields]
    assert len(set(ids)) == len(ids)
    assert not any(" " in one for one in ids)


def verdict(document):
    """Errors and warnings of the reference reader."""
    import mlcroissant

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    issues = mlcroissant.Dataset(jsonld=document).metadata.ctx.issues
    return list(issues.errors), list(issues.warnings)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("listing", [LISTING, SCANS], ids=["table", "packed"])
def test_the_reference_reader_takes_it(listing, tmp_path):
    path = tmp_path / "croissant.json"
    path.write_text(json.dumps(to_croissant(listing)))
    assert verdict(path) == ([], [])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_reference_reader_does_find_faults(tmp_path):
    import mlcroissant

    broken = to_croissant(LISTING)
    del broken["name"]
    broken["recordSet"][0]["field"][0]["source"] = {"fileSet": {"@id": "nowhere"}}
    path = tmp_path / "croissant.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(mlcroissant.ValidationError):
        verdict(path)


GENERAL, HEALTH, DISEASE, ANCESTRY = (
    "DUO:0000042",
    "DUO:0000006",
    "DUO:0000007",
    "DUO:0000011",
)


@pytest.mark.parametrize(
    ("codes", "allowed"),
    [
        (("DUO:0000004",), {"DUO:0000004", GENERAL, HEALTH, DISEASE, ANCESTRY}),
        ((GENERAL,), {GENERAL, HEALTH, DISEASE, ANCESTRY}),
        ((GENERAL, "DUO:0000044"), {GENERAL, HEALTH, DISEASE}),
        ((HEALTH,), {HEALTH, DISEASE}),
        ((DISEASE,), {DISEASE}),
        ((ANCESTRY,), {ANCESTRY}),
    ],
)
def test_a_permission_covers_what_is_narrower(codes, allowed):
    assert {one for one in duo.PERMISSIONS if duo.permits(codes, one)} == allowed


def test_all_twenty_three_terms_have_words():
    assert len(duo.PERMISSIONS) + len(duo.MODIFIERS) == 23
    assert all(duo.label(code) for code in (*duo.PERMISSIONS, *duo.MODIFIERS))
