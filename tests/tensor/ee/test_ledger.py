"""A key is for one thing once."""

import pytest

from ee.errors import EncryptionError, KeyReuseError
from ee.ledger import (
    Context,
    Ledger,
    Life,
    Opens,
    fingerprint,
    secret_print,
    session_seed,
)

SECRET, OTHER = bytes(range(32)), bytes(32)
HERE = Context("north", "gpu-1", "run-1")
LATER = Context("north", "gpu-1", "run-2")


def test_a_secret_serves_one_context():
    ledger = Ledger()
    ledger.admit(SECRET, HERE)
    assert ledger.check(SECRET, HERE).life is Life.LIVE
    with pytest.raises(KeyReuseError, match=r"made for north at gpu-1, session run-1"):
        ledger.admit(SECRET, LATER)
    with pytest.raises(KeyReuseError, match="cannot serve"):
        ledger.check(SECRET, LATER)


def test_a_context_has_one_secret():
    ledger = Ledger()
    ledger.admit(SECRET, HERE)
    with pytest.raises(KeyReuseError, match="has a key in use"):
        ledger.admit(OTHER, HERE)
    ledger.admit(OTHER, LATER)


def test_a_destroyed_secret_never_comes_back():
    ledger = Ledger()
    ledger.retire(ledger.admit(SECRET, HERE))
    with pytest.raises(KeyReuseError, match="is destroyed"):
        ledger.check(SECRET, HERE)
    with pytest.raises(KeyReuseError, match="is destroyed"):
        ledger.admit(SECRET, HERE)
    ledger.admit(OTHER, HERE)  # a fresh one may


def test_the_ledger_survives_being_put_down():
    ledger = Ledger()
    ledger.retire(ledger.admit(SECRET, HERE))
    again = Ledger(ledger.entries())
    with pytest.raises(KeyReuseError):
        again.admit(SECRET, LATER)


def test_a_secret_that_was_never_admitted_is_refused():
    with pytest.raises(KeyReuseError, match="never taken into use"):
        Ledger().check(SECRET, HERE)


def test_a_seed_belongs_to_its_secret_and_its_context():
    seeds = {
        session_seed(secret, context)
        for secret in (SECRET, OTHER)
        for context in (
            HERE,
            LATER,
            Context("nort", "hgpu-1", "run-1"),
            Context("north", "gpu-2", "run-1"),
        )
    }
    assert len(seeds) == 8
    assert all(len(seed) == 32 for seed in seeds)


def test_a_fingerprint_tells_plan_and_options_apart():
    plans = [Opens("llama", bytes(32), s, t) for s in ("a", "b") for t in ("c", "d")]
    plans.append(Opens("llama", bytes(31) + b"\1", "a", "c"))
    assert len({fingerprint(SECRET, opens) for opens in plans}) == 5
    assert secret_print(SECRET) not in {fingerprint(SECRET, opens) for opens in plans}


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(EncryptionError, match="session is"):
        Context("north", "gpu", name)


def test_a_secret_of_another_length_is_refused():
    with pytest.raises(EncryptionError, match="31 bytes, needs 32"):
        session_seed(bytes(31), HERE)
