"""S-mode: a frozen public base on two hosts that do not collude (docs/attacks.md §3).

The key holder keeps tokens, norms, attention, activations, adapters, loss; a host only ever
multiplies a one-time-padded share by a public matrix.  Nothing here opens a socket: the
programs exchange `Request` and `Reply`, and whoever carries them is the caller's choice.
`ee.smode.model` takes a stock model apart; it is the one part that needs torch, and only a
key holder imports it.
"""

from ee.smode.arithmetic import Arithmetic, Gaussian, Ring, arithmetic_named
from ee.smode.holder import Account, Carry, KeyHolder
from ee.smode.host import HostShare, Reply, Request
from ee.smode.pads import PadLedger, PadReuseError, PadStream
from ee.smode.probe import Probes, WrongProductError

__all__ = [
    "Account",
    "Arithmetic",
    "Carry",
    "Gaussian",
    "HostShare",
    "KeyHolder",
    "PadLedger",
    "PadReuseError",
    "PadStream",
    "Probes",
    "Reply",
    "Request",
    "Ring",
    "WrongProductError",
    "arithmetic_named",
]
