"""How much a process grows by while it works (Linux)."""

from pathlib import Path

_STATUS = Path("/proc/self/status")


class Growth:
    """From the moment it is made: the most memory since, less what was there then."""

    def __init__(self) -> None:
        # 5 sets the high-water mark to what is resident now (proc_pid_clear_refs(5)).
        Path("/proc/self/clear_refs").write_text("5", "ascii")
        self._before = peak_kib()

    def bytes(self) -> int:
        return (peak_kib() - self._before) * 1024

    def megabytes(self) -> float:
        return self.bytes() / 1e6


def peak_kib() -> int:
    """Not `ru_maxrss`: across an exec that keeps the peak of the program there was before."""
    for line in _STATUS.read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise OSError(f"{_STATUS} has no VmHWM")
