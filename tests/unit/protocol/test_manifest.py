import msgspec
import nacl.signing
import pytest

from protocol import manifest as mf
from protocol import merkle
from protocol.envelope import seal
from protocol.errors import MalformedMessageError, SignatureError, VerificationError
from protocol.listing import Column, Listing
from protocol.types import digest
from protocol.wire import encode

KEY = nacl.signing.SigningKey(bytes(range(32)))
PUBLIC = bytes(KEY.verify_key)
MANIFEST = mf.Manifest(
    tuple(mf.Entry(i, digest(bytes([i])), 100 + i) for i in range(5))
)


def sign(message: bytes) -> bytes:
    return KEY.sign(message).signature


def listing(manifest=MANIFEST, units=5):
    return Listing(
        title="t",
        licence="MIT",
        duo=("DUO:0000042",),
        source="s",
        provenance=bytes(32),
        columns=(Column("a", "text"),),
        units=units,
        rows=(None,) * units,
        manifest=manifest.root(),
        owner=PUBLIC,
        created=0,
    )


def test_a_sealed_manifest_comes_back_under_its_listing():
    sealed = mf.seal_manifest(sign, PUBLIC, MANIFEST)
    assert mf.open_manifest(sealed, listing()) == MANIFEST


def test_each_entry_is_proved_under_the_root():
    leaves = [encode(entry) for entry in MANIFEST.entries]
    proof = merkle.inclusion_proof(leaves, 3)
    merkle.verify_inclusion(MANIFEST.root(), leaves[3], 3, 5, proof)


@pytest.mark.parametrize(
    "change", [{"sha256": digest(b"other")}, {"length": 1}], ids=["swapped", "cut"]
)
def test_a_changed_entry_is_another_root(change):
    entries = list(MANIFEST.entries)
    entries[2] = msgspec.structs.replace(entries[2], **change)
    sealed = mf.seal_manifest(sign, PUBLIC, mf.Manifest(tuple(entries)))
    with pytest.raises(VerificationError, match="manifest root"):
        mf.open_manifest(sealed, listing())


def test_a_manifest_of_another_signer_or_with_units_missing_is_refused():
    other = nacl.signing.SigningKey(bytes(32))
    forged = mf.seal_manifest(
        lambda m: other.sign(m).signature, bytes(other.verify_key), MANIFEST
    )
    with pytest.raises(SignatureError, match="manifest's signer"):
        mf.open_manifest(forged, listing())
    sealed = mf.seal_manifest(sign, PUBLIC, MANIFEST)
    with pytest.raises(VerificationError, match="manifest's units"):
        mf.open_manifest(sealed, listing(units=6))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ((), "0 units"),
        ((mf.Entry(1, bytes(32), 9),), "numbered 1"),
        ((mf.Entry(0, bytes(31), 9),), "31 bytes"),
        ((mf.Entry(0, bytes(32), 0),), "0 bytes"),
        ((mf.Entry(0, bytes(32), (1 << 28) + 1),), "needs between"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_neither_made_nor_read(entries, reason):
    broken = mf.Manifest(entries)
    with pytest.raises(MalformedMessageError, match=reason):
        mf.seal_manifest(sign, PUBLIC, broken)
    forced = seal(sign, mf.MANIFEST_DOMAIN, PUBLIC, broken.root(), encode(broken))
    with pytest.raises(MalformedMessageError, match=reason):
        mf.open_manifest(forced, listing())


def test_bitmaps_name_units_both_ways():
    assert mf.bitmap([0, 3, 63, 3]) == 1 | 8 | 1 << 63
    assert mf.unit_list(1 | 8 | 1 << 63) == [0, 3, 63]
    assert mf.unit_list(0) == []
    for unit in (-1, 64):
        with pytest.raises(MalformedMessageError):
            mf.bitmap([unit])
    for bits in (-1, 1 << 64):
        with pytest.raises(MalformedMessageError):
            mf.unit_list(bits)
