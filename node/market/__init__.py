"""Tables, their encryption and what may be said of them in public."""

from typing import ClassVar

from node.errors import NodeError


class DatasetError(NodeError):
    """A table, or what is said of it, cannot be published as it is."""

    code: ClassVar[int] = 220
