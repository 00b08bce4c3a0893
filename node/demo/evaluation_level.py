"""Third act: a clinic asks two hosts about its patients; one of them lies and is caught."""

import csv
import io
from pathlib import Path
from typing import Any

import trio

from node.adapters.evm_chain import EvmChain
from node.compute import table
from node.demo import bonds, opt
from node.demo.claims import Claims
from node.demo.flows import Flows
from node.demo.model_level import Told, final_state
from node.demo.programs import DemoError, until
from node.demo.sites import (
    CHAIN_ID,
    CLINICS,
    CORRUPTED,
    LIAR,
    VERIFIER,
    Place,
    Site,
)
from node.demo.yardstick import Yardstick

RELEASER, REQUESTER, HONEST = "MN", "MS", "KY"
AUDIT_LIMIT_S = 60.0
POINTS = 0.005
"""What rounding to integers may cost: half a point of AUC."""


def run(
    place: Place, run_id: str, claims: Claims, flows: Flows, tell: Told
) -> dict[str, Any]:
    """The report's `inference`."""
    tell("releasing the model", 0, 4)
    released = place.sites[RELEASER].call(
        "models.release", run=run_id, hosts=[HONEST, LIAR]
    )
    model = str(released["model"])
    _everywhere(place, model)
    shown = place.sites[REQUESTER].call("models.show", model=model)
    claims.check(
        "the model's signed provenance leads to the listings it was trained on",
        ", ".join(f"{one['owner']} {one['licence']}" for one in shown["sources"]),
        holds={one["owner"] for one in shown["sources"]} == set(CLINICS)
        and {one["licence"] for one in shown["sources"]} == {opt.LICENCE},
    )
    asked, labels = _questions(place)
    answers: dict[str, dict[str, Any]] = {}
    for number, host in enumerate((HONEST, LIAR)):
        tell(f"{REQUESTER} asks {host} under encryption", 1 + number, 4)
        answers[host] = place.sites[REQUESTER].call(
            "inference.run", model=model, host=host, path=str(asked)
        )
        if answers[host]["stopped"] is not None:
            raise DemoError(f"{host} stopped answering: {answers[host]['stopped']}")
        flows.add(
            REQUESTER,
            host,
            "keyed rows, asked and answered",
            count=len(answers[host]["receipts"]),
            size=2 * _rows_bytes(len(labels)),
        )
    asked.unlink()
    yardstick = Yardstick(opt.plan())
    auc = yardstick.auc(answers[HONEST]["scores"], labels)
    plain = yardstick.auc_of(final_state(place, run_id), [REQUESTER])
    claims.check(
        "encrypted integer inference scores patients as the plain model does",
        f"AUC {auc:.3f}, in the clear {plain:.3f}",
        holds=abs(auc - plain) <= POINTS,
    )
    receipts = {digest: h for h, a in answers.items() for digest in a["receipts"]}
    tell("the verifier replays what was anchored", 3, 4)
    audits = _audited(place, set(receipts))
    failed = [row for row in audits if row["verdict"] == "failed"]
    caught = [row for row in failed if row["host"] == LIAR]
    claims.check(
        "every receipt was anchored on the chain and replayed by the verifier",
        f"{len(audits)} of {len(receipts)}",
        holds={row["receipt"] for row in audits} == set(receipts),
    )
    claims.check(
        f"{LIAR} altered one number in each of {CORRUPTED} answers: each is caught and"
        " named",
        "; ".join(_what(row) for row in caught),
        holds=len(caught) == CORRUPTED
        and all(row["entry"]["differing"] >= 1 for row in caught),
    )
    claims.check(
        "no honest answer was accused",
        f"{len(audits) - len(failed)} passed",
        holds=len(failed) == len(caught)
        and not any(row["host"] == HONEST for row in failed),
    )
    settled = _settled(place, claims)
    for host in (HONEST, LIAR):
        of_host = [row for row in audits if row["host"] == host]
        flows.add(
            host,
            VERIFIER,
            "receipts and opened rows",
            count=len(of_host),
            size=len(of_host) * _rows_bytes(1),
        )
        flows.add(host, "chain", "anchored roots", count=1, size=32)
    return {
        "model": model,
        "host": HONEST,
        "liar": LIAR,
        "receipts": len(receipts),
        "audited": len(audits),
        "passed": len(audits) - len(failed),
        "tampered": CORRUPTED,
        "caught": len(caught),
        "slashed_bonds": settled,
        "caught_detail": [
            {"host": row["host"], "receipt": row["receipt"], "what": _what(row)}
            for row in caught
        ],
        "auc": {"encrypted": auc, "plain": plain},
    }


