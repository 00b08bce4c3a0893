"""A dataset is sold between processes, by `rexis` alone: council, committee, escrow, disputes.

On the development chain, and on anvil, whose newest blocks are replaced before every step.  The buyer's coins, the committee's signatures and the seller's credit are on the development
chain; every refusal on the way is tried, too.
"""

import csv
import io
import json
from contextlib import redirect_stderr, redirect_stdout

import pytest
import trio
from movable import move, reorganise

from node.adapters.evm_chain import EvmChain
from node.adapters.keyfile import open_
from node.cli import main as cli
from node.demo import bonds
from node.demo.programs import until
from node.demo.sites import CHAIN_ID, start_daemon, wait_ready

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.parametrize(
        "place", ["devchain", "anvil"], indirect=True, scope="module"
    ),
]

DAY, PRICE = 86_400, 250
TERMS = ("--duo", "DUO:0000007", "--duo", "DUO:0000021")


class Shop:
    """`rexis` at each of the members."""

    def __init__(self, made, folder):
        self.made, self.folder = made, folder
        self.coin = made.coin
        self.forks = 0

    def run(self, name, *words):
        """Status, stdout, stderr; in this process, which has the imports already."""
        home = str(self.made.sites[name].home.path)
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = cli.main(["--home", home, *map(str, words), "--json"])
        return status, out.getvalue(), err.getvalue()

    def does(self, name, *words):
        """What is final; so that the newest blocks may go, and be others."""
        self.forks += reorganise(self.made)
        status, out, err = self.run(name, *words)
        assert status == 0, err
        return json.loads(out)

    def refused(self, name, *words):
        status, out, err = self.run(name, *words)
        assert status == 1, out
        return err

    def moves(self, days):
        move(self.made, int(days * DAY))

    def purse(self, name):
        (found,) = self.does(name, "market", "show")["purses"]
        return int(found["balance"]), int(found["held"])

    def asks(self, dataset):
        return self.does("LAB", *self.asking(dataset))["request"]

    def asking(self, dataset, **changes):
        said = {
            "--days": 20,
            "--purpose": "DUO:0000007",
            "--acknowledge": "DUO:0000021",
            "--max-price": PRICE,
            **changes,
        }
        options = [part for pair in said.items() if pair[1] for part in pair]
        return ("grant", "request", dataset, *options)


@pytest.fixture(scope="module")
def shop(place, tmp_path_factory):
    made, _ = place
    secret = (made.folder / "passphrase").read_bytes().strip()
    buyer = EvmChain(
        url=made.chain_url,
        chain_id=CHAIN_ID,
        contracts=made.contracts,
        account_key=open_(made.sites["LAB"].home.keyfile, secret).account_key,
    )
    trio.run(bonds.give, buyer, made.coin)
    found = Shop(made, tmp_path_factory.mktemp("shop"))
    found.moves(1 / DAY)  # members vote on what is proposed after they came
    yield found
    if found.forks:
        assert found.forks >= 10
        logs = [one.read_text() for one in (made.folder / "logs").glob("*.log")]
        assert not any("reorganised below the depth" in log for log in logs)


@pytest.fixture(scope="module")
def dataset(shop):
    """Priced in a coin that the members voted in, decided on by two of them."""
    path = shop.folder / "panel.csv"
    with path.open("w") as file:
        rows = [[f"p{i}", i % 90, i / 2] for i in range(40)]
        csv.writer(file).writerows([["PID", "age", "score"], *rows])
    made = shop.does("MN", "committee", "make", "MN", "KY", "--threshold", "2")
    what = ("dataset", "publish", path, "--title", "Panel", "--licence", "CC0-1.0")
    shown = shop.does(
        *("MN", *what, *TERMS, "--source", "Clinic MN"),
        *("--price", PRICE, "--token", shop.coin, "--max-days", "20"),
        *("--committee", made["committee"]),
    )
    assert (shown["price"], shown["terms"]["committee"]) == (
        str(PRICE),
        made["committee"],
    )
    return shown["dataset"]


