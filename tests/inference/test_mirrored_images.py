"""Soft-NMS and mirrored images in a detector, and the files that do not allow them."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from src.boxes.postprocess import postprocess
from src.config import load_config
from src.inference.detector import NMS_KINDS, TTA_KINDS, Detector
from src.inference.metadata import ModelMetadata
from src.inference.open_model import open_model
from src.inference.predictor import Predictor
from src.training.state import training_relevant_config
from src.utils.errors import UserError
from tests.helpers.predictions import CLASSES, picture, write_fixed_model
from tests.helpers.programs import run
from tests.oracles import soft_nms

ROWS, COLUMNS, SIDE = 2, 3, 4
SHAPES = np.array([[80, 60], [50, 100], [8, 12]])
DESCRIPTION = ModelMetadata(list(CLASSES), [8, 12], 2, 0.01, 0.6, 100, [0.0] * 3, [1.0] * 3)


class Corners(Detector):
    """A level of 2 x 3 cells with 2 boxes each, and a level of one cell. The first box of a cell is a cat as bright as
    the cell's left upper pixel, and the brighter, the wider to the right; the second box is the cell, a dog of half
    that. The last box is a dog as bright as the image's left upper pixel. Nothing here is symmetric."""

    def __init__(self, description=DESCRIPTION):
        super().__init__(replace(description, layout=[[ROWS, COLUMNS, 2], [1, 1, 1]]))
        self.calls = 0

    def run(self, batch, shapes):
        self.calls += 1
        outputs = [self.of_image(image[:, :, 0] / 255) for image in batch]
        return [np.stack(parts).astype(np.float32) for parts in zip(*outputs)]

    @staticmethod
    def of_image(image):
        boxes, scores = [], []
        for row in range(ROWS):
            for column in range(COLUMNS):
                light, (left, right) = image[row * SIDE, column * SIDE], (column / COLUMNS, (column + 1) / COLUMNS)
                boxes += [[row / ROWS, left, (row + 1) / ROWS, left + light / COLUMNS]]
                boxes += [[row / ROWS, left, (row + 1) / ROWS, right]]
                scores += [[0.5, light, 0], [0.5, 0, light / 2]]
        return np.array(boxes + [[0.1, 0.2, 0.5, 0.6]]), np.array(scores + [[0.5, 0, image[0, 0]]])


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(20, 255, (3, 8, 12, 3), np.uint8)


def by_hand(image):
    """Mean of `Corners` for an image and its mirror image: the right upper pixel of a cell counts as the left one."""
    light, boxes, scores = image[:, :, 0] / 255, [], []
    for row in range(ROWS):
        for column in range(COLUMNS):
            left, right = light[row * SIDE, column * SIDE], light[row * SIDE, column * SIDE + SIDE - 1]
            start, end = column / COLUMNS, (column + 1) / COLUMNS
            x1, x2 = (start + end - right / COLUMNS) / 2, (start + left / COLUMNS + end) / 2
            boxes += [[row / ROWS, x1, (row + 1) / ROWS, x2], [row / ROWS, start, (row + 1) / ROWS, end]]
            scores += [[0.5, (left + right) / 2, 0], [0.5, 0, (left + right) / 4]]
    # 0.2 to 0.6 mirrored is 0.4 to 0.8
    return np.array(boxes + [[0.1, 0.3, 0.5, 0.7]]), np.array(scores + [[0.5, 0, (light[0, 0] + light[0, -1]) / 2]])


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        assert len(one[0]) == len(other[0]) > 3 and one[2].tolist() == other[2].tolist()
        np.testing.assert_allclose(one[0], other[0], atol=1e-4)
        np.testing.assert_allclose(one[1], other[1], rtol=1e-5)


def test_off_is_as_before_bit_by_bit(images):
    wanted = []
    for image, shape in zip(images, SHAPES):
        boxes, scores = (part.astype(np.float32) for part in Corners.of_image(image[:, :, 0] / 255))
        wanted.append(postprocess(boxes, scores, shape, 0.01, 0.6, 100))
    for options in ((), ("hard", "none")):
        detector = Corners()
        detector.at_test_time(*options)
        for one, other in zip(detector(images, SHAPES), wanted):
            assert all((a == b).all() and a.dtype == b.dtype for a, b in zip(one, other))
        assert detector.calls == 2  # batches of two


def test_flip_is_the_mean_of_both(images):
    detector = Corners()
    detector.at_test_time(tta="flip")
    averaged = [by_hand(image) for image in images]
    wanted = [postprocess(*outputs, shape, 0.01, 0.6, 100) for outputs, shape in zip(averaged, SHAPES)]
    assert_same(detector(images, SHAPES), wanted)
    assert detector.calls == 4
    assert detector.max_score == pytest.approx(max(scores[:, 1:].max() for _, scores in averaged))
    plain = Corners()
    plain(images, SHAPES)
    assert plain.max_score != pytest.approx(detector.max_score, abs=0.01)


@pytest.mark.parametrize("nms", NMS_KINDS)
def test_a_mirror_image_has_mirrored_detections(images, nms):
    detector = Corners()
    detector.at_test_time(nms, "flip")
    found, mirrored = detector(images, SHAPES), detector(images[:, :, ::-1], SHAPES)
    for (boxes, _, _), (_, width) in zip(mirrored, SHAPES):
        boxes[:, [1, 3]] = width - boxes[:, [3, 1]]
    assert_same(found, mirrored)


