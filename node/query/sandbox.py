"""Shut this process in: no network, no files, no programs, no more memory than said.

Four layers, each entered if the kernel has it:

- limits (any POSIX): memory, processor time, no new files, no file that grows, no core;
- no new privileges and no dumps (Linux);
- a network namespace of its own with nothing in it (Linux, where user namespaces are allowed);
- a list of the few system calls that arithmetic needs, all others refused (Linux on x86-64 and
  ARM64): no socket, no open, no exec, no fork.

`enter` tries the network afterwards.  Unless the system-call list or the namespace holds it
raises, and no record has been read yet.
"""

import ctypes
import errno
import platform
import resource
import socket
import struct
import sys

MEMORY_BYTES = 8 << 30
CPU_S = 300

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_AT_NUMBER, _AT_ARCH = 0, 4

# linux/audit.h and the kernel's tables of system calls: read, write, close, fstat, lseek, mmap,
# mprotect, munmap, brk, rt_sigaction, rt_sigprocmask, rt_sigreturn, writev, sched_yield, mremap,
# madvise, getpid, exit, sigaltstack, gettid, futex, sched_getaffinity, clock_gettime,
# exit_group, tgkill, getrandom, rseq.
_CALLS = {
    "x86_64": (
        0xC000003E,
        (
            *(0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 20, 24, 25, 28, 39, 60, 131),
            *(186, 202, 204, 228, 231, 234, 318, 334),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 66, 124, 216, 233),
            *(172, 93, 132, 178, 98, 123, 113, 94, 131, 278, 293),
        ),
    ),
}


class SandboxError(Exception):
    """The process could not be shut in."""


def enter() -> dict[str, bool]:
    """Shut in for good; says which layers hold."""
    layers = {"limits": True, "privileges": False, "namespace": False, "calls": False}
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        # The system calls go last: nothing else could be set up after them.
        layers["privileges"] = (
            libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            and libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
        )
        flags = _CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC
        layers["namespace"] = libc.unshare(flags) == 0
        _limit()
        layers["calls"] = layers["privileges"] and _filter(libc)
    else:
        _limit()
    if not (layers["namespace"] or layers["calls"]) or _reaches_network():
        raise SandboxError(
            "this kernel offers neither a network namespace nor a list of system calls"
        )
    return layers


def _limit() -> None:
    for name, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(name)
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(name, (value, value))


def _filter(libc: ctypes.CDLL) -> bool:
    known = _CALLS.get(platform.machine())
    if known is None:
        return False
    arch, calls = known

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    program = b"".join(
        [
            step(_LOAD, _AT_ARCH),
            step(_EQUAL, arch, 1, 0),
            step(_RETURN, _KILL),
            step(_LOAD, _AT_NUMBER),
            *(
                step(_EQUAL, call, len(calls) - place)
                for place, call in enumerate(calls)
            ),
            step(_RETURN, _REFUSE),
            step(_RETURN, _ALLOW),
        ]
    )
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    return libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described, 0, 0) == 0


def _reaches_network() -> bool:
    """A UDP socket that is connected sends nothing, but needs a route."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("127.0.0.1", 9))
    except OSError:
        return False
    return True
