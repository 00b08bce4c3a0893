"""How a contract says no: one wording and one hint per custom error, in both adapters.

Light on purpose: the chain in memory needs no web3.
"""

from node.errors import ContractRefusedError

_HINTS = {
    "NotMember": "ask the registry's owner to register this account",
    "MissingRole": "ask the registry's owner for the role",
    "OwnableUnauthorizedAccount": "only the registry's owner may do this; use its key",
    "AccountTaken": "every member needs an account of its own",
    "InvalidUnits": "choose units that the dataset has",
    "InvalidToken": "name the address of an ERC-20 contract on this chain",
    "InvalidExpiry": "choose a time after the chain's newest block",
    "NotOwner": "only the account that listed the dataset may do this",
    "AlreadyDisputed": "`rexis dispute list` shows what came of it; a receipt is disputed once",
    "WindowOver": "a receipt is disputed while its window of challenges is open, or not at all",
    "ConflictingAnchor": "this account anchored another digest there; an anchor is never replaced",
}


def refused(doing: str, name: str, /, **values: object) -> ContractRefusedError:
    """`doing` met the custom error `name` with these fields."""
    shown = ", ".join(f"{key}={_shown(value)}" for key, value in values.items())
    return ContractRefusedError(
        name,
        f"{doing} refused: {name}({shown})",
        hint=_HINTS.get(name, ""),
        values=values,
    )


def _shown(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)
