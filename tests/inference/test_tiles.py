"""src/inference/tiled.py: the boxes of each tile alone, moved, with one NMS over the whole picture."""

import os
from dataclasses import replace

import cv2
import numpy as np
import pytest

from src.boxes.nms import iou_px
from src.boxes.postprocess import postprocess
from src.data.records import prepare_records
from src.data.tiles import Tiling, network_tiles
from src.evaluation.coco_evaluator import CocoEvaluator
from src.evaluation.evaluate import build_evaluator, collect_detections
from src.evaluation.limits import limits_line
from src.evaluation.scoring import Detections
from src.inference.detector import Detector
from src.inference.metadata import metadata_from_config
from src.inference.open_model import open_model
from src.inference.pictures import read_picture
from src.inference.pipeline import Picture, detect
from src.inference.predictor import Predictor
from src.inference.tiled import TileQueue
from src.utils.distributed import Communicator
from src.utils.errors import UserError
from tests.helpers.predictions import write_brightness_model, write_fixed_model
from tests.helpers.programs import run
from tests.helpers.small_sets import config, make_set

SIDE = 128  # of the network's input, and of the tiles: an object has the same pixels in each tile


class Blobs(Detector):
    """A network that finds the bright rectangles in its input: an object's score is a function of its size, boxes are
    float32 in [0, 1]. `calls`: images of each call."""

    def __init__(self, cfg):
        super().__init__(metadata_from_config(cfg))
        self.calls = []

    def run(self, batch, shapes):
        self.calls.append(len(batch))
        boxes, scores = np.zeros((len(batch), 20, 4), np.float32), np.zeros((len(batch), 20, 4), np.float32)
        for row, image in enumerate(batch):
            _, labels, found, _ = cv2.connectedComponentsWithStats((image[..., 0] > 127).astype(np.uint8))
            for k, (x, y, w, h, area) in enumerate(found[1:21]):
                boxes[row, k] = np.array([y, x, y + h, x + w], np.float32) / np.float32(SIDE)
                scores[row, k, 1 + int(w > h)] = 0.3 + area / 4000
        return [boxes, scores]


def blobs(tmp_path, *more, **changes):
    detector = Blobs(config(tmp_path, f"--tile={SIDE}", "--overlap=0.25", *more))
    detector.description = replace(detector.description, **changes)
    return detector


def picture_of(rectangles, height=300, width=410):
    image = np.zeros((height, width, 3), np.uint8)
    for y1, x1, y2, x2 in rectangles:
        image[y1:y2, x1:x2] = 255
    return image


def detections_of(detector, *images):
    queue, found = TileQueue(detector), []
    for number, image in enumerate(images):
        tiles = network_tiles(image, detector.description.tiling, [SIDE, SIDE])
        found += queue.add(number, tiles, image.shape[:2])
    found += queue.finish()
    assert [key for key, _ in found] == list(range(len(images)))
    return [detections for _, detections in found]


def test_an_object_in_one_tile_has_the_box_of_that_tile(tmp_path):
    detector = blobs(tmp_path)
    for y, x in ((5, 7), (140, 33), (171, 201), (270, 370), (299 - 20, 409 - 31)):
        image = picture_of([(y, x, y + 20, x + 31)])
        ((boxes, scores, labels),) = detections_of(detector, image)
        inside = 0
        for top, left, bottom, right in detector.description.tiling.windows(300, 410).tolist():
            if top < y and left < x and y + 20 < bottom and x + 31 < right:
                tile = np.ascontiguousarray(image[top:bottom, left:right])
                ((alone, of_alone, kind),) = detector(tile[None], np.array([[SIDE, SIDE]]))
                np.testing.assert_array_equal(boxes[0], alone[0] + [top, left, top, left])
                assert scores[0] == of_alone[0] and labels[0] == kind[0] and scores.dtype == of_alone.dtype
                inside += 1
        assert inside or y > 270  # the last one touches the edges
    assert boxes.tolist() == [[279, 378, 299, 409]]


