"""What can be wrong with an integer trunk, its bytes, its rows, or this machine."""

from ee.errors import EncryptionError


class IntegerModelError(EncryptionError):
    """A float model, a row or a shape that the integer trunk cannot take."""


class MalformedTrunkError(IntegerModelError):
    """The bytes are not the canonical form of any integer trunk."""


class SelfTestError(IntegerModelError):
    """The machine does not compute the op-spec; it must neither serve nor audit."""
