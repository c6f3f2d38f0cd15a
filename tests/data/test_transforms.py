import cv2
import numpy as np
import pytest

from src.boxes.default_boxes import default_boxes
from src.data import transforms
from tests import oracles

SETS = [
    "gt0",
    "gt3",
    "gt6",
    "gt9",
    "gt12",
    "gt15",
    "gt18",
    "gt21",
    "gt24",
    "gt27",
    "gt30",
    "gt33",
    "sp_label0_gt",
    "sp_nobox_gt",
    "sp_same_best_anchor_gt",
]


@pytest.fixture(scope="module")
def boxes640():
    return default_boxes((640, 640))


@pytest.mark.parametrize("name", SETS)
def test_published_targets(reference, boxes640, name):
    published = reference("encode.npz")
    loc, label, num_match = transforms.encode_targets(published[name], *boxes640, 0.5, (0.1, 0.2))
    rows = published[name.replace("gt", "idx")]
    np.testing.assert_array_equal(np.flatnonzero(label), rows)
    np.testing.assert_array_equal(label[rows], published[name.replace("gt", "label")])
    np.testing.assert_allclose(loc[rows], published[name.replace("gt", "box")].reshape(-1, 4), atol=1e-4, rtol=0)
    assert num_match == int(np.ravel(published[name.replace("gt", "num")])[0])
    assert np.count_nonzero(np.delete(loc, rows, axis=0)) == 0
    assert (loc.dtype, label.dtype, type(num_match)) == (np.float32, np.int32, int)


def test_all_sets_of_the_file_are_tested(reference):
    assert sorted(SETS) == sorted(k for k in reference("encode.npz").files if k.startswith("gt") or k.endswith("_gt"))


@pytest.mark.parametrize("seed", range(4))
def test_targets_equal_the_slow_loop(seed):
    rng = np.random.default_rng(seed)
    defaults = default_boxes((128, 128))
    corner = rng.uniform(0, 0.6, (seed * 3, 2))
    gt = np.concatenate([corner, corner + rng.uniform(0.15, 0.4, (seed * 3, 2)), rng.integers(0, 5, (seed * 3, 1))], 1)
    gt = gt.astype(np.float32)
    loc, label, num_match = transforms.encode_targets(gt, *defaults, 0.5, (0.1, 0.2))
    want_loc, want_label, want_num = oracles.encode(gt.tolist(), *(d.tolist() for d in defaults), 0.5, (0.1, 0.2))
    np.testing.assert_array_equal(label, want_label)
    np.testing.assert_allclose(loc, want_loc, atol=1e-4)
    assert num_match == want_num


def test_default_boxes_changed_in_place_are_other_default_boxes():
    """`encode_targets` keeps what it has prepared for the last default boxes, by their contents."""
    defaults = [boxes.copy() for boxes in default_boxes((128, 128))]
    gt = np.array([[0.1, 0.1, 0.6, 0.5, 3]], np.float32)
    for threshold, moved in ((0.5, 0), (0.3, 0), (0.3, 0.01), (0.5, 0.01), (0.5, 0)):
        cyxhw, yxyx = default_boxes((128, 128))
        defaults[0][:, :2], defaults[1][:] = cyxhw[:, :2] + np.float32(moved), yxyx + np.float32(moved)
        loc, label, _ = transforms.encode_targets(gt, *defaults, threshold, (0.1, 0.2))
        want_loc, want_label, _ = oracles.encode(gt.tolist(), *(d.tolist() for d in defaults), threshold, (0.1, 0.2))
        np.testing.assert_array_equal(label, want_label)
        np.testing.assert_allclose(loc, want_loc, atol=1e-4)


def test_crop_keeps_what_spec_says():
    image = np.arange(200 * 300 * 3, dtype=np.uint32).reshape(200, 300, 3)
    boxes = np.array([[20, 30, 80, 120, 1], [100, 150, 190, 290, 2], [5, 250, 40, 299, 3]], np.int32)
    cropped = 0
    for seed in range(200):
        part, kept = transforms.random_crop(image, boxes, np.random.default_rng(seed))
        height, width = part.shape[:2]
        if part.shape == image.shape:
            np.testing.assert_array_equal(kept, boxes)
            continue
        cropped += 1
        top, left = np.argwhere(image[..., 0] == part[0, 0, 0])[0]
        np.testing.assert_array_equal(part, image[top : top + height, left : left + width])
        assert 0.48 <= height / width <= 2.05 and height >= 0.29 * 200 and width >= 0.29 * 300  # corners are integers
        inside = [
            box
            for box in boxes.tolist()
            if top < (box[0] + box[2]) / 2 < top + height and left < (box[1] + box[3]) / 2 < left + width
        ]
        want = [
            [max(y1 - top, 0), max(x1 - left, 0), min(y2 - top, height), min(x2 - left, width), label]
            for y1, x1, y2, x2, label in inside
        ]
        assert kept.tolist() == want and kept.dtype == boxes.dtype
    assert cropped > 60  # one draw in six keeps the image


