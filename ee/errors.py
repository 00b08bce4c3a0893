"""What can go wrong in the algebra; the first root of three (docs/adr/0002)."""


class EncryptionError(Exception):
    """Root of errors about keys, keyed models and their shapes."""


class KeyMismatchError(EncryptionError):
    """A key does not open what it was tried on."""


class UnsupportedModelError(EncryptionError):
    """A model has a part no key is known for; nothing is passed through in the clear."""