def test_a_coin_is_taken_once_the_members_have_voted_for_it(shop, dataset):
    assert "have not accepted" in shop.refused("LAB", *shop.asking(dataset))
    (motion,) = shop.does("MN", "council", "propose", "--take", shop.coin)["motions"]
    assert motion["text"] == f"take token {shop.coin} for prices"
    for name in ("MN", "KY"):
        shop.does(name, "council", "vote", 0)
    assert "NotPassed" in shop.refused("LAB", "council", "execute", 0)
    shop.does("LAB", "council", "vote", 0)
    assert "NotReady" in shop.refused("LAB", "council", "execute", 0)
    shop.moves(2)
    (motion,) = shop.does("LAB", "council", "execute", 0)["motions"]
    assert motion["done"]


def test_a_buyer_pays_a_committee_approves_the_data_come_the_seller_is_paid(
    shop, dataset
):
    for change, why in (
        ({"--purpose": "DUO:0000006"}, "is not for DUO:0000006"),
        ({"--acknowledge": None}, "asks to acknowledge DUO:0000021"),
        ({"--max-price": PRICE - 1}, f"costs {PRICE}"),
        ({"--days": 21}, "given for 1 to 20"),
    ):
        assert why in shop.refused("LAB", *shop.asking(dataset, **change))
    rich, _ = shop.purse("LAB")
    number = shop.asks(dataset)
    assert shop.purse("LAB") == (rich - PRICE, 0)
    out = shop.folder / "read.csv"
    reading = ("dataset", "fetch", dataset, "--to", out)
    assert "no grant" in shop.refused("LAB", *reading)
    assert "NotCommittee" in shop.refused("MN", "grant", "give", 0, "LAB", "--days", 1)
    assert "does not decide" in shop.refused("AUD", "grant", "approve", number)

    row = shop.does("MN", "grant", "approve", number)
    assert (row["status"], row["signed"], row["threshold"]) == ("open", 1, 2)
    assert "no grant" in shop.refused("LAB", *reading)
    row = shop.does("KY", "grant", "approve", number)
    assert (row["status"], row["signed"]) == ("approved", 2)

    assert "have not been read here" in shop.refused("LAB", "grant", "accept", number)
    shop.does("LAB", *reading)
    assert out.read_text().count("\n") == 41
    (grant,) = shop.does("MN", "grant", "list", dataset)["grants"]
    assert (grant["purposes"], grant["active"]) == (["DUO:0000007"], True)
    assert shop.does("LAB", "grant", "accept", number)["status"] == "paid"
    before, held = shop.purse("MN")
    assert held == PRICE
    shop.does("MN", "market", "collect", shop.coin)
    assert shop.purse("MN") == (before + PRICE, 0)
    scores = shop.does("LAB", "market", "scores", "MN")["roles"]
    assert scores[0] == {"role": "provider", "score": 66, "cases": 1}


def test_a_refused_and_an_unanswered_request_are_refunded(shop, dataset):
    rich, _ = shop.purse("LAB")
    number = shop.asks(dataset)
    for name in ("MN", "KY"):
        row = shop.does(name, "grant", "refuse", number)
    assert row["status"] == "refunded"
    assert shop.purse("LAB") == (rich - PRICE, PRICE)

    left = shop.asks(dataset)
    assert "TooEarly" in shop.refused("LAB", "grant", "close", left)
    shop.moves(31)

    def closed():
        # Without a fork: one more each time would take the node's own transaction back.
        _, out, _ = shop.run("LAB", "grant", "requests", dataset)
        rows = json.loads(out)["requests"]
        return rows[left]["status"] == "refunded"

    until(closed, "the buyer's node to take its money back", 60)
    assert shop.purse("LAB") == (rich - 2 * PRICE, 2 * PRICE)
    shop.does("LAB", "market", "collect", shop.coin)
    assert shop.purse("LAB") == (rich, 0)
    late = ("dataset", "fetch", dataset, "--to", shop.folder / "late.csv")
    assert "no grant" in shop.refused("LAB", *late)


