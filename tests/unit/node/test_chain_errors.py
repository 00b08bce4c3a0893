"""A contract's no, as a person reads it."""

import pytest

from node.adapters.chain_errors import refused
from node.adapters.evm_contracts import artifact

MET = ("datasets", "market", "council", "committee", "board")
NEVER = {
    # The node makes these values itself, or checks them before it asks.
    *("AnotherCall", "BadSignature", "InvalidDigest", "InvalidRecord", "InvalidTarget"),
    *("NoToken", "NotBoard", "NotDisputes", "NotIncluded", "NotMarket", "NotNext"),
    *("NotTransferable", "OrderExpired", "OrderFromTheFuture", "StaleOrder"),
    *("StaleVersion", "WrongAmount"),
}


def foreign(name):
    """Errors that the libraries bring along; ours say more, and earlier."""
    return name.startswith(
        ("ERC", "EIP", "ECDSA", "Safe", "Ownable", "Reentrancy")
    ) or (
        name
        in {"InvalidShortString", "StringTooLong", "AddressEmptyCode", "FailedCall"}
    )


def test_every_no_of_the_market_that_a_person_can_meet_says_what_to_do():
    names = {
        item["name"]
        for contract in MET
        for item in artifact(contract)["abi"]
        if item["type"] == "error" and not foreign(item["name"])
    }
    assert names > NEVER
    assert {name for name in names - NEVER if not refused("x", name).hint()} == set()


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("WrongStatus", {"request": 3, "status": 5}, "(request=3, status=refunded)"),
        ("WrongStatus", {"request": 3, "status": 99}, "(request=3, status=99)"),
        (
            "PurposeNotAllowed",
            {"purposes": 2, "allowed": 12},
            "(purposes=DUO:0000042, allowed=DUO:0000006 DUO:0000007)",
        ),
        ("NotReady", {"ready": 1_796_255_774}, "(ready=2026-12-02 23:56:14 UTC)"),
        ("NotReady", {"ready": 1 << 60}, "(ready=9999-12-31 23:59:59 UTC)"),
        ("MissingRole", {"account": b"\x01\x02", "role": 1}, "role=data provider)"),
    ],
)
def test_values_are_told_as_the_commands_tell_them(name, values, said):
    error = refused("doing", name, **values)
    assert str(error).endswith(said)
    assert error.values == values
