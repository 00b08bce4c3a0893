"""The Data Use Ontology of GA4GH: what a dataset may be used for, as terms and as logic.

A dataset carries exactly one permission and any modifiers.  A permission covers what is
narrower than itself: no restriction ⊃ general research ⊃ {health and biomedical ⊃ one
disease, ancestry}.  Modifiers are conditions that people keep; all that a program can
check of them is that they were acknowledged.  Source: DUO, release 2021-02-23.
"""

import re

from protocol.errors import MalformedMessageError

PERMISSIONS = {
    "DUO:0000004": "no restriction",
    "DUO:0000006": "health or medical or biomedical research",
    "DUO:0000007": "disease specific research",
    "DUO:0000011": "population origins or ancestry research only",
    "DUO:0000042": "general research use",
}
MODIFIERS = {
    "DUO:0000012": "research specific restrictions",
    "DUO:0000015": "no general methods research",
    "DUO:0000016": "genetic studies only",
    "DUO:0000018": "not for profit, non commercial use only",
    "DUO:0000019": "publication required",
    "DUO:0000020": "collaboration required",
    "DUO:0000021": "ethics approval required",
    "DUO:0000022": "geographical restriction",
    "DUO:0000024": "publication moratorium",
    "DUO:0000025": "time limit on use",
    "DUO:0000026": "user specific restriction",
    "DUO:0000027": "project specific restriction",
    "DUO:0000028": "institution specific restriction",
    "DUO:0000029": "return to database or resource",
    "DUO:0000043": "clinical care use",
    "DUO:0000044": "population origins or ancestry research prohibited",
    "DUO:0000045": "not for profit organisation use only",
    "DUO:0000046": "non-commercial use only",
}

DISEASE_SPECIFIC, ANCESTRY_ONLY = "DUO:0000007", "DUO:0000011"
ANCESTRY_PROHIBITED = "DUO:0000044"
NON_COMMERCIAL = frozenset({"DUO:0000018", "DUO:0000045", "DUO:0000046"})

_COVERS = {
    "DUO:0000004": frozenset(PERMISSIONS),
    "DUO:0000042": frozenset(PERMISSIONS) - {"DUO:0000004"},
    # DUO's text of this term leaves the study of ancestry out.
    "DUO:0000006": frozenset({"DUO:0000006", DISEASE_SPECIFIC}),
    DISEASE_SPECIFIC: frozenset({DISEASE_SPECIFIC}),
    ANCESTRY_ONLY: frozenset({ANCESTRY_ONLY}),
}
_MONDO = re.compile(r"MONDO:\d{7}")


def label(code: str) -> str:
    """The term's words."""
    return PERMISSIONS.get(code) or MODIFIERS[code]


def permission(codes: tuple[str, ...]) -> str:
    """The one permission among the terms of a dataset."""
    return next(code for code in codes if code in PERMISSIONS)


def permits(codes: tuple[str, ...], purpose: str) -> bool:
    """Whether a dataset under `codes` may be used for the permission term `purpose`.

    Of one disease against another nothing is said here: that is for the committee.
    """
    if purpose == ANCESTRY_ONLY and ANCESTRY_PROHIBITED in codes:
        return False
    return purpose in _COVERS[permission(codes)]


def check_codes(codes: tuple[str, ...]) -> None:
    """Exactly one permission and any modifiers, sorted, none twice."""
    for code in codes:
        if code not in PERMISSIONS and code not in MODIFIERS:
            raise MalformedMessageError(f"{code[:80]!r} is not a data use term we know")
    if list(codes) != sorted(set(codes)):
        raise MalformedMessageError("data use terms are not sorted or stand twice")
    permissions = [code for code in codes if code in PERMISSIONS]
    if len(permissions) != 1:
        raise MalformedMessageError(
            f"{len(permissions)} permission terms, needs exactly one of "
            + ", ".join(PERMISSIONS)
        )


def check_disease(codes: tuple[str, ...], disease: str | None) -> None:
    """A MONDO term, and only beside the permission it narrows."""
    if disease is None:
        return
    if not _MONDO.fullmatch(disease):
        raise MalformedMessageError(
            f"disease {disease[:40]!r} is not a term such as MONDO:0005070"
        )
    if DISEASE_SPECIFIC not in codes:
        raise MalformedMessageError(
            f"a disease is named, but {DISEASE_SPECIFIC} is not among the terms"
        )
