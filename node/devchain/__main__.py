"""`python -m node.devchain --db PATH --port N`: run the development chain until told to stop."""

import argparse
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import FrameType

from node.devchain.kv import SqliteKV
from node.devchain.ledger import Ledger
from node.devchain.methods import Methods
from node.devchain.server import Server
from node.errors import NodeError

DEFAULT_CHAIN_ID = 31337


def _account(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not hex") from None
    if len(raw) != 20:
        raise argparse.ArgumentTypeError(f"{text} has {len(raw)} bytes, needs 20")
    return raw


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number from {lowest} to {highest}"
            )
        return int(text)

    return number


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m node.devchain", description=__doc__
    )
    parser.add_argument("--db", type=Path, required=True, help="SQLite file")
    parser.add_argument(
        "--port", type=_whole(0, 65_535), default=0, help="0 takes a free one"
    )
    parser.add_argument(
        "--chain-id", type=_whole(1, 2**53), default=DEFAULT_CHAIN_ID, metavar="ID"
    )
    parser.add_argument(
        "--fund",
        type=_account,
        action="append",
        default=[],
        metavar="ADDRESS",
        help="give this account something if it has nothing; may be repeated",
    )
    parser.add_argument(
        "--allow-time-travel",
        action="store_true",
        help="answer dev_move: tests let hours pass in no time",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Serve; returns the exit status."""
    options = _arguments(argv)
    try:
        with closing(SqliteKV(options.db)) as kv:
            ledger = Ledger(kv, options.chain_id)
            methods = Methods(ledger, kv, time_travel=options.allow_time_travel)
            with Server(options.port, methods) as server:
                for account in options.fund:
                    methods.fund_if_empty(account)
                _serve(server)
    except NodeError as error:
        hint = f"hint: {error.hint()}\n" if error.hint() else ""
        sys.stderr.write(f"error: {error}\n{hint}")
        return 1
    return 0


def _serve(server: Server) -> None:
    """Answer until SIGTERM or SIGINT."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        # shutdown() waits for serve_forever, which runs below this very frame.
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    sys.stdout.write(f"ready {server.url}\n")
    sys.stdout.flush()
    server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    sys.exit(main())
