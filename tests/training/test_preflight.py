"""Checks before anything is converted or compiled."""

import shutil
from collections import namedtuple

import numpy as np
import pytest

from src.config import load_config
from src.training import preflight
from src.utils.errors import UserError
from src.utils.output import ensure_writable


def test_needed_and_free_bytes_are_named(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 12345, 12345))
    ensure_writable(str(tmp_path / "new"), "output_path", 12345)
    with pytest.raises(UserError, match=f"output_path: {tmp_path}/new has 12345 bytes free, 12346 are needed"):
        ensure_writable(str(tmp_path / "new"), "output_path", 12346)


@pytest.mark.parametrize(
    "options, moments, averages", [([], 1, 0), (["--optimizer=adamw"], 2, 0), (["--ema_decay=0.99"], 1, 1)]
)
def test_size_of_a_checkpoint(reference, options, moments, averages):
    """Size of all published entries and a moment for each trained one, in float32."""
    entries = reference("params.json")["eval_net"]
    values = sum(int(np.prod(shape)) * (1 + averages + moments * trainable) for _, shape, _, trainable in entries)
    assert abs(preflight.checkpoint_bytes(load_config(options)) / (4 * values) - 1) < 0.02


def test_room_follows_from_what_is_kept(tmp_path):
    one = preflight.checkpoint_bytes(load_config([]))
    for options, files in (
        (["--epoch_size=500"], 5 + 1),
        (["--epoch_size=500", "--run_eval=True"], 5 + 1 + 1),
        (["--epoch_size=15", "--run_eval=True", "--save_best_ckpt=False"], 2 + 1),
        (["--epoch_size=45", "--pre_trained_epoch_size=30"], 2 + 1),  # after epochs 40 and 45
        (["--epoch_size=15", "--keep_checkpoint_max=1", "--run_distribute=True", "--device_num=8"], 8 * 2),
    ):
        assert preflight.required_disk_space(load_config(options)) == files * one
    for folder in ("ckpt_0", "ckpt_0.20260101-000000"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ssd-1_1.ckpt").write_bytes(bytes(1000))
    goes_on = load_config(["--epoch_size=500", "--resume", f"--output_path={tmp_path}"])
    assert preflight.required_disk_space(goes_on) == 6 * one - 1000


def test_a_run_that_goes_on_needs_no_start_weights():
    cfg = load_config(["--feature_extractor_base_param=/no/backbone.ckpt", "--pre_trained=/no/net.ckpt"])
    preflight.check_training(cfg, resumes=True)
    with pytest.raises(UserError, match="pre_trained: no such checkpoint: /no/net.ckpt"):
        preflight.check_training(cfg, resumes=False)
    with pytest.raises(UserError, match="batch_size: .* one cell"):
        preflight.check_training(load_config(["--batch_size=1", "--img_shape=[128, 128]"]), resumes=True)
