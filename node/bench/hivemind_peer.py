"""One peer of hivemind's averaging: `hivemind_peer.py ENTRIES`, in an environment of its own.

Nothing of this program is imported, nor could be: `node.bench.yardstick` has the interpreter.
Lines of JSON, as in `node.bench.round_peer`; values travel as float16, two bytes as ours.
"""

import json
import sys
import time

_AT_MOST_S = 90.0


def main(entries: int) -> None:
    # Neither is in the environment of this program's checks.
    import hivemind  # type: ignore[import-not-found]
    import torch
    from hivemind.averaging.partition import (  # type: ignore[import-not-found]
        AllreduceException,
    )
    from hivemind.compression import (  # type: ignore[import-not-found]
        Float16Compression,
    )

    torch.set_num_threads(1)
    peers = json.loads(sys.stdin.readline())
    dht = hivemind.DHT(
        initial_peers=peers, start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"]
    )
    _tell([str(address) for address in dht.get_visible_maddrs()])
    members = json.loads(sys.stdin.readline())
    averager = hivemind.averaging.DecentralizedAverager(
        [torch.randn(entries)],
        dht,
        prefix="bench",
        target_group_size=members,
        min_group_size=members,
        compression=Float16Compression(),
        allow_state_sharing=False,
        start=True,
    )
    _tell({"ready": True})
    while sys.stdin.readline():
        began = time.perf_counter()
        try:
            group = averager.step(timeout=60, wait=False).result(timeout=_AT_MOST_S)
        except (AllreduceException, TimeoutError) as error:
            # Four that look for each other miss now and then: a turn that does not count.
            sys.stderr.write(f"no group this time: {error!r}\n")
            group = None
        seconds = time.perf_counter() - began
        _tell({"seconds": seconds, "group": 0 if group is None else len(group)})
    averager.shutdown()
    dht.shutdown()


def _tell(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
