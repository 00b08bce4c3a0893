"""What many methods are asked: numbers on the chain, digests, names, paths."""

from typing import Annotated

import msgspec
from msgspec import Meta

# SQLite and Solidity both go further; JSON readers in other languages do not.
NUMBER_LIMIT = 2**53
# `Market.give` refuses more; ten years is longer than any data use agreement we know.
DAYS_LIMIT = 3650
# A grant is a 64-bit map on the chain.
UNITS_LIMIT = 64
_PATH_PATTERN = r"^/[^\x00]*$"
_HEX_DIGITS = 64


def a_digest(what: str) -> Meta:
    # The length as well: in a pattern, `$` lets a newline follow.
    return Meta(
        pattern="^[0-9a-f]*$",
        min_length=_HEX_DIGITS,
        max_length=_HEX_DIGITS,
        description=f"{what}, {_HEX_DIGITS} lower-case hex digits",
    )


Run = Annotated[str, a_digest("the run's id")]
Model = Annotated[str, a_digest("the model's root")]
Receipt = Annotated[str, a_digest("the receipt's digest")]
Dataset = Annotated[
    int, Meta(ge=0, le=NUMBER_LIMIT, description="the dataset's number on the chain")
]
Grant = Annotated[
    int, Meta(ge=0, le=NUMBER_LIMIT, description="the grant's number on the chain")
]
Request = Annotated[
    int, Meta(ge=0, le=NUMBER_LIMIT, description="the request's number on the chain")
]
Case = Annotated[
    int, Meta(ge=0, le=NUMBER_LIMIT, description="the case's number on the chain")
]
# A string: a price goes to 2^96, and JSON readers in other languages to 2^53.
Amount = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]*$",
        min_length=1,
        max_length=29,
        description="a whole number in decimal digits",
    ),
]
Address = Annotated[
    str,
    Meta(
        pattern=r"^0x[0-9a-fA-F]*$",
        min_length=42,
        max_length=42,
        description="an account on the chain, 0x and 40 hex digits",
    ),
]
Party = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="a member's name, or an account on the chain",
    ),
]
Code = Annotated[
    str, Meta(pattern=r"^DUO:[0-9]*$", max_length=11, description="a DUO term")
]
Days = Annotated[int, Meta(ge=1, le=DAYS_LIMIT)]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="a member's name in the registry, or its peer id",
    ),
]
Units = Annotated[
    list[Annotated[int, Meta(ge=0, lt=UNITS_LIMIT)]],
    Meta(
        min_length=1,
        max_length=UNITS_LIMIT,
        description=f"consent units by number, 0 to {UNITS_LIMIT - 1}; left out: all",
    ),
]


def a_path(description: str) -> Meta:
    return Meta(
        pattern=_PATH_PATTERN,
        max_length=4096,
        description=description + "; an absolute path on the daemon's machine",
    )


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all of them."""


class Nothing(Params, frozen=True):
    """No parameters."""
