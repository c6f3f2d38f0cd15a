#!/usr/bin/env bash
# What the devices of this machine do with the network, in one table: bash scripts/check_device.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${VENV:-$root/.venv}/bin/python
[ -x "$python" ] || python=python3
exec "$python" "$root/scripts/check_device.py" "$@"
