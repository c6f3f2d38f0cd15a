#!/usr/bin/env bash
# Formatter, linter and signatures (every public function of src says what it returns). --fix corrects what can be corrected.
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
