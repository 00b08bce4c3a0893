"""The trusted child that does tensor work."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

Progress = Callable[[Mapping[str, Any]], None]


class Compute(Protocol):
    """The trusted child that does the key holder's tensor work."""

    async def call(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        progress: Progress | None = None,
    ) -> dict[str, Any]: ...
