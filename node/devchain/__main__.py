"""`python -m node.devchain --db PATH --port N`: run the development chain until told to stop."""

import argparse
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from node.devchain.kv import SqliteKV
from node.devchain.ledger import Ledger
from node.devchain.methods import Methods
from node.devchain.server import Server
from node.errors import NodeError

DEFAULT_CHAIN_ID = 31337


def _account(text: str) -> bytes:
    raw = bytes.fromhex(text.removeprefix("0x"))
    if len(raw) != 20:
        raise argparse.ArgumentTypeError(f"{text} has {len(raw)} bytes, needs 20")
    return raw


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m node.devchain", description=__doc__
    )
    parser.add_argument("--db", type=Path, required=True, help="SQLite file")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--chain-id", type=int, default=DEFAULT_CHAIN_ID)
    parser.add_argument(
        "--fund",
        type=_account,
        action="append",
        default=[],
        metavar="ADDRESS",
        help="give this account something if it has nothing; may be repeated",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Serve; returns the exit status."""
    options = _arguments(argv)
    try:
        kv = SqliteKV(options.db)
        methods = Methods(Ledger(kv, options.chain_id), kv)
        for account in options.fund:
            methods.fund_if_empty(account)
        server = Server(options.port, methods)
    except (NodeError, OSError, OverflowError) as error:
        hint = error.hint() if isinstance(error, NodeError) else ""
        sys.stderr.write(f"error: {error}\n" + (f"hint: {hint}\n" if hint else ""))
        return 1

    def stop(_number: int, _frame: FrameType | None) -> None:
        # shutdown() waits for serve_forever, which runs below this very frame.
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    sys.stdout.write(f"ready {server.url}\n")
    sys.stdout.flush()
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    kv.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
