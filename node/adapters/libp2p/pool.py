"""Which chunks of a blob are missing, and who has been asked for which: no IO, no clock."""

from heapq import heapify, heappop, heappush

from protocol.types import PeerId

SPAN_CHUNKS = 64
"""Most chunks of one request: at 50 MB/s and 80 ms there and back the pause between two
requests costs six percent."""
LATE_S = 2.0
"""After this long a chunk may be asked of a second holder, if that one is idle."""
LATE_CHUNKS = 8


class Pool:
    """Lowest chunks first, because the hash of the whole can only follow in order."""

    def __init__(self, missing: list[int], streams: int) -> None:
        """`streams` share the work; near the end the spans become shorter."""
        self._free = list(missing)
        heapify(self._free)
        self._flying: dict[int, dict[PeerId, float]] = {}
        self._landing: set[int] = set()
        self._streams = streams

    @property
    def done(self) -> bool:
        return not self._free and not self._flying and not self._landing

    def claim(self, peer: PeerId, span: range, now: float) -> None:
        """Note that `peer` has been asked for `span` already."""
        for index in span:
            if index in self._free:
                self._free.remove(index)
                self._flying[index] = {peer: now}
        heapify(self._free)

    def take(self, peer: PeerId, now: float) -> range | None:
        """The next chunks to ask `peer` for; None if there is nothing for it now."""
        most = min(SPAN_CHUNKS, max(1, len(self._free) // self._streams))
        taken: list[int] = []
        while self._free and len(taken) < most:
            if taken and self._free[0] != taken[-1] + 1:
                break
            taken.append(heappop(self._free))
        taken = taken or self._late(peer, now)
        for index in taken:
            self._flying.setdefault(index, {})[peer] = now
        return range(taken[0], taken[-1] + 1) if taken else None

    def land(self, index: int) -> bool:
        """Whether a chunk that has arrived is to be written; true for the first only."""
        if self._flying.pop(index, None) is None:
            return False
        self._landing.add(index)
        return True

    def landed(self, index: int) -> None:
        self._landing.remove(index)

    def failed(self, peer: PeerId, span: range) -> None:
        """What `peer` did not bring is free again, unless another is bringing it."""
        for index in span:
            asked = self._flying.get(index, {})
            if asked.pop(peer, None) is not None and not asked:
                del self._flying[index]
                heappush(self._free, index)

    def _late(self, peer: PeerId, now: float) -> list[int]:
        """From the far end of what another is slow with: it is coming from the near."""
        late = sorted(
            index
            for index, asked in self._flying.items()
            if len(asked) == 1
            and peer not in asked
            and now - max(asked.values()) > LATE_S
        )
        most = min(LATE_CHUNKS, (len(late) + 1) // 2)
        start = len(late) - 1
        while (
            start > 0
            and len(late) - start < most
            and late[start - 1] + 1 == late[start]
        ):
            start -= 1
        return late[max(start, 0) :]