@pytest.fixture(scope="module")
def lone_auditor(shop, dataset):
    """The members let one auditor's word count: this federation has no second."""
    (*_, motion) = shop.does("MN", "council", "propose", "--set", "quorum=1")["motions"]
    for name in ("MN", "KY", "LAB"):
        shop.does(name, "council", "vote", motion["motion"])
    shop.moves(2)
    shop.does("LAB", "council", "execute", motion["motion"])
    assert shop.does("AUD", "market", "show")["rules"]["quorum"] == 1


def disputed(shop, dataset, claim):
    """A request that both seats agreed to, and its case; `claim` says what is wrong."""
    number = shop.asks(dataset)
    for name in ("MN", "KY"):
        shop.does(name, "grant", "approve", number)
    row = shop.does("LAB", "grant", "dispute", number, "--reason", "x", "--to", claim)
    assert row["status"] == "disputed"
    assert json.loads(claim.read_text())["received"] is False
    assert "WrongStatus" in shop.refused("LAB", "grant", "accept", number)
    return number, row["case"]


def test_an_owner_that_shows_the_message_wins_the_dispute_and_the_bond(
    shop, dataset, lone_auditor
):
    rich, _ = shop.purse("LAB")
    _, held = shop.purse("MN")
    number, case = disputed(shop, dataset, shop.folder / "claim-0.json")
    assert shop.purse("LAB")[0] == rich - PRICE - bonds.BOND
    report = shop.folder / "report-0.json"
    report.write_text(json.dumps(shop.does("AUD", "market", "check", case)))
    checked = json.loads(report.read_text())
    assert checked["sound"]
    assert checked["shown"] == checked["committed"]
    voting = ("market", "vote", case, "--reject", "--report", report)
    assert "Partial" in shop.refused("LAB", *voting)
    shop.does("AUD", *voting)
    (row,) = [
        r for r in shop.does("MN", "market", "cases")["cases"] if r["case"] == case
    ]
    assert row["outcome"] == "rejected"
    assert shop.does("LAB", "grant", "requests", dataset)["requests"][number][
        "status"
    ] == ("paid")
    assert shop.purse("MN")[1] > held + PRICE  # of the bond, too
    assert shop.purse("LAB")[1] == 0


def test_an_owner_that_shows_nothing_pays_back(shop, dataset, lone_auditor, place):
    made, programs = place
    number, case = disputed(shop, dataset, shop.folder / "claim-1.json")
    _, held = shop.purse("LAB")
    programs.kill("MN")
    checked = shop.does("AUD", "market", "check", case)
    assert (checked["sound"], checked["shown"]) == (False, None)
    report = shop.folder / "report-1.json"
    report.write_text(json.dumps(checked))
    shop.does("AUD", "market", "vote", case, "--uphold", "--report", report)
    rows = shop.does("LAB", "grant", "requests", dataset)["requests"]
    assert rows[number]["status"] == "refunded"
    assert shop.purse("LAB")[1] == held + PRICE + bonds.BOND
    start_daemon(made, programs, "MN")
    wait_ready(made, programs, "MN", timeout_s=180)
    # A refund ends no grant; who decides, or the owner, does.
    out = shop.folder / "after.csv"
    (grant,) = [
        one
        for one in shop.does("MN", "grant", "list", dataset)["grants"]
        if one["active"]
    ]
    shop.does("MN", "grant", "revoke", grant["grant"])
    assert "no grant" in shop.refused("LAB", "dataset", "fetch", dataset, "--to", out)


