"""Tell systemd how we are (sd_notify(3)): one datagram, and silence without systemd."""

import os
import socket


def ready() -> None:
    """Peers and operators are served from now on."""
    _send("READY=1")


def stopping() -> None:
    """A graceful stop has begun."""
    _send("STOPPING=1")


def _send(state: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket is written with a leading at sign
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.sendto(state.encode(), address)