def test_soft_nms_lowers_scores(images):
    detector, description = Corners(), replace(DESCRIPTION, min_score=0.2)
    detector.description = description
    detector.at_test_time(nms="soft")
    lowered = 0
    for (boxes, scores, labels), image, shape in zip(detector(images, SHAPES), images, SHAPES):
        all_boxes, all_scores = (part.astype(np.float32) for part in Corners.of_image(image[:, :, 0] / 255))
        pixels, wanted = all_boxes * np.tile(shape, 2).astype(np.float64), []
        for label in (1, 2):
            (rows,) = np.nonzero(all_scores[:, label] > 0.2)
            taken = soft_nms(pixels[rows].tolist(), all_scores[rows, label].tolist(), 0.2, 100)
            wanted += [(label, score, *pixels[rows[index]]) for index, score in taken]
            lowered += sum(score < all_scores[rows[index], label] - 0.01 for index, score in taken)
        np.testing.assert_allclose(np.column_stack([labels, scores, boxes]), wanted, rtol=1e-6)
    assert lowered > 3 and detector.calls == 2


# files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files with a layout (of two cells, a dog's and a cat's), with NMS inside, and of an earlier version."""
    folder = tmp_path_factory.mktemp("files")
    paths = {name: str(folder / f"{name}.onnx") for name in ("new", "nms", "old")}
    write_fixed_model(paths["new"], layout=[[1, 2, 1]])
    write_fixed_model(paths["nms"], layout=[[1, 2, 1]], nms=True)
    write_fixed_model(paths["old"])
    model = onnx.load(paths["old"])
    texts = {entry.key: entry.value for entry in model.metadata_props if entry.key != "layout"}
    del model.metadata_props[:]
    helper.set_model_props(model, texts)
    onnx.save(model, paths["old"])
    return paths


PICTURE = np.zeros((80, 120, 3), np.uint8)


def test_the_arguments_of_a_predictor(files):
    """The cat of the left upper quarter and the dog of the right lower one are averaged with each other's mirror."""
    boxes, labels, scores = Predictor(files["new"], tta="flip")(PICTURE)
    assert labels.tolist() == [1, 1, 2, 2]  # each of the two boxes is a bit of both
    np.testing.assert_allclose(scores, [0.475, 0.475, 0.225, 0.225], rtol=1e-6)
    np.testing.assert_allclose(boxes, [[20, 0, 60, 60], [20, 60, 60, 120]] * 2)
    plain, soft = Predictor(files["new"])(PICTURE), Predictor(files["new"], nms="soft")(PICTURE)
    assert all((one == other).all() for one, other in zip(plain, soft))  # nothing overlaps
    assert len(Predictor(files["old"], nms="soft")(PICTURE)[0]) == 2


@pytest.mark.parametrize(
    "file, options, words",
    [
        ("old", {"tta": "flip"}, ["without the layout", "again with export.py"]),
        ("nms", {"tta": "flip"}, ["NMS inside", "excludes tta flip;", "without --export_nms"]),
        ("nms", {"nms": "soft"}, ["NMS inside", "excludes nms soft;", "without --export_nms"]),
        ("nms", {"nms": "soft", "tta": "flip"}, ["excludes nms soft and tta flip;"]),
        ("new", {"nms": "Soft"}, ["nms must be one of hard, soft, got Soft"]),
        ("new", {"tta": "rotate"}, ["tta must be one of none, flip, got rotate"]),
    ],
)
def test_refused_in_one_line(files, file, options, words):
    with pytest.raises(UserError) as error:
        Predictor(files[file], **options)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
    assert "must be" in words[0] or f"model: {files[file]} was exported" in str(error.value)


def test_the_keys_of_a_configuration(files):
    cfg = load_config(["--device_target=CPU", "--num_classes=3", f"--classes={CLASSES}", "--img_shape=[128, 128]"])
    assert (cfg.nms, cfg.tta) == ("hard", "none")
    assert not {"nms", "tta"} & set(training_relevant_config(cfg))  # a run may be resumed with other values
    cfg.img_shape, cfg.nms, cfg.tta = [64, 64], "soft", "flip"
    detector = open_model(files["new"], cfg)
    assert detector.soft_nms and detector.mirror.tolist() == [1, 0]
    # an argument comes before the configuration
    detector = open_model(files["nms"], cfg, nms="hard", tta="none")
    assert not detector.soft_nms and detector.mirror is None
    with pytest.raises(UserError, match="checkpoint_file_path: .*nms.onnx was exported with NMS inside"):
        open_model(files["nms"], cfg, "checkpoint_file_path")
    with pytest.raises(UserError, match="tta"):
        load_config(["--tta=mirror"])
    choices = [load_config([f"--nms={nms}", f"--tta={tta}"]) for nms, tta in zip(NMS_KINDS, TTA_KINDS)]
    assert [(one.nms, one.tta) for one in choices] == [("hard", "none"), ("soft", "flip")]


def test_the_options_of_predict(files, tmp_path):
    picture(tmp_path / "in" / "a.png")
    done = run(
        *("scripts/predict.py", "--model", files["new"], tmp_path / "in", "--output", tmp_path / "out"),
        *("--nms", "soft", "--tta", "flip"),
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "detections.json").read_text())["annotations"]
    lowered = np.exp(-((1 / 121) ** 2) / 0.5)  # of two neighbours, with + 1: they share a line of pixels
    wanted = [0.225 * lowered, 0.225, 0.475 * lowered, 0.475]
    assert sorted(row["score"] for row in rows) == pytest.approx(wanted, rel=1e-6)
    done = run("scripts/predict.py", "--model", files["old"], tmp_path / "in", "--tta", "flip")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "export.py" in done.stderr


def test_export_refuses_what_its_file_would_not_do(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"")
    done = run(
        *("export.py", "--device_target=CPU", "--file_format=ONNX", "--export_nms=True", "--tta=flip"),
        f"--checkpoint_file_path={tmp_path / 'x.ckpt'}",
    )
    assert done.returncode == 2 and "export_nms: NMS inside a file is hard" in done.stderr
