"""Images without boxes as negatives: records, batches, and a loss that is finite without any match."""

import json

import numpy as np
import pytest
from mindspore import Tensor, ops

from src.data.inspect.check import check_split
from src.data.pipeline import TrainLoader
from src.data.records import prepare_records
from src.loss import MultiBoxLoss
from src.utils.errors import UserError
from tests.helpers.records import IDS, config, instances, rows_of

ON = "--negative_images=True"


@pytest.fixture
def mixed(folder):
    """The small set with boxes in two of its five training images."""
    instances(folder, "train2017", lambda content: content.update(annotations=content["annotations"][:2]))
    return folder


def test_records_are_others_with_the_option(mixed, log_lines):
    plain = prepare_records(config(mixed), True)
    records = prepare_records(config(mixed, ON), True)
    rows = rows_of(records)
    assert sorted(rows) == list(IDS) and sorted(rows_of(plain)) == list(IDS[:2])
    assert [len(rows[image_id][1]) for image_id in IDS] == [1, 1, 0, 0, 0]
    for image_id in IDS:
        assert rows[image_id][0] == (mixed / "coco" / "train2017" / f"{image_id}.jpg").read_bytes()
    assert any("3 of 5 images" in line and "are trained as background" in line for line in log_lines())
    # neither replaces the other, and each is found again without a conversion
    assert records.files != plain.files
    for first, more in ((plain, ()), (records, (ON,))):
        again = prepare_records(config(mixed, *more), True)
        assert (again.files, again.count) == (first.files, first.count)
    # the evaluation set is the same with and without
    assert prepare_records(config(mixed, ON), False).files == prepare_records(config(mixed), False).files


def test_a_manifest_without_the_key_stays_valid(mixed):
    records = prepare_records(config(mixed), True)
    with open(records.files[0][:-1] + ".json", encoding="utf-8") as handle:
        assert "negative_images" not in json.load(handle)["settings"]


def test_records_of_the_published_scripts_hold_no_negatives(mixed, log_lines):
    prepare_records(config(mixed), True)
    (mixed / "records" / "ssd.mindrecord.json").unlink()
    assert prepare_records(config(mixed), True).count == 2
    assert prepare_records(config(mixed, ON), True).count == 5
    assert any("without the images that have no box" in line for line in log_lines())
    assert prepare_records(config(mixed), True).count == 2


def test_a_set_without_any_box_is_refused(folder):
    instances(folder, "train2017", lambda content: content.update(annotations=[]))
    with pytest.raises(UserError, match="no image with a box of the listed classes"):
        prepare_records(config(folder, ON), True)


def test_all_default_boxes_of_a_negative_are_background(mixed, cfg256):
    cfg = config(mixed, ON, "--batch_size=1", "--zoom_out=3", "--scale_jitter=[0.5, 2]")
    data = TrainLoader(prepare_records(cfg, True), cfg)
    assert data.steps == 5
    matches = {}
    for images, gt_loc, gt_label, num_match, img_id in data.epoch(0):
        count = int(num_match.asnumpy()[0, 0])
        matches[int(img_id.asnumpy()[0, 0])] = count
        assert images.shape == (1, 128, 128, 3) and int((gt_label.asnumpy() > 0).sum()) == count
        assert count or not gt_loc.asnumpy().any()
    assert sorted(matches) == list(IDS) and [matches[k] > 0 for k in IDS] == [True, True, False, False, False]


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_loss_without_a_match_is_the_focal_loss(cfg256, box_loss):
    """Two negatives alone: the sum of the focal loss in float64, divided by 1; gradients are finite, of boxes 0."""
    rng = np.random.default_rng(0)
    logits, loc = rng.normal(0, 2, (2, 50, 3)).astype(np.float32), rng.normal(0, 3, (2, 50, 4)).astype(np.float32)
    loss = MultiBoxLoss(3, box_loss=box_loss)
    truth = [Tensor(np.zeros((2, 50, 4), np.float32)), Tensor(np.zeros((2, 50), np.int32)), Tensor(np.zeros((2, 1)))]
    truth[2] = truth[2].astype(truth[0].dtype)
    classes, boxes = loss.parts(Tensor(loc), Tensor(logits), *truth).asnumpy()
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    background = 0.25 * (1 - p[..., 0]) ** 2 * -np.log(p[..., 0])
    others = 0.75 * p[..., 1:] ** 2 * -np.log(1 - p[..., 1:])
    assert boxes == 0 and classes == pytest.approx(background.sum() + others.sum(), rel=1e-5)
    of_loc, of_logits = ops.GradOperation(get_all=True)(loss)(Tensor(loc), Tensor(logits), *truth)[:2]
    assert not of_loc.asnumpy().any() and np.isfinite(of_logits.asnumpy()).all() and of_logits.asnumpy().any()


def test_check_data_counts_them(mixed):
    assert any("left out of training" in fault["kind"] for fault in check_split(config(mixed), True, False)["faults"])
    report = check_split(config(mixed, ON, "--batch_size=5"), True, False)
    assert any("are trained as background" in fault["kind"] for fault in report["faults"])
    assert not any(fault["refused"] for fault in report["faults"])
