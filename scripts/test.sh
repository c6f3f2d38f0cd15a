#!/usr/bin/env bash
# Run the tests; makes .venv first where needed. Further arguments go to pytest: bash scripts/test.sh tests/boxes
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/environment.sh"
cd "$root"
exec "${VENV:-$root/.venv}/bin/python" -m pytest "$@"
