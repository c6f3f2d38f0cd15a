"""src/utils/drawing.py: outlines and label plates, against laws that are counted pixel by pixel."""

import cv2
import numpy as np
import pytest

from src.utils import drawing
from src.utils.drawing import FONT, class_colour, draw_box, draw_detections

NAMES = ["background", "person", "traffic light", "dog", "椅子"]


def detections(count, shape, seed=0):
    """Boxes of all sizes, some of them partly outside the picture, labels and scores."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(np.log(4), np.log(250), (count, 2)))
    centres = rng.uniform(0, 1, (count, 2)) * shape[:2]
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    return boxes, rng.integers(1, len(NAMES), count), rng.permutation(count) / count


def chosen_plates(monkeypatch, image, *found):
    """(possible plates, obstacles, chosen plates) of a drawing, in descending order of the scores."""
    calls, choose = [], drawing._choose_plates

    def record(plates, obstacles):
        calls.append((plates, obstacles, choose(plates, obstacles)))
        return calls[-1][2]

    monkeypatch.setattr(drawing, "_choose_plates", record)
    draw_detections(image, *found, NAMES)
    (call,) = calls
    return call


def choose_by_pixels(plates, obstacles, shape):
    """The same choice with a picture that counts how many rectangles cover each pixel."""
    covered, chosen = np.zeros(shape[:2], int), []
    for y1, x1, y2, x2 in obstacles:
        covered[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] += 1
    for row in plates:
        costs = [covered[y1:y2, x1:x2].sum() for y1, x1, y2, x2 in row]
        y1, x1, y2, x2 = plate = row[costs.index(min(costs))]
        covered[y1:y2, x1:x2] += 1
        chosen.append(plate)
    return np.array(chosen)


@pytest.mark.parametrize("count", [1, 12, 100])
@pytest.mark.parametrize("shape", [(480, 640, 3), (900, 1800, 3)])
def test_each_plate_covers_the_fewest_pixels(monkeypatch, count, shape):
    image = np.full(shape, 128, np.uint8)
    plates, obstacles, chosen = chosen_plates(monkeypatch, image, *detections(count, shape, count))
    assert plates.shape == (count, 6, 4) and (count < 12 or len(obstacles))
    np.testing.assert_array_equal(chosen, choose_by_pixels(plates, obstacles, shape))


def test_plates_lie_inside_and_hold_their_text(monkeypatch):
    shape = (480, 640, 3)
    boxes, labels, scores = detections(100, shape)
    plates, _, chosen = chosen_plates(monkeypatch, np.zeros(shape, np.uint8), boxes, labels, scores)
    assert plates[..., :2].min() >= 0 and plates[..., 2].max() <= 480 and plates[..., 3].max() <= 640
    for row, plate in zip(np.argsort(scores)[::-1], chosen):
        name = "class 4" if labels[row] == 4 else NAMES[labels[row]]
        (width, height), _ = cv2.getTextSize(f"{name} {scores[row]:.2f}", FONT, 0.45, 1)
        assert (plate[2:] - plate[:2] >= (height, width)).all()


def test_no_plates_meet_where_there_is_room(monkeypatch):
    """Three boxes with nearly the same corners, and one that stands alone."""
    boxes = np.array([[200, 200, 330, 480], [205, 198, 332, 482], [198, 205, 328, 478], [40, 20, 160, 170]], float)
    image = np.zeros((480, 640, 3), np.uint8)
    _, _, chosen = chosen_plates(monkeypatch, image, boxes, np.array([1, 2, 3, 1]), np.array([0.9, 0.8, 0.7, 0.6]))
    covered = np.zeros(image.shape[:2], int)
    for y1, x1, y2, x2 in chosen:
        covered[y1:y2, x1:x2] += 1
    assert covered.max() == 1


@pytest.mark.parametrize("thickness", [1, 2, 3, 4])
def test_an_outline_is_all_pixels_near_the_sides(thickness):
    rng = np.random.default_rng(thickness)
    for _ in range(20):
        y1, x1 = rng.integers(-10, 60, 2)
        y2, x2 = (y1, x1) + rng.integers(0, 60, 2)
        image = np.full((70, 80, 3), 90, np.uint8)
        draw_box(image, (y1, x1, y2, x2), (1, 2, 3), thickness)
        y, x = np.mgrid[:70, :80]
        # distance to the outline, as the larger of both axes
        outside = np.maximum(np.maximum(y1 - y, y - y2), np.maximum(x1 - x, x - x2))
        distance = np.where(outside >= 0, outside, np.minimum.reduce([y - y1, y2 - y, x - x1, x2 - x]))
        np.testing.assert_array_equal((image == (1, 2, 3)).all(-1), distance <= thickness // 2)
        border = (distance == thickness // 2 + 1) if thickness > 1 else np.zeros_like(distance, bool)
        np.testing.assert_array_equal((image == 0).all(-1), border)
        assert (image[distance > thickness // 2 + 1] == 90).all()


def test_the_best_detection_is_on_top_and_the_input_stays():
    image = np.full((480, 640, 3), 128, np.uint8)
    boxes = np.array([[100, 100, 300, 300]] * 2, float)
    drawn = draw_detections(image, boxes, [1, 2], [0.3, 0.9], NAMES)
    assert (image == 128).all() and tuple(drawn[200, 100]) == class_colour(2)
    np.testing.assert_array_equal(draw_detections(image, np.empty((0, 4)), [], [], NAMES), image)
