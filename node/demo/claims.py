"""What the demo claims, what it saw, and whether that is the same thing."""

from collections.abc import Callable
from typing import Any

from node.errors import RpcError


class Claims:
    """Checked in the order in which they are made; nothing is taken back."""

    def __init__(self, tell: Callable[[str, bool], None]) -> None:
        self.rows: list[dict[str, Any]] = []
        self._tell = tell

    def check(self, claim: str, seen: object, *, holds: bool) -> bool:
        """Note what was seen; returns `holds`."""
        self.rows.append({"claim": claim, "seen": str(seen), "holds": bool(holds)})
        self._tell(claim, bool(holds))
        return bool(holds)

    def refused(self, claim: str, ask: Callable[[], object], *, words: str) -> bool:
        """The claim holds if `ask` is refused with `words` in the reason."""
        try:
            ask()
        except RpcError as error:
            return self.check(claim, str(error), holds=words in str(error))
        return self.check(claim, "not refused", holds=False)

    @property
    def all_hold(self) -> bool:
        return bool(self.rows) and all(row["holds"] for row in self.rows)
