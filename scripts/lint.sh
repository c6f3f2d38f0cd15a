#!/usr/bin/env bash
# Check format, lint rules and signatures (return types of all public functions in src). --fix corrects what it can.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/environment.sh"
cd "$root"
ruff=${VENV:-$root/.venv}/bin/ruff
if [ "${1:-}" = --fix ]; then
    "$ruff" format .
    exec "$ruff" check --fix .
fi
"$ruff" format --check .
"$ruff" check .
