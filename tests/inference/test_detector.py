"""Detections from network outputs, and the images that an export is compared on."""

import cv2
import numpy as np
import pytest

from src.inference.detector import Detector
from src.inference.metadata import ModelMetadata
from src.inference.pictures import comparison_pictures
from src.utils.drawing import DRAWN, draw_detections
from src.utils.errors import UserError

CLASSES = ("background", "cup", "spoon")


def description(nms):
    return ModelMetadata(list(CLASSES), [8, 8], 2, 0.1, 0.6, 100, [0.0] * 3, [1.0] * 3, uint8_input=True, nms=nms)


class Brightness(Detector):
    """Two boxes per image; the score of "cup" is the brightness of the image, an empty image is a "spoon"."""

    def run(self, batch, shapes):
        light = batch.reshape(len(batch), -1).max(axis=1) / 255
        boxes = np.tile(np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], np.float32), (len(batch), 1, 1))
        scores = np.zeros((len(batch), 2, 3), np.float32)
        scores[:, 0, 1], scores[:, 1, 2] = light, np.where(light == 0, 0.99, 0)
        if not self.description.nms:
            return [boxes, scores]
        image, row, label = np.nonzero(scores)
        corners = boxes[image, row] * np.tile(shapes[image], 2)
        return [corners.astype(np.float32), scores[image, row, label], label.astype(np.int32), image.astype(np.int32)]


@pytest.mark.parametrize("nms", [False, True])
def test_the_filling_of_the_last_batch_counts_nowhere(nms):
    detector = Brightness(description(nms))
    images = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (51, 102, 153)])
    found = detector(images, np.array([[80, 60]] * 3))
    assert [[round(float(score), 3) for score in scores] for _, scores, _ in found] == [[0.2], [0.4], [0.6]]
    assert all(labels.tolist() == [1] and boxes.tolist() == [[0, 0, 40, 30]] for boxes, _, labels in found)
    assert detector.max_score == pytest.approx(0.6)


def test_a_broken_picture_is_skipped(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"\xff\xd8 broken")
    cv2.imwrite(str(tmp_path / "2.png"), np.full((6, 9, 3), 77, np.uint8))
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "1.jpg").write_bytes(b"\xff\xd8 broken")
    with pytest.raises(UserError, match="no picture that can be read"):
        comparison_pictures(str(tmp_path / "only"), (8, 8), 4)
    images, shapes, source = comparison_pictures(str(tmp_path), (8, 8), 4)
    assert images.shape == (1, 8, 8, 3) and (images == 77).all() and shapes.tolist() == [[6, 9]]
    assert source.startswith("1 pictures")


def test_of_thousands_the_highest_scores_are_drawn():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 500, (5000, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 140, (5000, 2))], axis=1)
    labels, scores = rng.integers(1, 3, 5000), rng.permutation(5000) / 5000
    image = np.full((640, 640, 3), 128, np.uint8)
    highest = np.argsort(scores)[-DRAWN:]
    drawn = draw_detections(image, boxes, labels, scores, CLASSES)
    np.testing.assert_array_equal(
        drawn, draw_detections(image, boxes[highest], labels[highest], scores[highest], CLASSES)
    )
    assert (drawn != image).any()
