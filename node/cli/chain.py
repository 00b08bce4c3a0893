"""What the registrar of a federation does: deploy the contracts, admit members.

The owner's key stays on the registrar's machine, in a key file like any node's.  web3 is
imported inside these commands and nowhere else in the command line.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli import federation
from node.cli.federation import BadFileError, Card, Federation
from node.cli.shell import Noun, Number, Row, Shell, print_fields, say, verb
from node.errors import ChainError, KeyFileError

if TYPE_CHECKING:
    from protocol.members import Member

_HEX_KEY_CHARS = 64


@click.group(cls=Noun)
def chain() -> None:
    """The federation's contracts; only its registrar needs these."""


def _cards(
    _context: click.Context, _option: click.Parameter, value: Sequence[str]
) -> list[Card]:
    try:
        return [federation.read_card(Path(one).expanduser()) for one in value]
    except BadFileError as error:
        raise click.BadParameter(str(error)) from error


_owner_key = click.option(
    "--owner-key",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="A key file of ours, or 64 hex digits; readable by you only.",
)


@verb(chain)
@click.argument("file", type=click.Path(path_type=Path))
def new_owner(shell: Shell, file: Path) -> None:
    """Make the key that will own the registry.

    It is encrypted, in a new FILE. Its account needs some of the chain's currency before it can
    deploy.
    """
    from node.adapters import keyfile
    from node.cli.account import address
    from node.passphrase import read_passphrase

    if file.exists():
        raise KeyFileError(f"{file} exists already", hint="choose another name")
    key = keyfile.create(file, read_passphrase(os.environ, confirm=True))
    answer = {"path": str(file), "account": "0x" + address(key.account_key).hex()}
    shell.fields(answer, [("file", file), ("account", answer["account"])])


@verb(chain)
@click.option("--chain-url", required=True, metavar="URL")
@click.option("--chain-id", type=Number(min=1), required=True)
@_owner_key
def deploy(shell: Shell, chain_url: str, chain_id: int, owner_key: Path) -> None:
    """Put the contracts on a chain.

    The owner of the key will own the registry.

    What this prints with --json is the federation file: give it to every member for `rexis
    init --federation FILE`.
    """
    key = _secret(owner_key)
    from node.adapters import evm_chain

    with shell.working("deploying three contracts"):
        contracts = evm_chain.deploy(chain_url, chain_id, key)
    owner = "0x" + evm_chain.account_address(key).hex()
    answer: Row = {
        "chain_url": chain_url,
        "chain_id": chain_id,
        "contracts": contracts,
        "owner": owner,
    }

    def human() -> None:
        print_fields([*contracts.items(), ("owner", owner)])
        say("")
        say("for config.toml:")
        say("[chain.contracts]")
        for name, address in contracts.items():
            say(f'{name} = "{address}"')

    shell.result(answer, human)


@verb(chain)
@click.argument(
    "cards", nargs=-1, required=True, callback=_cards, metavar="CARD.json..."
)
@click.option(
    "--federation",
    "place",
    callback=federation.read_option,
    required=True,
    metavar="FILE",
    help="What `rexis chain deploy --json` printed.",
)
@_owner_key
@click.option("--remove", is_flag=True, help="Take the members' roles away instead.")
def register(
    shell: Shell, cards: list[Card], place: Federation, owner_key: Path, remove: bool
) -> None:
    """Admit members, or change their roles.

    A CARD is card.json of a member's home.

    Compare the peer id with the member by another way than the one the card came by: whoever
    is registered is trusted with the federation.
    """
    members = [_member(card, remove=remove) for card in cards]
    key = _secret(owner_key)
    import trio

    from node.adapters.evm_chain import EvmChain

    registry = EvmChain(
        url=place.chain_url,
        chain_id=place.chain_id,
        contracts=place.contracts,
        account_key=key,
    )

    async def admit() -> None:
        await registry.check()
        for member in members:
            await registry.register(member, member.roles)

    with shell.working("waiting for the chain"):
        trio.run(admit)
    rows = [
        {
            "name": card.name,
            "peer_id": card.peer_id,
            "roles": [] if remove else list(card.roles),
        }
        for card in cards
    ]
    shell.table(
        {"members": rows},
        "members",
        {
            "name": lambda row: row["name"],
            "roles": lambda row: row["roles"] or "removed",
            "peer id": lambda row: row["peer_id"],
        },
    )


def _member(card: Card, *, remove: bool) -> "Member":
    from protocol import members

    expected = members.peer_id(card.node_key)
    if card.peer_id != expected:
        raise ChainError(
            f"the card of {card.name} names peer {card.peer_id}, but its node key is {expected}",
            hint="the card was changed; ask the member for it again",
        )
    bits = {
        "data provider": members.ROLE_DATA_PROVIDER,
        "researcher": members.ROLE_RESEARCHER,
        "compute host": members.ROLE_COMPUTE_HOST,
        "auditor": members.ROLE_AUDITOR,
    }
    return members.Member(
        node_key=card.node_key,
        seal_key=card.seal_key,
        account=card.account,
        roles=0 if remove else sum(bits[name] for name in set(card.roles)),
        name=card.name,
    )


def _secret(path: Path) -> bytes:
    """The account key in a key file of ours, or in a file of hex digits made elsewhere."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            head = file.read(_HEX_KEY_CHARS + 8)
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from error
    if head.lstrip().startswith(b"{"):
        from node.adapters.keyfile import open_
        from node.passphrase import read_passphrase

        return open_(path, read_passphrase(os.environ)).account_key
    if mode & 0o077:
        raise KeyFileError(
            f"{path} has mode {mode:04o}: others may read it",
            hint=f"run `chmod 600 {path}`",
        )
    try:
        key = bytes.fromhex(head.decode("ascii").strip().removeprefix("0x"))
    except ValueError as error:
        raise KeyFileError(f"{path} is no key file and not hex digits") from error
    if len(key) != _HEX_KEY_CHARS // 2:
        raise KeyFileError(
            f"{path} holds {len(key)} bytes, a key has {_HEX_KEY_CHARS // 2}"
        )
    return key


COMMANDS = (chain,)
