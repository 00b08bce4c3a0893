#!/bin/sh
# Say everything that is missing before pip fails halfway, and the one command that
# installs it.  Looks only; installs nothing.
set -eu

PYTHON=$(command -v python3.11 || command -v python3 || true)
missing=""  # for people
apt=""      # the same as packages of Debian and Ubuntu
dnf=""      # the same as packages of Fedora and RHEL

lacks() {
    missing="${missing:+$missing, }$1"
    apt="$apt $2"
    dnf="$dnf $3"
}

if [ -z "$PYTHON" ]; then
    lacks "Python 3.11" "python3.11 python3.11-venv python3.11-dev" "python3.11 python3.11-devel"
elif ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
    lacks "Python 3.11 ($PYTHON is $("$PYTHON" -V 2>&1))" \
        "python3.11 python3.11-venv python3.11-dev" "python3.11 python3.11-devel"
else
    # Debian splits both off; python3.11 alone makes no environment and builds no wheel.
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        lacks "venv of Python 3.11" "python3.11-venv" "python3.11"
    header=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
    [ -f "$header" ] || lacks "Python.h" "python3.11-dev" "python3.11-devel"
fi

CC=$(command -v cc || command -v gcc || true)
[ -n "$CC" ] || lacks "a C compiler" "build-essential" "gcc"
command -v make >/dev/null || lacks "make" "make" "make"
# Without a compiler the header cannot be looked for by compiling, so by its usual place.
if [ -n "$CC" ]; then
    printf '#include <gmp.h>\nint main(void){return 0;}\n' |
        "$CC" -x c -c -o /dev/null - 2>/dev/null || lacks "the GMP headers" "libgmp-dev" "gmp-devel"
elif [ ! -f /usr/include/gmp.h ] && ! ls /usr/include/*/gmp.h >/dev/null 2>&1; then
    lacks "the GMP headers" "libgmp-dev" "gmp-devel"
fi

[ -z "$missing" ] && exit 0
if command -v apt-get >/dev/null; then
    hint="sudo apt-get install -y$apt"
elif command -v dnf >/dev/null; then
    hint="sudo dnf install -y$dnf"
else
    hint="install these by your system's package manager (Debian's names:$apt)"
fi
printf 'rexis: error: missing: %s\nrexis: hint: %s\n' "$missing" "$hint" >&2
exit 1