def _everywhere(place: Place, model: str) -> None:
    for name in (REQUESTER, HONEST, LIAR, VERIFIER):
        site = place.sites[name]

        def known(site: Site = site) -> bool:
            rows = site.call("models.list")["models"]
            return any(row["model"] == model for row in rows)

        until(known, f"{name} to hear of the model", 30)


def _questions(place: Place) -> tuple[Path, list[bool]]:
    """The requester's held-out patients without their answers, and the answers."""
    plan = opt.plan()
    task = table.task(plan.task)
    header, rows = table.read_csv(opt.csv_bytes([REQUESTER]))
    label, patient = header.index(task.label), header.index(task.id)
    chosen = [
        row
        for row in rows
        if row[label] and table.is_held_out(row[patient], task.held_out_percent)
    ]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for name in header if name != task.label])
    for row in chosen:
        writer.writerow([cell for i, cell in enumerate(row) if i != label])
    path = place.folder / "asked.csv"
    path.write_text(out.getvalue())
    path.chmod(0o600)
    return path, [float(row[label]) > task.above for row in chosen]


def _audited(place: Place, receipts: set[str]) -> list[dict[str, Any]]:
    """The verifier's reports on these receipts, as another node has heard them."""
    site = place.sites[REQUESTER]

    def found() -> list[dict[str, Any]]:
        rows = site.call("audits.list")["audits"]
        return [row for row in rows if row["receipt"] in receipts]

    until(lambda: len(found()) >= len(receipts), "all audits", AUDIT_LIMIT_S)
    return found()


def _settled(place: Place, claims: Claims) -> float:
    """The verifier takes the liar to the contract; bonds that changed hands."""
    site = place.sites[VERIFIER]

    def decided() -> list[dict[str, Any]]:
        rows = site.call("disputes.list")["disputes"]
        return [row for row in rows if row["outcome"] is not None]

    until(lambda: len(decided()) >= CORRUPTED, "the disputes", AUDIT_LIMIT_S)
    members = site.call("members.list")["members"]
    account = {row["name"]: bytes.fromhex(row["account"][2:]) for row in members}
    who = {"challenger": account[VERIFIER], "host": account[LIAR]}

    async def held() -> bonds.Holdings:
        chain = EvmChain(
            url=place.chain_url,
            chain_id=CHAIN_ID,
            contracts=place.contracts,
            account_key=place.owner_key,
        )
        return await bonds.holdings(chain, place.coin, who)

    found = trio.run(held)
    lost = bonds.STAKE / bonds.BOND - found.host
    claims.check(
        f"the contract computed the numbers itself and took {LIAR}'s bonds",
        f"{lost:g} bonds lost, {found.challenger:g} with the verifier: its own and half of those",
        holds=all(row["outcome"] == "upheld" for row in decided())
        and lost == CORRUPTED
        and found.challenger == 1.5 * CORRUPTED,
    )
    return lost


def _what(row: dict[str, Any]) -> str:
    entry = row["entry"] or {}
    return (
        f"layer {row['layer']}, case {entry.get('case')}, token {entry.get('token')},"
        f" column {entry.get('column')}: {entry.get('committed')} instead of"
        f" {entry.get('computed')}"
    )


def _rows_bytes(cases: int) -> int:
    return 4 * cases * opt.SPEC.tokens * opt.SPEC.width
