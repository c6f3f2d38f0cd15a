"""What a GPU needs is found or named in one line, before MindSpore is imported."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from src.utils import gpu_libraries
from src.utils.errors import UserError
from src.utils.gpu_libraries import gpu_plugins, needed_libraries, nvcc_release, prepare_gpu
from tests.helpers.paths import ROOT
from tests.helpers.programs import run

MINDSPORE = os.path.dirname(importlib.util.find_spec("mindspore").origin)
PLUGINS = gpu_plugins(MINDSPORE)


@pytest.mark.skipif(not PLUGINS, reason="this MindSpore has no GPU plugin")
def test_needed_libraries_are_those_of_readelf():
    for path in PLUGINS.values():
        done = subprocess.run(["readelf", "-d", path], capture_output=True, text=True)
        if done.returncode:
            pytest.skip("no readelf")
        needed, folders = needed_libraries(path)
        assert needed == re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout)
        assert "libcudnn.so.8" in needed and "libcuda.so.1" in needed
        search = ":".join(re.findall(r"\(R(?:UN)?PATH\).*\[(.*)\]", done.stdout)).split(":")
        assert folders == [folder for folder in search if folder.startswith("/")]


def fake_nvcc(folder, release):
    path = folder / "bin" / "nvcc"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.99'\n")
    path.chmod(0o755)
    return str(folder)


@pytest.fixture
def mindspore2(tmp_path, monkeypatch):
    """A MindSpore with two plugins, which need a library that it has itself, one of the system, and others."""
    package = tmp_path / "mindspore"
    (package / "lib" / "plugin").mkdir(parents=True)
    for name in ("libmindspore_gpu.so.11.1", "libmindspore_gpu.so.11.6"):
        (package / "lib" / "plugin" / name).write_text("")
    (package / "lib" / "libmindspore_core.so").write_text("")
    (package / "version.py").write_text("__version__ = '2.10.0'\n")
    needed = ["libmindspore_core.so", "libc.so.6", "libcuda.so.1", "libcudnn.so.8", "libcublas.so.11"]
    monkeypatch.setattr(gpu_libraries, "_mindspore_folder", lambda: str(package))
    monkeypatch.setattr(gpu_libraries, "needed_libraries", lambda path: (needed, []))
    monkeypatch.setattr(gpu_libraries.ctypes, "CDLL", lambda path, mode: load(path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setenv("CUDA_HOME", "")

    def load(path):
        if path != "libc.so.6":
            raise OSError(path)

    return package


def test_everything_that_is_missing_is_named(mindspore2):
    with pytest.raises(UserError) as error:
        prepare_gpu()
    line = str(error.value)
    assert line.startswith("device_target: MindSpore's GPU back end lacks the NVIDIA driver (libcuda.so.1); ")
    assert "libcudnn.so.8, libcublas.so.11 ('DEVICE=gpu bash scripts/environment.sh' installs them)" in line
    assert "CUDA_HOME/bin/nvcc of release 11.1 or 11.6 (CUDA_HOME is not set)" in line and "docs/devices.md" in line
    assert "libc.so.6" not in line and "core" not in line and "\n" not in line


@pytest.mark.parametrize(
    "release, words", [("12.2", "cuda/bin/nvcc is of release 12.2)"), (None, "(there is no nvcc in ")]
)
def test_a_cuda_home_that_does_not_fit_is_named(mindspore2, tmp_path, monkeypatch, release, words):
    monkeypatch.setattr(gpu_libraries, "missing_libraries", lambda plugin, package: [])
    if release:
        fake_nvcc(tmp_path / "cuda", release)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    with pytest.raises(UserError) as error:
        prepare_gpu()
    assert words in str(error.value) and "libcuda" not in str(error.value)


@pytest.mark.parametrize("given", ["", "11.6", "12.2"])
def test_cuda_home_of_the_environment_is_used_unless_the_given_one_fits(mindspore2, tmp_path, monkeypatch, given):
    plugins = []
    monkeypatch.setattr(gpu_libraries, "missing_libraries", lambda plugin, package: plugins.append(plugin) or [])
    own = fake_nvcc(tmp_path / "venv" / "cuda", "11.1")
    home = fake_nvcc(tmp_path / "cuda", given) if given else ""
    monkeypatch.setenv("CUDA_HOME", home)
    prepare_gpu()
    assert os.environ["CUDA_HOME"] == (home if given == "11.6" else own)
    assert plugins[0].endswith("libmindspore_gpu.so.11.6" if given == "11.6" else "libmindspore_gpu.so.11.1")
    assert nvcc_release(own) == "11.1"


def test_libraries_are_taken_from_the_packages(mindspore2, tmp_path, monkeypatch):
    folder = tmp_path / "site" / "nvidia" / "cudnn" / "lib"
    folder.mkdir(parents=True)
    (folder / "libcudnn.so.8").write_text("")
    monkeypatch.setattr(gpu_libraries.sysconfig, "get_paths", lambda: {"purelib": str(tmp_path / "site")})
    loaded = []

    def load(path, mode):
        if path not in ("libc.so.6", str(folder / "libcudnn.so.8")):
            raise OSError(path)
        loaded.append((path, mode))

    monkeypatch.setattr(gpu_libraries.ctypes, "CDLL", load)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/mine")
    plugin = gpu_plugins(str(mindspore2))["11.6"]
    assert gpu_libraries.missing_libraries(plugin, str(mindspore2)) == ["libcuda.so.1", "libcublas.so.11"]
    assert (str(folder / "libcudnn.so.8"), gpu_libraries.ctypes.RTLD_GLOBAL) in loaded
    assert os.environ["LD_LIBRARY_PATH"] == f"/mine:{folder}"


def test_a_vendors_build_and_one_without_plugin_are_left_alone(mindspore2, monkeypatch):
    (mindspore2 / "version.py").write_text("__version__ = '1.10.1+corex.3.0.0'\n")
    prepare_gpu()
    (mindspore2 / "version.py").write_text("__version__ = '2.10.0'\n")
    for path in gpu_plugins(str(mindspore2)).values():
        os.remove(path)
    prepare_gpu()
    monkeypatch.setattr(gpu_libraries, "_mindspore_folder", lambda: "")
    prepare_gpu()


@pytest.mark.skipif(not PLUGINS or os.path.exists("/dev/nvidia0"), reason="no GPU plugin, or a GPU")
def test_train_on_a_gpu_that_is_not_there(tmp_path):
    options = ["--feature_extractor_base_param=", f"--output_path={tmp_path / 'out'}"]
    done = run("train.py", "--device_target=GPU", *options, cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: device_target: MindSpore's GPU back end lacks ")
    assert "libcuda.so.1" in done.stderr


@pytest.fixture
def environment(tmp_path):
    """A function that runs scripts/environment.sh, on an environment that is up to date and notes the calls of pip."""
    venv, calls = tmp_path / "venv", tmp_path / "calls"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -m ] && echo "$*" >> {calls} || echo /site/nvidia/cudnn/lib:{venv}/lib\n')
    python.chmod(0o755)
    (venv / "bin" / "activate").write_text("VIRTUAL_ENV=x\n")
    stamp = f'cat "{ROOT}/requirements.txt" "{ROOT}/requirements-test.txt" <(echo "") | cksum > "{venv}/installed"'
    subprocess.run(["bash", "-c", stamp], check=True)

    def start(**variables):
        names = {key: value for key, value in os.environ.items() if key not in ("DEVICE", "WORLD", "PYTHON")}
        script = os.path.join(ROOT, "scripts", "environment.sh")
        done = subprocess.run(
            ["bash", script], env={**names, "VENV": str(venv), **variables}, capture_output=True, text=True
        )
        return done, calls.read_text().splitlines() if calls.exists() else []

    return start


def test_environment_for_a_gpu(environment, tmp_path):
    assert environment()[1] == []
    done, calls = environment(DEVICE="gpu")
    assert done.returncode == 0 and len(calls) == 1, done.stderr
    assert calls[0].endswith(f"-r {ROOT}/requirements-gpu.txt")
    venv = tmp_path / "venv"
    assert nvcc_release(str(venv / "cuda")) == "11.6"
    line = f'. {venv}/bin/activate; echo "$CUDA_HOME $LD_LIBRARY_PATH"'
    shell = subprocess.run(
        ["bash", "-uc", line],
        env={"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": "/mine"},
        capture_output=True,
        text=True,
    )
    assert shell.stdout.split() == [f"{venv}/cuda", f"/site/nvidia/cudnn/lib:{venv}/lib:/mine"]
    # up to date: nothing is installed again, with or without DEVICE
    assert len(environment(DEVICE="GPU")[1]) == len(environment()[1]) == 1
    done, _ = environment(DEVICE="tpu")
    assert (
        done.returncode == 2 and done.stderr == "error: DEVICE is 'tpu'; it may be gpu, or cpu (the same as not set)\n"
    )
