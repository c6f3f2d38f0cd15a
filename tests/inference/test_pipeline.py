"""src/inference/pipeline.py: the same detections as one picture at a time, in order, within its limits."""

import threading
import time

import cv2
import numpy as np
import pytest

from src.inference import pipeline
from src.inference.pictures import read_picture
from src.inference.pipeline import Picture, detect
from src.inference.predictor import Predictor
from src.utils.output import OutputError
from tests.helpers.predictions import write_brightness_model

COUNT = 23  # not a multiple of a batch


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Paths of pictures of different sizes, noise and brightness."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    paths = [str(folder / f"{number:02d}.{'png' if number % 3 else 'jpg'}") for number in range(COUNT)]
    for number, path in enumerate(paths):
        shape = (int(rng.integers(20, 300)), int(rng.integers(20, 300)), 3)
        cv2.imwrite(path, rng.integers(8 * number, 70 + 8 * number, shape).astype(np.uint8))
    return paths


@pytest.fixture(scope="module", params=[1, 4])
def brightness(request, tmp_path_factory):
    """The path of an ONNX file for so many pictures per call."""
    path = str(tmp_path_factory.mktemp("model") / f"{request.param}.onnx")
    write_brightness_model(path, request.param)
    return path


def assert_same(picture, detections):
    for ours, theirs in zip(picture.detections, detections):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_the_results_are_those_of_one_picture_at_a_time(brightness, photos, calls):
    one_by_one = Predictor(brightness)
    expected = [one_by_one(read_picture(path)) for path in photos]
    assert len({float(scores[0]) for _, _, scores in expected}) == COUNT  # a mix-up would be seen

    def finish(picture):
        time.sleep(0.02 * (picture.path[-5] in "36"))  # some are late
        return picture.image.copy()

    pictures = list(detect(map(Picture, photos), Predictor(brightness, concurrent_calls=calls), finish))
    assert [picture.path for picture in pictures] == photos
    for picture, detections in zip(pictures, expected):
        assert_same(picture, detections)
        assert picture.image is None and picture.pixels is None  # freed
        rgb = read_picture(picture.path)
        assert picture.shape == rgb.shape[:2]
        np.testing.assert_array_equal(picture.drawn, rgb[..., ::-1])


@pytest.mark.parametrize("calls", [1, 3])
def test_broken_pictures_in_the_middle(brightness, photos, tmp_path, calls):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    broken = [str(tmp_path / name) for name in ("broken.jpg", "gone.jpg", "empty.jpg")]
    # the second call of four finds no picture that can be read
    paths = photos[:3] + broken[:1] + broken * 2 + photos[3:]
    predictor, finished = Predictor(brightness, concurrent_calls=calls), []
    pictures = list(detect(map(Picture, paths), predictor, lambda picture: finished.append(picture.path)))
    assert [picture.path for picture in pictures] == paths and sorted(finished) == photos
    for picture in pictures:
        assert (picture.read_error is not None) == (picture.path in broken)
        if picture.read_error is None:
            assert_same(picture, predictor(read_picture(picture.path)))
    assert "gone.jpg: No such file" in str(pictures[5].read_error)


def test_frames_need_no_file(brightness):
    frames = [np.full((30, 40, 3), 10 * k, np.uint8) for k in range(1, 12)]
    frames[3][..., 0] = 255  # blue
    predictor = Predictor(brightness, min_score=0, concurrent_calls=2)
    pictures = (Picture("x.avi", image=frame.copy(), number=k) for k, frame in enumerate(frames))
    for number, picture in enumerate(detect(pictures, predictor, lambda picture: None)):
        assert picture.number == number
        assert_same(picture, predictor(np.ascontiguousarray(frames[number][..., ::-1])))


def test_a_drawing_that_cannot_be_written(brightness, photos):
    def finish(picture):
        if picture.path == photos[7]:
            raise OutputError("disk full", True)

    pictures = list(detect(map(Picture, photos), Predictor(brightness, concurrent_calls=3), finish))
    assert [picture.path for picture in pictures if picture.write_error] == [photos[7]]
    assert len(pictures[7].detections[0])


class Observed:
    """A predictor of 8 x 8 pixels that finds nothing and notes who calls it."""

    batch_size = 1

    def __init__(self, calls):
        self.concurrent_calls, self.callers, self.busy, self.most = calls, set(), 0, 0
        self._lock = threading.Lock()

    def cut(self, image):
        return cv2.resize(image, (8, 8))[None]

    def detect(self, pixels, shapes):
        with self._lock:
            self.callers.add(threading.current_thread())
            self.busy += 1
            self.most = max(self.most, self.busy)
        time.sleep(0.003)
        with self._lock:
            self.busy -= 1
        return [(np.empty((0, 4)), np.empty(0, int), np.empty(0, np.float32))] * len(pixels)


def test_one_call_at_a_time_is_made_by_the_main_thread(photos):
    """MindSpore's contexts and signal handlers belong to that thread."""
    predictor = Observed(1)
    assert len(list(detect(map(Picture, photos), predictor, lambda picture: None))) == COUNT
    assert predictor.callers == {threading.main_thread()}


def test_no_more_calls_at_a_time_than_allowed(photos, monkeypatch):
    monkeypatch.setattr(pipeline, "concurrent_calls", lambda: 8)
    predictor = Observed(3)
    assert len(list(detect(map(Picture, photos), predictor, lambda picture: None))) == COUNT
    assert predictor.most == 3 and threading.main_thread() not in predictor.callers


@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("limit, most", [(1 << 29, 40), (1, 2)])
def test_few_pictures_are_in_work_at_a_time(monkeypatch, calls, limit, most):
    monkeypatch.setattr(pipeline, "MAX_BYTES", limit)
    monkeypatch.setattr(pipeline, "concurrent_calls", lambda: 3)
    made = []

    def pictures():
        for number in range(200):
            made.append(number)
            yield Picture("x", image=np.zeros((8, 8, 3), np.uint8), number=number)

    for count, _ in enumerate(detect(pictures(), Observed(calls), lambda picture: None)):
        assert len(made) - count <= most


@pytest.mark.parametrize("calls", [1, 3])
def test_after_an_end_in_the_middle_no_thread_goes_on(photos, calls):
    before, finished = threading.active_count(), []
    with pytest.raises(SystemExit):
        for number, _ in enumerate(detect(map(Picture, photos * 50), Observed(calls), finished.append)):
            if number == 5:
                raise SystemExit(130)
    assert threading.active_count() == before
    count = len(finished)
    time.sleep(0.05)
    assert len(finished) == count < 100