def test_one_table_in_groups_gives_each_reader_its_columns(shop, dataset):
    path = shop.folder / "visits.csv"
    path.write_text(
        "PID,age,lactate,crp\n"
        + "".join(f"p{i // 2},{20 + i},{i / 8},{3 * i}\n" for i in range(24))
    )
    what = ("dataset", "publish", path, "--title", "Visits", "--licence", "CC0-1.0")
    cut = ("--group", "vitals=age,lactate", "--group", "labs=crp", "--unit-by", "PID")
    cut += ("--source", "Clinic MN")
    vitals, labs = (
        row["dataset"] for row in shop.does("MN", *what, *TERMS, *cut)["datasets"]
    )
    again = shop.does("MN", *what, *TERMS, *cut)["datasets"]
    assert [row["dataset"] for row in again] == [vitals, labs]

    def known():
        status, out, _ = shop.run("LAB", "dataset", "show", labs)
        return status == 0 and len(json.loads(out)["groups"]) == 2

    until(known, "both listings at the buyer", 60)
    giving = ("grant", "give", labs, "LAB", "--days", 5, "--group")
    status, _, err = shop.run("MN", *giving, "genes")
    assert (status, "no group 'genes'" in err) == (3, True)
    # By the number of one, of the other by its name: the one itself stays shut.
    shop.does("MN", *giving, "vitals")
    out = shop.folder / "vitals.csv"
    shop.does("LAB", "dataset", "fetch", vitals, "--to", out)
    first, *rows = csv.reader(out.open())
    assert first == ["age", "lactate"]
    assert sorted(rows) == sorted([f"{20 + i}", f"{i / 8}"] for i in range(24))
    out = shop.folder / "labs.csv"
    fetch = ("dataset", "fetch", labs, "--to", out)
    assert "no grant" in shop.refused("LAB", *fetch)
    assert not out.exists()
    asking = shop.asking(vitals, **{"--max-price": "0", "--group": "labs"})
    number = shop.does("LAB", *asking)["request"]
    shop.does("MN", "grant", "approve", number)
    shop.does("LAB", *fetch)
    assert next(csv.reader(out.open())) == ["crp"]


def test_new_keys_shut_out_who_was_revoked_and_nobody_else(shop, dataset):
    path = shop.folder / "stays.csv"
    rows = [["PID", "days"], *([f"q{i // 2}", str(i)] for i in range(24))]
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    what = ("dataset", "publish", path, "--title", "Stays", "--licence", "CC0-1.0")
    more = ("--source", "Clinic MN", "--unit-by", "PID")
    # The buyer has the old listing, and will have to know it for the older one.
    made = shop.does("MN", *what, *TERMS, *more)
    number, old = made["dataset"], made["record"]
    path.unlink()
    given = [
        shop.does("MN", "grant", "give", number, name, "--days", 5)["grant"]
        for name in ("LAB", "AUD")
    ]
    out = shop.folder / "stays-read.csv"
    fetch = ("dataset", "fetch", number, "--to", out)
    for name in ("LAB", "AUD"):
        shop.does(name, *fetch)
        shop.does(name, "dataset", "show", number)
    shop.does("MN", "grant", "revoke", given[1])
    shown = shop.does("MN", "dataset", "rekey", number)
    assert (shown["keys"], made["keys"]) == (2, 1)
    assert shown["record"] != old
    assert [line.split(" was given")[0] for line in shown["warnings"]] == ["AUD", "LAB"]
    out.unlink()
    shop.does("LAB", *fetch)
    first, *read = csv.reader(out.open())
    assert [first, *sorted(read)] == [rows[0], *sorted(rows[1:])]
    out.unlink()
    assert "no grant" in shop.refused("AUD", *fetch)
    shop.does("LAB", "dataset", "show", number)

    def one_history():
        about = f"dataset:{number}"
        graph = shop.does("LAB", "provenance", "show", about, "--direction", "both")
        revised = [
            one["object"][-64:]
            for one in graph["relations"]
            if one["relation"] == "prov:wasRevisionOf"
        ]
        return revised == [old] and not any(
            about in one["what"] for one in graph["doubts"]
        )

    until(one_history, "both listings in the buyer's graph", 60)
