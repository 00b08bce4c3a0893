"""Data Use Ontology terms as the bits that the contracts compare (docs/chain.md §1.2).

The contracts know no ontology: they check that what is granted lies within what is allowed and
that what is required was acknowledged.  What the bits mean is fixed here, once, and never changes;
a new term takes the next free bit.
"""

from collections.abc import Callable, Iterable, Sequence

from node.errors import ChainError
from node.ports.chain import Terms
from protocol.duo import MODIFIERS, PERMISSIONS, permits

PERMISSION_BITS = (
    "DUO:0000004",
    "DUO:0000042",
    "DUO:0000006",
    "DUO:0000007",
    "DUO:0000011",
)
MODIFIER_BITS = (
    *("DUO:0000012", "DUO:0000015", "DUO:0000016", "DUO:0000018", "DUO:0000019"),
    *("DUO:0000020", "DUO:0000021", "DUO:0000022", "DUO:0000024", "DUO:0000025"),
    *("DUO:0000026", "DUO:0000027", "DUO:0000028", "DUO:0000029", "DUO:0000043"),
    *("DUO:0000044", "DUO:0000045", "DUO:0000046"),
)


def terms_of(codes: Iterable[str], *, max_days: int, token: bytes = bytes(20)) -> Terms:
    """The terms that a listing's DUO codes ask for; permissions are expanded downward."""
    named = tuple(sorted(set(codes)))
    for code in named:
        if code not in PERMISSIONS and code not in MODIFIERS:
            raise ChainError(f"{code!r:.40} is no term of the Data Use Ontology")
    if not any(code in PERMISSIONS for code in named):
        raise ChainError("no permission named", hint="one of " + ", ".join(PERMISSIONS))
    return Terms(
        allowed=_bits(PERMISSION_BITS, lambda code: permits(named, code)),
        required=_bits(MODIFIER_BITS, lambda code: code in named),
        max_days=max_days,
        token=token,
    )


def _bits(codes: Sequence[str], holds: Callable[[str], bool]) -> int:
    return sum(1 << bit for bit, code in enumerate(codes) if holds(code))


def purpose(code: str) -> int:
    """The bit of one purpose, as it is asked for."""
    if code not in PERMISSION_BITS:
        raise ChainError(
            f"{code!r:.40} is no purpose", hint="one of " + ", ".join(PERMISSION_BITS)
        )
    return 1 << PERMISSION_BITS.index(code)


def purposes(codes: Iterable[str]) -> int:
    """The bitmap of some purposes."""
    found = 0
    for code in codes:
        found |= purpose(code)
    return found


def modifiers(codes: Iterable[str]) -> int:
    """The bitmap of modifiers that somebody acknowledges."""
    found = 0
    for code in codes:
        if code not in MODIFIER_BITS:
            raise ChainError(f"{code!r:.40} is no modifier")
        found |= 1 << MODIFIER_BITS.index(code)
    return found


def described(purposes: int, acknowledged: int) -> tuple[list[str], list[str]]:
    """Codes of a grant's purposes and modifiers; bits without a term are left out."""
    return (
        [code for bit, code in enumerate(PERMISSION_BITS) if purposes >> bit & 1],
        [code for bit, code in enumerate(MODIFIER_BITS) if acknowledged >> bit & 1],
    )
