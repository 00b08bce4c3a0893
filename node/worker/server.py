"""Serve trunks over a unix socket: one session per connection, one trunk per session.

The worker is not trusted, so it is given nothing worth having: keyed weights and keyed
activations come in, the same go out.  It has no table, no token, no label, no key.  A
session lives in the connection; when that closes the trunk is dropped.
"""

import resource
import socket
import sys
import threading
from pathlib import Path

from ee import integer
from ee.integer import SelfTestError
from node.errors import ComputeError
from node.worker import wire
from node.worker.activation import inherited
from node.worker.session import Session, Trunks

SESSIONS_AT_ONCE = 8
MEMORY_FLOOR_MIB = 256
"""Under this the worker's own libraries do not fit."""


def limit_memory(mib: int) -> None:
    """Refuse this process any allocation that would make its data larger than `mib`.

    A session that asks for more is told so, where the kernel's killer would end all of them.
    """
    if mib < MEMORY_FLOOR_MIB:
        raise ComputeError(
            f"a worker of {mib} MiB, needs at least {MEMORY_FLOOR_MIB}",
            hint="choose a larger --memory, or none",
        )
    # Of the data alone: address space counts libraries and reservations nobody touches.
    resource.setrlimit(resource.RLIMIT_DATA, (mib << 20, mib << 20))


def serve(path: Path, trunks: Trunks | None = None) -> None:
    """Listen until the process is ended; a stale socket of a dead worker is replaced.

    Raises `ComputeError` on a machine that would give answers no auditor can confirm.
    """
    try:
        integer.self_test()
    except SelfTestError as error:
        raise ComputeError(str(error), hint="run the worker elsewhere") from error
    with inherited() or _bound(path) as listener:
        sys.stdout.write(f"ready {path}\n")
        sys.stdout.flush()
        slots = threading.BoundedSemaphore(SESSIONS_AT_ONCE)
        while True:
            connection, _ = listener.accept()
            slots.acquire()
            threading.Thread(
                target=_serve_one,
                args=(connection, slots, Session(trunks)),
                daemon=True,
            ).start()


def _serve_one(
    connection: socket.socket, slots: threading.BoundedSemaphore, session: Session
) -> None:
    try:
        with connection:
            while True:
                wire.send(connection, *_answered(connection, session))
    except wire.WorkerGone:
        pass
    except (ComputeError, OSError) as error:
        sys.stderr.write(f"session ended: {error}\n")
    finally:
        session.close()
        slots.release()


def _answered(
    connection: socket.socket, session: Session
) -> tuple[dict[str, object], wire.Tensors]:
    """One request in, its answer; tensors that do not fit are answered like any refusal."""
    try:
        header, tensors = wire.receive(connection)
    except wire.NoRoomError as error:
        return session.out_of_memory("receiving", error)
    return session.answer(header, tensors)


def _bound(path: Path) -> socket.socket:
    _clear_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(SESSIONS_AT_ONCE)
    return listener


def _clear_stale(path: Path) -> None:
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise ComputeError(
        f"a worker already listens at {path}",
        hint="stop it, or choose another --socket",
    )
