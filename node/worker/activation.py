"""The listening socket systemd hands over (sd_listen_fds(3)), so that the worker and the
daemon can be different users and neither needs to write into the other's folder.
"""

import os
import socket

from node.errors import ComputeError

FIRST_DESCRIPTOR = 3  # fixed by systemd: 0, 1 and 2 are the standard streams


def inherited() -> socket.socket | None:
    """The one unix socket that was passed to this very process, or none.

    Raises `ComputeError` if what was passed is something else.
    """
    # The variables are inherited by children; the pid says for whom they were meant.
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    passed = os.environ.get("LISTEN_FDS", "")
    if passed != "1":
        raise ComputeError(
            f"systemd passed {passed or 'no'} sockets, the worker takes 1",
            hint="rexis-worker.socket has one ListenStream= line",
        )
    listener = socket.socket(fileno=FIRST_DESCRIPTOR)
    if (listener.family, listener.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        raise ComputeError(
            f"systemd passed a socket of family {listener.family.name}",
            hint="ListenStream= must be a path: the worker is never on a network",
        )
    return listener
