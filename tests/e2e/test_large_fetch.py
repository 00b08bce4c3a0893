"""A large dataset between processes: a holder is killed in the middle, another one finishes.

And who must not read does not: the stranger, the one whose grant has ended, was revoked, or is
played again from its signature (test_forged_grants.py: or was forged).  `REXIS_E2E_BYTES=1000000000` makes the dataset a gigabyte.
"""

import hashlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from movable import asked, rpc
from orders import DAY, Orders, selector
from web3.exceptions import ContractCustomError

from node.demo.programs import until
from node.errors import RpcError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BYTES = int(os.environ.get("REXIS_E2E_BYTES", str(64 << 20)))
TEXTS = {
    "licence": "CC0-1.0",
    "duo": ["DUO:0000042"],
    "source": "random bytes",
}


def random_file(path, size):
    state = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, 1 << 20):
            block = os.urandom(min(1 << 20, size - start))
            file.write(block)
            state.update(block)
    return state.digest()


def digest_of(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def published(made, path, title):
    return asked(
        made, "MN", "datasets.publish", paths=[str(path)], title=title, **TEXTS
    )["dataset"]


def fetch(made, name, dataset, path):
    return asked(made, name, "datasets.fetch", dataset=dataset, path=str(path))


def give(made, dataset, name, days=30):
    row = asked(made, "MN", "grants.give", dataset=dataset, grantee=name, days=days)
    return row["grant"]


def refused(made, name, dataset, path):
    with pytest.raises(RpcError, match="no grant of dataset"):
        fetch(made, name, dataset, path)
    assert not path.exists()


def test_a_stranger_and_a_grant_that_ended_was_revoked_or_is_replayed(place, tmp_path):
    made, _ = place
    random_file(tmp_path / "small.bin", 100_000)
    dataset, out = published(made, tmp_path / "small.bin", "small"), tmp_path / "out"
    give(made, dataset, "KY")
    refused(made, "AUD", dataset, out)
    refused(made, "LAB", dataset, out)

    give(made, dataset, "LAB", days=1)
    fetch(made, "LAB", dataset, out)
    rpc(made, "dev_move", hex(2 * DAY))
    give(made, dataset, "KY")  # a block with the new time
    refused(made, "LAB", dataset, tmp_path / "late")

    grant = give(made, dataset, "LAB")
    fetch(made, "LAB", dataset, tmp_path / "again")
    asked(made, "MN", "grants.revoke", grant=grant)
    refused(made, "LAB", dataset, tmp_path / "revoked")

    rpc(made, "dev_move", hex(60))  # an order is younger than the last decision
    orders = Orders(made)
    order, signature = orders.signed(dataset)
    orders.bring(order, signature)
    fetch(made, "LAB", dataset, tmp_path / "signed")
    rows = asked(made, "MN", "grants.list", dataset=dataset)["grants"]
    (live,) = [one for one in rows if one["grantee"] == "LAB" and one["active"]]
    asked(made, "MN", "grants.revoke", grant=live["grant"])
    with pytest.raises(ContractCustomError, match=selector("StaleOrder")):
        orders.bring(order, signature)
    refused(made, "LAB", dataset, tmp_path / "replayed")


def under_way(made, path):
    """How far a fetch of LAB is; None where it is not, or no longer."""
    works = made.sites["LAB"].call("datasets.works")["works"]
    return next(
        (w for w in works if w["path"] == str(path) and w["what"] == "fetching"), None
    )


def middle(made, path):
    row = under_way(made, path)
    return row is not None and 0 < row["done_bytes"] < row["bytes"]


def test_a_holder_is_killed_in_the_middle_and_another_finishes(place, tmp_path):
    made, programs = place
    owner = programs.pids()["MN"]
    with ThreadPoolExecutor(1) as pool:
        for attempt in range(4):
            source, out = tmp_path / f"{attempt}.bin", tmp_path / f"out-{attempt}"
            digest = random_file(source, BYTES)
            dataset = published(made, source, f"large {attempt}")
            for name in ("KY", "LAB"):
                give(made, dataset, name)
            fetch(made, "KY", dataset, tmp_path / f"held-{attempt}")
            reading = pool.submit(fetch, made, "LAB", dataset, out)
            while not reading.done() and not middle(made, out):
                time.sleep(0.005)
            os.kill(owner, signal.SIGSTOP)
            # It was stopped before the fetch was over, or this attempt shows nothing.
            if not reading.done() and middle(made, out):
                break
            os.kill(owner, signal.SIGCONT)
            reading.result(600)
        else:
            pytest.fail("every fetch was over before its owner could be stopped")
        programs.kill("MN")
        read = reading.result(600)
    assert read["units"] == [0]
    (found,) = [path for path in out.rglob("*") if path.is_file()]
    assert digest_of(found) == digest
    until(
        lambda: made.sites["LAB"].call("datasets.works")["works"] == [],
        "the work to end",
        30,
    )
    # What is here stays readable to nobody else: the keys came from the owner, who is dead.
    with pytest.raises(RpcError):
        made.sites["LAB"].call(
            "datasets.fetch", timeout_s=600, dataset=dataset, path=str(tmp_path / "x")
        )
