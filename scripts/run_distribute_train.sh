#!/usr/bin/env bash
# Train on several devices: bash scripts/run_distribute_train.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${VENV:-$root/.venv}/bin/python
[ -x "$python" ] || python=python3
exec "$python" "$root/scripts/launch.py" train "$@"
