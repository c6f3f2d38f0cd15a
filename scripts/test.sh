#!/usr/bin/env bash
# Run the tests; creates .venv first if needed. --all adds the tests that start training processes.
# Further arguments go to pytest: bash scripts/test.sh tests/boxes
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/environment.sh"
cd "$root"
which=(-m "not slow")
if [ "${1:-}" = --all ]; then
    which=()
    shift
fi
exec "${VENV:-$root/.venv}/bin/python" -m pytest "${which[@]+"${which[@]}"}" "$@"
