"""First act: four clinics list their records; one researcher is refused, granted, revoked."""

import csv
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from node.demo import opt
from node.demo.claims import Claims
from node.demo.flows import Flows
from node.demo.sites import CLINICS, RESEARCHER, Place

GRANTED = (0, 2)
GRANTED_BY = "MN"


def run(place: Place, claims: Claims, flows: Flows) -> dict[str, Any]:
    """The report's `data`; `datasets` maps each clinic to its token."""
    patients = {name: opt.csv_bytes([name]).count(b"\n") - 1 for name in CLINICS}
    with ThreadPoolExecutor(len(CLINICS)) as stewards:
        tokens = stewards.map(lambda name: publish(place, name), CLINICS)
        datasets = dict(zip(CLINICS, tokens, strict=True))
    claims.check(
        "each clinic's records are encrypted and listed by the clinic itself",
        f"datasets {sorted(datasets.values())}, {sum(patients.values())} patients",
        holds=len(set(datasets.values())) == len(CLINICS)
        and sum(patients.values()) == 823,
    )
    lab, owner = place.sites[RESEARCHER], place.sites[GRANTED_BY]
    token = datasets[GRANTED_BY]
    out = place.folder / "read-by-lab.csv"

    def fetch(units: list[int] | None = None) -> dict[str, Any]:
        return lab.call("datasets.fetch", dataset=token, path=str(out), units=units)

    listed = lab.call("datasets.show", dataset=token)
    claims.check(
        "anyone sees the licence, terms and source of a listing before asking for it",
        f"{listed['listing']['licence']}, {', '.join(listed['listing']['duo'])}",
        holds=listed["listing"]["licence"] == opt.LICENCE
        and listed["listing"]["source"] == opt.SOURCE,
    )
    ungranted = claims.refused(
        "a researcher without a grant is refused", fetch, words="grant"
    )
    given = owner.call(
        "grants.give", dataset=token, grantee=RESEARCHER, units=list(GRANTED), days=1
    )
    read = fetch()
    flows.add(
        GRANTED_BY,
        RESEARCHER,
        "granted records",
        count=len(read["units"]),
        size=read["bytes"],
    )
    exact = _same_patients(out, _granted_rows(place))
    granted = claims.check(
        "with a grant of two units it reads those and no others, unchanged",
        f"units {read['units']}, {_count(out)} patients",
        holds=exact and read["units"] == list(GRANTED),
    )
    claims.refused(
        "a unit outside the grant is refused",
        lambda: fetch(units=[1]),
        words="grant",
    )
    owner.call("grants.revoke", grant=given["grant"])
    revoked = claims.refused(
        "after the grant is revoked it is refused again", fetch, words="grant"
    )
    return {
        "source": opt.SOURCE,
        "licence": opt.LICENCE,
        "patients": patients,
        "datasets": datasets,
        "granted_read": granted,
        "ungranted_refused": ungranted,
        "revoked_refused": revoked,
    }


def publish(place: Place, name: str) -> int:
    """List a clinic's patients at its own node; the token."""
    table = place.folder / f"{name}.csv"
    table.write_bytes(opt.csv_bytes([name]))
    table.chmod(0o600)
    shown = place.sites[name].call(
        "datasets.publish",
        paths=[str(table)],
        title=f"Obstetric trial, clinic {name}",
        licence=opt.LICENCE,
        duo=list(opt.TERMS),
        source=opt.SOURCE,
    )
    # The clinic keeps its records in its own system; the copy for the demo goes.
    table.unlink()
    return int(shown["dataset"])


def _granted_rows(place: Place) -> list[dict[str, str]]:
    """The patients of the granted units, by the listing's own public counts."""
    token = place.sites[GRANTED_BY].call("datasets.list")["datasets"]
    mine = next(row["dataset"] for row in token if row["mine"])
    shown = place.sites[GRANTED_BY].call("datasets.show", dataset=mine)
    starts, total = [], 0
    for rows in shown["listing"]["rows"]:
        starts.append(total)
        total += rows
    all_rows = _parsed(opt.csv_bytes([GRANTED_BY]).decode())
    return [
        row
        for unit in GRANTED
        for row in all_rows[
            starts[unit] : starts[unit] + shown["listing"]["rows"][unit]
        ]
    ]


def _same_patients(path: Path, expected: list[dict[str, str]]) -> bool:
    return _parsed(path.read_text()) == expected


def _count(path: Path) -> int:
    return len(_parsed(path.read_text()))


def _parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))
