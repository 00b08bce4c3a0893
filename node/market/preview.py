"""What a publishing would say in public, before anything is encrypted, signed or told.

A listing cannot be taken back.  So who publishes looks at it first, and at what never leaves:
which unit holds whom, by the names that the owner's own files have.
"""

from typing import Any

from node.market import DatasetError, names, privacy, publish
from node.market.plan import WHOLE, Plan, Unit
from node.market.publish import Description
from protocol.listing import Listing
from protocol.types import DIGEST_BYTES, Digest, PublicKey

NAMES_SHOWN = 8
"""Of each unit: enough to know it again, and an answer of 64 units stays small."""
_NOT_YET = Digest(bytes(DIGEST_BYTES))
_ONLY_WHEN_MADE = ("created", "manifest", "provenance", "croissant")


def listing(plan: Plan, said: Description, owner: PublicKey, now: int) -> Listing:
    """The listing to be, without the digests that encrypting gives; or `DatasetError`."""
    return publish.described(
        plan, said, manifest=_NOT_YET, provenance=_NOT_YET, owner=owner, now=now
    )


def warnings(plan: Plan, to_be: Listing) -> list[str]:
    """What is legal, and what its owner may not have meant."""
    found = privacy.direct_identifiers([column.name for column in to_be.columns])
    return [
        *(f"column {name!r} seems to hold direct identifiers" for name in found),
        *plan.warnings,
    ]


def shown(
    plan: Plan, said: Description, owner: PublicKey, now: int, who: str | None
) -> dict[str, Any]:
    """For `datasets.preview`; `who` is somebody to be found among the units' names."""
    to_be = listing(plan, said, owner, now)
    public = names.described(to_be)
    return {
        **{key: public[key] for key in public if key not in _ONLY_WHEN_MADE},
        "title": said.title,
        "group": None if said.group == WHOLE else said.group,
        "bytes": plan.size,
        "holds": [_held(number, unit) for number, unit in enumerate(plan.units)],
        "unit": None if who is None else _unit_of(plan, who),
        "warnings": warnings(plan, to_be),
    }


def _held(number: int, unit: Unit) -> dict[str, Any]:
    return {
        "unit": number,
        "records": unit.records,
        "names": list(unit.names[:NAMES_SHOWN]),
        "named": len(unit.names),
    }


def _unit_of(plan: Plan, who: str) -> int:
    for number, unit in enumerate(plan.units):
        if who in unit.names:
            return number
    first = plan.units[0].names[0]
    raise DatasetError(
        f"no unit holds {who[:100]!r}", hint=f"units hold such as {first[:100]!r}"
    )
