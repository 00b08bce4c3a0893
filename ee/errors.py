"""What can go wrong in the algebra; the first root of three (docs/adr/0002)."""


class EncryptionError(Exception):
    """Root of errors about keys, keyed models and their shapes."""


class KeyMismatchError(EncryptionError):
    """A key does not open what it was tried on."""


class KeyReuseError(EncryptionError):
    """A key was offered for a second session, or after it was destroyed."""


class UnsupportedModelError(EncryptionError):
    """A model has a part no key is known for; nothing is passed through in the clear."""


class UnsupportedLayerError(UnsupportedModelError):
    """One layer or setting of a known architecture; the message names it."""


class EquivarianceError(EncryptionError):
    """A keyed function does not give the keyed result."""

    def __init__(self, message: str, *, error: float, tolerance: float) -> None:
        super().__init__(message)
        self.error = error
        """The largest relative error found."""
        self.tolerance = tolerance
        """What it was allowed to be."""
