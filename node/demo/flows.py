"""Who sent what to whom, as the nodes themselves counted it."""

from collections.abc import Sequence


class Flows:
    """Edges of the report's picture; equal ones are added up."""

    def __init__(self) -> None:
        self._edges: dict[tuple[str, str, str], list[int]] = {}

    def add(
        self, source: str, target: str, kind: str, *, count: int, size: int
    ) -> None:
        """`count` messages of `size` bytes in all."""
        edge = self._edges.setdefault((source, target, kind), [0, 0])
        edge[0] += count
        edge[1] += size

    def report(self, nodes: Sequence[str]) -> dict[str, object]:
        """For `report.json`."""
        return {
            "nodes": list(nodes),
            "edges": [
                {"from": a, "to": b, "kind": kind, "count": count, "bytes": size}
                for (a, b, kind), (count, size) in self._edges.items()
            ],
        }
