"""run.json: every start of a run, with all that is needed to repeat it."""

import json
import os
import subprocess
import sys

import numpy as np

from src.config import load_config
from src.training.run_info import describe_start, git_commit, record_start
from src.utils.distributed import Communicator
from tests.helpers.paths import ROOT


def test_each_start_is_added(tmp_path):
    cfg = load_config(["--seed=7", "--device_target=CPU"])
    first = describe_start(["--seed=7", "--classes=[a, 'b c']"], cfg, Communicator(), "")
    record_start(str(tmp_path), first)
    record_start(str(tmp_path), describe_start(["--resume"], cfg, Communicator(), "/x/ssd-1_1.ckpt"))
    starts = json.loads((tmp_path / "run.json").read_text())
    assert os.listdir(tmp_path) == ["run.json"] and starts[0] == first
    assert [start["goes_on_from"] for start in starts] == [None, "/x/ssd-1_1.ckpt"]
    assert first["versions"]["numpy"] == np.__version__ and (first["seed"], first["ranks"]) == (7, 1)
    # a shell splits the command into the same words
    words = subprocess.check_output(["bash", "-c", f"printf '%s\\n' {first['command']}"]).decode().splitlines()
    assert words == [sys.executable, os.path.join(ROOT, "train.py"), "--seed=7", "--classes=[a, 'b c']"]


def test_the_commit_is_that_of_git():
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    commit = git_commit()
    assert (commit or "").replace("-dirty", "") == done.stdout.decode().strip()
