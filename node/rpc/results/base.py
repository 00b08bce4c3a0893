"""What many answers hold."""

from typing import Annotated

import msgspec
from msgspec import Meta

Hex = Annotated[str, Meta(pattern="^[0-9a-f]*$", description="lower-case hex digits")]
Digest = Annotated[
    str, Meta(pattern="^[0-9a-f]{64}$", description="32 bytes, lower-case hex")
]
Account = Annotated[
    str,
    Meta(pattern="^(0x)?[0-9a-fA-F]{40}$", description="20 bytes, the chain account"),
]
Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[
    str,
    Meta(pattern="^[0-9]+$", description="a whole number, as it may pass 2^53"),
]


def said(description: str) -> Meta:
    return Meta(description=description)


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all of them."""
