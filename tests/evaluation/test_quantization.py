"""What an int8 export is calibrated and measured on."""

import cv2
import numpy as np
import pytest

from src.data.transforms import resize
from src.evaluation.quantization import build_calibration
from src.inference.detector import Detector
from src.inference.metadata import metadata_from_config
from src.utils.device import prepare_environment
from src.utils.errors import UserError
from tests.helpers.small_sets import config, make_set


class Known(Detector):
    """Finds the first `boxes` of the two boxes in each picture of `make_set`, which it knows by its height."""

    def __init__(self, cfg, content, boxes):
        super().__init__(metadata_from_config(cfg))
        self.rows = {image["height"]: [] for image in content["images"]}
        heights = {image["id"]: image["height"] for image in content["images"]}
        labels = {category["id"]: cfg.classes.index(category["name"]) for category in content["categories"]}
        for row in content["annotations"]:
            x, y, width, height = row["bbox"]
            self.rows[heights[row["image_id"]]].append(([y, x, y + height, x + width], labels[row["category_id"]]))
        self.boxes = boxes

    def __call__(self, images, shapes):
        found = []
        for height, _ in np.asarray(shapes).tolist():
            boxes, labels = zip(*self.rows[height][: self.boxes])
            found.append((np.array(boxes, float), np.full(len(boxes), 0.9), np.array(labels)))
        return found


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    prepare_environment()
    folder = tmp_path_factory.mktemp("quantization")
    return folder, make_set(folder, 5)


def of(small_set, *more):
    return config(small_set[0], "--train_data_type=val2017", "--export_calibration_images=3", *more)


def test_calibration_images_are_those_of_the_training_set(small_set):
    cfg = of(small_set)
    images = build_calibration(cfg).images
    assert images.shape == (3, 128, 128, 3) and images.dtype == np.uint8
    files = sorted((small_set[0] / "coco" / "val2017").iterdir())
    known = [resize(cv2.imread(str(path))[..., ::-1], (128, 128)) for path in files]
    chosen = [next(k for k, one in enumerate(known) if np.array_equal(image, one)) for image in images]
    assert len(set(chosen)) == 3
    np.testing.assert_array_equal(build_calibration(cfg).images, images)
    others = [build_calibration(of(small_set, f"--seed={seed}")).images for seed in (1, 2, 3)]
    assert any(not np.array_equal(other, images) for other in others)
    assert len(build_calibration(of(small_set, "--export_calibration_images=99")).images) == 5


def test_the_measure_is_the_map_of_the_evaluation_set(small_set):
    cfg = of(small_set, "--export_max_loss=0.25")
    calibration = build_calibration(cfg)
    assert calibration.max_loss == 0.25
    assert calibration.measure(Known(cfg, small_set[1], 2)) == pytest.approx(1)
    # half of the objects at every IoU; the figure of the detector before is forgotten
    assert 0.3 < calibration.measure(Known(cfg, small_set[1], 1)) < 0.7


def test_a_missing_set_is_one_line(small_set):
    cfg = config(small_set[0], "--mindrecord_dir=elsewhere")
    with pytest.raises(UserError, match="instances_train2017.json"):
        build_calibration(cfg)
