"""What can go wrong in the daemon, each with a number for RPC and a hint for a person.

The message says what is the matter, with the value and the limit; the hint says what to
do.  Neither ever holds a key, a passphrase or a field of a record.
"""

from collections.abc import Mapping
from typing import ClassVar


class NodeError(Exception):
    """Root of the errors an operator may see; the code travels over RPC."""

    code: ClassVar[int] = 100

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self._hint = hint

    def hint(self) -> str:
        """What to do about it; may be empty."""
        return self._hint


class ConfigError(NodeError):
    """The configuration cannot be used as it is."""

    code = 110


class StorageError(NodeError):
    """The data directory, its database or a blob."""

    code = 120


class NoSpaceError(StorageError):
    """Nothing could be written; the same may succeed once the disk has room."""


class KeyFileError(NodeError):
    """A key file cannot be read, opened or written."""

    code = 130


class TransportError(NodeError):
    """A peer, a stream or the listening socket."""

    code = 140


class RpcError(NodeError):
    """The admin interface refused, or could not be reached."""

    code = 150


class AccessError(NodeError):
    """A grant does not cover what was asked."""

    code = 210


class RoundError(NodeError):
    """A training run or round cannot go on as asked."""

    code = 300


class ComputeError(NodeError):
    """The compute child or the worker."""

    code = 400


class ModelError(NodeError):
    """A model on disk, or the key of one."""

    code = 410


class ChainError(NodeError):
    """The chain cannot be reached, is another chain, or refused."""

    code = 500
    temporary: ClassVar[bool] = False
    """Whether the same call may work later with nothing changed on this node."""


class ChainDownError(ChainError):
    """No answer now; the same call may work later."""

    code = 501
    temporary = True


class ContractRefusedError(ChainError):
    """A contract reverted; `name` is its custom error, empty if it gave none, `values` its fields."""

    code = 502

    def __init__(
        self,
        name: str,
        message: str,
        *,
        hint: str = "",
        values: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.name = name
        self.values = values or {}