def test_one_object_in_several_tiles_is_found_once(tmp_path):
    """The tiles of 128 overlap by 32 pixels, from 96 on."""
    rectangle = (100, 100, 120, 125)
    detector = blobs(tmp_path)
    ((boxes, scores, _),) = detections_of(detector, picture_of([rectangle]))
    assert boxes.tolist() == [list(rectangle)] and len(scores) == 1
    windows = detector.description.tiling.windows(300, 410)
    assert ((windows[:, 0] < 100) & (windows[:, 1] < 100) & (windows[:, 2:] > 125).all(axis=1)).sum() == 4


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_nms_sees_the_whole_picture(tmp_path, batch):
    """Against post-processing of all tiles' outputs at once; calls are full batches, whatever the picture."""
    rng, images = np.random.default_rng(3), []
    for height, width in ((300, 410), (90, 100), (128, 500)):
        corners = rng.integers(0, (height - 31, width - 31), (25, 2))
        images.append(picture_of(np.column_stack([corners, corners + rng.integers(6, 30, (25, 2))]), height, width))
    detector = blobs(tmp_path, f"--batch_size={batch}")
    found = detections_of(detector, *images)
    tiles = 0
    for image, detections in zip(images, found):
        boxes, scores = [], []
        windows = detector.description.tiling.windows(*image.shape[:2])
        for window, tile in zip(windows, network_tiles(image, detector.description.tiling, [SIDE, SIDE])):
            (of_tile,), (of_classes,) = Blobs.run(detector, tile[None], None)
            sides = np.tile(window[2:] - window[:2], 2)
            boxes.append(of_tile.astype(np.float64) * sides + np.tile(window[:2], 2))
            scores.append(of_classes)
            tiles += 1
            detector.calls.pop()
        expected = postprocess(np.concatenate(boxes), np.concatenate(scores), (1, 1))
        for ours, theirs in zip(detections, expected):
            np.testing.assert_array_equal(ours, theirs)
        for label in (1, 2):
            of_class = detections[0][detections[2] == label]
            overlaps = iou_px(of_class, of_class)
            assert (overlaps[~np.eye(len(of_class), dtype=bool)] <= 0.6).all()
    assert sum(len(boxes) for boxes, _, _ in found) > 30
    assert detector.calls == [batch] * -(-tiles // batch)


def test_soft_nms_and_the_highest_score(tmp_path):
    detector = blobs(tmp_path, min_score=0.0005)
    detector.at_test_time(nms="soft")
    ((boxes, scores, _),) = detections_of(detector, picture_of([(100, 100, 120, 125)]))
    assert len(boxes) == 4 and np.all(boxes == boxes[0])  # the same object in four tiles, with falling scores
    assert detector.max_score == pytest.approx(0.3 + 500 / 4000) and (np.diff(scores) < 0).all()


class Simulated(Communicator):
    """A communicator that keeps the detections of each rank and returns all of them on the last one."""

    def __init__(self, rank, size, kept):
        self.rank, self.size, self.kept = rank, size, kept

    def gather(self, value):
        self.kept.append(value)
        return self.kept if self.rank == self.size - 1 else None


def test_evaluation_is_the_same_for_any_number_of_ranks(tmp_path):
    make_set(tmp_path, 5)
    for k in range(5):
        image = picture_of([(24, 20, 54, 60), (24, 130, 54, 150)], 90 + 60 * k, 240)
        cv2.imwrite(str(tmp_path / "coco" / "val2017" / f"{3 * k}.png"), image)
    cfg = config(tmp_path, f"--tile={SIDE}", "--batch_size=4")
    records, seen, asked = prepare_records(cfg, False), [], []
    for size in (1, 2, 4, 8):
        kept = []
        for rank in range(size):
            evaluator, count = build_evaluator(records, cfg), []
            comm = Simulated(rank, size, kept)
            assert collect_detections(Blobs(cfg), records, cfg, evaluator, comm, lambda: bool(count.append(1)))
            asked.append((size, len(count)))
        result = evaluator.summarize()
        seen.append((result["stats"], result["detections"], evaluator.detections))
    assert seen[0][1] == 10 and all(one == seen[0] for one in seen)
    assert len(set(asked)) == 4  # as often on every rank
    whole = CocoEvaluator(records.annotation_file, cfg.classes)
    for k in range(5):
        image = read_picture(str(tmp_path / "coco" / "val2017" / f"{3 * k}.png"))
        whole.add(3 * k, *detections_of(Blobs(cfg), image)[0])
    assert whole.detections == seen[0][2]
    # asked before each image
    evaluator, answers = build_evaluator(records, cfg), iter([False, True])
    assert not collect_detections(Blobs(cfg), records, cfg, evaluator, should_stop=lambda: next(answers))


def test_limits_are_named():
    def found(*counts):
        image = np.repeat(np.arange(len(counts)), [sum(of_image) for of_image in counts])
        category = np.concatenate([np.repeat(np.arange(len(of_image)), of_image) for of_image in counts])
        return Detections(image, category, np.zeros((len(image), 4)), np.zeros(len(image)))

    assert limits_line(found((99, 99), (0, 3)), 2, 100) == limits_line(found((0,)), 1, 100) == ""
    line = limits_line(found((100, 100), (3, 100), (99, 99)), 7, 100)
    assert line == "max_boxes keeps 100 detections of a class, which 2 of 7 images have"
    line = limits_line(found((101, 0), (300, 5), (100, 100)), 3, 300)
    assert line.startswith("max_boxes keeps 300 detections of a class, which 1 of 3 images have; COCO's metrics")
    assert line.endswith("count 100 of a class in an image: 2 of 3 images have more")


@pytest.mark.parametrize("batch", [1, 4])
def test_prediction_in_tiles(tmp_path, batch):
    """The same detections alone and in threads; the file's own tiles, and others."""
    path = str(tmp_path / "model.onnx")
    write_brightness_model(path, batch)
    rng, files = np.random.default_rng(0), []
    for number in range(5):
        files.append(str(tmp_path / f"{number}.png"))
        image = np.clip(rng.normal(90 + 20 * number, 40, (60 + 30 * number, 150, 3)), 0, 255).astype(np.uint8)
        cv2.imwrite(files[-1], image)
    predictor = Predictor(path, tile=64, overlap=0.5, concurrent_calls=3)
    assert predictor.tiling == Tiling(64, 0.5)
    expected = [predictor(read_picture(file)) for file in files]
    for file, (boxes, labels, scores) in zip(files, expected):
        image, alone = read_picture(file), []
        for top, left, bottom, right in Tiling(64, 0.5).windows(*image.shape[:2]).tolist():
            found = Predictor(path)(np.ascontiguousarray(image[top:bottom, left:right]))
            alone += [(box + [top, left, top, left], *rest) for box, *rest in zip(*found)]
        assert 0 < len(boxes) <= len(alone)
        for box, label, score in zip(boxes, labels, scores):
            assert any(np.array_equal(box, other) and (label, score) == tuple(rest) for other, *rest in alone)
    for picture, detections in zip(detect(map(Picture, files), predictor, lambda picture: None), expected):
        for ours, theirs in zip(picture.detections, detections):
            np.testing.assert_array_equal(ours, theirs)
    assert len(Predictor(path, tile=0)(read_picture(files[4]))[0]) == 2


def test_a_file_says_how_pictures_are_cut(tmp_path):
    path = str(tmp_path / "model.onnx")
    write_fixed_model(path, tile=32, overlap=0.0)
    assert Predictor(path).tiling == Tiling(32, 0.0)
    assert Predictor(path, tile=50).tiling == Tiling(50, 0.0)
    picture = str(tmp_path / "a.png")
    cv2.imwrite(picture, np.zeros((64, 64, 3), np.uint8))
    for options, cats in (([], 4), (["--tile", "0"], 1), (["--tile=64", "--overlap=0"], 1)):
        done = run("scripts/predict.py", "--model", path, picture, "--output", tmp_path / "out", *options)
        assert done.returncode == 0 and f"{cats} cat" in done.stdout, done.stdout + done.stderr
    for options, words in ((["--tile=20"], "tile must be 0 (off)"), (["--overlap=2"], "overlap must lie in")):
        done = run("scripts/predict.py", "--model", path, picture, "--output", tmp_path / "out", *options)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_nms_inside_a_file_excludes_tiles(tmp_path):
    path = os.path.join(str(tmp_path), "model.onnx")
    write_fixed_model(path, nms=True)
    with pytest.raises(UserError, match="with NMS inside, which excludes tile 64; export it again without"):
        open_model(path, tile=64)
    assert open_model(path).description.tile == 0
