"""On what terms a dataset is offered: price, token, longest grant, who decides."""

from dataclasses import dataclass, replace

from node.adapters import chain_duo
from node.errors import AccessError
from node.ports.chain import Chain, DatasetToken, Terms
from protocol.listing import Listing

MAX_DAYS = 3650
"""Ten years is longer than any data use agreement we know."""
PRICE_LIMIT = 1 << 96
NO_TOKEN = bytes(20)


@dataclass(frozen=True)
class Offer:
    """What an owner says of it; None leaves that as it is, or at what is usual."""

    price: int | None = None
    """In the token's smallest unit."""
    token: bytes | None = None
    """The ERC-20 of the price."""
    max_days: int | None = None
    committee: bytes | None = None
    """20-byte account of who decides instead of the owner."""

    def check(self) -> None:
        """Before anything is encrypted."""
        if self.price is not None and not 0 <= self.price < PRICE_LIMIT:
            raise AccessError(f"price {self.price}, needs between 0 and 2^96 - 1")
        if self.price and self.token in {None, NO_TOKEN}:
            raise AccessError(
                "a price without its token", hint="name the ERC-20 with --token"
            )
        if self.max_days is not None and not 1 <= self.max_days <= MAX_DAYS:
            raise AccessError(f"{self.max_days} days, needs between 1 and {MAX_DAYS}")

    def terms(self, listing: Listing) -> tuple[int, Terms]:
        """Price and terms of a new dataset: what its listing's codes say, as bits."""
        return self.price or 0, chain_duo.terms_of(
            listing.duo,
            max_days=self.max_days or MAX_DAYS,
            token=self.token or NO_TOKEN,
        )

    def changed(self, token: DatasetToken) -> tuple[int, Terms]:
        """Price and terms of a dataset that is listed, with what is said here put in."""
        terms = replace(
            token.terms,
            max_days=self.max_days or token.terms.max_days,
            token=token.terms.token if self.token is None else self.token,
        )
        return token.price if self.price is None else self.price, terms

    def require_listed(self, token: DatasetToken) -> None:
        """Publishing again never changes terms that others may have read already."""
        price, terms = self.changed(token)
        if (price, terms) != (token.price, token.terms):
            raise AccessError(
                f"dataset {token.dataset} is listed on other terms: price {token.price} "
                f"of token 0x{token.terms.token.hex()}, for {token.terms.max_days} days",
                hint=f"`rexis dataset terms {token.dataset}` changes them",
            )


async def apply(chain: Chain, token: DatasetToken, offer: Offer) -> None:
    """Bring a dataset of ours in line; what is so already costs no transaction."""
    price, terms = offer.changed(token)
    if price and terms.token == NO_TOKEN:
        raise AccessError("a price without its token", hint="name it with --token")
    if (price, terms) != (token.price, token.terms):
        await chain.set_terms(token.dataset, price, terms)
    await seat(chain, token, offer)


async def seat(chain: Chain, token: DatasetToken, offer: Offer) -> None:
    """Name who decides, unless that is so already."""
    if offer.committee is not None and offer.committee != token.committee:
        await chain.set_committee(token.dataset, offer.committee)