def test_crop_without_boxes_and_twice_the_same():
    image, none = np.zeros((50, 60, 3), np.uint8), np.zeros((0, 5), np.int32)
    part, kept = transforms.random_crop(image, none, np.random.default_rng(0))
    assert part.shape == image.shape and len(kept) == 0
    boxes = np.array([[5, 5, 30, 30, 1]], np.int32)
    first, second = (transforms.random_crop(image, boxes, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first[1], second[1])


def test_flip_by_hand_and_twice():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    boxes = np.array([[0.1, 0.2, 0.5, 0.6, 7]], np.float32)
    once = transforms.horizontal_flip(image, boxes)
    np.testing.assert_allclose(once[1], [[0.1, 0.4, 0.5, 0.8, 7]], atol=1e-6)
    twice = transforms.horizontal_flip(*once)
    np.testing.assert_array_equal(twice[0], image)
    np.testing.assert_allclose(twice[1], boxes, atol=1e-6)


def test_network_input_by_hand():
    image = np.array([[[255, 0, 128]]], np.uint8)
    want = [(255 - 0.485 * 255) / (0.229 * 255), (0 - 0.456 * 255) / (0.224 * 255), (128 - 0.406 * 255) / (0.225 * 255)]
    np.testing.assert_allclose(transforms.normalize_image(image).ravel(), want, rtol=1e-5)


def test_jitter_against_the_exact_one():
    """The three steps of docs/reference.md, "Training pipeline", in float64, each clipped, rounded at the end."""
    rng, luma = np.random.default_rng(3), np.array([0.299, 0.587, 0.114])
    far, total, count = 0, 0.0, 0
    for seed in range(120):
        image = cv2.GaussianBlur(rng.integers(0, 256, (40, 50, 3)).astype(np.uint8), (0, 0), rng.uniform(0.5, 4))
        image = np.clip((image - 128.0) * rng.uniform(0.2, 4) + rng.uniform(30, 220), 0, 255).astype(np.uint8)
        brightness, contrast, saturation = np.random.default_rng(seed).uniform(0.6, 1.4, 3)
        want = np.clip(image * brightness, 0, 255)
        mean = (want @ luma).mean()
        want = np.clip(mean + (want - mean) * contrast, 0, 255)
        grey = (want @ luma)[..., None]
        want = np.clip(grey + (want - grey) * saturation, 0, 255)
        got = transforms.color_jitter(image, np.random.default_rng(seed))
        distance = np.abs(got - want)
        far, total, count = max(far, distance.max()), total + distance.sum(), count + distance.size
    assert far < 2.6 and total / count < 0.4


def test_jitter_stays_in_range_and_grey_stays_grey():
    grey = np.full((8, 8, 3), 120, np.uint8)
    values = [transforms.color_jitter(grey, np.random.default_rng(seed)) for seed in range(50)]
    for value in values:
        assert value.dtype == np.uint8 and int(np.ptp(value, axis=-1).max()) <= 1
    means = [value.mean() for value in values]
    assert 70 <= min(means) < 90 and 150 < max(means) <= 170  # 120 * [0.6, 1.4]


def test_share_of_cropped_and_of_grey_images():
    """Off: the same bits as without the options. On: about the share that was asked for, and only grey pixels."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    boxes = np.array([[10, 10, 40, 50, 1]], np.int32)

    def transform(**options):
        return transforms.TrainTransform((32, 32), None, (0.1, 0.2), 5, 0, transforms.Augmentation(**options))

    plain, whole = transform(), transform(crop_probability=1.0, grey_probability=0.0)
    half, never = transform(crop_probability=0.5), transform(crop_probability=0.0)
    grey = transform(grey_probability=0.3)
    cropped, turned_grey = 0, 0
    for image_id in range(400):
        want = plain.augment(image, boxes, image_id)
        got = whole.augment(image, boxes, image_id)
        assert np.array_equal(want[0], got[0]) and np.array_equal(want[1], got[1])
        (top, left, bottom, right), _ = half.window(60, 80, boxes, image_id)
        cropped += (top, left, bottom, right) != (0, 0, 60, 80)
        assert never.window(60, 80, boxes, image_id)[0] == (0, 0, 60, 80)
        pixels, of_grey = grey.augment(image, boxes, image_id)
        np.testing.assert_array_equal(of_grey, want[1])
        if np.array_equal(pixels, want[0]):
            continue
        turned_grey += 1
        assert (pixels == pixels[..., :1]).all()
        np.testing.assert_allclose(pixels[..., 0], want[0] @ [0.299, 0.587, 0.114], atol=0.6)
    # a crop is drawn for half, of which a sixth asks for none; few of the others find no crop
    assert 0.3 < cropped / 400 < 0.5 * 5 / 6 + 0.05 and 0.23 < turned_grey / 400 < 0.37
