"""How a contract says no: one wording and one hint per custom error, in both adapters.

Light on purpose: the chain in memory needs no web3.
"""

from datetime import UTC, datetime

from node.adapters import chain_duo
from node.errors import ContractRefusedError
from node.ports.market import RequestStatus
from protocol.members import (
    ROLE_AUDITOR,
    ROLE_COMPUTE_HOST,
    ROLE_DATA_PROVIDER,
    ROLE_RESEARCHER,
)

_HINTS = {
    "NotMember": "ask the registry's owner to register this account",
    "MissingRole": "ask the registry's owner for the role",
    "OwnableUnauthorizedAccount": "only the registry's owner may do this; use its key",
    "AccountTaken": "every member needs an account of its own",
    "InvalidUnits": "choose units that the dataset has",
    "InvalidToken": "name the address of an ERC-20 contract on this chain",
    "InvalidExpiry": "choose a time after the chain's newest block, within the longest grant",
    "NotOwner": "only the account that listed the dataset may do this",
    "ConflictingAnchor": "this account anchored another digest there; an anchor is never replaced",
    # Datasets and grants.
    "NoSuchDataset": "`rexis dataset list` shows what is on the chain",
    "NoSuchGrant": "`rexis grant list DATASET` shows what was given",
    "NotCommittee": "another decides: `rexis dataset show` names who; members ask with "
    "`rexis grant request`",
    "PurposeNotAllowed": "`rexis dataset show` says what the dataset is for; give a grant for less",
    "NotAcknowledged": "acknowledge each condition of the dataset with --acknowledge",
    "AlreadyRevoked": "nothing is left to do",
    "AlreadyListed": "publish other data, or the next version with --replaces",
    "Withdrawn": "it was taken back for good; look for a newer version",
    "OwnDataset": "its owner reads it without a grant",
    "InvalidCommittee": "name a member or a committee",
    "InvalidTerms": "say one permission at least, and days above 0",
    "NarrowerThanGranted": "the asker has more than this already; let it ask for no less, or revoke "
    "what it has first",
    # Requests and money.
    "NoSuchRequest": "`rexis grant requests` lists what is",
    "WrongStatus": "`rexis grant requests` shows what became of it",
    "NotGrantee": "only who asked may do this",
    "StaleRecord": "the dataset has another listing by now: look at it again",
    "PriceAbove": "the price went up: `rexis dataset show` names it, --max-price agrees to it",
    "TokenNotAccepted": "the members have not voted for this token: `rexis council list`, "
    "`rexis council propose --take 0x…`",
    "TooManyOpen": "cancel a request, or wait for an answer to one",
    "TooLate": "its time is over",
    "TooEarly": "wait until then",
    "NothingToCollect": "`rexis market show` says what waits, and of which token",
    "ERC20InsufficientBalance": "this account has too little of the token: `rexis market show`",
    "ERC20InsufficientAllowance": "ask again; the node allows the amount with each request",
    # Committees.
    "InvalidSeats": "at least one seat has to decide, at most all of them",
    "InvalidSeat": "each seat is an account of its own",
    "NotEnoughSignatures": "wait until more seats have said the same",
    "ActExpired": "let the seats say it again",
    # Council.
    "NoSuchProposal": "`rexis council list` shows what was proposed",
    "VotingOver": "propose it again",
    "AlreadyVoted": "a vote counts once",
    "MemberTooNew": "who joined after a proposal has no vote on it; propose it again",
    "NotPassed": "more than half of all members have to agree first",
    "NotReady": "wait until then",
    "AlreadyDone": "`rexis council list` shows what is in force",
    "OutOfBounds": "choose a value within the bounds",
    # Cases.
    "NoSuchCase": "`rexis market cases` lists them",
    "CaseOver": "`rexis market cases` shows the outcome",
    "CaseRuns": "wait until then, or for a quorum of auditors",
    "Partial": "a party of the case has no vote in it",
    "AuditorTooNew": "only who was an auditor before the case was opened may vote",
    "AlreadyChallenged": "`rexis market cases` has the case",
    "WindowOver": "it came too late to be challenged or disputed",
    "AlreadyDisputed": "`rexis dispute list` shows what came of it; a receipt is disputed once",
    "StakeTooSmall": "`rexis market show` names the bond; stake more, or ask for less back",
    "StillLiable": "wait until then",
    "CasesPending": "wait for the outcome of the cases",
    "NothingLeaves": "ask some of the stake back first",
}
_TIMES = {
    *("until", "earliest", "latest", "ready", "closes", "deadline"),
    *("ended", "since", "opened", "leaves", "issued", "decided"),
}
_ROLES = {
    ROLE_DATA_PROVIDER: "data provider",
    ROLE_RESEARCHER: "researcher",
    ROLE_COMPUTE_HOST: "compute host",
    ROLE_AUDITOR: "auditor",
}
_LAST_S = 253_402_300_799
"""The last second that a date has, in the year 9999."""


def refused(doing: str, name: str, /, **values: object) -> ContractRefusedError:
    """`doing` met the custom error `name` with these fields."""
    shown = ", ".join(f"{key}={_shown(key, value)}" for key, value in values.items())
    return ContractRefusedError(
        name,
        f"{doing} refused: {name}({shown})",
        hint=_HINTS.get(name, ""),
        values=values,
    )


def _shown(key: str, value: object) -> str:
    """As the commands write it elsewhere: codes, words and times, not bits and seconds."""
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if not isinstance(value, int) or isinstance(value, bool):
        return str(value)
    if key in {"purposes", "allowed"}:
        return " ".join(chain_duo.described(value, 0)[0]) or "nothing"
    if key in {"acknowledged", "required"}:
        return " ".join(chain_duo.described(0, value)[1]) or "nothing"
    if key == "status" and value in {one.value for one in RequestStatus}:
        return RequestStatus(value).name.lower()
    if key == "role":
        return _ROLES.get(value, str(value))
    if key in _TIMES:
        return (
            f"{datetime.fromtimestamp(min(value, _LAST_S), UTC):%Y-%m-%d %H:%M:%S} UTC"
        )
    return str(value)
