"""One host of S-mode: `rexis smode serve --socket PATH`.

It is given public matrices, and then either shares or the seed they were padded with, never
both; it answers products.  It needs numpy and no torch.  One connection is one session.
"""

import argparse
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ee.errors import EncryptionError
from ee.smode import HostShare, Request, arithmetic_named
from node.errors import ComputeError
from node.worker import wire

SEED = "seed"
"""A session opened with this tensor is the second host's."""


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """(rows, n) words to (rows, n * width) bytes: ring words are no floats on the wire."""
    return np.ascontiguousarray(array).view(np.uint8)


class Session:
    """What one connection may do: load once, then multiply."""

    def __init__(self) -> None:
        self._host: HostShare | None = None
        self._word = np.dtype(np.float32)

    def answer(
        self, header: dict[str, Any], tensors: wire.Tensors
    ) -> tuple[dict[str, Any], wire.Tensors]:
        """One request; a refusal is an answer."""
        try:
            if header.get("op") == "load":
                return self._load(header, tensors)
            return self._multiply(header, tensors)
        except EncryptionError as error:
            return {"error": str(error)}, {}
        except (KeyError, ValueError, TypeError) as error:
            return {"error": f"a request that cannot be read: {error}"}, {}

    def _load(
        self, header: dict[str, Any], tensors: wire.Tensors
    ) -> tuple[dict[str, Any], wire.Tensors]:
        if self._host is not None:
            raise EncryptionError("this session is loaded; pads would start again")
        arithmetic = arithmetic_named(str(header["arithmetic"]))
        seed = tensors.pop(SEED, None)
        secret = None if seed is None else seed.tobytes()
        self._word = arithmetic.word
        self._host = HostShare(arithmetic, tensors, secret)
        return {"ok": True}, {}

    def _multiply(
        self, header: dict[str, Any], tensors: wire.Tensors
    ) -> tuple[dict[str, Any], wire.Tensors]:
        if self._host is None:
            raise EncryptionError("nothing is loaded in this session")
        share = tensors.get("share")
        request = Request(
            layer=str(header["layer"]),
            backward=bool(header["backward"]),
            pad=int(header["pad"]),
            rows=int(header["rows"]),
            share=None if share is None else share.view(self._word),
        )
        return {"ok": True}, {"product": as_bytes(self._host.answer(request).product)}


def serve(path: Path) -> NoReturn:
    """One session after another, until the process is ended."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(1)
        sys.stdout.write(f"ready {path}\n")
        sys.stdout.flush()
        while True:
            connection, _ = listener.accept()
            with connection:
                _serve_one(connection)


def _serve_one(connection: socket.socket) -> None:
    session = Session()
    try:
        while True:
            header, tensors = wire.receive(connection)
            wire.send(connection, *session.answer(header, tensors))
    except wire.WorkerGone:
        return
    except (ComputeError, OSError) as error:
        sys.stderr.write(f"session ended: {error}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="rexis smode serve", description=__doc__)
    parser.add_argument("--socket", required=True, type=Path, metavar="PATH")
    try:
        serve(parser.parse_args().socket)
    except OSError as error:
        sys.stderr.write(f"error: {error.strerror or error}\n")
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
