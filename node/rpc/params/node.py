"""What may be asked of the node itself."""

from typing import Annotated

from msgspec import Meta

from node.rpc.params.base import NUMBER_LIMIT, Params

_EVENTS_LIMIT = 1000
# Longer than a person waits, shorter than the server's patience with a silent program.
_WAIT_LIMIT_S = 60.0


class EventsList(Params, frozen=True):
    after: Annotated[
        int,
        Meta(ge=0, le=NUMBER_LIMIT, description="events with a higher number only"),
    ] = 0
    limit: Annotated[
        int, Meta(ge=1, le=_EVENTS_LIMIT, description=f"at most, 1 to {_EVENTS_LIMIT}")
    ] = 100
    wait_s: Annotated[
        float,
        Meta(
            ge=0,
            le=_WAIT_LIMIT_S,
            description="wait this long for the first one, if there is none yet, "
            f"0 to {_WAIT_LIMIT_S:.0f} seconds",
        ),
    ] = 0.0
