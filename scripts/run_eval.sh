#!/usr/bin/env bash
# Evaluate on one device or several: bash scripts/run_eval.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${VENV:-$root/.venv}/bin/python
[ -x "$python" ] || python=python3
exec "$python" "$root/scripts/launch.py" eval "$@"
