#!/usr/bin/env bash
# Create a virtual environment with the packages of requirements-test.txt, or do nothing if it is up to date.
#   PYTHON=python3.11  the Python to use (3.7 - 3.12; default: the first that works)
#   VENV=folder        folder of the environment (default: .venv in the repository)
#   WORLD=2            major version of MindSpore: 2 also on Python 3.9 (2.9, the last release that supports it)
#   DEVICE=gpu         also the CUDA 11 libraries of requirements-gpu.txt; once installed they stay, without DEVICE too
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
[ ! -L "$venv" ] || venv=$(readlink -f "$venv")   # venv --clear empties the folder behind a link, and fails
world=${WORLD:-}
device=${DEVICE:-}
case $device in
    "" | cpu | gpu) ;;
    GPU) device=gpu ;;
    *) echo "error: DEVICE is '$device'; it may be gpu, or cpu (the same as not set)" >&2; exit 2 ;;
esac

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

# The libraries of requirements-gpu.txt, and a place for CUDA_HOME: MindSpore 2 looks for its GPU plugin only where
# CUDA_HOME/bin/nvcc names CUDA 11.1 or 11.6.
add_gpu_libraries() {
    local stamp folders
    stamp=$(cksum < "$root/requirements-gpu.txt")
    [ "$(cat "$venv/installed_gpu" 2>/dev/null)" != "$stamp" ] || return 0
    echo "installing CUDA 11 libraries (1.7 GB to download)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$root/requirements-gpu.txt"
    mkdir -p "$venv/cuda/bin"
    cat > "$venv/cuda/bin/nvcc" <<'NVCC'
#!/bin/sh
# Not a compiler: MindSpore chooses its GPU plugin by this answer. The libraries are those of requirements-gpu.txt.
echo "Cuda compilation tools, release 11.6, V11.6.124"
NVCC
    chmod +x "$venv/cuda/bin/nvcc"
    # the programs of the repository load the libraries themselves; this is for others, and for what libraries load later
    folders=$("$venv/bin/python" -c 'import glob, sys, sysconfig
found = sorted(glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib"))
print(":".join([*found, sys.prefix + "/lib"]))')
    if ! grep -q '^# DEVICE=gpu' "$venv/bin/activate"; then
        printf '\n# DEVICE=gpu of scripts/environment.sh\nexport CUDA_HOME="%s"\nexport LD_LIBRARY_PATH="%s${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\n' \
            "$venv/cuda" "$folders" >> "$venv/bin/activate"
    fi
    echo "$stamp" > "$venv/installed_gpu"
    echo "CUDA 11 libraries ready; needed from the system: an NVIDIA driver (libcuda.so.1)"
}

stamp=$(cat "$root/requirements.txt" "$root/requirements-test.txt" <(echo "$world") | cksum)
if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/installed" 2>/dev/null)" = "$stamp" ]; then
    [ "$device" != gpu ] || add_gpu_libraries
    exit 0
fi
[ ! -f "$venv/installed_gpu" ] || device=gpu
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
[ "$device" != gpu ] || add_gpu_libraries
echo "environment ready: $venv"
