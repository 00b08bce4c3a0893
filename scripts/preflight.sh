#!/bin/sh
# Say what is missing before pip fails halfway, with the one command that installs it.
set -eu
fail() { printf 'rexis: error: %s\nrexis: hint: %s\n' "$1" "$2" >&2; exit 1; }
PYTHON=$(command -v python3.11 || command -v python3 || true)
[ -n "$PYTHON" ] || fail "Python 3.11 is not installed" "sudo apt-get install -y python3.11 python3.11-venv python3.11-dev"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    fail "Python 3.11 is needed, $PYTHON is $("$PYTHON" -V)" "sudo apt-get install -y python3.11 python3.11-venv python3.11-dev"
command -v cc >/dev/null || command -v gcc >/dev/null ||
    fail "no C compiler" "sudo apt-get install -y build-essential"
printf '#include <gmp.h>\nint main(void){return 0;}\n' | cc -x c -c -o /dev/null - 2>/dev/null ||
    fail "the GMP headers are missing (libp2p compiles against them)" "sudo apt-get install -y libgmp-dev"
