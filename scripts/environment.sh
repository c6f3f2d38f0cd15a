#!/usr/bin/env bash
# Create a virtual environment with the packages of requirements-test.txt, or do nothing if it is up to date.
#   PYTHON=python3.11  the Python to use (3.7 - 3.12; default: the first that works)
#   VENV=folder        folder of the environment (default: .venv in the repository)
#   WORLD=2            major version of MindSpore: 2 also on Python 3.9 (2.9, the last release that supports it)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
[ ! -L "$venv" ] || venv=$(readlink -f "$venv")   # venv --clear empties the folder behind a link, and fails
world=${WORLD:-}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.10 python3.9 /usr/bin/python3}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 7) <= sys.version_info[:2] <= (3, 12))' \
            >/dev/null 2>&1; then
            # that of the environment itself, activated, is a link to the Python it was made with, and is about to be removed
            "$candidate" -c 'import os, sys; own = os.path.realpath(sys.prefix) == os.path.realpath(sys.argv[1])
print(os.path.realpath(sys.executable) if own else sys.executable)' "$venv"
            return
        fi
    done
    echo "error: no usable Python (3.7 - 3.12 with the venv module) among: ${PYTHON:-python3, python3.9 - 3.12}; name one with PYTHON=..., or install python3-venv" >&2
    return 2
}

installed_mindspore() {
    "$1" - <<'PY'
try:
    from importlib.metadata import distributions
except ImportError:
    pass
else:
    names = {(d.metadata["Name"] or "").lower().replace("_", "-") for d in distributions()}
    print(" ".join(sorted(n for n in names if n in ("mindspore", "mindspore-gpu", "mindspore-ascend", "mindspore-dev"))))
PY
}

stamp=$(cat "$root/requirements.txt" "$root/requirements-test.txt" <(echo "$world") | cksum)
if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/installed" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi
python=$(find_python)
kept=$(installed_mindspore "$python")
options=()
list=$(mktemp)
trap 'rm -f "$list"' EXIT
cat "$root/requirements.txt" "$root/requirements-test.txt" | grep -v '^-r' > "$list"
if [ -n "$kept" ]; then
    echo "using the installed MindSpore: $kept"
    options=(--system-site-packages)
    grep -v -E '^mindspore' "$list" > "$list.kept" && mv "$list.kept" "$list"
elif [ "$world" = 2 ]; then
    sed -E -i -e 's/^mindspore==2\.10\.0;.*/mindspore>=2.9,<2.11/' -e '/python_version < "3\.10"/d' "$list"
fi
echo "creating $venv with $("$python" --version) (1 to 3 GB, 2 to 10 minutes)"
"$python" -m venv --clear "${options[@]+"${options[@]}"}" "$venv"
if [ -n "$kept" ]; then
    # a virtual environment created from another one does not see the packages of that one
    "$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' \
        > "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/kept_mindspore.pth"
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$list"
echo "$stamp" > "$venv/installed"
echo "environment ready: $venv"
