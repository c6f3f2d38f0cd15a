#!/usr/bin/env bash
# Train on one device: bash scripts/run_standalone_train.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${VENV:-$root/.venv}/bin/python
[ -x "$python" ] || python=python3
exec "$python" "$root/scripts/launch.py" train --standalone "$@"
