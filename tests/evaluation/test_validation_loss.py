"""The validation loss against the loss in float64 of the network's outputs, image by image."""

import cv2
import numpy as np
import pytest
from easydict import EasyDict
from mindspore import Parameter, Tensor, nn, ops

from src.boxes.default_boxes import build_default_boxes
from src.data.records import prepare_records
from src.data.transforms import encode_targets
from src.evaluation.evaluate import TrainingEvaluation
from src.evaluation.validation_loss import ValidationLoss
from src.loss import MultiBoxLoss
from src.utils.distributed import Communicator
from tests import oracles
from tests.helpers.records import IDS, config, instances, write_coco_set


class Net(nn.Cell):
    """uint8 images [B, 128, 128, 3] -> boxes and logits by the mean colour after BN: as a network, in little time."""

    def __init__(self, boxes, classes):
        super().__init__()
        rng = np.random.default_rng(3)
        self.norm = nn.BatchNorm2d(3)
        self.norm.moving_mean.set_data(Tensor(np.array([90, 120, 140], np.float32)))
        self.norm.moving_variance.set_data(Tensor(np.array([400, 900, 700], np.float32)))
        self.loc = Parameter(Tensor(rng.normal(0, 1, (1, boxes, 4)).astype(np.float32)), name="loc")
        self.cls = Parameter(Tensor(rng.normal(0, 1, (1, boxes, classes)).astype(np.float32)), name="cls")
        self.cast, self.mean = ops.Cast(), ops.ReduceMean()

    def construct(self, images):
        pixels = self.norm(self.cast(images, self.loc.dtype).transpose(0, 3, 1, 2))
        colour = self.mean(pixels, (2, 3)).reshape(-1, 3, 1, 1)
        return colour[:, 0] * self.loc + colour[:, 1], colour[:, 2] * self.cls - 1.0


class Rank(Communicator):
    """One of several ranks; `all_gather` keeps what this rank gives."""

    def __init__(self, rank, size):
        self.rank, self.size, self.given = rank, size, None

    def all_gather(self, value):
        self.given = value
        return [value]

    def broadcast_arrays(self, arrays):
        return arrays


@pytest.fixture(scope="module")
def parts(cfg256, tmp_path_factory):
    """(configuration, records, network, folder) of five images, one of them without a box."""
    folder = tmp_path_factory.mktemp("validation")
    write_coco_set(folder)
    instances(folder, "val2017", lambda content: content.update(annotations=content["annotations"][:4]))
    cfg = config(folder, "--batch_size=2", "--validation_loss=True")
    return cfg, prepare_records(cfg, False), Net(cfg.num_ssd_boxes, cfg.num_classes), folder


def expected(cfg, model, folder):
    """The loss in float64, from the files, of one image at a time."""
    model.set_train(False)
    classes, boxes, matched = 0.0, 0.0, 0
    for number, image_id in enumerate(IDS):
        image = cv2.imread(str(folder / "coco" / "val2017" / f"{image_id}.jpg"))[..., ::-1]
        height, width = image.shape[:2]
        gt = np.zeros((0, 5), np.float32)
        if number < 4:  # x, y, w, h = 5, 6, 20 + number, 18
            gt = np.array([[6 / height, 5 / width, 24 / height, (25 + number) / width, 1]], np.float32)
        loc, label, count = encode_targets(gt, *build_default_boxes(cfg), 0.5, (0.1, 0.2))
        batch = Tensor(np.ascontiguousarray(cv2.resize(image, (128, 128)))[None])
        pred_loc, logits = (part.asnumpy() for part in model(batch))
        nothing, one = np.zeros_like(pred_loc), np.ones(1)
        classes += oracles.loss(nothing, logits, nothing, label[None], one)
        boxes += oracles.loss(pred_loc, logits, loc[None], label[None], one)
        matched += count
    return np.array([classes, boxes - classes]) / matched


def test_equals_the_loss_of_the_images(parts):
    cfg, records, model, folder = parts
    want = expected(cfg, model, folder)
    before = {parameter.name: parameter.asnumpy().copy() for parameter in model.get_parameters()}
    for batch_size in (2, 3):
        model.set_train()
        got = ValidationLoss(model, records, EasyDict(cfg, batch_size=batch_size), Communicator())(lambda: False)
        assert list(got) == ["validation_loss", "validation_loss_class", "validation_loss_box"]
        np.testing.assert_allclose(list(got.values()), [want.sum(), *want], rtol=1e-4)
    # no statistics of BN are taken
    assert all(np.array_equal(parameter.asnumpy(), before[parameter.name]) for parameter in model.get_parameters())


def test_ranks_sum_to_the_same(parts):
    cfg, records, model, folder = parts
    cfg = EasyDict(cfg, batch_size=1)
    ranks = [Rank(rank, 3) for rank in range(3)]  # 2, 2 and 1 images
    asked = [[], [], []]
    for comm in ranks:
        assert ValidationLoss(model, records, cfg, comm)(lambda comm=comm: bool(asked[comm.rank].append(1)))
    assert [len(calls) for calls in asked] == [2, 2, 2]  # as often on every rank, or they would wait for each other
    classes, boxes, matched = np.sum([comm.given for comm in ranks], axis=0)
    np.testing.assert_allclose(np.array([classes, boxes]) / matched, expected(cfg, model, folder), rtol=1e-4)


def test_it_can_be_stopped(parts):
    cfg, records, model, _ = parts
    calls = iter([False, True])
    assert ValidationLoss(model, records, cfg, Communicator())(lambda: next(calls)) is None
    # after the three batches of the detections, in those of the loss
    calls = iter([False] * 4 + [True])
    assert TrainingEvaluation(model, records, cfg, Communicator())(lambda: next(calls)) is None


def test_among_the_figures_of_an_evaluation(parts, log_lines):
    cfg, records, model, _ = parts
    figures = TrainingEvaluation(model, records, cfg, Communicator())(lambda: False)
    assert list(figures) == ["mAP", "validation_loss", "validation_loss_class", "validation_loss_box"]
    assert any(line.startswith(f"validation loss {figures['validation_loss']:.4f} (classes ") for line in log_lines())
    cfg = EasyDict(cfg, validation_loss=False)
    assert list(TrainingEvaluation(model, records, cfg, Communicator())(lambda: False)) == ["mAP"]


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_sums_of_images_are_the_loss(cfg256, box_loss):
    """The sums of all images, divided by the matches, are the loss of the batch."""
    rng = np.random.default_rng(2)
    label = rng.integers(0, 4, (3, 40)) * (rng.random((3, 40)) < 0.3)
    loc, gt_loc = (Tensor(rng.normal(0, 2, (3, 40, 4)).astype(np.float32)) for _ in range(2))
    logits, labels = Tensor(rng.normal(0, 2, (3, 40, 4)).astype(np.float32)), Tensor(label.astype(np.int32))
    num_match = (label > 0).sum(axis=1).astype(np.float32)
    loss = MultiBoxLoss(4, box_loss=box_loss)
    sums = loss.of_images(loc, logits, gt_loc, labels).asnumpy()
    parts = loss.parts(loc, logits, gt_loc, labels, Tensor(num_match)).asnumpy()
    assert sums.shape == (3, 2)
    np.testing.assert_allclose(sums.sum(axis=0) / num_match.sum(), parts, rtol=1e-5)
